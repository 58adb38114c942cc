"""Sampling by p(1−p): the tracker's arithmetic, the shares that follow from it, and what the floor guarantees."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from astarpo.curriculum.learnable import Learnable, LearnableSettings
from astarpo.types import Ended, Episode, Reply, Step, Turn

POOL = ["never", "half", "always", "new"]


def episode(task: str, success: bool) -> Episode:
    turn = Turn("", (1,), Reply((2,), (-0.1,), "", True), Step(ended=Ended.ANSWERED), float(success))
    return Episode(task, 0, (turn,), Ended.ANSWERED, success, float(success), 1.0, 0)


def make(levels: dict[str, Sequence[str]] | None = None, **given: Any) -> Learnable:
    settings = LearnableSettings.parse({"name": "learnable", "ladder": "difficulty" if levels else None, **given})
    known = levels or {}
    return Learnable(settings, lambda level: POOL if level is None else known[level], tuple(known), 0)


def feed(curriculum: Learnable, **outcomes: str) -> None:
    """`half="1010"` plays the task "half" four times."""
    curriculum.observe([episode(task, mark == "1") for task, marks in outcomes.items() for mark in marks])


def test_unplayed_tasks_are_equally_likely() -> None:
    curriculum = make()
    assert curriculum.trackers.success() == pytest.approx([0.5] * 4)
    assert curriculum.trackers.probabilities() == pytest.approx([0.25] * 4)


def test_probabilities_are_p_times_one_minus_p_of_the_posterior_means() -> None:
    curriculum = make(floor=0.1, prior=2.0)
    feed(curriculum, never="0" * 8, half="10" * 4, always="1" * 8)
    # The level: 12 of 24, so every task's prior is one success and one failure.
    p = np.array([1 / 10, 5 / 10, 9 / 10, 1 / 2])
    share = p * (1 - p) / (0.09 + 0.25 + 0.09 + 0.25)
    assert curriculum.trackers.success() == pytest.approx(p)
    assert curriculum.trackers.probabilities() == pytest.approx(0.9 * share + 0.1 / 4)
    assert curriculum.trackers.probabilities().sum() == pytest.approx(1.0)


def test_draws_follow_the_probabilities() -> None:
    curriculum = make(floor=0.1)
    feed(curriculum, never="0" * 8, half="10" * 4, always="1" * 8)
    drawn = Counter(curriculum.choose(update, 1)[0] for update in range(4000))
    shares = [drawn[task] / 4000 for task in POOL]
    # Standard error of a share is 0.008 at most.
    assert shares == pytest.approx(curriculum.trackers.probabilities().tolist(), abs=0.03)


def test_a_new_task_borrows_the_success_of_its_level() -> None:
    curriculum = make({"easy": ["a", "b"], "hard": ["c", "d"]})
    feed(curriculum, a="1" * 18, c="0" * 18)
    p = dict(zip(curriculum.trackers.pool, curriculum.trackers.success(), strict=True))
    assert p["b"] == pytest.approx(19 / 20)
    assert p["d"] == pytest.approx(1 / 20)


def test_old_counts_fade_so_the_tracker_follows_the_policy() -> None:
    curriculum = make(keep=0.5)
    for outcome in ["0000", "1111", "1111"]:
        feed(curriculum, half=outcome)
    assert curriculum.trackers.of_task[1].tolist() == [6.0, 1.0]
    assert curriculum.trackers.of_task[0].tolist() == [0.0, 0.0]
    steady = make(keep=1.0)
    for outcome in ["0000", "1111", "1111"]:
        feed(steady, half=outcome)
    assert steady.trackers.of_task[1].tolist() == [8.0, 4.0]


def test_the_floor_alone_is_uniform_and_none_lets_a_hopeless_task_go() -> None:
    outcomes = {"never": "0" * 500, "half": "10" * 250, "always": "1" * 500}
    uniform, greedy = make(floor=1.0), make(floor=0.0)
    for curriculum in (uniform, greedy):
        feed(curriculum, **outcomes)
    assert uniform.trackers.probabilities() == pytest.approx([0.25] * 4)
    assert greedy.trackers.probabilities()[0] < 0.005


def test_nested_levels_count_a_task_once_at_its_easiest_and_repeats_weigh() -> None:
    curriculum = make({"ten": ["a", "b"], "hundred": ["a", "b", "c", "c", "c"]}, floor=0.5)
    assert curriculum.trackers.pool == ["a", "b", "c"]
    assert curriculum.trackers.probabilities() == pytest.approx([0.2, 0.2, 0.6])
    feed(curriculum, a="1" * 8)
    assert curriculum.trackers.of_level.tolist() == [[8.0, 0.0], [0.0, 0.0]]


def test_ids_are_asked_for_only_when_the_first_task_is_chosen() -> None:
    asked: list[str | None] = []

    def ids_of(level: str | None) -> Sequence[str]:
        asked.append(level)
        return POOL

    curriculum = Learnable(LearnableSettings.parse({"name": "learnable"}), ids_of, (), 0)
    assert asked == []  # stage 1 has not played yet, so its filters could not apply
    curriculum.choose(0, 2)
    curriculum.choose(1, 2)
    assert asked == [None]
