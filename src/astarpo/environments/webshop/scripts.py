"""Scripted shoppers. They read the compact view as text and answer with actions, exactly as a policy does.

Nothing here knows the goal: `reply` sees only what was shown. They measure how hard a world is, and the warm start
imitates them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

PAGES = 3
"""Results pages that the careful shopper reads before it takes the best it saw."""

LACKS, RANK = 0.1, 0.2
"""What a missing word and a place further down cost the careful shopper, where a price too high costs 1."""


class Shopper(Protocol):
    """Plays one episode: called with each page in turn, the first of which starts with the instruction."""

    def reply(self, page: str) -> str:
        """The next action."""
        ...


@dataclass(frozen=True)
class Wanted:
    """An instruction, read.

    Attributes:
        phrases: what must stand in a product's text: attributes and the kind of product.
        options: (group, value); the group is empty where the instruction names none.
        limit: the price must be lower, dollars; infinite where none is stated.
    """

    phrases: tuple[str, ...]
    options: tuple[tuple[str, str], ...]
    limit: float

    @property
    def words(self) -> tuple[str, ...]:
        """The distinct words of the phrases, in order: a short query."""
        return tuple(dict.fromkeys(word for phrase in self.phrases for word in phrase.split()))


def read_instruction(text: str) -> Wanted:
    """Take an instruction apart.

    >>> read_instruction("find me vegan, matte lipstick with aloe with color: red, and price lower than 30.00 dollars")
    Wanted(phrases=('vegan', 'matte lipstick', 'aloe'), options=(('color', 'red'),), limit=30.0)
    """
    text = " ".join(text.lower().split())
    limit = float("inf")
    if found := _LIMIT.search(text):
        limit = float(found[1])
        text = text[: found.start()]
    options: list[tuple[str, str]] = []
    if found := _OPTIONS.search(text):
        options = [
            (group.strip(), value.strip())
            for group, _, value in (part.partition(":") for part in found[1].split(", and "))
        ]
        text = text[: found.start()]
    text = text.removeprefix("find me ")
    phrases = [phrase.strip(" .") for part in text.split(" with ") for phrase in part.split(",")]
    return Wanted(tuple(phrase for phrase in phrases if phrase), tuple(options), limit)


@dataclass(frozen=True)
class Offer:
    """One line of a results page."""

    page: int
    link: str
    title: str
    low: float
    high: float

    def lacks(self, wanted: Wanted) -> int:
        """How many of the wanted words the title does not have."""
        words = set(_WORD.findall(self.title))
        return sum(word not in words for word in _WORD.findall(" ".join(wanted.words)))

    def thought(self, wanted: Wanted) -> str:
        """One word: dear (not below the limit), no (words are missing) or yes."""
        return "dear" if self.high >= wanted.limit else "no" if self.lacks(wanted) else "yes"


def read_offers(page: str) -> list[Offer]:
    """The products of a results page in compact view; empty for any other page."""
    heading = _HEADING.match(page)
    if heading is None:
        return []
    return [
        Offer(int(heading[1]), found[1], found[2], float(found[3]), float(found[4] or found[3]))
        for found in (_OFFER.fullmatch(line) for line in page.splitlines())
        if found is not None
    ]


def read_options(page: str) -> dict[str, dict[str, str]]:
    """Group to (value to link) of an item page in compact view."""
    groups: dict[str, dict[str, str]] = {}
    for line in page.splitlines():
        group, separator, values = line.partition(": ")
        if separator and values.startswith(tuple("123456789")):
            # Values may hold commas themselves, so a value ends only where the next number in line follows.
            found = _VALUES.findall(values)
            groups[group] = {value.removesuffix(" *").strip(): link for link, value in found}
    return groups


def _clicks(wanted: Wanted, page: str) -> tuple[list[str], bool]:
    """Links of the wanted options that the page has, and whether it has all of them."""
    groups = read_options(page)
    links = []
    for group, value in wanted.options:
        homes = [groups[group]] if group in groups else [] if group else list(groups.values())
        link = next((home[value] for home in homes if value in home), None)
        if link is not None:
            links.append(link)
    return links, len(links) == len(wanted.options)


@dataclass
class First:
    """Buys the first result: with the named options that it has, or without any.

    The whole instruction is its query where `everything`, else the attributes and the kind of product.
    """

    options: bool
    everything: bool = False
    plan: list[str] = field(default_factory=list)
    wanted: Wanted | None = None
    turn: int = 0

    def reply(self, page: str) -> str:
        self.turn += 1
        if self.wanted is None:
            self.wanted = read_instruction(page.splitlines()[0])
            return f"search[{' '.join(query_words(self.wanted, self.everything))}]"
        if self.turn == 2:
            return "click[1]" if read_offers(page) else "click[back]"
        if self.turn == 3:
            clicks = _clicks(self.wanted, page)[0] if self.options else []
            self.plan = [f"click[{link}]" for link in clicks] + ["click[buy]"]
        return self.plan.pop(0) if self.plan else "click[buy]"


def query_words(wanted: Wanted, everything: bool) -> list[str]:
    """The words of a query: attributes, kind and option values; with `everything` the names of the options too."""
    parts = [part for group, value in wanted.options for part in ((group, value) if everything else (value,))]
    return [*wanted.words, *(word for part in parts for word in part.split())]


@dataclass
class Browser:
    """Reads results pages, opens what fits, goes back when an option is missing, and at last takes the best it saw.

    Attributes:
        titles: whether titles must fit too. Without, it goes by price and options alone, on the first page only.
        turns: turns it may use in all; it buys in time.
        wanted: the instruction, once read.
        opened: candidates tried and found wanting, as (page, link).
    """

    titles: bool = True
    turns: int = 10
    everything: bool = False
    wanted: Wanted | None = None
    here: Offer | None = None
    seen: dict[tuple[int, str], Offer] = field(default_factory=dict)
    lacking: dict[tuple[int, str], int] = field(default_factory=dict)
    plan: list[str] = field(default_factory=list)
    used: int = 0

    def reply(self, page: str) -> str:
        self.used += 1
        if self.wanted is None:
            self.wanted = read_instruction(page.splitlines()[0])
            return f"search[{' '.join(query_words(self.wanted, self.everything))}]"
        if self.plan:
            return self.plan.pop(0)
        if _HEADING.match(page):
            return self._choose(page, self.wanted)
        return self._judge(page, self.wanted)

    def _choose(self, page: str, wanted: Wanted) -> str:
        """On a results page: open a candidate, turn the page, or settle for the best seen so far."""
        offers = read_offers(page)
        number = int(_HEADING.match(page)[1])  # type: ignore[index]
        for offer in offers:
            self.seen.setdefault((offer.page, offer.link), offer)
        best = min(self.seen.values(), key=lambda offer: self._regret(offer, wanted), default=None)
        if not self._fits(best, wanted) and self._worth_turning(page, offers, wanted):
            return "click[next]"
        if best is None:
            return "click[back]"
        if best.page != number:
            return "click[prev]" if best.page < number else "click[next]"
        return self._open(best)

    def _fits(self, offer: Offer | None, wanted: Wanted) -> bool:
        """Whether nothing that a results page shows speaks against `offer`, and its page was not found wanting."""
        if offer is None or (offer.page, offer.link) in self.lacking:
            return False
        return offer.high < wanted.limit and (not self.titles or offer.lacks(wanted) == 0)

    def _worth_turning(self, page: str, offers: list[Offer], wanted: Wanted) -> bool:
        """Titles that say at least two thirds of what is wanted promise that another page has one that says it all."""
        number = int(_HEADING.match(page)[1])  # type: ignore[index]
        if not self.titles or "next" not in page.splitlines()[-1].split() or number >= PAGES:
            return False
        turns = self.turns - self.used - len(wanted.options) - 4 - number
        nearest = min((offer.lacks(wanted) for offer in offers), default=len(wanted.words))
        return turns >= 0 and nearest <= len(wanted.words) / 3

    def _open(self, offer: Offer) -> str:
        self.here = offer
        return f"click[{offer.link}]"

    def _judge(self, page: str, wanted: Wanted) -> str:
        """On an item page: buy it with the options wanted, or go back because one is missing."""
        links, complete = _clicks(wanted, page)
        left = self.turns - self.used
        if not complete and self.here is not None and (place := (self.here.page, self.here.link)) not in self.lacking:
            self.lacking[place] = len(wanted.options) - len(links)
            if left > 3 + len(wanted.options):
                return "click[prev]"
        self.plan = [f"click[{link}]" for link in links] + ["click[buy]"]
        return self.plan.pop(0)

    def _regret(self, offer: Offer, wanted: Wanted) -> tuple[bool, float]:
        """How bad an offer looks. One that fits is best; else by price, missing options and words, and rank."""
        price = 0.0 if offer.high < wanted.limit else 0.5 if offer.low < wanted.limit else 1.0
        lacks = offer.lacks(wanted) if self.titles else 0
        rank = (offer.page - 1) * 10 + int(offer.link)
        missing = self.lacking.get((offer.page, offer.link), 0)
        return not self._fits(offer, wanted), price + missing + lacks * LACKS + rank * RANK


@dataclass
class Noting:
    """Says of every offer on its first results page what it thinks of it, then shops like the careful shopper.

    The note is written into the search box: `search[1 dear 2 yes 3 no]`. A choice among ten offers says little of how
    it was made; a note says ten times whether price and words fit, so whoever imitates it learns to compare prices
    many times sooner.

    Attributes:
        turns: turns it may use in all.
        plan: what it will do whatever the page says: search again after the note.
        noted: whether it has written its note.
        then: the careful shopper that it is otherwise.
    """

    turns: int = 10
    plan: list[str] = field(default_factory=list)
    noted: bool = False
    then: Browser = field(default_factory=Browser)

    def reply(self, page: str) -> str:
        if self.plan:
            return self.plan.pop()
        offers = read_offers(page)
        if self.then.wanted is None:
            self.then.turns = self.turns - 2
        elif offers and not self.noted:
            self.noted = True
            self.plan = [f"search[{' '.join(query_words(self.then.wanted, everything=False))}]"]
            return f"search[{' '.join(f'{offer.link} {offer.thought(self.then.wanted)}' for offer in offers)}]"
        return self.then.reply(page)


@dataclass
class Hurried:
    """Searches one word, the last of the kind of product, and buys the first result as it comes."""

    turn: int = 0

    def reply(self, page: str) -> str:
        self.turn += 1
        if self.turn == 1:
            asked = _LIMIT.sub("", " ".join(page.splitlines()[0].lower().split()))
            return f"search[{asked.split(' with ')[0].split(',')[-1].split()[-1].strip('.')}]"
        if self.turn == 2:
            return "click[1]" if read_offers(page) else "click[back]"
        return "click[buy]"


_LIMIT = re.compile(r",? and price lower than ([\d.]+) dollars\.?$")
_OPTIONS = re.compile(r" with ((?:(?! with )[^:,])+: .*)$")
_HEADING = re.compile(r"page (\d+), (\d+) results")
_OFFER = re.compile(r"(\d+) (.*?) ?\$([\d.]+)(?:-([\d.]+))?")
_VALUES = re.compile(r"(?:^|, )(\d+) (.*?)(?=, \d+ |$)")
_WORD = re.compile(r"[^\W_]+")

SHOPPERS: dict[str, Callable[[int], Shopper]] = {
    "careful": lambda turns: Browser(turns=turns),
    "noting": lambda turns: Noting(turns=turns),
    "trying": lambda turns: Browser(titles=False, turns=turns),
    "careless": lambda _: First(options=False),
    "hasty": lambda _: First(options=True),
    "hurried": lambda _: Hurried(),
}
"""Styles that the environment demonstrates; each is made from the number of turns it may use."""

YARDSTICKS: dict[str, Callable[[int], Shopper]] = {
    "one word, first result": lambda _: Hurried(),
    "first result, no options": lambda _: First(options=False, everything=True),
    "first result, named options": lambda _: First(options=True, everything=True),
    "best of the page by price and options": lambda turns: Browser(titles=False, everything=True, turns=turns),
    "careful reader": lambda turns: Browser(turns=turns),
}
"""What a catalogue's difficulty is measured with. All but the first and last search with every content word."""
