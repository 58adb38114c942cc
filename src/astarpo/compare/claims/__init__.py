"""Claims about algorithms, each put to the test: what was said, what is measured, and the rule that was fixed first."""
