"""Arithmetic: exact, split by problem, worked in columns that add up."""

from __future__ import annotations

import random
from collections import Counter
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from astarpo.environments.arithmetic import (
    LEVELS,
    TARGET,
    Arithmetic,
    ArithmeticSettings,
    Problem,
    level_of,
    read_answer,
    shared_digits,
    working,
)
from astarpo.errors import EnvironmentContractError, SettingsError
from astarpo.types import SPLITS, Ended

ENVIRONMENT = Arithmetic(ArithmeticSettings())
PROBLEM = st.builds(Problem, st.integers(0, 999), st.sampled_from("+-*"), st.integers(0, 999)).filter(
    lambda problem: problem.answer >= 0
)


def problem_of(id: str) -> Problem:
    return ENVIRONMENT.task(id).problem


def test_the_right_number_alone_earns_everything_and_its_neighbour_nothing() -> None:
    task = ENVIRONMENT.task("arithmetic/huge/234*567")
    assert task.start() == "234*567="
    right, wrong = task.step("132678"), ENVIRONMENT.task("arithmetic/huge/234*567").step("132679")
    assert (right.reward, right.success, right.ended) == (1.0, True, Ended.ANSWERED)
    assert (wrong.reward, wrong.success, wrong.info["partial"]) == (0.0, False, pytest.approx(5 / 6))


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ("46", "46"),
        ("0604=46", "46"),
        ("12+34=46.", "46"),
        ("it is 1,023", "1023"),
        ("46=", None),
        ("no idea", None),
        ("", None),
        ("-5", "-5"),
        ("10-5", "5"),
        ("4.5", "4.5"),
        ("=7=8", "8"),
        ("٣", None),
        ("9" * 5000, "9" * 5000),
    ],
)
def test_the_answer_follows_the_last_equals_sign_or_is_the_last_number(reply: str, answer: str | None) -> None:
    assert read_answer(reply) == answer


def test_a_reply_without_a_number_is_answered_in_words_and_not_valid() -> None:
    step = ENVIRONMENT.task("arithmetic/easy/2+3").step("five")
    assert (step.valid, step.reward, step.info["partial"], step.ended) == (False, 0.0, 0.0, Ended.ANSWERED)
    assert "no number" in step.text


def test_partial_credit_counts_digits_from_the_right_over_the_longer_length() -> None:
    assert shared_digits("1023", "1023") == 1.0
    assert shared_digits("1123", "1023") == 0.75
    assert shared_digits("23", "1023") == 0.5
    assert shared_digits("01023", "1023") == 0.8
    assert shared_digits("3201", "1023") == 0.0


@given(st.text("0123456789", min_size=1, max_size=7), st.integers(0, 999_999))
def test_partial_credit_is_whole_only_for_the_exact_answer(said: str, right: int) -> None:
    assert 0.0 <= shared_digits(said, str(right)) <= 1.0
    assert (shared_digits(said, str(right)) == 1.0) == (said == str(right))


@given(PROBLEM)
def test_careful_working_adds_up_to_the_answer(problem: Problem) -> None:
    columns = working(problem).replace(" ", "")
    if problem.symbol != "*":
        digits = columns[1::2][::-1]
        total = int(digits) + int(columns[-2]) * 10 ** len(digits) * (problem.symbol == "+")
        assert total == problem.answer
        return
    # The last number written holds the leading digits; the partial products alone must add up to the answer.
    a, b = str(problem.a)[::-1], str(problem.b)[::-1]
    total, rest = 0, columns
    for j, i in product(range(len(b)), range(len(a))):
        total += int(rest[:2]) * 10 ** (i + j)
        rest = rest[2 if i == j == 0 else 4 :]
    assert (total, rest) == (problem.answer, "")
    assert int(columns[-2:]) == problem.answer // 10 ** (len(a) + len(b) - 2)


@pytest.mark.parametrize(
    ("problem", "columns"),
    [
        (Problem(345, "+", 678), "131210"),
        (Problem(523, "-", 178), "151403"),
        (Problem(47, "*", 8), "563237"),
        (Problem(6, "*", 1), "06"),
        (Problem(12, "+", 9), "1102"),
        (Problem(300, "-", 1), "191902"),
    ],
)
def test_working_is_what_a_pupil_writes_column_by_column(problem: Problem, columns: str) -> None:
    assert working(problem) == columns


@pytest.mark.parametrize("level", LEVELS)
def test_careful_and_direct_players_are_always_right(level: str) -> None:
    for id in ENVIRONMENT.ids("train", level)[:300]:
        for style in ("careful", "direct"):
            (reply,) = ENVIRONMENT.demonstrate(id, style, 0)
            assert ENVIRONMENT.task(id).step(reply).success, (id, reply)
            assert len(reply) <= (16 if level in TARGET else 48)


def test_three_in_five_careless_answers_have_one_digit_off_by_one() -> None:
    ids = ENVIRONMENT.ids("train")[:3000]
    wrong = 0
    for id in ids:
        (reply,), right = ENVIRONMENT.demonstrate(id, "careless", 7), str(problem_of(id).answer)
        if reply == right:
            continue
        wrong += 1
        off = [abs(int(x) - int(y)) for x, y in zip(reply, right, strict=True) if x != y]
        assert off == [1], (id, reply)
        assert reply == "0" or not reply.startswith("0")
    # 3000 draws of probability 0.6 lie within 4 standard errors of 0.009.
    assert wrong / len(ids) == pytest.approx(0.6, abs=0.036)


