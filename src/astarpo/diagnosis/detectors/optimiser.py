"""Does the policy move, and not too far?"""

from __future__ import annotations

import numpy as np

from astarpo.diagnosis import thresholds as at
from astarpo.diagnosis.evidence import Array, Evidence, Series, batch_spread
from astarpo.diagnosis.findings import Answer, Clear, Unable, detector, found
from astarpo.diagnosis.trends import at_first, ends, fell_back, learned, trend, unlearned


@detector(
    "optimiser",
    "numbers stop being numbers",
    rule="NaN or infinity in loss, gradient, KL, entropy or reward of an update whose other metrics are finite",
    source="IEEE 754: a NaN in the weights never leaves them",
)
def not_finite(evidence: Evidence) -> Answer:
    broken = {name: s.broken for name, s in evidence.series.items() if s.broken}
    if not broken:
        return Clear()
    name, steps = min(broken.items(), key=lambda one: one[1][0])
    return found(
        "critical",
        f"{name} is NaN or infinite at {len(steps)} updates, from {steps[0]} on"
        + (f"; so are {', '.join(sorted(set(broken) - {name}))}." if len(broken) > 1 else "."),
        numbers={"first": steps[0], "updates": len(steps)},
        where=(steps[0], steps[-1]),
        ruled_out=("columns of an evaluation that are empty: the line's other metrics are finite",),
        remedy="Go back to a checkpoint before it, lower the learning rate, bound the gradient.",
        setting=_lower(evidence),
    )


@detector(
    "optimiser",
    "what is learned from was played by too old a policy",
    rule="the sampler is given the weights every few updates only, its log-probs differ from the policy's by more than "
    f"{at.LOG_PROB_GAP.value:g} nats per token in the median, and the run falls back or does not learn",
    source="runs of `astarpo claims`: of ten with a lag of ten updates the five without importance weights fell back, "
    "the five with them did not",
)
def stale_samples(evidence: Evidence) -> Answer:
    every = evidence.setting("rollout.sync_every", 1)
    if not isinstance(every, int) or every < 2:
        return Clear("nothing says that the sampler lags")
    # Runs of before lag/mean had its name have the same number under that of a mismatch.
    gap = evidence.get("lag/mean", "mismatch/log_prob")
    if gap is None:
        return Unable("how far the lagging sampler is from the policy: log the difference of their log-probs")
    typical, fall, state = float(np.median(gap.values)), fell_back(evidence), learned(evidence)
    fell = fall is not None and fall.real
    if typical <= at.LOG_PROB_GAP.value or not (fell or not state.excuse):
        return Clear(f"{typical:.2g} nats per token in the median")
    assert fall is not None or not state.excuse
    what = f"{fall.what} was {fall.best:.3g} and is {fall.last:.3g}" if fall is not None and fell else state.words
    much = state.lost or (fall is not None and fell and fall.share >= at.FALL.value)
    return found(
        "critical" if much else "warning",
        f"The sampler gets the weights every {every} updates, and its log-probs are {typical:.3g} nats per token from "
        f"the policy's in the median, {gap.values.max():.2g} at most; {what}.",
        numbers={"sync_every": every, "median": typical, "largest": float(gap.values.max())},
        not_ruled_out=("a learning rate that is too large for any lag",),
        remedy="Give the sampler the weights at every update, or weigh what it played by the truncated ratio.",
        setting="--rollout.sync_every=1"
        + (" --algorithm.importance=token" if evidence.setting("algorithm.importance") == "none" else ""),
    )


