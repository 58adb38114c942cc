"""Do tokens, masks, log-probs and rewards mean what the loss believes?"""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from astarpo.diagnosis import thresholds as at
from astarpo.diagnosis.evidence import Evidence, Series
from astarpo.diagnosis.findings import Answer, Clear, Unable, detector, found
from astarpo.diagnosis.trends import at_first, ends, learned, trend

RETAUGHT = (
    "astarpo keeps sampled token ids and never encodes text again; where the trainer is another's, check its mask"
)


@detector(
    "plumbing",
    "updates do nothing although there is something to learn",
    rule=f"the gradient's norm is exactly 0 in {at.ZERO_GRADIENT.value:.0%} of the updates or more in which rewards "
    f"differ within tasks; critical from {at.ZERO_GRADIENT_CRITICAL.value:.0%}",
    source="the run this project began with: a training step inside try/except that returned a loss of 0",
)
def silent_update(evidence: Evidence) -> Answer:
    grad = evidence.get("grad_norm")
    if grad is None:
        return Unable("whether gradients reach the weights: log grad_norm")
    spread = evidence.get("zero_std")
    if spread is not None:
        differs = spread.at(grad.steps) < 1.0
    elif (spread := evidence.get("reward/std", "group_std")) is not None:
        differs = spread.at(grad.steps) > 0.0
    else:
        return Unable("whether a gradient of 0 is right: log the spread of rewards within tasks")
    if not differs.any():
        return Clear("no update in which rewards differ")
    zero = (grad.values == 0.0) & differs
    share = float(zero.sum() / differs.sum())
    # The spread over a whole batch does not say whether attempts at one task differ.
    known = evidence.get("zero_std", "group_std") is not None
    if share < at.ZERO_GRADIENT.value or differs.sum() < 3:
        return Clear(f"gradient 0 in {share:.0%} of the updates with signal")
    return found(
        "critical" if share >= at.ZERO_GRADIENT_CRITICAL.value else "warning",
        f"In {zero.sum()} of {differs.sum()} updates whose rewards differ{' within tasks' if known else ''} the "
        "gradient is exactly 0.",
        numbers={"updates_with_signal": int(differs.sum()), "zero_gradient": int(zero.sum()), "share": share},
        where=(int(grad.steps[zero][0]), int(grad.steps[zero][-1])),
        ruled_out=("no signal: rewards differ within tasks in all of these updates",) if known else (),
        not_ruled_out=(
            "all advantages clipped or filtered away by a setting",
            "" if known else "attempts at one task that all earn the same: log how many tasks have none that differ",
        ),
        remedy="Look for an exception that is swallowed around the training step, for a mask that is empty, for "
        "parameters that do not require gradients, and for an optimiser over other parameters.",
    )


@detector(
    "plumbing",
    "the same numbers are logged again and again",
    rule=f"{at.REPEATED_LINES.value:.0%} of the updates log exactly the loss, reward and entropy of the one before",
    source="an update that did not happen logs the last one's numbers",
)
def repeated_lines(evidence: Evidence) -> Answer:
    series = [s for name in ("loss", "reward", "entropy", "grad_norm") if (s := evidence.get(name)) is not None]
    if len(series) < 2 or min(map(len, series)) < at.POINTS_FOR_TREND.value:
        return Unable("whether lines repeat: at least two of loss, reward, entropy and grad_norm over 8 updates")
    # A loss of exactly 0 may repeat rightly, so all that is logged must repeat and something must not be constant.
    same = np.ones(min(map(len, series)) - 1, dtype=bool)
    for one in series:
        same &= np.diff(one.values[: len(same) + 1]) == 0.0
    constant = all(np.ptp(one.values) == 0.0 for one in series)
    share = float(same.mean())
    if share < at.REPEATED_LINES.value or (constant and len(series) < 3):
        return Clear()
    return found(
        "critical",
        f"{share:.0%} of the updates log exactly the {len(series)} metrics of the one before.",
        numbers={"share": share},
        remedy="Look for an exception that is swallowed around rollout or training, and for metrics that are logged "
        "without being computed anew.",
    )


