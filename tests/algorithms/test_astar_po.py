"""A*-PO: its minimiser and its expected gradient, both known in closed form."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from enumeration import (
    PLAYS,
    PROMPTS,
    REPLIES,
    Play,
    algorithm_of,
    batch_of,
    expectation,
    expected_gradient,
    gradient,
    mean_reward,
    random_rewards,
    random_table,
    sequence_kl,
)
from torch import Tensor

from astarpo.algorithms.astar_po import AStarPO, astar_po_loss
from astarpo.errors import MissingColumnError, SettingsError, ShapeError
from astarpo.values import v_star

POLICY, REFERENCE, REWARDS = random_table(0), random_table(1), random_rewards(2)


def optimum(beta: float) -> tuple[list[float], dict[Play, float]]:
    """V* of each task under the reference, and ln π* of every play."""
    values: list[float] = []
    best: dict[Play, float] = {}
    for task, prompt in enumerate(PROMPTS):
        plays = [Play(task, reply) for reply in REPLIES]
        ref = torch.stack([REFERENCE.log_prob(prompt, reply) for reply in REPLIES]).detach()
        reward = torch.tensor([REWARDS[play] for play in plays], dtype=torch.float64)
        values.append(float(beta * torch.logsumexp(ref + reward / beta, 0)))
        best |= dict(zip(plays, (ref + (reward - values[-1]) / beta).tolist(), strict=True))
    return values, best


def test_loss_by_hand() -> None:
    loss = astar_po_loss(
        torch.tensor([-1.0, -4.0]),
        torch.tensor([-2.0, -3.0]),
        torch.tensor([1.0, 0.0]),
        torch.tensor([0.4, 0.2]),
        beta=0.5,
    )
    assert loss.item() == pytest.approx(((0.5 * 1 - 0.6) ** 2 + (0.5 * -1 + 0.2) ** 2) / 2)


def test_loss_is_zero_at_the_optimal_policy() -> None:
    beta, reward, ref = 0.5, torch.tensor([0.0, 1.0, 0.4]), torch.tensor([0.5, 0.3, 0.2]).log()
    values = (beta * torch.logsumexp(ref + reward / beta, dim=0)).expand(3)
    best = ref + (reward - values) / beta
    assert best.exp().sum() == pytest.approx(1.0)
    assert astar_po_loss(best, ref, reward, values, beta=beta).item() == pytest.approx(0.0, abs=1e-12)


def test_gradient_reaches_the_policy_alone() -> None:
    columns = [torch.ones(2, requires_grad=True) for _ in range(4)]
    found = torch.autograd.grad(astar_po_loss(*columns, beta=0.5), columns, allow_unused=True)
    assert [slope is not None for slope in found] == [True, False, False, False]


def test_shapes_that_would_broadcast_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"reward \[3, 1\]"):
        astar_po_loss(torch.zeros(3), torch.zeros(3), torch.zeros(3, 1), torch.zeros(3), beta=0.1)


def test_minimiser_is_the_reference_tilted_by_the_reward() -> None:
    """Both β equal, trained on every play: π ends at π_ref exp(r/β) / Z, on whichever plays the data weigh."""
    beta = 0.4
    values, best = optimum(beta)
    policy = random_table(9)
    algorithm = algorithm_of(AStarPO, beta=beta)
    batch = batch_of(PLAYS, REWARDS, policy, REFERENCE, values)
    optimiser = torch.optim.LBFGS(
        policy.parameters(), max_iter=300, line_search_fn="strong_wolfe", tolerance_grad=1e-12, tolerance_change=1e-16
    )

    def closure() -> float:
        optimiser.zero_grad()
        loss, _ = algorithm.loss(policy.log_probs(batch), batch)
        loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    for play in PLAYS:
        reached = policy.log_prob(PROMPTS[play.task], play.reply).item()
        assert reached == pytest.approx(best[play], abs=1e-5)


def test_stage_one_and_stage_two_agree_on_v_star() -> None:
    """The log-mean-exp of plays drawn in the reference's own proportions is β ln Z."""
    beta, values = 0.4, optimum(0.4)[0]
    prompt, plays = PROMPTS[0], [Play(0, reply) for reply in REPLIES]
    counts = [round(1e5 * REFERENCE.log_prob(prompt, play.reply).exp().item()) for play in plays]
    rewards = [REWARDS[play] for play, count in zip(plays, counts, strict=True) for _ in range(count)]
    assert v_star(rewards, beta=beta) == pytest.approx(values[0], abs=1e-4)


@pytest.mark.parametrize("values", [(0.0, 0.0), (0.3, 0.6), (9.0, -4.0)])
@pytest.mark.parametrize("beta", [1e-3, 0.4])
def test_expected_gradient_is_that_of_reward_minus_kl_under_any_v_star(
    values: tuple[float, float], beta: float
) -> None:
    found = expected_gradient(algorithm_of(AStarPO, beta=beta), POLICY, REFERENCE, REWARDS, values)
    objective = mean_reward(POLICY, REWARDS) - beta * sequence_kl(POLICY, REFERENCE)
    torch.testing.assert_close(found, -gradient(objective, POLICY), atol=1e-12, rtol=0)