@detector(
    "optimiser",
    "the steps are too large",
    rule=f"success or reward loses {at.FALL.value:.0%} of the best level it had and does not come back, or a loss "
    f"beside which neither is logged grows to {at.LOSS_GROWN.value:g} times its first value, and in the "
    "same stretch entropy or the length of replies halves or doubles, KL jumps or the gradient spikes, where the "
    f"entropy bonus is below {at.ENTROPY_BONUS.value:g} and the gradient is not the KL's",
    source="RAGEN, arXiv:2504.20073: reward falls, then a gradient spike marks the point of no return",
)
def steps_too_large(evidence: Evidence) -> Answer:
    fall = fallen(evidence)
    if fall is None:
        return Unable(f"whether it fell: {at.POINTS_FOR_TREND.value:g} updates with success, reward or a loss")
    name, best, last, step = fall
    if not step:
        return Clear()
    signs = _signs(evidence)
    if not signs:
        return Unable("why it fell: log entropy, KL to the reference or the gradient's norm")
    bonus = float(evidence.setting("algorithm.entropy_coef", 0.0) or 0.0)
    if bonus >= at.ENTROPY_BONUS.value:
        return Clear(f"an entropy bonus of {bonus:g} can do that at any learning rate")
    if drowned_by_kl(evidence) is not None:
        return Clear("a KL that outweighs the rewards can do that at any learning rate")
    moved = [sign for sign in signs if sign[1]]
    if not moved:
        return Clear(f"{name} fell, and entropy, KL and gradient stayed")
    rate = evidence.get("learning_rate")
    at_rate = f" The learning rate is {rate.values.max():.2g}." if rate is not None else ""
    went = "rose" if name == "loss" else "fell"
    back = "" if name == "loss" else " and did not come back"
    others = ["an entropy bonus or a KL weight of the wrong size or sign"]
    if not _rose_before(evidence, name, best, step):
        others.append("a loss or advantages of the wrong sign: nothing rose before it fell")
    return found(
        "critical",
        f"{name} {went} from {best:.3f} to {last:.3f} from update {step} on{back}; "
        + "; ".join(words for words, _ in moved)
        + f".{at_rate}",
        numbers={"best": best, "last": last, "from": step},
        where=(step, evidence.last_step),
        not_ruled_out=tuple(others),
        remedy="Lower the learning rate by 3 to 10 times, warm it up, and hold the policy by a KL to the reference.",
        setting=_lower(evidence) + " --optimizer.warmup=5",
    )


@detector(
    "optimiser",
    "the policy has left its reference",
    rule=f"KL to the reference is above {at.KL.value:g} nats per token (critical {at.KL_CRITICAL.value:g}) at the "
    "end, and "
    "the run does not learn",
    source="rldoctor, thresholds; T2PO, arXiv:2605.02178, for KL and gradients exploding together",
)
def kl_blow_up(evidence: Evidence) -> Answer:
    kl = evidence.get("kl")
    if kl is None:
        return Unable("how far the policy is from its reference: log the KL")
    _, late = ends(kl.values)
    if late.mean() <= at.KL.value or learned(evidence).excuse:
        return Clear(f"{late.mean():.3g} nats per token at the end")
    over = int(kl.steps[int(np.argmax(kl.values > at.KL.value))])
    return found(
        "critical" if late.mean() > at.KL_CRITICAL.value else "warning",
        f"KL to the reference is {late.mean():.2f} nats per token at the end, above {at.KL.value:g} from update "
        f"{over} on.",
        numbers={"last": float(late.mean()), "from": over},
        where=(over, evidence.last_step),
        not_ruled_out=("a KL that is logged per sequence and not per token",),
        remedy="Lower the learning rate or hold the policy by a larger KL weight.",
        setting=_lower(evidence) + " --algorithm.kl_coef=0.05",
    )


@detector(
    "optimiser",
    "the gradient spikes",
    rule=f"its norm exceeds the median by {at.SPIKE_SIGMAS.value:g} robust standard deviations and "
    f"{at.SPIKE_MEDIANS.value:g} times, and success or reward falls after it and does not come back",
    source="rldoctor, thresholds; RAGEN, arXiv:2504.20073",
)
def gradient_spike(evidence: Evidence) -> Answer:
    grad = evidence.get("grad_norm")
    if grad is None or len(grad) < at.POINTS_FOR_TREND.value:
        return Unable(f"whether the gradient spikes: grad_norm over {at.POINTS_FOR_TREND.value:g} updates")
    spikes = spiking(grad)
    fall = fallen(evidence)
    if not len(spikes) or learned(evidence).excuse or fall is None or not fall[3]:
        return Clear(f"{len(spikes)} spikes, and nothing fell after them")
    median = float(np.median(grad.values))
    return found(
        "warning",
        f"{len(spikes)} spikes of the gradient's norm, up to {grad.values.max():.3g} at a median of {median:.3g}, "
        "the first "
        f"at update {spikes[0]}, and {fall[0]} fell from {fall[1]:.3f} to {fall[2]:.3f}.",
        numbers={"spikes": len(spikes), "largest": float(grad.values.max()), "median": median},
        where=(int(spikes[0]), int(spikes[-1])),
        remedy="Go back to a checkpoint before the first spike; clip harder and lower the learning rate.",
        setting=f"--optimizer.clip={max(round(median, 3), 0.001)} {_lower(evidence)}",
    )


