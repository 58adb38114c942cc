"""Do the figures show what is claimed?"""

from __future__ import annotations

from astarpo.diagnosis import thresholds as at
from astarpo.diagnosis.evidence import Evidence
from astarpo.diagnosis.findings import Answer, Clear, Unable, detector, found
from astarpo.diagnosis.trends import fell_back as against_its_best
from astarpo.diagnosis.trends import learned, wilson


@detector(
    "evaluation",
    "too few held-out plays to tell",
    rule=f"the last held-out figure rests on fewer than {at.HELD_OUT_TO_JUDGE.value:g} plays, or on a number that is "
    "not told, "
    "and its interval is wider than the gain",
    source="Wilson 1927; the intervals of `astarpo evaluate`",
    live=False,
)
def few_held_out(evidence: Evidence) -> Answer:
    if not evidence.held_out:
        return Unable("held-out success: none was logged; 500 plays know it to ±4 points")
    last, state = evidence.held_out[-1], learned(evidence)
    if last.n is None:
        return found(
            "info",
            f"Held-out success of {last.success:.1%} is told without the number of plays.",
            numbers={"success": last.success},
            remedy="Tell n: 100 plays know a success of a half to ±10 points, 500 to ±4.",
            setting="--evaluation.tasks=500",
        )
    low, high = wilson(last.success, last.n)
    if last.n >= at.HELD_OUT_TO_JUDGE.value or state.held_out in ("rose", "fell"):
        return Clear(f"n = {last.n}")
    return found(
        "info",
        f"Held-out success of {last.success:.1%} on {last.n} plays is {low:.1%} to {high:.1%} (95 %).",
        numbers={"n": last.n, "low": low, "high": high},
        remedy="Evaluate on 500 tasks; a choice on dev needs fewer than a claim on test.",
        setting="--evaluation.tasks=500",
    )


@detector(
    "evaluation",
    "the best of many evaluations is no estimate",
    rule="the best evaluation is above the last by more than its interval, over three evaluations or more",
    source="the maximum of noisy figures is biased upwards",
    live=False,
)
def best_of_many(evidence: Evidence) -> Answer:
    seen = [one for one in evidence.held_out if one.split != "test"]
    if len(seen) < 3:
        return Unable("whether the last checkpoint is the best: three evaluations or more")
    best, last = max(seen, key=lambda one: one.success), seen[-1]
    if best is last or last.n is None or best.success <= wilson(last.success, last.n)[1]:
        return Clear()
    fall = against_its_best(evidence)
    if fall is not None and fall.real:
        return Clear("the best of them was no chance")
    return found(
        "info",
        f"The best of {len(seen)} evaluations is {best.success:.1%} after {best.step} updates and the last "
        f"{last.success:.1%}.",
        numbers={"best": best.success, "at": best.step, "last": last.success, "evaluations": len(seen)},
        where=(best.step, last.step),
        remedy="Report the last, or choose on dev and report test; `best` is kept as a checkpoint.",
        setting=f"--updates {best.step}",
    )


@detector(
    "evaluation",
    "the policy is worse than it was",
    rule="held-out success falls, and the 95 % interval of the difference excludes 0",
    source="Newcombe 1998, method 10, for the interval",
)
def held_out_fell(evidence: Evidence) -> Answer:
    state = learned(evidence)
    if state.held_out == "unknown":
        return Unable("whether the policy got worse: held-out success with its number of plays, twice")
    if state.held_out != "fell":
        return Clear()
    return found(
        "warning",
        f"{state.words[0].upper()}{state.words[1:]}.",
        numbers={"low": state.low, "high": state.high},
        not_ruled_out=("any cause that no earlier rule names",),
        remedy="Go back to the best checkpoint, lower the learning rate, and log what could not be checked.",
        setting="--optimizer.learning_rate=1e-4",
    )


@detector(
    "evaluation",
    "the policy was better before",
    rule="the last third of held-out figures, three at most, is below the best as many before them, or without figures "
    "between the first and the last, and without a curriculum, the last fifth of training success or reward below the "
    f"best fifth: beyond a 95 % interval that allows for the choice of the best, and by {at.FELL_BACK.value:.0%} of it "
    f"or more (critical {at.FALL.value:.0%})",
    source="Newcombe 1998, method 10, at the level of Bonferroni for as many levels as were chosen from",
)
def fell_back(evidence: Evidence) -> Answer:
    fall = against_its_best(evidence)
    if fall is None:
        return Unable(
            f"whether it was better before: {at.FIGURES_FOR_A_FALL.value:g} held-out figures with their number of "
            f"plays, or {at.UPDATES_TO_JUDGE.value:g} updates without a curriculum"
        )
    if not fall.real:
        return Clear(f"{fall.what}: {fall.best:.3g} at best, {fall.last:.3g} at the end")
    n = "" if fall.plays is None else f", n = {fall.plays} a figure"
    return found(
        "critical" if fall.share >= at.FALL.value else "warning",
        f"{fall.what[0].upper()}{fall.what[1:]} was {fall.best:.3g} up to update {fall.step} and is {fall.last:.3g} at "
        f"the end: {fall.share:.0%} less, a loss of {fall.low:.3g} to {fall.high:.3g} (95 %, the best of "
        f"{fall.levels} levels{n}).",
        numbers={"best": fall.best, "last": fall.last, "low": fall.low, "high": fall.high, "levels": fall.levels},
        where=(fall.step, evidence.last_step),
        not_ruled_out=("any cause that no earlier rule names",)
        + (("tasks that became harder: a curriculum that the log does not tell of",) if fall.plays is None else ()),
        remedy="Take the checkpoint from before it fell, and lower the learning rate from there on.",
        setting=f"--updates {fall.step}",
    )
