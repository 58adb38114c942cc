"""V*: the numbers of the closed form, the bias of few plays by summing over every outcome, and the delta method."""

from __future__ import annotations

import itertools
import math
import random
import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from astarpo.values import ESTIMATORS, Estimator, binary_interval, binary_v_star, standard_error, v_star

REWARDS = st.lists(st.floats(-2, 2), min_size=1, max_size=10)

# p: V* exact, then E[V_hat] of 2, 5, 8 and 32 plays, then of the hard maximum of 8, then P(all 8 fail); beta 0.5.
TABLE = {
    0.01: (0.031, 0.014, 0.020, 0.023, 0.028, 0.077, 0.923),
    0.05: (0.139, 0.071, 0.098, 0.110, 0.130, 0.337, 0.663),
    0.10: (0.247, 0.139, 0.188, 0.207, 0.236, 0.570, 0.430),
    0.25: (0.477, 0.331, 0.414, 0.438, 0.468, 0.900, 0.100),
    0.50: (0.717, 0.608, 0.681, 0.696, 0.712, 0.996, 0.004),
    0.75: (0.878, 0.831, 0.865, 0.870, 0.876, 1.000, 0.000),
    0.90: (0.955, 0.939, 0.950, 0.952, 0.954, 1.000, 0.000),
}


def expected_estimate(p: float, plays: int, estimator: Estimator = "log_mean_exp") -> float:
    return sum(
        float(binom.pmf(k, plays, p)) * v_star([1.0] * k + [0.0] * (plays - k), estimator=estimator, beta=0.5)
        for k in range(plays + 1)
    )


@pytest.mark.parametrize("p", TABLE)
def test_table_of_v_star_and_of_its_bias_under_few_plays(p: float) -> None:
    exact, *rest = TABLE[p]
    assert binary_v_star(p, beta=0.5) == pytest.approx(exact, abs=6e-4)
    found = [expected_estimate(p, n) for n in (2, 5, 8, 32)] + [expected_estimate(p, 8, "max"), (1 - p) ** 8]
    assert found == [pytest.approx(number, abs=6e-4) for number in rest]


@pytest.mark.parametrize(
    ("beta", "value"), [(0.02, 0.972), (0.1, 0.861), (0.25, 0.667), (0.5, 0.477), (1, 0.357), (10, 0.260)]
)
def test_v_star_of_a_quarter_by_beta(beta: float, value: float) -> None:
    assert binary_v_star(0.25, beta=beta) == pytest.approx(value, abs=6e-4)


@pytest.mark.parametrize("p", [0.0, 1e-9, 0.3, 1.0])
@pytest.mark.parametrize("beta", [1e-4, 0.5, 0.999999, 1.000001, 30.0])
def test_closed_form_is_the_estimate_at_that_success_rate(p: float, beta: float) -> None:
    if p in (0.0, 1.0):
        assert binary_v_star(p, beta=beta) == pytest.approx(p, abs=1e-12)
    elif p == 0.3:
        assert binary_v_star(p, beta=beta) == pytest.approx(
            v_star([1, 1, 1, 0, 0, 0, 0, 0, 0, 0], beta=beta), abs=1e-12
        )
    else:
        assert 0 < binary_v_star(p, beta=beta) < 1


@given(REWARDS, st.floats(1e-3, 100))
def test_log_mean_exp_lies_between_mean_and_max(rewards: list[float], beta: float) -> None:
    low, middle, high = (v_star(rewards, estimator=name, beta=beta) for name in ("mean", "log_mean_exp", "max"))
    assert low - 1e-9 <= middle <= high + 1e-9


@given(REWARDS)
def test_mean_and_max_are_the_limits_of_beta(rewards: list[float]) -> None:
    assert v_star(rewards, beta=1e6) == pytest.approx(v_star(rewards, estimator="mean"), abs=1e-5)
    # ln N is all that N plays can hide of the maximum.
    assert v_star(rewards, beta=1e-6) == pytest.approx(max(rewards), abs=1e-6 * math.log(10) + 1e-9)


