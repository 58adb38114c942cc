"""Demonstrations with their words exchanged for others, one for one: what is copied then has to be read.

Scripted players copy words and compare them; none of them knows what a word means. So a demonstration in which every
`shirt` has become `lamp`, page and reply alike, is as right as it was, and a catalogue of a few hundred products gives
demonstrations without end. Words that most demonstrations have (`search`, `price`, `dollars`) are the game's own and
stay. Learning on inputs whose symbols were exchanged, so that the context alone says what they stand for: symbol
tuning, Wei et al., arXiv:2305.08298, who exchange the labels.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator

import numpy as np

WORD = re.compile(r"[^\W\d_]{2,}")
"""What is exchanged: runs of two letters or more. Numbers stay, since they are compared by size."""


class Exchange:
    """Words that may stand for others.

    Half of what is put in their place are words of `texts`, the other half are made up, the first half of one and the
    second of another: what is sold elsewhere has words that were never read here.

    Args:
        texts: one demonstration each.
        common: share of the demonstrations from which on a word is the game's own.
    """

    def __init__(self, texts: Iterable[str], common: float = 0.5) -> None:
        seen, count = Counter[str](), 0
        for text in texts:
            seen.update(set(WORD.findall(text)))
            count += 1
        self.kept = frozenset(word for word, n in seen.items() if n >= common * count)
        found = sorted(set(seen) - self.kept)
        random = np.random.default_rng(0)
        heads, tails = random.permutation(len(found)), random.permutation(len(found))
        crossed = {
            found[i][: (len(found[i]) + 1) // 2] + found[j][len(found[j]) // 2 :]
            for i, j in zip(heads, tails, strict=True)
        }
        self.words = tuple(found) + tuple(sorted(crossed - set(seen)))

    def draw(self, random: np.random.Generator) -> Wording:
        """One way to exchange all words: no two become the same."""
        return Wording(self.kept, (self.words[i] for i in random.permutation(len(self.words))))


class Wording:
    """Texts in exchanged words, one wording: a word becomes the same in all of them."""

    def __init__(self, kept: frozenset[str], fresh: Iterator[str]) -> None:
        self._kept = kept
        self._fresh = fresh
        self._stands_for: dict[str, str] = {}

    def __call__(self, text: str) -> str:
        """`text` in exchanged words. Where they have run out, further ones stay as they are."""
        return WORD.sub(self._one, text)

    def _one(self, found: re.Match[str]) -> str:
        word = found[0]
        if word in self._kept:
            return word
        if word not in self._stands_for:
            self._stands_for[word] = next(self._fresh, word)
        return self._stands_for[word]
