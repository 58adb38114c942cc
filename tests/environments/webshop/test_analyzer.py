"""The analyzer makes the terms that Anserini's makes."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from webshop_helpers import records

from astarpo.environments.webshop import analyzer
from astarpo.environments.webshop.analyzer import STOP_WORDS, analyze, stem


def test_all_recorded_texts_give_the_recorded_terms(webshop_small: Path) -> None:
    recorded = records(webshop_small, "analyzer")
    assert len(recorded) > 800
    assert [r["text"] for r in recorded if analyze(r["text"]) != r["tokens"]] == []


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("face-wash and/or soap", ["face", "wash", "soap"]),
        ("5.5 usb3.0 u.s.a 1,000 192.168.0.1", ["5.5", "usb3.0", "u.s.a", "1,000", "192.168.0.1"]),
        ("size:l tv_stand", ["size:l", "tv_stand"]),
        ("The women's and WOMEN’S shoes", ["women", "women", "shoe"]),
        ("手机 壳", ["手", "机", "壳"]),
        ("café l'oréal", ["café", "l'oréal"]),
        ("lamp★ ♡🙂 5¼", ["lamp", "★", "♡", "🙂", "5"]),
        ("... -- ''", []),
    ],
)
def test_words_are_cut_where_lucene_cuts_them(text: str, terms: list[str]) -> None:
    assert analyze(text) == terms


@pytest.mark.parametrize(
    ("word", "stemmed"),
    # The examples of Porter's paper, a few for every step, then its author's later changes.
    [
        *[("caresses", "caress"), ("ponies", "poni"), ("cats", "cat"), ("caress", "caress")],
        *[("feed", "feed"), ("agreed", "agre"), ("plastered", "plaster"), ("bled", "bled"), ("motoring", "motor")],
        *[("sing", "sing"), ("sized", "size"), ("hopping", "hop"), ("falling", "fall"), ("filing", "file")],
        *[("happy", "happi"), ("sky", "sky"), ("relational", "relat"), ("conditional", "condit")],
        *[("vietnamization", "vietnam"), ("hopefulness", "hope"), ("formaliti", "formal"), ("sensibiliti", "sensibl")],
        *[("triplicate", "triplic"), ("electrical", "electr"), ("goodness", "good")],
        *[("revival", "reviv"), ("replacement", "replac"), ("adoption", "adopt"), ("communism", "commun")],
        *[("probate", "probat"), ("rate", "rate"), ("cease", "ceas"), ("controll", "control"), ("roll", "roll")],
        *[("possibly", "possibl"), ("apology", "apolog"), ("is", "is")],
    ],
)
def test_stems_are_porters(word: str, stemmed: str) -> None:
    assert stem(word) == stemmed


def test_lucene_knows_33_stop_words() -> None:
    assert len(STOP_WORDS) == 33
    assert analyze(" ".join(STOP_WORDS)) == []


def test_a_word_over_255_characters_is_cut() -> None:
    assert [len(term) for term in analyze("z" * 600)] == [255, 255, 90]


@given(st.text(alphabet=st.characters(max_codepoint=127)))
def test_the_fast_path_for_ascii_cuts_as_the_full_rules_do(text: str) -> None:
    assert analyzer._ASCII_WORD.findall(text) == analyzer._WORD.findall(text)


@given(st.text())
def test_any_text_can_be_analyzed_and_gives_lower_case_terms(text: str) -> None:
    assert all(term and term == analyzer._lower(term) for term in analyze(text))
