"""REINFORCE: its expected gradient is the policy gradient, by summing over every reply; baselines, clips and state."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from enumeration import (
    PLAYS,
    PROMPTS,
    algorithm_of,
    batch_of,
    expected_gradient,
    gradient,
    mean_reward,
    random_rewards,
    random_table,
    sequence_kl,
)

from astarpo.algorithms.reinforce import Reinforce, reinforce_loss
from astarpo.batch import Batch
from astarpo.errors import MissingColumnError, SettingsError, ShapeError

POLICY, REFERENCE, REWARDS = random_table(0), random_table(1), random_rewards(2)
FOUR = [PLAYS[0], PLAYS[3], PLAYS[8], PLAYS[12]]


def metrics_of(algorithm: Any, batch: Batch) -> dict[str, float]:
    _, metrics = algorithm.loss(POLICY.log_probs(batch, reference=REFERENCE), batch)
    assert isinstance(metrics, dict)
    return metrics


def with_rewards(*rewards: float) -> Batch:
    batch = batch_of(FOUR, REWARDS, POLICY, REFERENCE)
    return replace(batch, reward=torch.tensor(rewards, dtype=torch.float64))


def test_loss_by_hand() -> None:
    loss = reinforce_loss(torch.tensor([-1.0, -2.0]), torch.tensor([0.5, -1.0]))
    assert loss.item() == pytest.approx(-(0.5 * -1.0 + -1.0 * -2.0) / 2)


def test_gradient_does_not_reach_the_advantage() -> None:
    advantage = torch.tensor([1.0], requires_grad=True)
    assert not reinforce_loss(torch.tensor([-1.0]), advantage).requires_grad


def test_shapes_that_would_broadcast_are_refused() -> None:
    with pytest.raises(ShapeError):
        reinforce_loss(torch.zeros(3), torch.zeros(3, 1))


@pytest.mark.parametrize("v_star", [(0.0, 0.0), (0.3, 0.6), (-7.0, 40.0)])
def test_expected_gradient_is_the_policy_gradient_under_any_v_star(v_star: tuple[float, float]) -> None:
    found = expected_gradient(algorithm_of(Reinforce), POLICY, REFERENCE, REWARDS, v_star)
    torch.testing.assert_close(found, -gradient(mean_reward(POLICY, REWARDS), POLICY), atol=1e-12, rtol=0)


def test_expected_gradient_with_kl_is_that_of_reward_minus_kl() -> None:
    algorithm = algorithm_of(Reinforce, kl_coef=0.4, kl_estimator="k2_sequence")
    objective = mean_reward(POLICY, REWARDS) - 0.4 * sequence_kl(POLICY, REFERENCE)
    found = expected_gradient(algorithm, POLICY, REFERENCE, REWARDS)
    torch.testing.assert_close(found, -gradient(objective, POLICY), atol=1e-12, rtol=0)


def test_a_group_mean_that_contains_the_episode_shrinks_the_gradient_by_one_part_in_the_group() -> None:
    algorithm = algorithm_of(Reinforce, baseline="group_mean", group_size=2)
    found = expected_gradient(algorithm, POLICY, REFERENCE, REWARDS, group=2)
    torch.testing.assert_close(found, -1 / 2 * gradient(mean_reward(POLICY, REWARDS), POLICY), atol=1e-12, rtol=0)


def drop_stop_token(batch: Batch) -> Batch:
    last = torch.nn.functional.one_hot(batch.lengths - 1, batch.tokens.shape[1]).bool()
    return replace(batch, acted=batch.acted & ~(last & (batch.tokens == 0)))


def drop_first_token(batch: Batch) -> Batch:
    start = torch.tensor([len(PROMPTS[task]) for task in batch.task.tolist()])
    return replace(batch, acted=batch.acted & ~torch.nn.functional.one_hot(start, batch.tokens.shape[1]).bool())


def flip_reward(batch: Batch) -> Batch:
    return replace(batch, reward=-batch.reward)


def halve_long_replies(batch: Batch) -> Batch:
    return replace(batch, reward=batch.reward / batch.acted.sum(-1))


@pytest.mark.parametrize("breakage", [drop_stop_token, drop_first_token, flip_reward, halve_long_replies])
def test_the_policy_gradient_tells_a_broken_mask_sign_or_sum(breakage: Callable[[Batch], Batch]) -> None:
    found = expected_gradient(algorithm_of(Reinforce), POLICY, REFERENCE, REWARDS, change=breakage)
    assert (found + gradient(mean_reward(POLICY, REWARDS), POLICY)).abs().max() > 0.01


def test_batch_normalisation_cancels_a_v_star_that_all_tasks_share() -> None:
    algorithm = algorithm_of(Reinforce, normalise="batch")
    losses = [
        algorithm.loss(POLICY.log_probs(batch), batch)[0].item()
        for constant in (0.0, 0.9)
        for batch in [batch_of(FOUR, REWARDS, POLICY, REFERENCE, (constant, constant))]
    ]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)


def test_without_normalisation_it_does_not() -> None:
    batches = [batch_of(FOUR, REWARDS, POLICY, REFERENCE, (constant, constant)) for constant in (0.0, 0.9)]
    a, b = (algorithm_of(Reinforce).loss(POLICY.log_probs(batch), batch)[0].item() for batch in batches)
    assert abs(a - b) > 0.1


def test_two_episodes_normalise_to_the_same_size_whatever_they_earned() -> None:
    for high in (0.01, 100.0):
        batch = batch_of(PLAYS[:2], dict.fromkeys(PLAYS, 0.0) | {PLAYS[0]: high}, POLICY, REFERENCE, (0.0, 0.0))
        found = metrics_of(algorithm_of(Reinforce, normalise="batch"), batch)
        assert found["advantage/std"] == pytest.approx(2**-0.5, rel=1e-4)


def test_fixed_clip_holds_advantages_within_the_limit() -> None:
    batch = with_rewards(9.0, -9.0, 0.0, 0.0)
    metrics = metrics_of(algorithm_of(Reinforce, baseline="none", clip="fixed", clip_at=2.0), batch)
    assert metrics["advantage/std"] == pytest.approx(2**0.5)
    assert metrics["advantage/clip_frac"] == 0.5


def test_adaptive_clip_is_a_multiple_of_the_median_size_of_recent_advantages() -> None:
    algorithm = algorithm_of(Reinforce, baseline="none", clip="adaptive", clip_scale=1.5, clip_window=3)
    limits = [
        metrics_of(algorithm, with_rewards(size, -size, size, -size))["advantage/clip_limit"]
        for size in (1.0, 1.0, 100.0, 4.0, 4.0)
    ]
    assert limits == [pytest.approx(1.5 * median) for median in (1.0, 1.0, 1.0, 4.0, 4.0)]


def test_quiet_batches_do_not_close_the_adaptive_clip() -> None:
    algorithm = algorithm_of(Reinforce, baseline="none", clip="adaptive", clip_scale=2.0, clip_window=2)
    for rewards in ((1.0, -1.0, 1.0, -1.0), (0.0,) * 4, (0.0,) * 4):
        metrics_of(algorithm, with_rewards(*rewards))
    assert metrics_of(algorithm, with_rewards(1.0, 0.0, 0.0, 0.0))["advantage/clip_frac"] == 0.0


def test_moving_average_judges_a_batch_by_the_ones_before_it() -> None:
    algorithm = algorithm_of(Reinforce, baseline="moving_average", baseline_decay=0.5)
    means = [metrics_of(algorithm, with_rewards(*[reward] * 4))["advantage/mean"] for reward in (1.0, 3.0, 3.0, 3.0)]
    assert means == [0.0, 2.0, 1.0, 0.5]


def test_state_survives_a_round_trip_and_changes_what_follows() -> None:
    settings = {"baseline": "moving_average", "clip": "adaptive", "clip_scale": 1.1}
    first, second, fresh = (algorithm_of(Reinforce, **settings) for _ in range(3))
    for reward in (0.2, 0.9):
        metrics_of(first, with_rewards(reward, 0.0, 0.5, 0.1))
    second.restore(first.state())
    following = with_rewards(5.0, 0.0, 1.0, 0.0)
    after = [metrics_of(algorithm, following) for algorithm in (first, second, fresh)]
    assert after[0] == after[1]
    assert after[0] != after[2]


def test_batch_mean_is_subtracted_whatever_the_task() -> None:
    assert metrics_of(algorithm_of(Reinforce, baseline="batch_mean"), with_rewards(1, 2, 3, 6))["advantage/mean"] == 0.0


def test_without_any_advantage_the_update_is_skipped() -> None:
    batch = with_rewards(0.3, 0.3, 0.6, 0.6)
    scored = POLICY.log_probs(batch, reference=REFERENCE)
    loss, metrics = algorithm_of(Reinforce).loss(scored, batch)
    assert metrics["signal/skipped"] == 1.0
    assert not gradient(loss, POLICY).any()


@pytest.mark.parametrize(("skip", "moves"), [(False, True), (True, False)])
def test_without_any_advantage_the_kl_acts_unless_told_otherwise(skip: bool, moves: bool) -> None:
    batch = with_rewards(0.3, 0.3, 0.6, 0.6)
    algorithm = algorithm_of(Reinforce, kl_coef=0.1, skip_without_signal=skip)
    loss, metrics = algorithm.loss(POLICY.log_probs(batch, reference=REFERENCE), batch)
    assert metrics["signal/skipped"] == float(skip)
    assert bool(gradient(loss, POLICY).any()) == moves


def test_needs_follow_the_baseline_and_the_kl() -> None:
    assert algorithm_of(Reinforce).needs.values
    assert not algorithm_of(Reinforce, baseline="batch_mean").needs.values
    assert algorithm_of(Reinforce, baseline="group_mean").needs.group_size == 2
    assert algorithm_of(Reinforce, kl_coef=0.1).needs.exact_kl
    assert not algorithm_of(Reinforce, kl_coef=0.1, kl_estimator="k2").needs.exact_kl
    assert not algorithm_of(Reinforce).needs.reference


def test_a_missing_v_star_is_an_error_and_not_zero() -> None:
    batch = replace(with_rewards(1, 0, 1, 0), v_star=None)
    with pytest.raises(MissingColumnError, match=r"needs\.values"):
        metrics_of(algorithm_of(Reinforce), batch)


def test_a_group_of_one_under_a_group_mean_is_refused() -> None:
    with pytest.raises(SettingsError, match="group_size of 2 or more, got 1"):
        algorithm_of(Reinforce, baseline="group_mean", group_size=1)


def test_a_kl_without_expected_gradient_is_refused() -> None:
    with pytest.raises(SettingsError, match="k1 restrains nothing"):
        algorithm_of(Reinforce, kl_coef=0.1, kl_estimator="k1")
