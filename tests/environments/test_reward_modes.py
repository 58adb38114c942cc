"""Reward modes: pure functions from finished steps to one number a turn, score and success apart."""

from __future__ import annotations

import pytest

from astarpo.environments.rewards import named, partial, score, success
from astarpo.errors import SettingsError
from astarpo.types import Ended, Step

EPISODE = [
    Step("a", reward=0.25, info={"partial": 0.9}),
    Step("b", reward=-0.1),
    Step(reward=0.5, ended=Ended.FINISHED, info={"partial": 0.7}),
]


def test_score_is_the_environments_own_reward_whether_solved_or_not() -> None:
    assert score(EPISODE, True) == score(EPISODE, False) == [0.25, -0.1, 0.5]


def test_success_pays_once_at_the_end_and_only_where_solved() -> None:
    assert success(EPISODE, True) == [0.0, 0.0, 1.0]
    assert success(EPISODE, False) == [0.0, 0.0, 0.0]
    assert success(EPISODE[:1], True) == [1.0]


def test_partial_credit_is_that_of_the_last_step_and_nothing_where_it_tells_none() -> None:
    assert partial(EPISODE, False) == [0.0, 0.0, 0.7]
    assert partial(EPISODE[:2], False) == [0.0, 0.0]


def test_an_unknown_mode_is_refused_with_the_known_ones() -> None:
    assert named("score", {"score": score}, "Shop") is score
    with pytest.raises(SettingsError, match="Shop has no reward mode 'scores': known: partial, score"):
        named("scores", {"score": score, "partial": partial}, "Shop")
