"""V* of a task from the rewards of reference plays, by named estimator; its standard error; closed forms for binary r.

    V*(x) = β ln E_{y ~ π_ref}[ exp(r(x, y) / β) ]          β in reward units; β → ∞ is the mean, β → 0 the maximum

Source: arXiv:2505.20686, stage 1 (β = 0.5, 8 plays). The estimators have names and β is always above 0: in the authors'
code β = 0 means the mean, in the run that this project began with it meant the maximum.

Plain floats in double precision, no tensors: a value table is built once and read often.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal, get_args

Estimator = Literal["log_mean_exp", "mean", "max"]
ESTIMATORS: tuple[Estimator, ...] = get_args(Estimator)


def v_star(rewards: Iterable[float], *, estimator: Estimator = "log_mean_exp", beta: float = 0.5) -> float:
    """V* estimated from N plays of one task.

        log_mean_exp   β ln( (1/N) Σ_i exp(r_i / β) ), the maximum taken out first; biased low, most for few plays
        mean           (1/N) Σ_i r_i, its limit for large β; unbiased for the reference's mean
        max            max_i r_i, its limit for small β; grows with N, so tasks played more often look better

    Args:
        rewards: N ≥ 1 returns, reward units; a sequence or a one-dimensional tensor.
        estimator: which of the three.
        beta: reward units; read by `log_mean_exp` alone.

    Returns:
        Reward units, between the mean and the maximum of `rewards`.

    Raises:
        ValueError: no rewards, one that is not finite, an unknown estimator, or β not above 0.
    """
    given = _finite(rewards)
    if estimator == "mean":
        return math.fsum(given) / len(given)
    if estimator == "max":
        return max(given)
    weights = _exponentials(given, estimator, beta)
    return max(given) + beta * math.log(math.fsum(weights) / len(given))


def standard_error(
    rewards: Iterable[float], *, estimator: Estimator = "log_mean_exp", beta: float = 0.5
) -> float | None:
    """Standard error of `v_star` on the same plays, reward units; None where there is none to give.

    For the mean it is s / √N with the unbiased standard deviation s. For log_mean_exp the delta method carries the
    standard error of m = mean e_i, e_i = exp(r_i / β), through β ln m, whose slope is β / m:

        SE = β · std(e) / (m √N)

    It is good for many plays. With N equal rewards it is 0, which says only that nothing varied yet: eight failures in
    eight plays leave room for a success rate of 0.3. For 0/1 rewards `binary_interval` knows that; use it to decide
    whether to go on sampling. One play, and the maximum, have no standard error.

    Raises:
        ValueError: as `v_star`.
    """
    given = _finite(rewards)
    if estimator == "max" or len(given) < 2:
        return None
    if estimator == "mean":
        return _std(given) / math.sqrt(len(given))
    weights = _exponentials(given, estimator, beta)
    mean = math.fsum(weights) / len(weights)
    return beta * _std(weights) / (mean * math.sqrt(len(weights)))


def binary_v_star(p: float, *, beta: float = 0.5) -> float:
    """V* of a task that the reference solves with probability p, reward 1 for success and 0 otherwise.

        V*(p) = β ln( 1 − p + p e^{1/β} )

    Rises with p from 0 to 1 and lies above p. For rewards 0 and c use c · V*(p; β/c).

    >>> round(binary_v_star(0.25, beta=0.5), 3)
    0.477

    Raises:
        ValueError: p outside [0, 1] or β not above 0.
    """
    if not 0 <= p <= 1:
        raise ValueError(f"p must be a probability, got {p}.")
    _require_positive(beta)
    if p == 0:
        return 0.0
    if beta > 1:
        return beta * math.log1p(p * math.expm1(1 / beta))
    # e^{1/β} taken out: it overflows below β = 0.0014.
    return 1.0 + beta * math.log(p + (1 - p) * math.exp(-1 / beta))


def binary_interval(successes: int, plays: int, *, beta: float = 0.5, z: float = 1.96) -> tuple[float, float]:
    """Interval for V* under 0/1 rewards: Wilson's interval for p, carried through V*(p), which rises with p.

    Unlike a standard error it does not close when all plays agree. At 8 failures in 8 plays and β = 0.5 it reaches from
    0 to 0.56.

    Args:
        successes, plays: counts, plays ≥ 1.
        beta: reward units.
        z: standard normal quantile; 1.96 is 95 %.

    Raises:
        ValueError: counts that cannot be, or β not above 0.
    """
    if plays < 1 or not 0 <= successes <= plays:
        raise ValueError(f"successes must be 0 to plays and plays at least 1, got {successes} of {plays}.")
    p, spread = successes / plays, z * z / plays
    centre = (p + spread / 2) / (1 + spread)
    half = math.sqrt(p * (1 - p) * spread + spread * spread / 4) / (1 + spread)
    low, high = max(0.0, centre - half), min(1.0, centre + half)
    # Exact at the ends, where rounding would leave a V* of 1e-17 for a task that was never solved.
    low, high = (0.0 if successes == 0 else low), (1.0 if successes == plays else high)
    return binary_v_star(low, beta=beta), binary_v_star(high, beta=beta)


def _finite(rewards: Iterable[float]) -> list[float]:
    given = [float(reward) for reward in rewards]
    if not given:
        raise ValueError("V* needs at least one play of the task.")
    if not all(math.isfinite(reward) for reward in given):
        raise ValueError(f"rewards must be finite, got {given}.")
    return given


def _exponentials(rewards: list[float], estimator: str, beta: float) -> list[float]:
    """exp((r_i − max r) / β), in (0, 1]."""
    if estimator != "log_mean_exp":
        raise ValueError(f"estimator must be one of {', '.join(ESTIMATORS)}, got {estimator!r}.")
    _require_positive(beta)
    top = max(rewards)
    return [math.exp((reward - top) / beta) for reward in rewards]


def _std(values: list[float]) -> float:
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def _require_positive(beta: float) -> None:
    if not beta > 0:
        raise ValueError(f"beta must be above 0, got {beta}: use the estimators 'mean' and 'max' for its limits.")
