"""Pictures and pages about runs. Reads what a run left behind; never trains."""