@given(REWARDS, st.floats(-50, 50))
def test_a_constant_added_to_every_reward_moves_v_star_by_it(rewards: list[float], constant: float) -> None:
    for name in ESTIMATORS:
        moved = v_star([reward + constant for reward in rewards], estimator=name)
        assert moved == pytest.approx(v_star(rewards, estimator=name) + constant, abs=1e-9)


def test_rewards_and_beta_scale_together() -> None:
    rewards = [0.0, 1.0, 0.3]
    assert v_star([10 * r for r in rewards], beta=5.0) == pytest.approx(10 * v_star(rewards, beta=0.5))


def test_large_rewards_and_small_beta_do_not_overflow() -> None:
    assert v_star([1000.0, 0.0], beta=0.1) == pytest.approx(1000 - 0.1 * math.log(2))


def test_a_tensor_is_as_good_as_a_list() -> None:
    assert (
        v_star(torch.tensor([0.0, 0.5, 1.0]).tolist()) == v_star(torch.tensor([0.0, 0.5, 1.0])) == v_star([0, 0.5, 1])
    )


def test_standard_error_of_the_mean() -> None:
    assert standard_error([0, 0, 1, 1], estimator="mean") == pytest.approx(statistics.stdev([0, 0, 1, 1]) / 2)


def test_standard_error_by_the_delta_method_is_the_spread_of_the_estimate() -> None:
    """Exact spread over all outcomes of 200 plays, against the delta method at the true success rate."""
    p, plays, beta = 0.4, 200, 0.5
    chances = [float(binom.pmf(k, plays, p)) for k in range(plays + 1)]
    values = [v_star([1.0] * k + [0.0] * (plays - k), beta=beta) for k in range(plays + 1)]
    mean = sum(c * v for c, v in zip(chances, values, strict=True))
    spread = math.sqrt(sum(c * (v - mean) ** 2 for c, v in zip(chances, values, strict=True)))
    assert standard_error([1.0] * 80 + [0.0] * 120, beta=beta) == pytest.approx(spread, rel=0.02)


def test_standard_error_holds_for_rewards_that_are_not_binary() -> None:
    draw = random.Random(0)
    samples = [[draw.choice([0.0, 0.25, 0.7, 1.0]) for _ in range(100)] for _ in range(800)]
    spread = statistics.stdev(v_star(sample) for sample in samples)
    claimed = statistics.fmean(standard_error(sample) or 0.0 for sample in samples)
    assert claimed == pytest.approx(spread, rel=0.1)


def test_no_standard_error_is_claimed_where_there_is_none() -> None:
    assert standard_error([1.0]) is None
    assert standard_error([0.0, 1.0], estimator="max") is None


def test_interval_stays_open_when_every_play_failed() -> None:
    low, high = binary_interval(0, 8, beta=0.5)
    assert low == 0.0
    assert high == pytest.approx(binary_v_star(0.3244, beta=0.5), abs=1e-3)
    assert binary_interval(8, 8)[1] == 1.0
    assert standard_error([0.0] * 8) == 0.0


def test_interval_covers_the_true_value_about_as_often_as_it_says() -> None:
    p, plays = 0.2, 30
    covered = sum(
        float(binom.pmf(k, plays, p))
        for k in range(plays + 1)
        if binary_interval(k, plays)[0] <= binary_v_star(p) <= binary_interval(k, plays)[1]
    )
    assert 0.93 < covered < 0.99


def test_interval_narrows_with_plays() -> None:
    widths = [binary_interval(n // 2, n)[1] - binary_interval(n // 2, n)[0] for n in (4, 16, 64, 256)]
    assert all(wide > narrow for wide, narrow in itertools.pairwise(widths))


def test_what_cannot_be_estimated_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one play"):
        v_star([])
    with pytest.raises(ValueError, match="finite"):
        v_star([0.0, math.nan])
    with pytest.raises(ValueError, match="above 0"):
        v_star([0.0], beta=0.0)
    with pytest.raises(ValueError, match="log_mean_exp, mean, max"):
        v_star([0.0], estimator="median")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="probability"):
        binary_v_star(1.2)
    with pytest.raises(ValueError, match="9 of 8"):
        binary_interval(9, 8)