def test_a_demonstration_depends_on_its_seed_and_nothing_else() -> None:
    ids = ENVIRONMENT.ids("train")[:50]
    said = {seed: [ENVIRONMENT.demonstrate(id, "careless", seed) for id in ids] for seed in (0, 1)}
    assert said[0] == [ENVIRONMENT.demonstrate(id, "careless", 0) for id in ids]
    assert said[0] != said[1]


def test_the_two_orders_of_a_sum_or_product_are_one_problem_in_one_split() -> None:
    rng = random.Random(0)
    for _ in range(500):
        a, b = rng.randrange(1000), rng.randrange(1000)
        for symbol in "+*":
            assert Problem(a, symbol, b).key == Problem(b, symbol, a).key
            assert Problem(a, symbol, b).split == Problem(b, symbol, a).split
    assert Problem(9, "-", 3).key != Problem(3, "-", 9).key


def test_no_problem_is_in_two_splits_or_at_two_levels() -> None:
    keys = {
        (split, level): {problem_of(id).key for id in ENVIRONMENT.ids(split, level)}
        for split in SPLITS
        for level in LEVELS
    }
    assert sum(map(len, keys.values())) == len(set().union(*keys.values()))


def test_splits_have_their_shares_of_an_operation_that_is_listed_in_full() -> None:
    # All 496 sums a + b with 0 <= a <= b <= 30: 15 % test, 10 % dev, give or take 3 standard errors of 1.6 points.
    sums = {split: {i for i in ENVIRONMENT.ids(split, "easy") if "+" in i} for split in SPLITS}
    assert sum(map(len, sums.values())) == 31 * 32 // 2
    assert len(sums["test"]) / 496 == pytest.approx(0.15, abs=0.05)
    assert len(sums["dev"]) / 496 == pytest.approx(0.10, abs=0.04)


def test_training_mixes_levels_and_operations_in_equal_shares_in_every_prefix() -> None:
    ids = ENVIRONMENT.ids("train")
    for end in (30, 3000, len(ids)):
        levels = Counter(ENVIRONMENT.level(id) for id in ids[:end])
        assert max(levels.values()) - min(levels.values()) <= 1
        symbols = Counter(problem_of(id).symbol for id in ids[:end])
        assert max(symbols.values()) - min(symbols.values()) <= 9
    assert len(set(ids)) > 10_000


def test_held_out_ids_are_500_distinct_problems_in_thirds_while_the_easy_level_lasts() -> None:
    assert len(ENVIRONMENT.ids("test", "easy")) == 174
    for split, easy in (("test", 167), ("dev", 95)):
        ids = ENVIRONMENT.ids(split)  # type: ignore[arg-type]
        assert len(set(ids)) == len(ids) == 500
        counts = Counter(ENVIRONMENT.level(id) for id in ids)
        assert counts["easy"] == easy
        assert abs(counts["medium"] - counts["hard"]) <= 1


def test_a_setting_chooses_the_level_that_an_unnamed_level_means() -> None:
    huge = Arithmetic(ArithmeticSettings(level="huge"))
    assert huge.ids("test") == ENVIRONMENT.ids("test", "huge")
    assert all(id.startswith("arithmetic/huge/") for id in huge.ids("train")[:50])


def test_ids_are_those_of_any_other_process() -> None:
    # Ids are keys of value tables on disk: changing them is a change of format.
    assert ENVIRONMENT.ids("train")[:3] == (
        "arithmetic/medium/88-27",
        "arithmetic/hard/978+684",
        "arithmetic/easy/8*7",
    )


@pytest.mark.parametrize(
    "id",
    [
        "arithmetic/easy/90+90",  # medium
        "arithmetic/medium/3+4",  # easy
        "arithmetic/hard/100-200",  # below 0
        "arithmetic/easy/03+4",
        "arithmetic/none/3+4",
        "arithmetic/easy/3/4",
        "arithmetic/huge/1000*1000",
        "",
        "arithmetic",
    ],
)
def test_a_task_that_does_not_exist_is_refused_by_name(id: str) -> None:
    with pytest.raises(EnvironmentContractError, match="arithmetic has no task"):
        ENVIRONMENT.task(id)


def test_unknown_level_style_and_settings_are_refused_with_the_known_ones() -> None:
    with pytest.raises(EnvironmentContractError, match="levels are target, easy, medium, hard, huge"):
        ENVIRONMENT.ids("train", "harder")
    with pytest.raises(EnvironmentContractError, match="known: careful, careless, direct"):
        ENVIRONMENT.demonstrate("arithmetic/easy/3+4", "lazy", 0)
    with pytest.raises(SettingsError, match="did you mean 'observation'"):
        ArithmeticSettings.parse({"observations": "words"}, where="environment")


def test_words_ask_a_question_and_say_how_to_answer() -> None:
    words = Arithmetic(ArithmeticSettings(observation="words"))
    assert words.task("arithmetic/easy/3+4").start() == "What is 3 + 4?"
    assert "end with = and the answer" in words.prompt()
    assert ENVIRONMENT.prompt() == ""
    assert words.fingerprint() != ENVIRONMENT.fingerprint()


def test_every_problem_of_a_level_is_of_that_level_alone() -> None:
    assert level_of(Problem(30, "+", 30)) == "easy"
    assert level_of(Problem(30, "+", 31)) == "medium"
    assert level_of(Problem(99, "*", 9)) == level_of(Problem(9, "*", 99)) == "hard"
    assert level_of(Problem(999, "*", 999)) == "huge"
    assert level_of(Problem(5, "+", 500)) is None
