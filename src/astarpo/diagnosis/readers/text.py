"""Plain text logs: `Step 25: Loss=2.1453, Reward=0.45`, verl's and RAGEN's console, printed dictionaries of metrics."""

from __future__ import annotations

import math
import re
from pathlib import Path

from astarpo.diagnosis.evidence import Builder, Evidence
from astarpo.diagnosis.names import SUCCESS_IN_PERCENT, canonical
from astarpo.diagnosis.plain import plain

NUMBER = r"[-+]?(?:\d+(?:\.\d*)?(?:[eE][-+]?\d+)?|\.\d+(?:[eE][-+]?\d+)?|nan\b|inf(?:inity)?\b)"
PLAIN_NUMBER = r"([-+]?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?)"
STEP = re.compile(
    r"\b(?:training/global_step|global[_ ]step|step|iteration|iter|update)\b['\"]?\s*[:=#]?\s*(\d{1,15})", re.I
)
PAIR = re.compile(
    r"([A-Za-z_][\w/@.*-]*(?: [A-Za-z][\w*]*){0,3})['\"]?\s*[=:]\s*(?:np\.float\d+\(|tensor\(|['\"])?("
    + NUMBER
    + r")[)'\"]?\s?(%?)",
    re.I,
)
STEPLESS = frozenset({"step", "epoch", "iteration", "iter", "update", "global_step", "training/global_step"})
ARROWS = re.compile(
    r"([A-Za-z][\w*]*(?: [A-Za-z][\w*]*){0,2})\s*[=:]?\s*((?:\d+(?:\.\d+)?\s*%?\s*(?:→|->)\s*)+\d+(?:\.\d+)?)\s*(%?)"
)
TOLD = re.compile(r"curriculum|difficulty|warning|all advantages|early stop|traceback|error", re.I)
"""What a log may say in words that bears on a diagnosis."""

EVENTS = 200
LONGEST = 100_000
"""Characters of a line that are looked at: a line of metrics is shorter, an episode's text may have any length."""


def reads(path: Path) -> bool:
    """Any file."""
    return path.is_file()


def read(path: Path) -> Evidence:
    """Every `name=number` or `name: number`, under the last step named before it.

    Lines without a step before any step was named count from 1, one line with metrics after the other.
    """
    log = _Log(Builder(path, "plain text log"))
    with path.open(encoding="utf-8", errors="replace", newline=None) as lines:
        for line in lines:
            if not log.again(line):
                log.line(line[:LONGEST])
    return log.done()


