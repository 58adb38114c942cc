"""BM25 as Lucene computes it, to the last bit that decides an order (webshop.md, section 3)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from astarpo.environments.webshop.analyzer import analyze

if TYPE_CHECKING:
    from astarpo.environments.webshop.catalogue import Product

K1 = 0.9
B = 0.4
HITS = 50
"""How many products one search returns at most."""
MOST_TERMS = 1024
"""Distinct terms that Lucene accepts in one query; the original crashes on more."""
CACHED = 4096
"""Answers kept. Paging and going back ask the same question again."""

Floats = NDArray[np.float32]
Rows = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class _Postings:
    """Where one term occurs.

    Attributes:
        rows: [n] rows of the products, in order.
        frequency: [n] how often it occurs there.
        idf: ln(1 + (N - n + 0.5) / (n + 0.5)).
        impact: [n] what one occurrence in the query adds to the score.
    """

    rows: Rows
    frequency: Floats
    idf: np.float32
    impact: Floats


@dataclass(frozen=True, slots=True)
class Index:
    """An inverted index over products. Rows are in order of asin, which is how Lucene breaks ties.

    score(q, d) = Σ_t  w_t - w_t / (1 + tf(t, d) / (k1 (1 - b + b |d| / avg)))   with w_t = count(t, q) · idf(t)

    in float32, where |d| has passed through Lucene's one-byte length and avg has not. Shared by all sessions.
    """

    asins: tuple[str, ...]
    _inverse_norm: Floats
    _postings: dict[str, _Postings]
    _answers: dict[tuple[str, int], tuple[str, ...]] = field(default_factory=dict)

    @classmethod
    def build(cls, products: Sequence[Product]) -> Index:
        """Index the products' titles, descriptions, first bullets and options."""
        return cls.of_texts({product.asin: indexed_text(product) for product in products})

    @classmethod
    def of_texts(cls, texts: dict[str, str]) -> Index:
        """Index any texts, by id."""
        asins = tuple(sorted(texts))
        documents = [analyze(texts[asin]) for asin in asins]
        lengths = [len(document) for document in documents]
        average = np.float32(sum(lengths) / max(1, sum(length > 0 for length in lengths)) or 1.0)
        coded = np.array([one_byte_length(length) for length in lengths], dtype=np.float32)
        # Every operand float32, in Lucene's order: the last bit decides between products that are nearly equal.
        one, k1, b = np.float32(1), np.float32(K1), np.float32(B)
        inverse_norm = one / (k1 * ((one - b) + b * coded / average))
        found: dict[str, list[tuple[int, int]]] = {}
        for row, document in enumerate(documents):
            for term, count in Counter(document).items():
                found.setdefault(term, []).append((row, count))
        postings = {}
        for term, places in found.items():
            rows = np.array([row for row, _ in places], dtype=np.int32)
            frequency = np.array([count for _, count in places], dtype=np.float32)
            idf = np.float32(math.log(1 + (len(asins) - len(rows) + 0.5) / (len(rows) + 0.5)))
            postings[term] = _Postings(rows, frequency, idf, _impact(idf, frequency, inverse_norm[rows]))
        return cls(asins, inverse_norm, postings)

    def search(self, query: str, k: int = HITS) -> tuple[str, ...]:
        """Asins of the best `k` products that share a term with `query`, best first. Any text is a query."""
        known = self._answers.get((query, k))
        if known is None:
            rows, _ = self._best(query, k)
            known = tuple(self.asins[row] for row in rows)
            if len(self._answers) >= CACHED:
                self._answers.clear()
            self._answers[query, k] = known
        return known

    def search_scored(self, query: str, k: int = HITS) -> list[tuple[str, float]]:
        """As `search`, with scores as Anserini reports them: rounded to 4 decimals, then told apart by steps of 1e-6.

        A score within 1e-4 of the one before counts as equal to it, so neighbours one rounding step apart may too.
        """
        rows, scores = self._best(query, k)
        reported: list[tuple[str, float]] = []
        before, ties = math.inf, 0
        for row, score in zip(rows, scores, strict=True):
            rounded = float(np.float32(round(float(score) * 1e4) / 1e4))
            ties = ties + 1 if abs(before - rounded) < 1e-4 else 0
            before = float(np.float32(rounded - 1e-6 * ties))
            reported.append((self.asins[row], round(before, 6)))
        return reported

    def _best(self, query: str, k: int) -> tuple[list[int], Floats]:
        total = np.zeros(len(self.asins), dtype=np.float64)
        for term, count in Counter(analyze(query)).items():
            posting = self._postings.get(term)
            if posting is None:
                continue
            rows = posting.rows
            if count == 1:
                total[rows] += posting.impact
            else:
                weight = np.float32(count) * posting.idf
                total[rows] += _impact(weight, posting.frequency, self._inverse_norm[rows])
        scores = total.astype(np.float32)
        hits = np.flatnonzero(scores)
        if len(hits) > 2 * k:
            least = np.partition(scores[hits], len(hits) - k)[len(hits) - k]
            hits = hits[scores[hits] >= least]
        # Stable, and rows are in order of asin: equal scores come out as Lucene orders them.
        best = hits[np.argsort(-scores[hits], kind="stable")[:k]]
        return best.tolist(), scores[best]


def indexed_text(product: Product) -> str:
    """What the original puts into its index for one product."""
    options = ", and ".join(f"{name}: {', '.join(values)}" for name, values in product.options.items())
    bullet = product.bullets[0] if product.bullets else ""
    return " ".join((product.title, product.description, bullet, options)).lower()


def one_byte_length(length: int) -> int:
    """`length` after Lucene's one-byte encoding: exact up to 40, above that 24 plus the 4 highest bits of the rest.

    >>> [one_byte_length(length) for length in (40, 41, 42, 107)]
    [40, 40, 42, 104]
    """
    rest = length - 24
    dropped = max(rest.bit_length() - 4, 0) if rest > 0 else 0
    return 24 + (rest >> dropped << dropped) if dropped else length


def _impact(weight: np.float32, frequency: Floats, inverse_norm: Floats) -> Floats:
    impact: Floats = weight - weight / (np.float32(1) + frequency * inverse_norm)
    return impact