@detector(
    "plumbing",
    "what is learned from is not what was sampled",
    rule=f"sampler and trainer give the sampled tokens log-probs that differ by more than {at.LOG_PROB_GAP.value:g} "
    f"nats on average (critical {at.LOG_PROB_GAP_CRITICAL.value:g}); in float32 runs of ours, where both are one "
    f"model, by more than {at.OWN_LOG_PROB_GAP.value:g} (critical {at.OWN_LOG_PROB_GAP_CRITICAL.value:g}); or "
    f"probabilities by more than {at.PROB_GAP.value:g} (critical {at.PROB_GAP_CRITICAL.value:g}); or, where neither "
    f"is logged, their correlation is below {at.CORRELATION.value:g}; with rollout.sync_every, right after a sync",
    source="verl, FAQ and rollout correction; Yao et al. 2025, Your efficient RL framework secretly brings you "
    "off-policy RL training",
)
def sampler_mismatch(evidence: Evidence) -> Answer:
    gap, prob = evidence.get("mismatch/log_prob"), evidence.get("mismatch/prob")
    if gap is None and prob is None:
        alike = evidence.get("mismatch/correlation")
        if alike is None:
            return Unable("whether sampler and trainer agree: log the difference of their log-probs")
        # One less it, so that here too a larger number is worse.
        gap = Series(alike.steps, 1.0 - alike.values)
        return _apart(gap, 1.0 - at.CORRELATION.value, 5.0 * (1.0 - at.CORRELATION.value), "1 less the correlation")
    exact = evidence.ours and evidence.setting("policy.dtype", "float32") == "float32"
    warn, crit = (
        (at.OWN_LOG_PROB_GAP, at.OWN_LOG_PROB_GAP_CRITICAL)
        if exact
        else (
            at.LOG_PROB_GAP,
            at.LOG_PROB_GAP_CRITICAL,
        )
    )
    if gap is None:
        assert prob is not None
        gap, warn, crit = prob, at.PROB_GAP, at.PROB_GAP_CRITICAL
    every = evidence.setting("rollout.sync_every", 1) if evidence.ours else 1
    if isinstance(every, int) and every > 1:
        # A sampler that lags by a setting is to differ between two syncs; the update after one tells of the plumbing.
        synced = (gap.steps - 1) % every == 0
        gap = Series(gap.steps[synced], gap.values[synced])
        if not len(gap):
            return Unable("whether sampler and trainer agree: an update right after a sync")
    return _apart(gap, warn.value, crit.value, "the difference")


def _apart(gap: Series, warn: float, crit: float, what: str) -> Answer:
    early, _ = ends(gap.values)
    first, typical = float(np.median(early)), float(np.median(gap.values))
    if max(first, typical) <= warn:
        return Clear(f"median {typical:.2g}")
    from_start = first > warn
    return found(
        "critical" if max(first, typical) > crit else "warning",
        f"{what[0].upper()}{what[1:]} is {first:.3g} over the first fifth of the run and {typical:.3g} in the median; "
        f"{warn:g} is the bound.",
        numbers={"first": first, "median": typical, "bound": warn},
        ruled_out=("a stale policy: it is there from the first update",) if from_start else (),
        not_ruled_out=() if from_start else ("a policy that moved between sampling and learning",),
        remedy="Score at the temperature and top-p that sampled, over exactly the sampled ids and no others (prompt "
        "and "
        "environment tokens masked out), with the same precision in the last layer; until then truncated importance "
        "weights limit the harm.",
        setting="--algorithm.importance=token",
    )


@detector(
    "plumbing",
    "the learner does not see the rewards that episodes earned",
    rule="the share of tasks whose attempts all earned the same, as the learner counts it, differs from the share in "
    f"the stored episodes, one way or the other, by more than {at.SIGNAL_GAP.value:g} on average",
    source="computed twice from one thing",
)
def reward_lost(evidence: Evidence) -> Answer:
    logged = evidence.get("zero_std")
    filtered = evidence.setting("filter.name", "none") != "none" or evidence.setting("rollout.extra_rounds", 0)
    if logged is None or not evidence.played or filtered:
        return Unable("whether the learner's rewards are those of the episodes: episodes and signal/zero_std_frac")
    gaps = []
    for played in evidence.played:
        groups: dict[str, set[float]] = defaultdict(set)
        sizes: dict[str, int] = defaultdict(int)
        for episode in played.episodes:
            groups[episode.task].add(round(episode.reward, 6))
            sizes[episode.task] += 1
        several = [len(groups[task]) == 1 for task, n in sizes.items() if n > 1]
        said = logged.at(np.array([played.step]))[0]
        if several and said == said:
            gaps.append(float(said) - sum(several) / len(several))
    if len(gaps) < 3:
        return Unable("whether the learner's rewards are those of the episodes: episodes of three updates or more")
    gap, apart = float(np.mean(gaps)), float(np.mean(np.abs(gaps)))
    if apart <= at.SIGNAL_GAP.value:
        return Clear()
    control = evidence.setting("control", "none")
    if abs(gap) > at.SIGNAL_GAP.value:
        what = "constant or zero" if gap > 0 else "dealt out to other episodes, or noisy"
        how = f"{gap:+.0%} more tasks have attempts that all earned the same than in the episodes, on average"
    else:
        what = "those of another batch, or dealt out to other episodes"
        how = (
            f"the share of tasks whose attempts all earned the same is {apart:.0%} off that in the episodes, now above"
        )
        how += " and now below, on average"
    return found(
        "critical",
        f"By the learner's count {how} over {len(gaps)} updates: the rewards that reach the loss are {what}.",
        numbers={"gap": gap, "apart": apart, "updates": len(gaps)},
        not_ruled_out=(f"this is wanted: control is {control}",) if control != "none" else (),
        remedy="Follow the reward from the episode to the loss: its order, its dtype, what it is multiplied by."
        + (" The run is a control and is not meant to learn." if control != "none" else ""),
        setting="--control none" if control != "none" else "",
    )


