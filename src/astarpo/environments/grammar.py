"""The actions of an environment, defined once: the prompt describes them and the parser reads them from here.

A documented action that the parser does not know cannot be written down, which is the point.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Action:
    """One kind of action, written `name[argument]`.

    Attributes:
        name: what stands before the bracket.
        argument: what the argument is, in a word, for the prompt.
        meaning: what the action does, one clause.
        example: an argument to show.
        words: arguments that the description lists, each of which does something on some page; `check` tries them all.
    """

    name: str
    argument: str
    meaning: str
    example: str
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class Parsed:
    """A reply that could be read. `argument` is exactly as written."""

    name: str
    argument: str


@dataclass(frozen=True)
class Grammar:
    """All the actions there are.

    >>> shop = Grammar((Action("search", "words", "looks for products", "red shoes"),))
    >>> shop.parse("search[red shoes]")
    Parsed(name='search', argument='red shoes')
    >>> shop.parse("buy now") is None
    True
    """

    actions: tuple[Action, ...]

    def describe(self) -> str:
        """The grammar in words, for a prompt: one line an action, then one for each that has words."""
        lines = [f"{a.name}[{a.argument}] {a.meaning}, for example {a.name}[{a.example}]" for a in self.actions]
        lines += [f"The words of {a.name} are: {', '.join(a.words)}." for a in self.actions if a.words]
        return "Reply with one action and nothing else. The actions are:\n" + "\n".join(lines)

    def parse(self, reply: str) -> Parsed | None:
        """The action that `reply` states, or None where it states none. Space around it is ignored, nothing else is."""
        found = _WRITTEN.fullmatch(reply.strip())
        if found is None or found["name"] not in {action.name for action in self.actions}:
            return None
        return Parsed(found["name"], found["argument"])


_WRITTEN = re.compile(r"(?P<name>[a-z_]+)\[(?P<argument>.*)\]", re.DOTALL)
