"""Promotion and demotion fire exactly where Wilson's bound crosses, and never on rehearsed tasks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest

from astarpo.curriculum.promotion import Promotion, PromotionSettings
from astarpo.errors import SettingsError
from astarpo.types import Ended, Episode, Reply, Step, Turn

LEVELS = ("easy", "medium", "hard")


def ids_of(level: str | None) -> Sequence[str]:
    return [f"{level or 'target'}/{i}" for i in range(1000)]


def nested(level: str | None) -> Sequence[str]:
    return [f"p{i}" for i in range({"easy": 10, "medium": 30, "hard": 100, None: 100}[level])]


def episode(task: str, success: bool) -> Episode:
    turn = Turn("", (1,), Reply((2,), (-0.1,), "", True), Step(ended=Ended.ANSWERED), float(success))
    return Episode(task, 0, (turn,), Ended.ANSWERED, success, float(success), 1.0, 0)


def make(**given: Any) -> Promotion:
    settings = PromotionSettings.parse({"name": "promotion", "ladder": "difficulty", **given}, where="curriculum")
    return Promotion(settings, ids_of, LEVELS, 0)


def play(curriculum: Promotion, update: int, outcomes: Sequence[bool]) -> dict[str, float]:
    tasks = curriculum.choose(update, len(outcomes))
    return curriculum.observe([episode(task, right) for task, right in zip(tasks, outcomes, strict=True)])


def reach(curriculum: Promotion, stage: int) -> None:
    """Perfect play until `stage`."""
    update = 10_000
    while curriculum.stage < stage:
        play(curriculum, update, [True] * 50)
        update += 1


def lower(k: int, n: int, z: float = 1.959963985) -> float:
    """Wilson's lower bound, written out."""
    p = k / n
    centre, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return (centre - half) / (1 + z * z / n)


@pytest.mark.parametrize("promote_at", [0.6, 0.7, 0.8])
def test_it_climbs_at_the_very_episode_that_proves_the_level(promote_at: float) -> None:
    curriculum = make(promote_at=promote_at, rehearsal=0)
    outcomes = [i % 10 != 3 for i in range(200)]  # nine of ten
    proof = next(n for n in range(1, 201) if lower(sum(outcomes[:n]), n) >= promote_at)
    for n, right in enumerate(outcomes[:proof], start=1):
        assert curriculum.stage == 0
        metrics = play(curriculum, n, [right])
        assert metrics["curriculum/success_low"] == pytest.approx(lower(sum(outcomes[:n]), n), abs=1e-6)
    assert curriculum.stage == 1
    assert metrics["curriculum/promotions"] == 1


def test_perfect_play_needs_nine_episodes_for_seven_tenths() -> None:
    # n successes of n prove n / (n + 3.84): 9 of 9 are 0.701, 8 of 8 are 0.676.
    curriculum = make(promote_at=0.7, rehearsal=0)
    play(curriculum, 0, [True] * 8)
    assert curriculum.stage == 0
    play(curriculum, 1, [True])
    assert curriculum.stage == 1


def test_success_just_above_the_mark_is_not_proof() -> None:
    curriculum = make(promote_at=0.7, window=200, rehearsal=0)
    for update in range(40):
        play(curriculum, update, [i % 4 != 0 for i in range(20)])  # 0.75: the bound on 200 is 0.686
    assert curriculum.stage == 0


def test_it_steps_back_when_failure_is_proven_and_not_below_the_first_level() -> None:
    curriculum = make(promote_at=0.7, demote_at=0.2, rehearsal=0)
    play(curriculum, 0, [False] * 200)
    assert curriculum.stage == 0
    reach(curriculum, 2)
    # No success in n bounds success by 3.84 / (n + 3.84): 15 are 0.204, 16 are 0.194.
    play(curriculum, 1, [False] * 15)
    assert curriculum.stage == 2
    metrics = play(curriculum, 2, [False])
    assert curriculum.stage == 1
    assert metrics["curriculum/demotions"] == 1


def test_evidence_starts_afresh_at_each_level_and_old_episodes_leave_the_window() -> None:
    curriculum = make(window=50, rehearsal=0)
    play(curriculum, 0, [False] * 50)
    assert curriculum.stage == 0
    for update in range(1, 4):
        play(curriculum, update, [True] * 10)
    assert curriculum.stage == 0  # 30 of 50
    play(curriculum, 4, [True] * 20)
    assert curriculum.stage == 1
    assert play(curriculum, 5, [True, False])["curriculum/success"] == 0.5


def test_past_the_last_level_it_trains_on_the_target_distribution_alone() -> None:
    curriculum = make(rehearsal=0.3)
    reach(curriculum, 3)
    assert {task.split("/")[0] for task in curriculum.choose(0, 100)} == {"target"}
    play(curriculum, 1, [True] * 200)
    assert curriculum.stage == 3
    play(curriculum, 2, [False] * 200)
    assert curriculum.stage == 2


@pytest.mark.parametrize("n", [1, 4, 50])
def test_rehearsal_takes_its_share_on_average_from_all_earlier_levels(n: int) -> None:
    curriculum = make(rehearsal=0.2)
    assert {task.split("/")[0] for task in curriculum.choose(0, 100)} == {"easy"}
    reach(curriculum, 2)
    drawn = [task.split("/")[0] for update in range(4000 // n) for task in curriculum.choose(update, n)]
    # 4000 tasks: the share has a standard error of 0.0063 at most, its halves 0.0047.
    assert drawn.count("hard") / len(drawn) == pytest.approx(0.8, abs=0.025)
    assert drawn.count("easy") / len(drawn) == pytest.approx(0.1, abs=0.02)


def test_rehearsed_tasks_do_not_count_as_evidence() -> None:
    curriculum = make(rehearsal=0.5)
    reach(curriculum, 1)
    for update in range(20):
        tasks = curriculum.choose(update, 20)
        metrics = curriculum.observe([episode(task, task.startswith("easy")) for task in tasks])
        assert metrics["curriculum/success"] == 0.0
        if curriculum.stage == 0:
            return
    pytest.fail("the current level was failed throughout and no demotion followed")


def test_a_state_taken_while_episodes_are_in_play_still_knows_the_rehearsed_ones() -> None:
    curriculum, after = make(rehearsal=0.5), make(rehearsal=0.5)
    reach(curriculum, 1)
    tasks = curriculum.choose(0, 20)
    after.restore(curriculum.state())
    metrics = after.observe([episode(task, task.startswith("easy")) for task in tasks])
    assert metrics["curriculum/success"] == 0.0


def test_nested_levels_rehearse_other_tasks_than_are_played_anyway() -> None:
    settings = PromotionSettings.parse({"name": "promotion", "ladder": "products", "rehearsal": 0.3})
    curriculum = Promotion(settings, nested, LEVELS, 0)
    for update in range(3):
        tasks = curriculum.choose(update, 10)
        curriculum.observe([episode(task, True) for task in tasks] * 2)
    curriculum._stage = 2
    for update in range(30):
        tasks = curriculum.choose(update, 10)
        assert len(set(tasks)) == 10


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"promote_at": 0.3, "demote_at": 0.3}, "demote_at (0.3) must be below promote_at (0.3)"),
        ({"promote_at": 0.9, "window": 20}, "20 successes out of 20 prove only 0.84"),
        ({"rehearsal": 1}, "curriculum.rehearsal must be 0.9 or less, got 1"),
    ],
)
def test_settings_under_which_it_could_never_work_are_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        make(**given)
    assert said in str(caught.value)