@detector(
    "plumbing",
    "replies never end",
    rule=f"{at.CUT_FROM_THE_START.value:.0%} of the replies or more run into the token limit in the first fifth of the "
    "run and still at the end, or replies have shrunk to fit, or are still "
    f"{at.LIMIT_FILLED.value:.0%} as long as the limit on average, and the run does not learn",
    source="DAPO, arXiv:2503.14476, on truncated samples; the end token missing from the trained tokens never learns",
)
def replies_never_end(evidence: Evidence) -> Answer:
    cut = share_ended(evidence, "truncated")
    if cut is None:
        return Unable("how many replies the token limit cuts: log it")
    (early, late), length = ends(cut.values), evidence.get("length")
    first = min(at_first(cut), float(early.mean()))
    shrank = length is not None and trend(length).change() == "fell"
    limit = evidence.setting("rollout.reply_tokens")
    full = length is not None and isinstance(limit, int) and trend(length).last >= at.LIMIT_FILLED.value * limit
    bound = late.mean() >= at.CUT_FROM_THE_START.value or shrank or full
    there = first >= at.CUT_FROM_THE_START.value and bound
    if not there or learned(evidence).excuse:
        return Clear(f"{first:.0%} cut at the start")
    said = f"{first:.0%} of the replies are cut at the start and {late.mean():.0%} over the last fifth of the run"
    if late.mean() < first and length is not None and (shrank or full):
        said += f", by when they are {trend(length).last:.1f} tokens long and not {trend(length).first:.1f}"
    return found(
        "critical" if max(first, late.mean()) >= at.CUT_CRITICAL.value else "warning",
        f"{said}" + (f", at {limit} tokens." if limit else "."),
        numbers={"first": first, "last": float(late.mean()), "limit": limit},
        not_ruled_out=("the model needs more room for its working",),
        remedy="Give replies room, and check that the end token is sampled, kept and trained on.",
        setting=f"--rollout.reply_tokens={4 * limit}" if isinstance(limit, int) else "",
    )


@detector(
    "plumbing",
    "prompts are cut",
    rule=f"{at.PROMPTS_CUT.value:.0%} of the prompts or more are as long as prompts may be, and the run does not "
    f"learn; or {at.CUT_CRITICAL.value:.0%} are, whether it learns or not",
    source="the run this project began with: a page longer than its limit lost the line that asks for an action",
)
def prompts_cut(evidence: Evidence) -> Answer:
    cut = evidence.get("prompts_cut")
    if cut is None:
        return Unable("whether prompts are cut: log the share of prompts at the limit of their length")
    typical = float(np.median(cut.values))
    most = typical >= at.CUT_CRITICAL.value
    if typical < at.PROMPTS_CUT.value or (learned(evidence).excuse and not most):
        return Clear(f"{typical:.0%} in the median")
    return found(
        "critical" if most else "warning",
        f"{typical:.0%} of the prompts reach the limit of their length in the median update: what is cut is not seen.",
        numbers={"median": typical},
        not_ruled_out=("prompts that are exactly as long as the limit",),
        remedy="Give prompts room, leave long tasks out, or shorten observations from their middle; never cut the end, "
        "where the question stands.",
        setting="--rollout.episode_tokens=4096",
    )


@detector(
    "plumbing",
    "stored log-probs cannot be those of sampled tokens",
    rule="a sampled token's log-prob is above 0, or there is not one for each token",
    source="the logarithm of a probability is at most 0",
)
def impossible_log_probs(evidence: Evidence) -> Answer:
    if not evidence.episodes:
        return Unable("whether ids and log-probs belong together: episodes")
    bad = total = 0
    for episode in evidence.episodes:
        for turn in episode.turns:
            total += 1
            said = turn.reply
            bad += len(said.ids) != len(said.log_probs) or any(value > 1e-4 for value in said.log_probs)
    if not bad:
        return Clear()
    return found(
        "critical",
        f"{bad} of {total} replies have log-probs above 0, or not one for each token.",
        numbers={"bad": bad, "replies": total},
        remedy="Store the sampler's own log-probs beside the ids that it sampled.",
    )


def share_ended(evidence: Evidence, name: str) -> Series | None:
    """Share of episodes or replies that ended so. Our journal leaves a reason out where no episode ended for it."""
    series, every = evidence.get(name), evidence.get("reward")
    if not evidence.ours:
        return series
    if every is None:
        return None
    if series is None:
        return Series(every.steps, np.zeros(len(every)))
    return Series(every.steps, np.nan_to_num(series.at(every.steps)))
