"""Arithmetic: one problem, one reply, checked exactly.

A reply may show working first; the answer is what follows its last `=`, or its last number where there is none. Small
models are far more often right when they work in columns from the ones up than when they answer at once: the styles
"careful" and "careless" of `demonstrate` are these two habits.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import product
from typing import ClassVar, Literal

from pydantic import Field

from astarpo.environments.base import Environment, OneTurnSettings
from astarpo.environments.rewards import RewardMode, partial, score, success
from astarpo.errors import EnvironmentContractError
from astarpo.types import SPLITS, Ended, Split, Step

TRAIN_POOL, HELD_OUT_POOL = 20_000, 500
"""Entries of a sequence of ids at most. Held-out ones are distinct; in training, small operations repeat to keep up."""

ENUMERATED = 50_000
"""Operations with more problems than this are drawn from a fixed seed; smaller ones are listed in full."""

NUMBER = re.compile(r"(?:(?<![0-9])-)?[0-9]+(?:\.[0-9]+)?")
"""A number in a reply. A minus after a digit is a subtraction; a fraction is read whole, so that 4.5 is never a 5."""


@dataclass(frozen=True, slots=True)
class Problem:
    """`a symbol b`, with symbol one of + - *; the answer is never below 0.

    >>> Problem(12, "+", 34).answer, Problem(34, "+", 12).key
    (46, '12+34')
    """

    a: int
    symbol: str
    b: int

    @property
    def answer(self) -> int:
        """The exact result."""
        if self.symbol == "*":
            return self.a * self.b
        return self.a + self.b if self.symbol == "+" else self.a - self.b

    @property
    def text(self) -> str:
        """As the id and the observation write it, without the equals sign."""
        return f"{self.a}{self.symbol}{self.b}"

    @property
    def key(self) -> str:
        """One text for a+b and b+a, which are one problem and share a split."""
        if self.symbol == "-":
            return self.text
        return f"{min(self.a, self.b)}{self.symbol}{max(self.a, self.b)}"

    @property
    def digest(self) -> int:
        """sha256 of the key as a number: decides the split and the order in which the operands are shown."""
        return int.from_bytes(hashlib.sha256(self.key.encode()).digest(), "big")

    @property
    def split(self) -> Split:
        """The one split that may hold this problem."""
        return split_of(self.digest)


def split_of(digest: int) -> Split:
    """By digest mod 100: 0 to 14 test, 15 to 24 dev, the rest train."""
    residue = digest % 100
    return "test" if residue < 15 else "dev" if residue < 25 else "train"


@dataclass(frozen=True, slots=True)
class Operation:
    """The problems of one symbol at one level: the first operand from `a`, the second from `b`."""

    symbol: str
    a: range
    b: range

    def holds(self, problem: Problem) -> bool:
        """Whether `problem`, or the same with its operands swapped, is one of these."""
        if problem.symbol != self.symbol or problem.answer < 0:
            return False
        if problem.a in self.a and problem.b in self.b:
            return True
        return self.symbol != "-" and problem.b in self.a and problem.a in self.b

    def pairs(self, seed: str) -> Iterator[tuple[int, int]]:
        """All pairs in a shuffled order, or an endless draw with repeats where there are more than `ENUMERATED`."""
        rng = random.Random(seed)
        if len(self.a) * len(self.b) <= ENUMERATED:
            every = list(product(self.a, self.b))
            rng.shuffle(every)
            yield from every
            return
        while True:
            yield rng.choice(self.a), rng.choice(self.b)


LEVELS: Mapping[str, tuple[Operation, ...]] = {
    "easy": (
        Operation("+", range(31), range(31)),
        Operation("-", range(31), range(31)),
        Operation("*", range(10), range(10)),
    ),
    "medium": (
        Operation("+", range(10, 100), range(10, 100)),
        Operation("-", range(10, 100), range(10, 100)),
        Operation("*", range(10, 31), range(1, 10)),
    ),
    "hard": (
        Operation("+", range(100, 1000), range(100, 1000)),
        Operation("-", range(100, 1000), range(100, 1000)),
        Operation("*", range(31, 100), range(1, 10)),
    ),
    "huge": (Operation("*", range(100, 1000), range(100, 1000)),),
}
"""A problem that two levels could hold belongs to the easier one, so no problem has two ids at two levels."""

TARGET = ("easy", "medium", "hard")
"""The levels that evaluation mixes in equal thirds when none is named."""


@lru_cache(4096)
def level_of(problem: Problem) -> str | None:
    """The easiest level that holds `problem`; None where none does."""
    return next((name for name, kinds in LEVELS.items() if any(kind.holds(problem) for kind in kinds)), None)


class ArithmeticSettings(OneTurnSettings):
    """Settings of `arithmetic`."""

    name: str = Field("arithmetic", description="which environment")
    observation: Literal["compact", "words"] = Field(
        "compact", description="how a problem is put: compact is `12+34=`, words is a question in English"
    )
    level: Literal["target", "easy", "medium", "hard", "huge"] = Field(
        "target", description="problems drawn when no level is named: target is easy, medium and hard in equal thirds"
    )


@dataclass(slots=True)
class ArithmeticTask:
    """One problem, one turn: 1 for the right answer, 0 for anything else; `partial` is the share of right digits."""

    id: str
    problem: Problem
    words: bool = False

    def start(self) -> str:
        """The problem, as `12+34=` or in words."""
        p = self.problem
        return f"What is {p.a} {p.symbol} {p.b}?" if self.words else f"{p.text}="

    def step(self, action: str) -> Step:
        """Ends the episode. A reply without a number is not valid and earns nothing."""
        said = read_answer(action)
        if said is None:
            text = "There is no number in the reply: end with the answer."
            return Step(text, ended=Ended.ANSWERED, valid=False, info={"kind": "invalid", "partial": 0.0})
        # Compared as text: int() raises on a reply of 5,000 digits, and no reply may raise.
        right = str(self.problem.answer)
        info = {"kind": "answer", "partial": shared_digits(said, right)}
        return Step(reward=float(said == right), ended=Ended.ANSWERED, success=said == right, info=info)

    def solution(self) -> list[str]:
        """The right answer alone."""
        return [str(self.problem.answer)]


class Arithmetic(Environment[ArithmeticSettings]):
    """Whole numbers: sums, differences and products at four levels."""

    Settings = ArithmeticSettings
    rewards: ClassVar[Mapping[str, RewardMode]] = {"score": score, "success": success, "partial": partial}
    ladders: ClassVar[Mapping[str, tuple[str, ...]]] = {"difficulty": tuple(LEVELS), "target": TARGET}
    styles: ClassVar[tuple[str, ...]] = ("careful", "careless", "direct")

    def ids(self, split: Split, level: str | None = None) -> Sequence[str]:
        """Ids such as "arithmetic/hard/123+456". Operations, and at the target levels, come in equal shares.

        In train, a small operation's problems repeat so that the shares hold throughout (20,000 entries at most). In
        dev and test no problem repeats: where one runs out the others go on, up to 500 in all.
        """
        level = level or self.settings.level
        if split not in SPLITS or (level != "target" and level not in LEVELS):
            raise EnvironmentContractError(
                f"arithmetic has no level {level!r} in split {split!r}: levels are target, {', '.join(LEVELS)}, "
                f"splits are {', '.join(SPLITS)}."
            )
        return _ids(split, level)

    def task(self, id: str) -> ArithmeticTask:
        """A fresh play of `id`. Raises EnvironmentContractError where there is no such problem at that level."""
        found = re.fullmatch(r"arithmetic/([a-z]+)/([0-9]{1,3})([-+*])([0-9]{1,3})", id)
        if found is not None:
            problem = Problem(int(found[2]), found[3], int(found[4]))
            if problem.text == f"{found[2]}{found[3]}{found[4]}" and level_of(problem) == found[1]:
                return ArithmeticTask(id, problem, self.settings.observation == "words")
        raise EnvironmentContractError(
            f"arithmetic has no task {id!r}: ids look like arithmetic/hard/123+456, with answers of 0 or more."
        )

    def level(self, id: str) -> str:
        """The level in the id."""
        return id.split("/")[1]

    def prompt(self) -> str:
        """How to answer, where problems are put in words; nothing in compact form, which needs no telling."""
        if self.settings.observation == "compact":
            return ""
        return "Solve the problem. You may show working first; end with = and the answer, a whole number."

    def demonstrate(self, id: str, style: str, seed: int) -> list[str]:
        """One reply: "careful" works in columns, "direct" is the right answer alone, "careless" an answer alone of
        which 60 % have one digit off by one."""
        problem = self.task(id).problem
        if style == "careful":
            return [f"{working(problem)}={problem.answer}"]
        if style == "direct":
            return [str(problem.answer)]
        if style == "careless":
            return [_careless(problem, random.Random(f"{id}/{seed}"))]
        raise EnvironmentContractError(
            f"arithmetic cannot demonstrate the style {style!r}: known: {', '.join(self.styles)}."
        )


def read_answer(reply: str) -> str | None:
    """The answer in `reply`, digit for digit: the last number after the last `=`, or of the whole; None without one."""
    numbers = NUMBER.findall(reply.rpartition("=")[2].replace(",", ""))
    return numbers[-1] if numbers else None


def shared_digits(said: str, right: str) -> float:
    """Digits that agree, aligned from the right, over the longer of the two lengths: 1 only where they are equal.

    >>> shared_digits("1023", "1123"), shared_digits("23", "1123")
    (0.75, 0.5)
    """
    agree = sum(x == y for x, y in zip(reversed(said), reversed(right), strict=False))
    return agree / max(len(said), len(right))


def working(problem: Problem) -> str:
    """The work of a careful player: columns from the ones up, two digits each, so that no carry is kept in mind.

    A column of a sum is its sum with the carry; of a difference, the borrow and the digit. A column of a product is
    the product of two digits, then that plus the carry and what the row above left there; rows are set apart by a
    space, and the first column of the first row has nothing to add.

    >>> working(Problem(345, "+", 678)), working(Problem(523, "-", 178)), working(Problem(47, "*", 8))
    ('131210', '151403', '563237')
    """
    a, b = _digits(problem.a), _digits(problem.b)
    if problem.symbol == "*":
        return _product_rows(a, b)
    sign = 1 if problem.symbol == "+" else -1
    width = max(len(a), len(b))
    columns, carry = [], 0
    for x, y in zip(a + [0] * (width - len(a)), b + [0] * (width - len(b)), strict=True):
        total = x + sign * y + sign * carry
        carry = 1 if total < 0 or total > 9 else 0
        columns.append(f"{carry}{total % 10}")
    return "".join(columns)


def _product_rows(a: list[int], b: list[int]) -> str:
    total = [0] * (len(a) + len(b))
    rows = []
    for j, y in enumerate(b):
        row, carry = "", 0
        for i, x in enumerate(a):
            # At most 81 + 9 + 9: two digits always hold it.
            column = x * y + total[i + j] + carry
            row += f"{x * y:02d}" + (f"{column:02d}" if i or j else "")
            carry, total[i + j] = divmod(column, 10)
        total[len(a) + j] = carry
        rows.append(row)
    return " ".join(rows)


def _digits(number: int) -> list[int]:
    """Ones first."""
    return [int(digit) for digit in reversed(str(number))]


def _careless(problem: Problem, rng: random.Random) -> str:
    answer = str(problem.answer)
    if rng.random() >= 0.6:
        return answer
    place = rng.randrange(len(answer))
    digit = int(answer[place])
    # A leading zero would make it another length: a leading 1 only goes up, unless it is the whole answer.
    lowest = 1 if place == 0 and len(answer) > 1 else 0
    choices = [d for d in (digit - 1, digit + 1) if lowest <= d <= 9]
    return answer[:place] + str(rng.choice(choices)) + answer[place + 1 :]


@cache
def _ids(split: Split, level: str) -> tuple[str, ...]:
    if level == "target":
        lists: list[Sequence[str]] = [_ids(split, name) for name in TARGET]
    else:
        share = -(-TRAIN_POOL // len(LEVELS[level])) if split == "train" else HELD_OUT_POOL
        lists = [_operation_ids(kind, split, level, share) for kind in LEVELS[level]]
    if split != "train":
        return _mixed(lists, min(HELD_OUT_POOL, sum(map(len, lists))), f"{split}/{level}", repeat=False)
    return _mixed(lists, min(TRAIN_POOL, len(lists) * max(map(len, lists))), f"{split}/{level}", repeat=True)


def _operation_ids(kind: Operation, split: Split, level: str, most: int) -> list[str]:
    """Up to `most` distinct problems of `kind` in `split`, one order of operands each, in a fixed shuffle."""
    easier = [other for name in LEVELS for other in LEVELS[name] if other.symbol == kind.symbol]
    easier = easier[: easier.index(kind)]
    either_order = kind.a == kind.b and kind.symbol != "-"
    found: list[str] = []
    seen: set[str] = set()
    for a, b in kind.pairs(f"arithmetic/{level}/{kind.symbol}"):
        problem = Problem(a, kind.symbol, b)
        key = problem.key
        if problem.answer < 0 or key in seen or any(other.holds(problem) for other in easier):
            continue
        seen.add(key)
        digest = problem.digest
        if split_of(digest) != split:
            continue
        if either_order:
            low, high = sorted((a, b))
            a, b = (low, high) if digest // 100 % 2 else (high, low)
        found.append(f"arithmetic/{level}/{a}{kind.symbol}{b}")
        if len(found) == most:
            break
    return found


def _mixed(lists: Sequence[Sequence[str]], length: int, seed: str, *, repeat: bool) -> tuple[str, ...]:
    """Rounds of one entry from each list, in a random order within the round, until `length` entries are there."""
    rng = random.Random(f"arithmetic/{seed}")
    mixed: list[str] = []
    for turn in range(length):
        if len(mixed) >= length:
            break
        now = [entries[turn % len(entries)] for entries in lists if repeat or turn < len(entries)]
        rng.shuffle(now)
        mixed += now
    return tuple(mixed[:length])