def test_normalising_divides_by_two_beta_and_the_entropy_with_it() -> None:
    batch = batch_of(PLAYS, REWARDS, POLICY, REFERENCE)
    own, paper = (
        algorithm_of(AStarPO, beta=0.05, entropy_coef=0.01, normalize_gradient=flag).loss(
            POLICY.log_probs(batch), batch
        )[0]
        for flag in (True, False)
    )
    assert own.item() == pytest.approx(paper.item() / 0.1)


def test_entropy_bonus_is_the_mean_over_acted_tokens() -> None:
    batch = batch_of(PLAYS, REWARDS, POLICY, REFERENCE)
    scored = POLICY.log_probs(batch)
    plain, bonus = (
        algorithm_of(AStarPO, normalize_gradient=False, entropy_coef=coef).loss(scored, batch)[0]
        for coef in (0.0, 0.01)
    )
    assert (plain - bonus).item() == pytest.approx(0.01 * scored.entropy.sum().item() / batch.acted.sum().item())


def test_log_ratio_is_a_sum_over_tokens_and_not_a_mean() -> None:
    play = next(play for play in PLAYS if len(play.reply) == 2)
    batch = batch_of([play], REWARDS, POLICY, REFERENCE)
    _, metrics = algorithm_of(AStarPO).loss(POLICY.log_probs(batch), batch)
    whole = [table.log_prob(PROMPTS[play.task], play.reply).item() for table in (POLICY, REFERENCE)]
    assert metrics["log_ratio/mean"] == pytest.approx(whole[0] - whole[1])


def test_potential_shaping_moves_v_star_and_leaves_the_loss() -> None:
    """Shaping adds −Φ(start) to every return of a task; log-mean-exp moves by the same."""
    shift = (0.7, -1.3)
    shaped = {play: reward + shift[play.task] for play, reward in REWARDS.items()}
    plain = [v_star([REWARDS[Play(task, reply)] for reply in REPLIES]) for task in range(2)]
    moved = [v_star([shaped[Play(task, reply)] for reply in REPLIES]) for task in range(2)]
    losses = [
        algorithm_of(AStarPO).loss(POLICY.log_probs(batch), batch)[0].item()
        for rewards, values in ((REWARDS, plain), (shaped, moved))
        for batch in [batch_of(PLAYS, rewards, POLICY, REFERENCE, values)]
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)


def test_all_wrong_task_only_pulls_to_the_reference_and_a_lucky_success_counts_whole() -> None:
    algorithm = algorithm_of(AStarPO, beta=1e-3)
    plays = [PLAYS[0], PLAYS[1]]
    batch = batch_of(plays, dict.fromkeys(PLAYS, 0.0) | {PLAYS[1]: 1.0}, POLICY, REFERENCE, (0.0, 0.0))
    scored = POLICY.log_probs(batch)
    slope: Tensor = torch.autograd.grad(algorithm.loss(scored, batch)[0], scored.logp)[0]
    assert batch.ref_logp is not None
    failed = 1e-3 * (scored.logp - batch.ref_logp)[0].sum().item() / 2
    assert slope[0][batch.acted[0]].tolist() == [pytest.approx(failed)] * int(batch.acted[0].sum())
    assert slope[1][batch.acted[1]].tolist() == [pytest.approx(-0.5, abs=0.01)] * int(batch.acted[1].sum())


def test_at_the_start_with_nothing_observed_there_is_nothing_to_learn() -> None:
    batch = replace(batch_of(PLAYS[:3], REWARDS, POLICY, POLICY), reward=torch.full((3,), 0.3, dtype=torch.float64))
    loss, metrics = algorithm_of(AStarPO).loss(POLICY.log_probs(batch), batch)
    assert metrics["signal/skipped"] == 1.0
    assert not gradient(loss, POLICY).any()


def test_it_needs_a_reference_and_values() -> None:
    algorithm = algorithm_of(AStarPO)
    assert (algorithm.needs.reference, algorithm.needs.values, algorithm.needs.group_size) == (True, True, 1)
    batch = batch_of(PLAYS, REWARDS, POLICY, REFERENCE)
    for incomplete in (replace(batch, ref_logp=None), replace(batch, v_star=None)):
        with pytest.raises(MissingColumnError):
            algorithm.loss(POLICY.log_probs(batch), incomplete)


def test_a_beta_below_zero_is_refused_in_one_sentence() -> None:
    with pytest.raises(SettingsError, match=r"beta must be above 0, got -0.5: regression temperature"):
        algorithm_of(AStarPO, beta=-0.5)


def test_every_reply_together_is_certain() -> None:
    assert expectation(POLICY, lambda _, __: 1.0).item() == pytest.approx(1.0, abs=1e-12)
    assert math.isclose(sequence_kl(POLICY, POLICY).item(), 0.0, abs_tol=1e-12)
