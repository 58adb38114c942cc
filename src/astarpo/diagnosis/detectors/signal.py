"""Do differences in reward reach the learner?"""

from __future__ import annotations

import math
from collections import defaultdict

import numpy as np

from astarpo.diagnosis import thresholds as at
from astarpo.diagnosis.evidence import Evidence, batch_spread
from astarpo.diagnosis.findings import Answer, Clear, Unable, detector, found
from astarpo.diagnosis.trends import at_first, ends, learned, trend, unlearned


@detector(
    "signal",
    "no signal reaches the learner",
    rule="no episode succeeds, and return and V* agree to within "
    f"{at.SMALL_ADVANTAGE.value:.0%} of their size at every logged update",
    source="arXiv:2505.20686: the loss regresses on r − V*, and every other policy gradient is weighted by it or its "
    "like",
)
def no_signal(evidence: Evidence) -> Answer:
    reward, value, success = evidence.get("reward"), evidence.get("v_star"), evidence.get("success", "eval/success")
    gap = evidence.get("advantage")
    if reward is None or value is None:
        return Unable("whether return and V* differ: log reward and V*")
    if success is None:
        return Unable("whether anything succeeds: log the success rate")
    size = max(float(np.abs(reward.values).max()), float(np.abs(value.values).max()), 1e-12)
    at_both = value.at(reward.steps)
    away = np.abs(reward.values - at_both)[~np.isnan(at_both)]
    # A mean advantage near 0 says nothing by itself, since most methods centre it: return and V* are compared.
    if success.values.max() > 0.0 or len(away) == 0 or float(np.max(away)) > at.SMALL_ADVANTAGE.value * size:
        return Clear()
    largest = float(np.abs(gap.values).max()) if gap is not None else float(away.max())
    return found(
        "critical",
        f"Success is 0, the return stays between {reward.values.min():.3f} and {reward.values.max():.3f} and V* "
        "between "
        f"{value.values.min():.3f} and {value.values.max():.3f}, so advantages are at most {largest:.3f} in size, "
        f"{largest / size:.1%} of the return: failing is all that was ever seen, by the reference too.",
        numbers={
            "reward_min": float(reward.values.min()),
            "reward_max": float(reward.values.max()),
            "v_star_max": float(value.values.max()),
            "largest_advantage": largest,
            "updates": len(reward),
        },
        where=(int(reward.steps[0]), int(reward.steps[-1])),
        ruled_out=("the choice of algorithm: with advantages near 0 every one of them has a gradient near 0",),
        not_ruled_out=(
            "a success that the environment cannot give",
            "replies that are read as something else than they say",
            "a task that is too hard for this model to solve even once",
        ),
        remedy="Let a scripted player solve the tasks through the same text first; then make a success happen: easier "
        "tasks, a warm start, more attempts at each task.",
        setting="astarpo check ENV",
    )


