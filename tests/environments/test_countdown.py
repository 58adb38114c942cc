"""Countdown: a parser that reads expressions exactly and raises nothing else, and tasks that can be solved."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from astarpo.environments.countdown import (
    LEVELS,
    MAX_DEPTH,
    MAX_LENGTH,
    Countdown,
    CountdownSettings,
    ExpressionError,
    evaluate,
    partial_credit,
    solve,
)
from astarpo.errors import EnvironmentContractError
from astarpo.types import SPLITS

ENVIRONMENT = Countdown(CountdownSettings())


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("7", 7),
        ("(25 + 3) * 4", 112),
        ("25+3*4", 37),
        ("10-4-3", 3),
        ("100/5/2", 10),
        ("100/(5/2)", 40),
        ("1/3+1/3+1/3", 1),
        ("((((7))))", 7),
        ("3-5", -2),
        ("007", 7),
        ("+".join(["(1)"] * (MAX_DEPTH + 5)), MAX_DEPTH + 5),
    ],
)
def test_expressions_have_their_usual_value(text: str, value: int) -> None:
    assert evaluate(text).value == Fraction(value)


TREE = st.recursive(
    st.integers(0, 999).map(lambda n: (str(n), Fraction(n))),
    lambda kid: st.tuples(kid, st.sampled_from("+-*/"), kid).map(lambda t: joined(*t)),
    max_leaves=8,
)


def joined(left: tuple[str, Fraction], symbol: str, right: tuple[str, Fraction]) -> tuple[str, Fraction]:
    if symbol == "/" and right[1] == 0:
        symbol = "+"
    value = {
        "+": lambda: left[1] + right[1],
        "-": lambda: left[1] - right[1],
        "*": lambda: left[1] * right[1],
        "/": lambda: left[1] / right[1],
    }[symbol]()
    return f"({left[0]}{symbol}{right[0]})", value


@given(TREE)
def test_any_expression_is_read_back_to_its_exact_value(tree: tuple[str, Fraction]) -> None:
    assert evaluate(tree[0]).value == tree[1]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "a number is missing at the end"),
        ("3+", "a number is missing at the end"),
        ("(3+4", "not closed"),
        ("3+4)", "')' cannot stand there"),
        ("3 4", "'4' cannot stand there"),
        ("-3", "'-' stands where a number should"),
        ("3.5", "'.' cannot stand there"),
        ("2**3", "'*' stands where a number should"),
        ("1/(2-2)", "divides by zero"),
        ("x+1", "'x' stands where"),
        ("٣+1", "stands where"),
        ("²", "stands where"),
        ("1" * 7, "7 digits"),
        ("(" * 21 + "1" + ")" * 21, f"more than {MAX_DEPTH} deep"),
        ("1+" * 150 + "1", f"at most {MAX_LENGTH}"),
        ("__import__('os')", "stands where"),
    ],
)
def test_what_is_not_an_expression_is_named(text: str, complaint: str) -> None:
    with pytest.raises(ExpressionError) as error:
        evaluate(text)
    assert complaint in str(error.value)


@given(st.text(max_size=60) | st.text("0123456789+-*/() ", max_size=60))
def test_no_text_raises_anything_but_an_expression_error(text: str) -> None:
    try:
        value = evaluate(text).value
    except ExpressionError:
        return
    assert isinstance(value, Fraction)


def test_the_solver_finds_what_exists_and_admits_what_does_not() -> None:
    assert solve([3, 7, 25, 50], 50) == "50"
    # 952 from 25 50 75 100 3 6, a classic of the television game.
    text = solve([25, 50, 75, 100, 3, 6], 952)
    assert text is not None
    said = evaluate(text)
    assert said.value == 952
    assert not Counter(said.numbers) - Counter([25, 50, 75, 100, 3, 6])
    assert solve([1, 1, 1], 100) is None
    assert solve([2, 2], 5) is None


@pytest.mark.parametrize("level", LEVELS)
def test_every_listed_task_gives_its_count_of_numbers_and_has_a_solution(level: str) -> None:
    for id in ENVIRONMENT.ids("test", level)[:60]:
        task = ENVIRONMENT.task(id)
        assert len(task.numbers) == int(level) == int(ENVIRONMENT.level(id))
        assert task.target not in task.numbers
        (reply,) = task.solution() or [""]
        assert task.step(reply).success, (id, reply)


def test_partial_credit_orders_unreadable_wrong_numbers_far_near_and_right() -> None:
    credit = [
        float(ENVIRONMENT.task("countdown/3/3-7-25/81").step(reply).info["partial"])
        for reply in ("what", "80+1", "3", "25+7", "25*3+7", "25*3-1+7", "(25*3)+7", "3*25")
    ]
    # 82 is 1 off 81, 75 is 6 off; 1 is not among the numbers.
    far, near = 0.2 + 0.6 * (1 - Fraction(78, 81)), 0.2 + 0.6 * (1 - 1 / 81)
    assert credit == pytest.approx(
        [0, 0.1, float(far), 0.2 + 0.6 * 32 / 81, near, 0.1, near, 0.2 + 0.6 * (1 - 6 / 81)], abs=1e-12
    )


def test_a_number_may_be_used_once_only() -> None:
    task = ENVIRONMENT.task("countdown/3/5-5-2/50")
    assert not task.step("5*5*2*1").success
    assert task.step("5*(5+5)").info["partial"] == 0.1
    assert ENVIRONMENT.task("countdown/3/5-5-2/50").step("5*5*2").reward == 1.0


def test_an_overshoot_earns_no_closeness_and_a_hit_is_exact() -> None:
    assert partial_credit(evaluate("100*100"), (100, 100, 2), 12) == 0.2
    assert partial_credit(evaluate("10/3*3"), (10, 3, 3), 10) == 1.0


def test_the_last_line_is_the_answer_and_an_unreadable_one_is_not_valid() -> None:
    task = ENVIRONMENT.task("countdown/3/3-7-25/82")
    assert task.step("First I multiply.\n\n25*3+7\n\n").success
    step = task.step("25*3+7=82")
    assert (step.valid, step.reward) == (False, 0.0)
    assert "'=' cannot stand there" in step.text


def test_no_problem_is_in_two_splits_and_levels_come_in_equal_shares() -> None:
    keys: Counter[tuple[tuple[int, ...], int]] = Counter()
    for split in SPLITS:
        ids = ENVIRONMENT.ids(split)
        assert len(set(ids)) == len(ids)
        prefix = Counter(ENVIRONMENT.level(id) for id in ids[:400])
        assert set(prefix.values()) == {100}
        for id in ids:
            task = ENVIRONMENT.task(id)
            keys[tuple(sorted(task.numbers)), task.target] += 1
    assert max(keys.values()) == 1


@pytest.mark.parametrize("style", ["careful", "careless"])
def test_demonstrations_are_expressions_of_the_given_numbers(style: str) -> None:
    hits = 0
    for id in ENVIRONMENT.ids("train")[:80]:
        task = ENVIRONMENT.task(id)
        (reply,) = ENVIRONMENT.demonstrate(id, style, 3)
        assert not Counter(evaluate(reply).numbers) - Counter(task.numbers)
        hits += bool(task.step(reply).success)
    assert hits == 80 if style == "careful" else hits < 20


@pytest.mark.parametrize(
    "id", ["countdown/4/3-7-25/81", "countdown/3/3-7-25/5", "countdown/2/3-7/21", "countdown/3/0-7-25/81", "x"]
)
def test_a_task_that_states_no_problem_is_refused(id: str) -> None:
    with pytest.raises(EnvironmentContractError, match="countdown has no task"):
        ENVIRONMENT.task(id)


def test_an_unsolvable_task_says_so_and_cannot_be_demonstrated() -> None:
    assert ENVIRONMENT.task("countdown/3/1-1-1/100").solution() is None
    with pytest.raises(EnvironmentContractError, match="no solution to demonstrate"):
        ENVIRONMENT.demonstrate("countdown/3/1-1-1/100", "careful", 0)


def test_words_give_the_rules() -> None:
    words = Countdown(CountdownSettings(observation="words", level="6"))
    assert words.task("countdown/3/3-7-25/81").start() == "Numbers: 3 7 25. Target: 81."
    assert "each number at most once" in words.prompt()
    assert {words.level(id) for id in words.ids("dev")} == {"6"}
