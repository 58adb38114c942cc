"""The tabular policy: what it says it will do is what it does."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from astarpo.policy.tabular import Ids, TabularPolicy, every_reply

PROMPT: Ids = (2, 1)


def random_table() -> TabularPolicy:
    table = TabularPolicy.over([PROMPT], vocabulary=3, stop=0, max_tokens=2)
    with torch.no_grad():
        table.logits.copy_(torch.randn(table.logits.shape, generator=torch.Generator().manual_seed(7)))
    return table


def test_every_reply_ends_with_a_stop_or_at_the_limit() -> None:
    replies = every_reply(vocabulary=3, stop=0, max_tokens=3)
    assert len(replies) == len(set(replies)) == 1 + 2 * 1 + 4 * 3
    assert all(0 not in reply[:-1] and (reply[-1] == 0 or len(reply) == 3) for reply in replies)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.5])
def test_replies_together_are_certain(temperature: float) -> None:
    table = random_table()
    total = sum(table.log_prob(PROMPT, reply, temperature).exp().item() for reply in every_reply(3, 0, 2))
    assert total == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("temperature", [1.0, 1.5])
def test_it_samples_as_often_as_it_says_and_logs_what_it_says(temperature: float) -> None:
    table, plays = random_table(), 3000
    open_plays = table.open([(seed,) for seed in range(plays)])
    open_plays.extend(range(plays), [PROMPT] * plays)
    replies = open_plays.reply(range(plays), 2, temperature)
    seen = Counter(reply.ids for reply in replies)
    for reply in every_reply(3, 0, 2):
        chance = table.log_prob(PROMPT, reply, temperature).exp().item()
        # Five standard errors.
        assert seen[reply] / plays == pytest.approx(chance, abs=5 * (chance * (1 - chance) / plays) ** 0.5)
    for said in replies[:20]:
        assert sum(said.log_probs) == pytest.approx(table.log_prob(PROMPT, said.ids, temperature).item())
        assert said.complete == (said.ids[-1] == 0)


def test_an_episode_does_not_depend_on_what_it_was_batched_with() -> None:
    table = random_table()
    together, alone = table.open([(1, 5), (2, 5), (3, 5)]), table.open([(2, 5)])
    together.extend([0, 1, 2], [PROMPT] * 3)
    alone.extend([0], [PROMPT])
    assert together.reply([0, 1, 2], 2, 1.0)[1] == alone.reply([0], 2, 1.0)[0]


def test_greedy_takes_the_likeliest_token() -> None:
    table = random_table()
    play = table.open([(0,)])
    play.extend([0], [PROMPT])
    assert play.reply([0], 2, 0.0)[0].ids[0] == int(table.logits[table.row(PROMPT)].argmax())


def test_a_context_without_a_row_is_named() -> None:
    with pytest.raises(LookupError, match=r"no row for context \(0, 0\)"):
        random_table().log_prob((0, 0), (1,))