@detector(
    "optimiser",
    "the clip cuts off most of the gradient",
    rule=f"more than {at.CLIPPED.value:.0%} of the tokens are clipped (critical {at.CLIPPED_CRITICAL.value:.0%}), "
    "and the run "
    "does not learn",
    source="PPO, arXiv:1707.06347; thresholds of rldoctor",
)
def clipping(evidence: Evidence) -> Answer:
    clip = evidence.get("clip_frac")
    if clip is None:
        return Unable("how much the clip cuts off: log the share of clipped tokens, where there is a clip")
    typical = float(np.median(clip.values))
    if typical <= at.CLIPPED.value or learned(evidence).excuse:
        return Clear(f"{typical:.1%} in the median")
    return found(
        "critical" if typical > at.CLIPPED_CRITICAL.value else "warning",
        f"{typical:.0%} of the tokens are clipped in the median update.",
        numbers={"median": typical},
        remedy="Fewer optimiser steps on one batch, or a lower learning rate.",
        setting="--optimizer.minibatches=1 --optimizer.epochs=1",
    )


@detector(
    "optimiser",
    "the KL holds the policy where it is",
    rule="the weight of the KL to the reference, from the settings or as loss over KL, is "
    f"{at.KL_WEIGHT.value:g} times the span of rewards per nat or more, or, where it is not known, the gradient's norm "
    f"is {at.KL_GRADIENT.value:g} times that of the first update, in which the KL and its gradient are 0; there is "
    "signal, and the run does not learn",
    source="usual weights are 0.001 to 0.1: GRPO, arXiv:2402.03300, has 0.04",
)
def held_by_kl(evidence: Evidence) -> Answer:
    weight, times = kl_weight(evidence), drowned_by_kl(evidence)
    if weight is None and times is not None and learned(evidence).training in ("flat", "fell"):
        return found(
            "critical",
            "In the first update, where the policy is its reference and the KL has no gradient, the gradient's norm is "
            f"{evidence.series['grad_norm'].values[0]:.3g}; from then on it is {times:,.0f} times that in the median: "
            f"the KL outweighs the rewards. {learned(evidence).words[0].upper()}{learned(evidence).words[1:]}.",
            title="the KL drowns the rewards",
            numbers={"times": times},
            remedy="Lower the weight of the KL to 0.001 to 0.05 of the span of rewards, or drop it.",
            setting="--algorithm.kl_coef=0.01",
        )
    if weight is None:
        return Unable("whether the KL holds the policy: its weight, or loss and KL to the reference")
    state, span = learned(evidence), max(evidence.scale, 1e-9)
    stays = state.training in ("flat", "fell")
    if weight < at.KL_WEIGHT.value * span or not stays or state.excuse or _without_signal(evidence):
        return Clear(f"a weight of {weight:.3g}")
    kl = evidence.get("kl")
    moved = "" if kl is None else f" KL to the reference is {ends(kl.values)[1].mean():.1e} nats per token at the end."
    return found(
        "critical" if evidence.updates >= 2 * at.UPDATES_TO_JUDGE.value else "warning",
        f"A nat of KL to the reference costs {weight:.3g}, all the rewards seen span {span:.3g}; {state.words}.{moved}",
        numbers={"weight": weight, "span": span},
        ruled_out=("no signal: attempts at one task earn different rewards",) if evidence.get("zero_std") else (),
        remedy="Lower the weight of the KL to 0.001 to 0.05 of the span of rewards, or drop it.",
        setting="--algorithm.beta=0.01" if _is_astar(evidence) else "--algorithm.kl_coef=0.01",
    )


