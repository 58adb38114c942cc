"""Is what is earned what was wanted?"""

from __future__ import annotations

import numpy as np

from astarpo.diagnosis import thresholds as at
from astarpo.diagnosis.evidence import Evidence
from astarpo.diagnosis.findings import Answer, Clear, Unable, detector, found
from astarpo.diagnosis.trends import learned, trend, wilson


@detector(
    "hacking",
    "what is learned does not carry over",
    rule=f"training success rises and is {at.TRAIN_HELD_OUT_GAP.value:.0%} points or more (critical "
    f"{at.TRAIN_HELD_OUT_GAP_CRITICAL.value:.0%}) above held-out success at the end and beyond its 95 % interval, "
    "and held-out success does not rise; where only rewards are logged, the same of them, by the span of rewards",
    source="rldoctor, gap between training and evaluation",
)
def held_out_flat(evidence: Evidence) -> Answer:
    success, state = evidence.get("success"), learned(evidence)
    if evidence.held_out == () and evidence.get("eval/reward") is not None:
        return _rewards_part(evidence)
    if success is None or state.held_out == "unknown" or state.training == "unknown":
        return Unable(
            "whether what is learned carries over: training success, and held-out success with n, first and last"
        )
    level, last = state.level or 0.0, trend(success).last
    gap = last - level
    within = state.plays is not None and last <= wilson(level, state.plays)[1]
    if state.training != "rose" or state.held_out == "rose" or gap < at.TRAIN_HELD_OUT_GAP.value or within:
        return Clear(f"training less held-out success {gap:+.1%}")
    pool = len({episode.task for episode in evidence.episodes}) if evidence.episodes else None
    return found(
        "critical" if gap >= at.TRAIN_HELD_OUT_GAP_CRITICAL.value else "warning",
        f"Training success rises to {last:.1%}; {state.words}"
        + (f"; {pool} different tasks were seen in the episodes read." if pool is not None else "."),
        numbers={"gap": gap, "training": last, "held_out": level, "tasks": pool},
        not_ruled_out=("a curriculum whose tasks are easier than the held-out ones",),
        remedy="More different training tasks, fewer passes over them, and a look at whether the two splits are alike.",
        setting="--curriculum.name=uniform --values.tasks=4096",
    )


def _rewards_part(evidence: Evidence) -> Answer:
    """The same rule by rewards: held-out rewards without their number, as trainers log them."""
    paid, shown = evidence.get("reward"), evidence.get("eval/reward")
    assert shown is not None
    if paid is None or len(paid) < at.POINTS_FOR_TREND.value or len(shown) < 3:
        return Unable("whether what is learned carries over: held-out reward three times, and training reward")
    seen, span = trend(paid), max(evidence.scale, 1e-12)
    first, last = float(shown.values[0]), float(np.mean(shown.values[-2:]))
    gap, before = (seen.last - last) / span, (seen.first - first) / span
    rose = seen.change(at.RISE_IN_SCALE.value * span) == "rose"
    carries = last - first > max(at.RISE_IN_SCALE.value * span, 0.5 * seen.difference)
    # Evaluation may decode greedily, which alone sets the two apart: the gap must have opened during the run.
    if not rose or carries or gap < at.TRAIN_HELD_OUT_GAP.value or gap - before < at.TRAIN_HELD_OUT_GAP.value:
        return Clear(f"training less held-out reward {seen.last - last:+.3g}")
    return found(
        "critical" if gap >= at.TRAIN_HELD_OUT_GAP_CRITICAL.value else "warning",
        f"Training reward rises from {seen.first:.3g} to {seen.last:.3g}, held-out reward goes from {first:.3g} to "
        f"{last:.3g} over {len(shown)} evaluations.",
        numbers={"gap": gap, "training": seen.last, "held_out": last, "evaluations": len(shown)},
        not_ruled_out=("held-out figures of few plays: how many is not logged",),
        remedy="More different training tasks, fewer passes over them, and a look at whether the two splits are alike.",
        setting="--curriculum.name=uniform --values.tasks=4096",
    )