class _Log:
    """Reads lines one after the other. A line that is shaped like the last one is read by its shape alone."""

    def __init__(self, builder: Builder) -> None:
        self.builder = builder
        self.step = self.counted = self.verl = self.misses = self.hits = 0
        self.seen: dict[int, None] = {}
        self.lists: list[tuple[str, list[float]]] = []
        self.shape: re.Pattern[str] | None = None
        self.step_group = -1
        self.groups: list[tuple[int, str]] = []

    def again(self, line: str) -> bool:
        """Whether `line` differs from the last one in its numbers only; if so, it has been read."""
        found = None if self.shape is None else self.shape.fullmatch(line)
        if found is None:
            return False
        self.hits += 1
        numbers = found.groups()
        if self.step_group >= 0:
            self.step = int(numbers[self.step_group])
            self.seen[self.step] = None
        elif not self.seen:
            self.counted += 1
            self.step = self.counted
        for group, raw in self.groups:
            self.builder.add(self.step, raw, float(numbers[group]))
        return True

    def line(self, line: str) -> None:
        """Read any line."""
        self.shape = None
        ordinary = "\x1b" not in line
        if not ordinary:
            line = plain(line)
        named = STEP.search(line)
        of_verl = named is not None and line[named.end() : named.end() + 3] == " - "
        if of_verl and not self.verl:
            # Everything before is settings, printed, and progress: nothing of it is a metric.
            self._forget()
        self.verl += of_verl
        if self.verl and not of_verl:
            self._told(line)
            return
        if "→" in line or "->" in line:
            listed = [(name, _numbers(numbers)) for name, numbers, _ in ARROWS.findall(line)]
            self.lists += listed
            if listed:
                return
        pairs = [pair for pair in PAIR.finditer(line) if pair[1].lower() not in STEPLESS]
        if named is not None:
            if pairs and not self.seen and self.counted:
                self._forget()
            self.step = int(named[1])
            self.seen[self.step] = None
        elif any(pair[1].lower() == "train_runtime" for pair in pairs):
            # The line of totals with which a trainer ends is no update.
            return
        elif pairs and not self.seen:
            if all(pair[1].lower().startswith(("eval", "val")) for pair in pairs):
                ordinary = False
            else:
                self.counted += 1
                self.step = self.counted
        builder, numbers = self.builder, list[tuple[int, int, str]]()
        for pair in pairs:
            raw, number, per_cent = pair.groups()
            value = float(number)
            if not math.isfinite(value):
                builder.broke(self.step, raw)
                ordinary = False
                continue
            if per_cent:
                ordinary = False
                if canonical(raw) in SUCCESS_IN_PERCENT:
                    value /= 100.0
                    builder.percent(raw)
            builder.add(self.step, raw, value)
            numbers.append((*pair.span(2), raw))
        ordinary &= not self._told(line)
        self.misses += 1
        # A log whose lines are all shaped differently gains nothing by remembering shapes.
        if ordinary and numbers and self.misses < 1000 + 4 * self.hits:
            self._remember(line, named, numbers)

    def _told(self, line: str) -> bool:
        """Whether `line` says something in words that bears on a diagnosis; kept where it does."""
        if not TOLD.search(line):
            return False
        if len(self.builder.events) < EVENTS:
            self.builder.events.append((self.step if self.seen else None, plain(line).strip()[:200]))
        return True

    def _forget(self) -> None:
        """Leave out the numbers read so far: they stand before the first step that is named."""
        before, self.builder = self.builder, Builder(self.builder.path, self.builder.format)
        self.builder.events, self.builder.notes = before.events, before.notes
        if before.rows:
            self.builder.notes.append(f"{before.rows:,} numbers before the first step that is named were left out.")
        self.seen.clear()
        self.counted = 0

    def _remember(self, line: str, named: re.Match[str] | None, numbers: list[tuple[int, int, str]]) -> None:
        spans = sorted([*numbers, *([] if named is None else [(*named.span(1), "")])])
        parts, place = [], 0
        for begin, end, raw in spans:
            if begin < place:
                return
            parts += [re.escape(line[place:begin]), PLAIN_NUMBER if raw else r"(\d{1,15})"]
            place = end
        self.shape = re.compile("".join(parts) + re.escape(line[place:]))
        self.step_group = next((i for i, (_, _, raw) in enumerate(spans) if not raw), -1)
        self.groups = [(i, raw) for i, (_, _, raw) in enumerate(spans) if raw]

    def done(self) -> Evidence:
        """What was read."""
        builder, steps = self.builder, sorted(self.seen)
        for raw, values in self.lists:
            if canonical(raw) in SUCCESS_IN_PERCENT and len(values) <= len(steps):
                builder.percent(raw)
                builder.notes.append(
                    f"{raw.strip()} was listed without steps and is read as of the last {len(values)} steps."
                )
                for at, value in zip(steps[-len(values) :], values, strict=True):
                    builder.add(at, raw, value / 100.0 if max(values) > 1.5 else value)
        if not steps and builder.rows:
            builder.notes.append("no line names a step, so lines with metrics are counted from 1.")
        if self.verl:
            builder.format = "verl's console log"
        return builder.build()


def _numbers(listed: str) -> list[float]:
    return [float(number) for number in re.findall(r"\d+(?:\.\d+)?", listed)]