@detector(
    "optimiser",
    "the policy does not move",
    rule="there is signal, and yet reward, success, entropy and length stay where they were: entropy changes by less "
    "than "
    f"{at.STILL_ENTROPY.value:.0%}, and KL to the reference, where logged, is below {at.STILL_KL.value:g} nats per "
    f"token; or learning rate times updates is below {at.STILL_STEPS.value:g}",
    source="learning rates that are usual: 1e-6 for all weights of a large model, 1e-5 to 1e-4 for LoRA",
)
def no_movement(evidence: Evidence) -> Answer:
    entropy, state = evidence.get("entropy"), learned(evidence)
    few = evidence.updates < at.UPDATES_TO_JUDGE.value or (entropy and len(entropy) < at.POINTS_FOR_TREND.value)
    if entropy is None or few:
        return Unable(f"whether the policy moves: entropy over {at.UPDATES_TO_JUDGE.value:g} updates")
    if state.training == "unknown":
        return Unable("whether the policy moves: success or reward")
    spread = evidence.get("zero_std")
    if _without_signal(evidence):
        return Clear("there is little signal to move by")
    if (kl_weight(evidence) or 0.0) >= at.KL_WEIGHT.value * max(evidence.scale, 1e-9):
        return Clear("the KL holds it")
    kl, seen, length = evidence.get("kl"), trend(entropy), evidence.get("length")
    # With a KL logged it decides; a policy that moved in no direction in particular can keep its entropy.
    if kl is not None:
        still = float(ends(kl.values)[1].mean()) < at.STILL_KL.value
    else:
        least = at.STILL_ENTROPY.value * max(abs(seen.first), 1e-9)
        still = seen.change(least) == "flat" and (
            length is None or trend(length).change(0.05 * trend(length).first) == "flat"
        )
    rate = evidence.get("learning_rate")
    largest = None if rate is None else float(rate.values.max())
    nothing = largest is not None and largest * evidence.updates < at.STILL_STEPS.value
    if not (still or nothing) or state.training != "flat" or state.gained or state.lost or state.mastered:
        return Clear(f"entropy {seen.first:.3g} to {seen.last:.3g}")
    moved = f"KL to the reference is {ends(kl.values)[1].mean():.1e}" if kl is not None else "entropy and length stay"
    if nothing and not still:
        moved = f"no weight can have moved by more than about {(largest or 0.0) * evidence.updates:.0e}"
    return found(
        "critical" if evidence.updates >= 2 * at.UPDATES_TO_JUDGE.value else "warning",
        f"Over {evidence.updates} updates nothing changes: {state.words}; entropy {seen.first:.3f} to {seen.last:.3f}; "
        f"{moved}." + (f" The learning rate is at most {largest:.2g}." if largest is not None else ""),
        numbers={"entropy_first": seen.first, "entropy_last": seen.last, "learning_rate": largest},
        ruled_out=("no signal: attempts at one task earn different rewards",) if spread is not None else (),
        not_ruled_out=("gradients that do not reach the weights",) if evidence.get("grad_norm") is None else (),
        remedy="Raise the learning rate 3 to 10 times; see that the optimiser holds the parameters that are played "
        "with.",
        setting=f"--optimizer.learning_rate={10 * largest:.2g}" if largest else "--optimizer.learning_rate=3e-4",
    )


def kl_weight(evidence: Evidence) -> float | None:
    """Reward units per nat of KL to the reference: a setting, or what a logged loss is to a logged KL.

    On policy the rest of a policy-gradient loss is next to 0, whatever its gradient, so that loss = weight × KL.
    """
    own = evidence.setting("algorithm.beta" if _is_astar(evidence) else "algorithm.kl_coef")
    if isinstance(own, int | float) and not isinstance(own, bool):
        return float(own)
    loss, kl = evidence.get("loss"), evidence.get("kl")
    if evidence.ours or loss is None or kl is None:
        return None
    beside = kl.at(loss.steps)
    there = beside > 1e-9
    if int(there.sum()) < at.POINTS_FOR_TREND.value:
        return None
    low, middle, high = np.quantile(loss.values[there] / beside[there], [0.25, 0.5, 0.75])
    return float(middle) if middle > 0.0 and high - low < 0.5 * middle else None


def drowned_by_kl(evidence: Evidence) -> float | None:
    """How many times the first update's gradient the later ones are, where the KL alone can have made them so large."""
    grad, kl = evidence.get("grad_norm"), evidence.get("kl")
    if grad is None or kl is None or len(grad) < at.POINTS_FOR_TREND.value or grad.values[0] <= 0.0:
        return None
    beside = kl.at(grad.steps)
    # A first update of which the KL is not 0 has been preceded by others.
    if not abs(beside[0]) < 1e-6 or not float(np.nanmedian(beside)) > at.STILL_KL.value:
        return None
    times = float(np.median(grad.values[1:])) / float(grad.values[0])
    return times if times >= at.KL_GRADIENT.value else None


