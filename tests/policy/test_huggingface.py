"""Scoring: the log-probs, entropies and KLs of a batch are those of one plain forward pass, however it is cut."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from astarpo.batch import Batch, length_buckets
from astarpo.policy.huggingface import HuggingFacePolicy
from small import small_policy, small_tokenizer


def batch(lengths: list[int], temperature: float = 1.0, seed: int = 0) -> Batch:
    """Random ids; about half of them acted, the last always."""
    random = torch.Generator().manual_seed(seed)
    b, t = len(lengths), max(lengths)
    tokens = torch.randint(4, 260, (b, t), generator=random)
    acted = torch.rand((b, t), generator=random) < 0.5
    acted[:, 0] = False
    for row, length in enumerate(lengths):
        acted[row, length - 1] = True
        acted[row, length:] = False
        tokens[row, length:] = 0
    zeros = torch.zeros((b, t))
    return Batch(
        tokens=tokens,
        lengths=torch.tensor(lengths),
        acted=acted,
        turn=torch.where(acted, 0, -1),
        behaviour_logp=zeros,
        reward=torch.zeros(b),
        success=torch.zeros(b, dtype=torch.bool),
        task=torch.zeros(b, dtype=torch.int64),
        temperature=temperature,
    )


def plainly(policy: HuggingFacePolicy, given: Batch) -> torch.Tensor:
    """ln π over the vocabulary [B, T, V] for the token at each position, row by row, without padding."""
    table = torch.zeros((*given.tokens.shape, 300))
    for row, length in enumerate(given.lengths.tolist()):
        with torch.no_grad():
            logits = policy.model(input_ids=given.tokens[row : row + 1, :length], use_cache=False).logits[0]
        table[row, 1:length, : logits.shape[-1]] = torch.log_softmax(logits[:-1] / given.temperature, -1)
    return table


@pytest.mark.parametrize("temperature", [1.0, 1.5])
@pytest.mark.parametrize("tokens", [4096, 20, 1])
def test_scores_are_those_of_single_rows_without_padding(temperature: float, tokens: int) -> None:
    policy, other = small_policy(0), small_policy(1)
    given = batch([9, 3, 14, 5, 2], temperature)
    scored = policy.log_probs(given, reference=other, tokens=tokens)
    log_p, log_q = plainly(policy, given), plainly(other, given)
    said = log_p.gather(-1, given.tokens[:, :, None])[:, :, 0]
    mask = given.acted
    torch.testing.assert_close(scored.logp, torch.where(mask, said, 0.0), atol=1e-5, rtol=1e-5)
    p = log_p.exp()
    torch.testing.assert_close(scored.entropy, torch.where(mask, -(p * log_p).sum(-1), 0.0), atol=1e-5, rtol=1e-5)
    kl = torch.where(mask, (p * (log_p - log_q)).sum(-1), 0.0)
    torch.testing.assert_close(scored.exact_kl(), kl, atol=1e-5, rtol=1e-5)
    assert float(kl.max()) > 0.01


def test_the_gradient_flows_through_the_policy_and_not_through_the_reference() -> None:
    policy, other = small_policy(0), small_policy(1)
    scored = policy.log_probs(batch([5, 4]), reference=other)
    (scored.logp.sum() + scored.entropy.sum() + scored.exact_kl().sum()).backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is not None for p in policy.model.parameters())
    assert all(p.grad is None for p in other.model.parameters())


def test_what_stands_after_the_end_of_a_row_does_not_matter() -> None:
    policy, given = small_policy(), batch([9, 3])
    filled = given.tokens.clone()
    filled[1, 3:] = 77
    same = policy.log_probs(replace(given, tokens=filled))
    assert torch.equal(policy.log_probs(given).logp, same.logp)


def test_a_family_that_caps_its_logits_is_scored_by_its_own_forward() -> None:
    config = AutoConfig.for_model(
        "gemma2",
        vocab_size=300,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        sliding_window=4,
        final_logit_softcapping=0.5,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    for parameter in model.parameters():
        parameter.data.mul_(6.0)
    policy, given = HuggingFacePolicy(model, small_tokenizer(), rules=False), batch([9, 3, 6])
    said = plainly(policy, given).gather(-1, given.tokens[:, :, None])[:, :, 0]
    with torch.no_grad():
        logp = policy.log_probs(given).logp
    torch.testing.assert_close(logp, torch.where(given.acted, said, 0.0), atol=1e-5, rtol=1e-5)
    model.config.final_logit_softcapping = None
    assert float((plainly(policy, given).gather(-1, given.tokens[:, :, None])[:, :, 0] - said).abs().max()) > 0.1


def test_buckets_hold_every_row_once_longest_first_and_stay_below_the_limit() -> None:
    lengths = torch.tensor([3, 10, 1, 7, 7, 2, 30])
    parts = list(length_buckets(lengths, 21))
    assert sorted(torch.cat(parts).tolist()) == list(range(7))
    longest = [int(lengths[part].max()) for part in parts]
    assert longest == sorted(longest, reverse=True)
    # A row longer than the limit goes alone.
    assert all(len(part) * most <= 21 or len(part) == 1 for part, most in zip(parts, longest, strict=True))


def test_the_version_and_the_vocabulary_are_those_of_the_model() -> None:
    policy = small_policy()
    assert policy.version == 0
    assert policy.vocabulary == len(small_tokenizer())
    assert policy.device == torch.device("cpu")
