"""Exchanging words: one for one, the game's own kept, numbers untouched."""

from __future__ import annotations

import numpy as np

from astarpo.exchange import WORD, Exchange

TOLD = [
    f"find me a {colour} {thing} price 9.50\nsearch[{colour} {thing}]"
    for colour in ("red", "teal")
    for thing in ("lamp", "sofa", "vase")
]


def test_no_two_words_become_the_same_and_one_word_always_becomes_one() -> None:
    exchange = Exchange(TOLD)
    for seed in range(50):
        say = exchange.draw(np.random.default_rng(seed))
        said = [say(text) for text in TOLD]
        pairs = {
            pair
            for old, new in zip(TOLD, said, strict=True)
            for pair in zip(WORD.findall(old), WORD.findall(new), strict=True)
        }
        assert len({old for old, _ in pairs}) == len(pairs) == len({new for _, new in pairs})


def test_what_a_shopper_copied_is_still_a_copy_after_the_exchange() -> None:
    say = Exchange(TOLD).draw(np.random.default_rng(3))
    for text in TOLD:
        asked, searched = say(text).split("\n")
        assert searched.removeprefix("search[").removesuffix("]") in asked


def test_words_of_half_the_demonstrations_and_numbers_stay() -> None:
    exchange = Exchange(TOLD, common=0.9)
    assert exchange.kept == {"find", "me", "price", "search"}
    assert "price 9.50" in exchange.draw(np.random.default_rng(0))(TOLD[0])


def test_half_of_the_words_put_in_are_new() -> None:
    exchange = Exchange(TOLD, common=0.9)
    known = set(WORD.findall("\n".join(TOLD)))
    assert known - exchange.kept < set(exchange.words)
    assert set(exchange.words) - known


def test_words_stay_where_none_are_left_to_put_in() -> None:
    exchange = Exchange(["lamp"], common=2.0)
    say = exchange.draw(np.random.default_rng(0))
    assert len({say("aaa"), say("bbb"), say("ccc")}) == 3