@detector(
    "signal",
    "attempts at one task all earn the same",
    rule=f"over the first half of the run {at.ZERO_STD.value:.0%} of the tasks or more (critical "
    f"{at.ZERO_STD_CRITICAL.value:.0%}), and in the first update {at.ZERO_STD_AT_ONCE.value:.0%} or more, have "
    "attempts "
    "that all earned the same, and the run does not learn",
    source="DAPO, arXiv:2503.14476, dynamic sampling; RAFT, arXiv:2504.11343; thresholds of rldoctor",
)
def zero_variance(evidence: Evidence) -> Answer:
    share = evidence.get("zero_std")
    if share is None:
        return _one_reward(evidence)
    half = share.values[: max(len(share) // 2, 1)]
    seen, state = float(half.mean()), learned(evidence)
    if len(half) < 3 or seen < at.ZERO_STD.value or at_first(share) < at.ZERO_STD_AT_ONCE.value:
        return Clear(f"{seen:.0%} of the tasks over the first half")
    won = evidence.get("success")
    # Held-out figures say what it could do before; without them the first update must have had more to learn from.
    least = at.ZERO_STD_CRITICAL.value if state.held_out == "fell" else at.ZERO_STD.value
    if at_first(share) < least and (state.lost or unlearned(evidence, len(half))):
        return Clear("there was something to learn from before the policy lost it")
    # Mastered before the first update is no success of training: it may be a grader that says yes to anything.
    given = won is not None and float(won.values.min()) == 1.0 and float(share.values.min()) == 1.0
    if state.excuse and not given:
        return Clear(f"{seen:.0%} of the tasks over the first half")
    success = evidence.get("success")
    level = None if success is None else float(success.values[: len(half)].mean())
    solved = level is not None and level > 0.5
    what = "solved" if solved else "failed" if level is not None else "earning the same"
    return found(
        "critical" if seen >= at.ZERO_STD_CRITICAL.value else "warning",
        f"{seen:.0%} of the tasks have attempts that all earn the same over the first half of the run"
        + (f", most of them {what} (success {level:.1%})." if level is not None else "."),
        numbers={"share": seen, "success": level, "updates": len(half)},
        where=(int(share.steps[0]), int(share.steps[len(half) - 1])),
        ruled_out=("the tasks are mastered",) if not solved and level is not None else (),
        not_ruled_out=(
            "a grader that says yes to anything" if given else "",
            "a grader that says no to anything" if level == 0.0 else "",
        ),
        remedy="Harder tasks, or those that are learnable now."
        if solved
        else "Easier tasks or those that are learnable now, more attempts at each, a warm start, a reward with partial "
        "credit.",
        setting="--curriculum.name=learnable" + ("" if solved else " --algorithm.group_size=16"),
    )


@detector(
    "signal",
    "noise is learned as if it were signal",
    rule=f"rewards within a task differ, by less than {at.NOISE.value:g} of what a success is worth, and are divided "
    "by "
    "their standard deviation",
    source="Dr. GRPO, arXiv:2503.20783",
)
def noise_amplified(evidence: Evidence) -> Answer:
    spread = evidence.get("group_std")
    typical = None if spread is None else float(np.median(spread.values))
    worth = 1.0
    if evidence.episodes:
        groups: dict[tuple[int, str], list[float]] = defaultdict(list)
        for played in evidence.played:
            for episode in played.episodes:
                groups[played.step, episode.task].append(episode.reward)
        stds = [float(np.std(one)) for one in groups.values() if len(one) > 1]
        uneven = [std for std in stds if std > 0.0]
        if not stds:
            return Unable("the spread of rewards within tasks: two attempts or more at each")
        typical = float(np.median(uneven)) if uneven else 0.0
        won = [e.reward for e in evidence.episodes if e.success]
        lost = [e.reward for e in evidence.episodes if not e.success]
        span = float(np.ptp([e.score for e in evidence.episodes]))
        worth = max(abs(float(np.mean(won)) - float(np.mean(lost))) if won and lost else 1.0, span)
        # Where most groups differ by success, a few tiny spreads do no harm.
        if len(uneven) < 0.5 * len(stds):
            return Clear()
    if typical is None:
        return Unable("the spread of rewards within tasks: episodes, or its mean")
    divides = evidence.setting("algorithm.scale_by_std", True)
    worth = max(worth, 1e-9)
    if not 0.0 < typical < at.NOISE.value * max(worth, evidence.scale) or not divides or learned(evidence).excuse:
        return Clear()
    return found(
        "critical",
        f"The spread of rewards within a task is {typical:.2g} in the median, {typical / worth:.1e} of what a success "
        "is worth, and dividing by it makes it as large as any signal.",
        numbers={"median_std": typical, "worth": worth},
        remedy="Do not divide by the standard deviation, or find where tiny differences in reward come from.",
        setting="--algorithm.scale_by_std=false",
    )


@detector(
    "signal",
    "V* says nothing about the tasks",
    rule=f"{at.V_STAR_AT_AN_END.value:.0%} of the tasks or more have reference plays that all fail, or that all "
    "succeed, and the run does not learn",
    source="arXiv:2505.20686, filtering of prompts; with every play failed, V* is 0 and a failure teaches nothing",
)
def values_say_nothing(evidence: Evidence) -> Answer:
    values = evidence.values
    if values is None:
        return Unable("what V* rests on: the reference's plays")
    if evidence.setting("algorithm.name") is not None and not len(values.rewards):
        return Unable("what V* rests on: the reference's plays")
    equal = [one for one in values.rewards.values() if len(one) > 1 and len(set(one)) == 1]
    several = [one for one in values.rewards.values() if len(one) > 1]
    if not several:
        return Unable("the spread of reference plays: two plays or more of each task")
    share, solved = len(equal) / len(several), values.successes / max(values.plays, 1)
    if share < at.V_STAR_AT_AN_END.value or learned(evidence).excuse:
        return Clear(f"{share:.0%} of the tasks have reference plays that all earned the same")
    upper = 1.0 - 0.05 ** (1.0 / values.plays) if values.successes == 0 else None
    more = math.ceil(3.0 / max(solved, 0.01))
    return found(
        "critical" if values.successes == 0 else "warning",
        f"{share:.0%} of {len(several)} tasks have reference plays that all earned the same; {values.successes} of "
        f"{values.plays} plays succeeded" + (f", at most {upper:.1%} at 95 %." if upper is not None else "."),
        numbers={"share": share, "tasks": len(several), "plays": values.plays, "successes": values.successes},
        remedy="Tasks that the reference sometimes solves, or more plays of each; below a success of 1 % start from an "
        "easier level or a warmed-up model.",
        setting=f"--values.samples={min(max(16, more), 64)}",
    )


@detector(
    "signal",
    "V* is above all that the policy earns",
    rule=f"{at.ONE_SIDED.value:.0%} of the episodes have r − V* of 0 or below, half of those that succeed among them, "
    "and the run does not learn",
    source="V* as the maximum of several plays grows with their number and leaves nothing above it",
)
def one_sided(evidence: Evidence) -> Answer:
    values = evidence.values
    estimator = evidence.setting("values.estimator", "log_mean_exp")
    if values is None or not evidence.episodes:
        return Unable("the sign of r − V*: episodes and the reference's plays")
    beta = float(evidence.setting("values.beta", 0.5) or 0.5)
    known = [e for e in evidence.episodes if e.task in values.rewards]
    gaps = [e.reward - v_star(values.rewards[e.task], estimator, beta) for e in known]
    if len(gaps) < 50:
        return Unable("the sign of r − V*: 50 episodes of tasks with reference plays")
    below, above = float(np.mean(np.array(gaps) <= 1e-9)), float(np.mean(np.array(gaps) > 1e-9))
    wins = float(np.mean([e.success for e in known]))
    # Where next to nothing succeeds, nearly all is below V* whatever its estimator: what succeeds must be, too.
    won = [gap for gap, e in zip(gaps, known, strict=True) if e.success]
    above_when_won = float(np.mean(np.array(won) > 1e-9)) if won else 1.0
    if below < at.ONE_SIDED.value or wins < 0.02 or above_when_won > 0.5 or learned(evidence).excuse:
        return Clear(f"{above:.0%} of the episodes are above V*")
    return found(
        "warning",
        f"{below:.0%} of {len(gaps)} episodes earn no more than V*, {1.0 - above_when_won:.0%} of the {len(won)} that "
        f"succeed among them; the estimator is {estimator}.",
        numbers={"share": below, "episodes": len(gaps), "success": wins},
        remedy="Estimate V* by the log-mean-exp with a larger beta, or by the mean.",
        setting="--values.estimator=log_mean_exp --values.beta=1.0",
    )


@detector(
    "signal",
    "too few successes in an update",
    rule=f"the first half of the run sees fewer than {at.SUCCESSES_AN_UPDATE.value:g} success an update, and the run "
    "does "
    "not learn",
    source="arithmetic: episodes × success rate",
)
def batch_too_small(evidence: Evidence) -> Answer:
    success, size = evidence.get("success"), _batch(evidence)
    if success is None or size is None:
        return Unable("successes an update: log the success rate and the number of episodes")
    if len(success) < at.POINTS_FOR_TREND.value:
        return Unable(f"successes an update: {at.POINTS_FOR_TREND.value:g} updates")
    rate = float(success.values[: max(len(success) // 2, 1)].mean())
    # What succeeded before training and was unlearned is no fault of the batch.
    rate = max([rate, *(seen.success for seen in evidence.held_out if seen.step == 0)])
    if rate * size >= at.SUCCESSES_AN_UPDATE.value or learned(evidence).excuse:
        return Clear(f"{rate * size:.1f} successes an update over the first half")
    wanted = None if rate == 0 else math.ceil(2.0 / rate)
    return found(
        "critical" if rate == 0.0 else "warning",
        f"{size:g} episodes an update at a success of {rate:.2%} are {rate * size:.2f} successes an update.",
        numbers={"episodes_an_update": size, "success": rate, "needed": wanted},
        remedy=f"At this rate two successes an update need {wanted:,} episodes: raise the batch, or start easier."
        if wanted
        else "There is no success to learn from: start easier or from a warmed-up model.",
        setting=f"--rollout.tasks_per_update={math.ceil(wanted / 8)}" if wanted and wanted < 100_000 else "",
    )


@detector(
    "signal",
    "V* has been overtaken",
    rule="r − V* has risen by more than 0.3 of the span of rewards since the start",
    source="A*-PO keeps the reference's V* for the whole run",
)
def stale_values(evidence: Evidence) -> Answer:
    reward, value = evidence.get("reward"), evidence.get("v_star")
    if reward is None or value is None:
        return Unable("whether V* is overtaken: log reward and V*")
    gap = reward.values - value.at(reward.steps)
    gap = gap[~np.isnan(gap)]
    if len(gap) < at.POINTS_FOR_TREND.value:
        return Unable(f"whether V* is overtaken: {at.POINTS_FOR_TREND.value:g} updates with both")
    early, late = ends(gap)
    rise = float(late.mean() - early.mean())
    if rise <= 0.3 * max(evidence.scale, 1e-12):
        return Clear()
    return found(
        "info",
        f"r − V* rose from {early.mean():.3f} to {late.mean():.3f}: the policy has passed the reference, and nearly "
        "every "
        "episode is now reinforced.",
        numbers={"first": float(early.mean()), "last": float(late.mean())},
        remedy="Expected of a run that learns; a V* that follows the policy keeps the signs informative.",
        setting="--values.source=tracker",
    )


@detector(
    "signal",
    "failures are imitated",
    rule="no weight of an episode is below 0, those that failed have "
    f"{at.FAILURE_SHARE.value:.0%} of the weight or more over the last fifth of the run, the weights are not even, "
    "entropy falls, and the run does not learn; critical where the loss is a mean over each reply's own tokens and "
    "replies shrink as well",
    source="runs of weighted SFT as described, one change at a time: docs/experiments.md",
)
def failures_imitated(evidence: Evidence) -> Answer:
    share, lowest, spread = (evidence.get(f"weights/{name}") for name in ("failure_share", "min", "std"))
    entropy, length, state = evidence.get("entropy"), evidence.get("length"), learned(evidence)
    if share is None or lowest is None or spread is None:
        return Unable("whose replies are imitated: log the share of the weight on failures, where there are weights")
    if entropy is None or len(entropy) < at.POINTS_FOR_TREND.value:
        return Unable(f"whether imitation sharpens the policy: entropy over {at.POINTS_FOR_TREND.value:g} updates")
    early, late = (float(part.mean()) for part in ends(share.values))
    even = float(np.median(spread.values)) < at.EVEN_WEIGHTS.value
    # Sharpened samples can look better in training than the greedy policy is.
    learns = state.excuse and not state.lost
    sharpens = trend(entropy).change() == "fell"
    if late < at.FAILURE_SHARE.value or float(lowest.values.min()) < 0.0 or even or learns or not sharpens:
        return Clear(f"{late:.0%} of the weight is on failures at the end")
    by_length = evidence.setting("algorithm.aggregation") == "sequence_mean"
    shrinks = length is not None and trend(length).change() == "fell"
    shorter = ""
    if by_length and shrinks and length is not None:
        seen = trend(length)
        shorter = (
            f" A mean over each reply's own tokens favours short ones: they go from {seen.first:.1f} to "
            f"{seen.last:.1f} tokens."
        )
    return found(
        "critical" if shorter else "warning",
        f"Failed episodes have {early:.0%} of the weight over the first fifth of the run and {late:.0%} over the last, "
        f"no weight is below 0, and entropy goes from {trend(entropy).first:.3g} to {trend(entropy).last:.3g} nats per "
        f"token: the policy becomes surer of what it fails with.{shorter}",
        numbers={"first": early, "last": late},
        ruled_out=("even weights: they differ by what is earned",),
        remedy="Give what is below the average a weight of 0 or below it, or sum over tokens.",
        setting="--algorithm.shift=0 --algorithm.floor=0"
        if evidence.setting("algorithm.scheme") == "normalized"
        else "--algorithm.aggregation=sum",
    )


def _one_reward(evidence: Evidence) -> Answer:
    """The same rule where only the reward, or its spread over a batch, was logged."""
    reward, spread = evidence.get("reward"), batch_spread(evidence)
    if reward is None or spread is None:
        return Unable("whether attempts at one task differ: log the share of tasks whose attempts earn the same")
    share = float(np.mean(spread[: max(len(spread) // 2, 1)] == 0.0))
    if share < at.ZERO_STD_CRITICAL.value or spread[0] != 0.0 or learned(evidence).good:
        return Unable("whether attempts at one task differ: rewards of a batch do; log it within tasks")
    if evidence.updates < at.UPDATES_TO_JUDGE.value:
        return Unable(f"whether any reward differs: {at.UPDATES_TO_JUDGE.value:g} updates")
    return found(
        "critical",
        f"All episodes of an update earn the same in {share:.0%} of the updates over the first half of the run, "
        f"{reward.values[0]:g} in the first, whatever is said.",
        numbers={"reward": float(reward.values[0]), "updates": len(reward), "share": share},
        where=(int(reward.steps[0]), int(reward.steps[-1])),
        ruled_out=("the choice of algorithm: what all earn alike moves none of them",),
        not_ruled_out=("a grader that gives one answer to everything", "tasks that are all too hard, or all too easy"),
        remedy="Give the grader a right and a wrong reply by hand; then tasks that are solved now and then.",
        setting="--curriculum.name=learnable",
    )


def _batch(evidence: Evidence) -> float | None:
    if evidence.played:
        return len(evidence.episodes) / len(evidence.played)
    tasks, size = evidence.setting("rollout.tasks_per_update"), evidence.setting("algorithm.group_size")
    return float(tasks * size) if isinstance(tasks, int) and isinstance(size, int) else None


def v_star(rewards: tuple[float, ...], estimator: str, beta: float) -> float:
    """V* of one task from the rewards of its reference plays, by the settings of a run."""
    if estimator == "max":
        return max(rewards)
    if estimator == "mean":
        return float(np.mean(rewards))
    top = max(rewards)
    return top + beta * math.log(float(np.mean(np.exp((np.array(rewards) - top) / beta))))
