"""One definition of actions: the prompt that describes them and the parser that reads them agree."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from astarpo.environments.grammar import Action, Grammar, Parsed

GRAMMAR = Grammar(
    (
        Action("search", "words", "looks for products", "red shoes"),
        Action("click", "link", "follows a link", "1", words=("back", "buy now")),
    )
)


def test_everything_the_description_shows_can_be_parsed() -> None:
    shown = re.findall(r"[a-z_]+\[[^\]]*\]", GRAMMAR.describe())
    assert shown == ["search[words]", "search[red shoes]", "click[link]", "click[1]"]
    assert all(GRAMMAR.parse(action) is not None for action in shown)


def test_words_are_described_where_there_are_some() -> None:
    assert GRAMMAR.describe().splitlines()[-1] == "The words of click are: back, buy now."
    assert "The words" not in Grammar(GRAMMAR.actions[:1]).describe()


@pytest.mark.parametrize(
    ("reply", "parsed"),
    [
        ("search[red shoes]", Parsed("search", "red shoes")),
        ("  click[1]\n", Parsed("click", "1")),
        ("click[ Buy  Now ]", Parsed("click", " Buy  Now ")),
        ("click[a[b]c]", Parsed("click", "a[b]c")),
        ("click[]", Parsed("click", "")),
        ("search[two\nlines]", Parsed("search", "two\nlines")),
        ("Search[red]", None),
        ("search [red]", None),
        ("search[red", None),
        ("search[red] please", None),
        ("I would search[red]", None),
        ("buy[1]", None),
        ("", None),
    ],
)
def test_a_reply_is_one_action_and_nothing_else(reply: str, parsed: Parsed | None) -> None:
    assert GRAMMAR.parse(reply) == parsed


@given(st.text(max_size=80))
def test_what_is_written_is_read_back_exactly_and_no_text_raises(argument: str) -> None:
    assert GRAMMAR.parse(f"click[{argument}]") == Parsed("click", argument)
    GRAMMAR.parse(argument)
