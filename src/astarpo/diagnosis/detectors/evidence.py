"""Is there enough to judge by?"""

from __future__ import annotations

from astarpo.diagnosis import thresholds as at
from astarpo.diagnosis.evidence import Evidence
from astarpo.diagnosis.findings import Answer, Clear, Unable, detector, found
from astarpo.diagnosis.trends import learned


@detector(
    "evidence",
    "too little data to judge learning by",
    rule=f"fewer than {at.UPDATES_TO_JUDGE.value:g} updates were logged, or fewer than "
    f"{at.EPISODES_TO_JUDGE.value:g} episodes played, and nothing shows that the run learned",
    source="the rule of three: 0 successes in n leave a success rate of up to 3/n (95 %)",
    live=False,
)
def too_little_data(evidence: Evidence) -> Answer:
    updates, episodes, state = evidence.updates, evidence.episodes_played, learned(evidence)
    success = evidence.get("success")
    few = updates < at.UPDATES_TO_JUDGE.value
    few_episodes = episodes is not None and episodes < at.EPISODES_TO_JUDGE.value
    if not (few or few_episodes) or state.gained:
        return Clear(f"{updates} updates" + ("" if episodes is None else f", {episodes:,} episodes"))
    said = f"{updates} update{'s' * (updates != 1)} were logged"
    if episodes is not None:
        said += f", about {episodes:,} episodes"
    bound = ""
    if success is not None and success.values.max() == 0.0:
        if episodes:
            upper = 1.0 - 0.05 ** (1.0 / episodes)
            bound = f" No success in {episodes:,} episodes leaves a success rate of up to {upper:.2%} (95 %)."
        else:
            bound = " How many episodes the success of 0 rests on is not said: 0 of 10 leaves up to 26 %, 0 of 300 1 %."
    return found(
        "info",
        f"{said}.{bound}",
        numbers={"updates": updates, "episodes": episodes},
        remedy=f"Go on to {at.UPDATES_TO_JUDGE.value:g} updates and {at.EPISODES_TO_JUDGE.value:g} episodes before "
        "judging whether it learns.",
        setting=f"--updates {max(int(at.UPDATES_TO_JUDGE.value), 100)}",
    )


@detector(
    "evidence",
    "the log is not one clean run",
    rule="the reader had to leave something out or assume something",
    source="the log itself",
    live=False,
)
def unclean_log(evidence: Evidence) -> Answer:
    if not evidence.notes:
        return Clear()
    return found(
        "info",
        " ".join(evidence.notes),
        numbers={"notes": len(evidence.notes)},
        remedy="Give the log of one run, complete.",
    )


def enough(evidence: Evidence, what: str) -> Unable | None:
    """Unable where there are too few updates to tell `what`."""
    if evidence.steps >= at.POINTS_FOR_TREND.value:
        return None
    return Unable(f"{what}: {evidence.steps} updates were logged, {at.POINTS_FOR_TREND.value:g} are needed")
