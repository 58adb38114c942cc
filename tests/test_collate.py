"""Episodes become columns: what was sampled is marked, nothing else is, and nothing is made up."""

from __future__ import annotations

from dataclasses import replace

import pytest

from astarpo.collate import collate
from astarpo.types import Ended, Episode, Reply, Step, Turn


def turn(seen: list[int], said: list[int], reward: float = 0.0) -> Turn:
    reply = Reply(tuple(said), tuple(-0.5 * i for i in said), "", complete=True)
    return Turn("", tuple(seen), reply, Step(), reward)


ONE = Episode("a", 0, (turn([10, 11], [1, 2, 3], 0.25), turn([12], [4], 0.5)), Ended.FINISHED, True, 1.0, 1.5, 0)
TWO = Episode("b", 0, (turn([10], [5, 6], -1.0),), Ended.ANSWERED, False, 0.0, 1.5, 0)


def test_columns_state_what_was_sampled_by_hand() -> None:
    batch = collate([ONE, TWO, replace(ONE, attempt=1)])
    assert batch.tokens.tolist() == [[10, 11, 1, 2, 3, 12, 4], [10, 5, 6, 0, 0, 0, 0], [10, 11, 1, 2, 3, 12, 4]]
    assert batch.acted[:2].int().tolist() == [[0, 0, 1, 1, 1, 0, 1], [0, 1, 1, 0, 0, 0, 0]]
    assert batch.turn[:2].tolist() == [[-1, -1, 0, 0, 0, -1, 1], [-1, 0, 0, -1, -1, -1, -1]]
    assert batch.behaviour_logp[:2].tolist() == [[0, 0, -0.5, -1, -1.5, 0, -2], [0, -2.5, -3, 0, 0, 0, 0]]
    assert batch.lengths.tolist() == [7, 3, 7]
    assert batch.reward.tolist() == [0.75, -1.0, 0.75]
    assert batch.success.tolist() == [True, False, True]
    assert batch.task.tolist() == [0, 1, 0]
    assert batch.temperature == 1.5
    assert batch.v_star is None


def test_values_are_looked_up_by_task() -> None:
    batch = collate([TWO, ONE], values={"a": 0.25, "b": 0.75, "c": 9.0})
    assert batch.values().tolist() == [0.75, 0.25]


def test_a_task_without_a_value_is_an_error_and_not_zero() -> None:
    with pytest.raises(KeyError, match="b"):
        collate([ONE, TWO], values={"a": 0.25})


def test_several_temperatures_and_no_episodes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must share a temperature, got \[1\.0, 1\.5\]"):
        collate([ONE, replace(TWO, temperature=1.0)])
    with pytest.raises(ValueError, match="at least one episode"):
        collate([])