def _rose_before(evidence: Evidence, name: str, best: float, step: int) -> bool:
    """Whether what fell at `step` had been better than at the very start; by chance it is that now and then."""
    series = evidence.get(name)
    if series is None:
        return False
    start = float(series.values[: max(3, len(series) // 10)].mean())
    return best > 1.5 * start and int(series.steps[0]) + 3 < step


def _is_astar(evidence: Evidence) -> bool:
    return str(evidence.setting("algorithm.name", "")).startswith("astar")


def _without_signal(evidence: Evidence) -> bool:
    share, spread = evidence.get("zero_std"), batch_spread(evidence)
    if share is not None:
        return float(np.median(share.values)) >= at.ZERO_STD_CRITICAL.value
    return spread is not None and float(np.mean(spread == 0.0)) >= at.ZERO_STD_CRITICAL.value


def fallen(evidence: Evidence) -> tuple[str, float, float, int] | None:
    """What fell, from which level to which, and from which step on; step 0 where nothing did. None: too few points."""
    for name in ("success", "reward"):
        series = evidence.get(name)
        if series is None or len(series) < at.POINTS_FOR_TREND.value:
            continue
        width = max(3, len(series) // 10)
        # Running means by running sums: a window is a tenth of a log that may have a million lines.
        sums = np.concatenate([[0.0], np.cumsum(series.values)])
        smooth = (sums[width:] - sums[:-width]) / width
        last, peak = float(smooth[-1]), int(np.argmax(smooth))
        best, floor = float(smooth[peak]), min(float(smooth.min()), 0.0)
        seen = trend(series)
        noise = max(3.0 * seen.error, 1e-12)
        step = 0
        if best - last > at.FALL.value * max(best - floor, 1e-12) and best - last > noise:
            half = best - 0.5 * (best - last)
            after = np.nonzero(smooth[peak:] < half)[0]
            step = max(int(series.steps[min(peak + int(after[0]), len(series) - 1)]), 1) if len(after) else 0
        state = learned(evidence)
        if not step and name == "success" and state.held_out == "fell" and state.training != "rose":
            # What the first update destroys, success in training may never show.
            before = evidence.held_out[0].success
            return "held-out success", before, state.level or 0.0, max(int(series.steps[0]), 1)
        if not step and unlearned(evidence):
            return name, float(series.values[0]), 0.0, int(series.steps[1])
        return name, best, last, step
    return _loss_grown(evidence)


def _loss_grown(evidence: Evidence) -> tuple[str, float, float, int] | None:
    """As `fallen`, of a loss that is all there is: imitation's. A loss beside rewards says nothing by its size."""
    loss = evidence.get("loss")
    alone = evidence.get("success", "reward", "advantage") is None
    if not alone or loss is None or len(loss) < at.POINTS_FOR_TREND.value or loss.values[0] <= 0.0:
        return None
    first, most = float(loss.values[0]), int(np.argmax(loss.values))
    over = loss.values >= at.LOSS_GROWN.value * first
    # Three updates of it: one batch may be harder than others.
    step = int(loss.steps[int(np.argmax(over))]) if int(over.sum()) >= 3 else 0
    return "loss", first, float(loss.values[most]), step


def spiking(grad: Series) -> Array:
    """Steps at which the gradient's norm spikes."""
    median = float(np.median(grad.values))
    sigma = 1.4826 * float(np.median(np.abs(grad.values - median)))
    over = (grad.values > median + at.SPIKE_SIGMAS.value * sigma) & (grad.values > at.SPIKE_MEDIANS.value * median)
    return grad.steps[over].astype(np.float64)


def _signs(evidence: Evidence) -> list[tuple[str, bool]]:
    """What would show that the policy moved far: words, and whether it did."""
    signs: list[tuple[str, bool]] = []
    kl, grad = evidence.get("kl"), evidence.get("grad_norm")
    for name, words in (("entropy", "entropy"), ("length", "the length of replies")):
        series = evidence.get(name)
        if series is not None and len(series) >= 4:
            first, high, low = at_first(series), float(series.values.max()), float(series.values.min())
            far = high > 2.0 * max(first, 1e-6) or low < 0.5 * first
            # Entropy is always told, the length where it says something.
            if far or name == "entropy":
                signs.append((f"{words} went from {first:.2g} to between {low:.2g} and {high:.2g}", far))
    if kl is not None and len(kl) >= 4:
        signs.append((f"KL to the reference reached {kl.values.max():.2g}", float(kl.values.max()) > at.KL.value))
    if grad is not None and len(grad) >= 4:
        signs.append((f"the gradient's norm reached {grad.values.max():.2g}", bool(len(spiking(grad)))))
    return signs


def _lower(evidence: Evidence) -> str:
    rate = evidence.get("learning_rate")
    own = evidence.setting("optimizer.learning_rate")
    now = float(own) if isinstance(own, int | float) else float(rate.values.max()) if rate is not None else 1e-3
    return f"--optimizer.learning_rate={now / 10:.1g}"
