"""The KL terms, held against the exact KL between whole replies; the entropy bonus; the common metrics."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from enumeration import PLAYS, PROMPTS, batch_of, expectation, gradient, random_rewards, random_table, sequence_kl
from torch import Tensor

from astarpo.algorithms.regularisers import (
    AdaptiveClip,
    KlEstimator,
    entropy_bonus,
    kl_tokens,
    sequence_log_probs,
    summary,
    without_gradient,
)
from astarpo.batch import Scored
from astarpo.errors import MissingColumnError

POLICY, REFERENCE, REWARDS = random_table(0), random_table(1), random_rewards(2)
BATCH = batch_of(PLAYS, REWARDS, POLICY, REFERENCE)
CHANCE = torch.stack([POLICY.log_prob(PROMPTS[play.task], play.reply).detach().exp() / 2 for play in PLAYS])


def scored() -> Scored:
    return POLICY.log_probs(BATCH, reference=REFERENCE)


def expected_term(estimator: KlEstimator) -> Tensor:
    """E over replies of the summed KL term, replies drawn by π."""
    return (CHANCE * kl_tokens(estimator, scored(), BATCH).sum(-1)).sum()


@pytest.mark.parametrize("estimator", ["exact", "k1", "k3"])
def test_value_is_the_kl_between_whole_replies(estimator: KlEstimator) -> None:
    assert expected_term(estimator).item() == pytest.approx(sequence_kl(POLICY, REFERENCE).item(), abs=1e-12)


def test_k2_sequence_has_the_gradient_of_the_kl_between_whole_replies() -> None:
    found = gradient(expected_term("k2_sequence"), POLICY)
    torch.testing.assert_close(found, gradient(sequence_kl(POLICY, REFERENCE), POLICY), atol=1e-12, rtol=0)


def test_exact_and_k2_share_a_gradient_that_leaves_out_which_prefixes_are_visited() -> None:
    exact, k2 = (gradient(expected_term(name), POLICY) for name in ("exact", "k2"))
    torch.testing.assert_close(exact, k2, atol=1e-12, rtol=0)
    assert (exact - gradient(sequence_kl(POLICY, REFERENCE), POLICY)).abs().max() > 0.01


def test_k1_has_no_expected_gradient() -> None:
    assert gradient(expected_term("k1"), POLICY).abs().max() < 1e-12


def test_k2_sequence_sums_to_half_the_squared_log_ratio() -> None:
    terms = kl_tokens("k2_sequence", scored(), BATCH).sum(-1)
    ratio = sequence_log_probs(scored(), BATCH) - BATCH.reference().sum(-1)
    torch.testing.assert_close(terms, 0.5 * ratio.square())


@pytest.mark.parametrize("estimator", ["exact", "k1", "k2", "k3", "k2_sequence"])
def test_kl_is_zero_on_tokens_that_nobody_sampled(estimator: KlEstimator) -> None:
    said = scored()
    dirty = Scored(*(torch.where(BATCH.acted, each, 9.0) for each in (said.logp, said.entropy, said.exact_kl())))
    found = kl_tokens(estimator, dirty, BATCH)
    assert not found[~BATCH.acted].any()
    torch.testing.assert_close(found, kl_tokens(estimator, said, BATCH))


@pytest.mark.parametrize("estimator", ["exact", "k1", "k2", "k3", "k2_sequence"])
def test_kl_of_a_policy_to_itself_is_zero(estimator: KlEstimator) -> None:
    same = batch_of(PLAYS, REWARDS, POLICY, POLICY)
    assert kl_tokens(estimator, POLICY.log_probs(same, reference=POLICY), same).abs().max() < 1e-12


def test_kl_without_a_reference_is_an_error_and_not_zero() -> None:
    with pytest.raises(MissingColumnError, match=r"needs\.reference"):
        kl_tokens("k3", scored(), replace(BATCH, ref_logp=None))
    with pytest.raises(MissingColumnError, match=r"needs\.exact_kl"):
        kl_tokens("exact", POLICY.log_probs(BATCH), BATCH)


def test_sequence_log_prob_is_that_of_the_whole_reply_with_its_stop_token() -> None:
    whole = torch.stack([POLICY.log_prob(PROMPTS[play.task], play.reply) for play in PLAYS])
    torch.testing.assert_close(sequence_log_probs(scored(), BATCH), whole)


def test_scoring_uses_the_temperature_that_sampled() -> None:
    warm = replace(BATCH, temperature=1.7)
    whole = torch.stack([POLICY.log_prob(PROMPTS[play.task], play.reply, 1.7) for play in PLAYS])
    torch.testing.assert_close(sequence_log_probs(POLICY.log_probs(warm), warm), whole)


def test_entropy_bonus_is_the_mean_over_acted_tokens_and_its_ascent_flattens_the_policy() -> None:
    bonus = entropy_bonus(scored(), BATCH)
    assert bonus.item() == pytest.approx((scored().entropy.sum() / BATCH.acted.sum()).item())
    flatter = random_table(0)
    with torch.no_grad():
        flatter.logits.add_(gradient(bonus, POLICY))
    assert entropy_bonus(flatter.log_probs(BATCH), BATCH) > bonus


def test_the_loss_of_nothing_can_be_differentiated_and_moves_nothing() -> None:
    loss = without_gradient(scored(), BATCH)
    assert loss.item() == 0.0
    assert not gradient(loss, POLICY).any()


def test_adaptive_clip_returns_what_it_was_given() -> None:
    first, second = AdaptiveClip(2.0, 4), AdaptiveClip(2.0, 4)
    for size in (1.0, 5.0, 3.0):
        first(torch.tensor([size, -size]))
    second.restore(first.state())
    wild = torch.tensor([50.0, 0.1])
    assert first(wild)[0].tolist() == second(wild)[0].tolist()
    assert first.state() == second.state()


def test_summary_by_hand() -> None:
    plays = [PLAYS[0], PLAYS[1], PLAYS[7]]
    rewards = dict.fromkeys(PLAYS, 0.0) | {PLAYS[1]: 1.0}
    batch = batch_of(plays, rewards, POLICY, REFERENCE, (0.3, 0.6))
    found = summary(POLICY.log_probs(batch, reference=REFERENCE), batch, batch.reward - batch.values())
    assert found["reward/mean"] == pytest.approx(1 / 3)
    assert found["reward/std"] == pytest.approx((2 / 9) ** 0.5)
    assert found["v_star/mean"] == pytest.approx(0.4)
    assert found["advantage/mean"] == pytest.approx(1 / 3 - 0.4)
    # One task tried twice, with two results; the task tried once cannot vary and does not count.
    assert found["signal/zero_std_frac"] == 0.0


def test_logged_kl_is_per_token_and_the_same_whoever_estimates_it() -> None:
    weighted = (CHANCE.unsqueeze(-1) * kl_tokens("exact", scored(), BATCH)).sum()
    estimated = (CHANCE.unsqueeze(-1) * kl_tokens("k3", scored(), BATCH)).sum()
    assert weighted.item() == pytest.approx(estimated.item(), abs=1e-12)
    logged = summary(scored(), BATCH, BATCH.reward)["kl"]
    assert logged == pytest.approx((scored().exact_kl().sum() / BATCH.acted.sum()).item())


def test_no_kl_is_logged_where_there_is_no_reference() -> None:
    assert "kl" not in summary(POLICY.log_probs(BATCH), replace(BATCH, ref_logp=None), BATCH.reward)


def test_all_replies_are_weighed() -> None:
    assert CHANCE.sum().item() == pytest.approx(1.0)
    assert expectation(POLICY, lambda _, __: 1.0).item() == pytest.approx(1.0)
