"""Plain text logs: `Step 25: Loss=2.1453, Reward=0.45`, verl's and RAGEN's console, printed dictionaries of metrics,
progress bars, tables and sentences."""

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
    # Not after a colon: a logger's `module:function:line` may call its function step.
    r"(?<!:)\b(?:training/global_step|global[_ ]step|steps?|iterations?|iter|updates?)\b['\"]?\s*[:=#]?\s*[\[(]?\s*"
    r"(\d{1,15})",
    re.I,
)
BAR = re.compile(r"\|\s*(\d{1,15})/\d{1,15} \[")
"""How far tqdm's bar is."""
COUNTER = re.compile(r"(?<!epoch )(?<!episode )(?<!rank )[\[(]\s*(\d{1,15})\s*/\s*\d{1,15}\s*[\])]", re.I)
"""`[ 25/100]`."""
VERL = re.compile(r" - [\w/@.*-]+:")
PAIR = re.compile(
    r"([A-Za-z_][\w/@.*-]*(?: [A-Za-z][\w*]*){0,3})['\"]?\s*[=:]\s*(?:np\.float\d+\(|tensor\(|['\"])?("
    + NUMBER
    + r")[)'\"]?\s?(%?)",
    re.I,
)
STEPS = frozenset({"step", "steps", "iteration", "iterations", "iter", "update", "updates", "global_step"})
STEPLESS = STEPS | {"epoch", "training/global_step"}
ARROWS = re.compile(
    r"([A-Za-z][\w*]*(?: [A-Za-z][\w*]*){0,2})\s*[=:]?\s*((?:\d+(?:\.\d+)?\s*%?\s*(?:→|->)\s*)+\d+(?:\.\d+)?)\s*(%?)"
)
WORDS = re.compile(
    r"\b((?:(?:mean|average|avg) )?(?:reward|return|score)|success(?: rate)?|accuracy|(?:policy )?loss|entropy|"
    r"kl(?: divergence)?|advantage|grad(?:ient)? norm|(?:response|completion) length)"
    r"(?: (?:is|was|of|at|now|reached|stands)){0,2} (" + NUMBER + r")\s?(%?)(?!\w)",
    re.I,
)
"""A metric in a sentence: its name, a verb or none, and the number."""
CELLS = re.compile(r"\s*\|\s*|\t\s*|\s{2,}")
RULE = re.compile(r"[\s|:+=-]*")
CELL = re.compile(r"(" + NUMBER + r")\s?(%?)", re.I)
LOOSE = re.compile(r"\d+|\\\|[^|\w]*?\\\|")
"""In an escaped pattern: digits, and the bar of a progress bar."""
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
        self.groups: list[tuple[int, str, float]] = []
        self.columns: list[str] = []
        self.block: list[tuple[str, re.Match[str]]] = []

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
        for group, raw, scale in self.groups:
            self.builder.add(self.step, raw, float(numbers[group]) * scale)
        return True

    def line(self, line: str) -> None:
        """Read any line."""
        ordinary = True
        if "\x1b" in line:
            line = plain(line)
            if self.again(line):
                return
        self.shape = None
        if self._cells(line):
            return
        named = STEP.search(line) or BAR.search(line) or COUNTER.search(line)
        of_verl = named is not None and VERL.match(line, named.end()) is not None
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
        if not pairs and named is not None:
            pairs = list(WORDS.finditer(line, named.end()))
        if named is not None:
            # A bar is drawn after the line that it belongs to.
            if pairs and not self.seen and self.counted and named.re is STEP:
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
        numbers = list[tuple[int, int, str, float]]()
        for pair in pairs:
            raw, number, per_cent = pair.groups()
            if scale := self._number(raw, number, per_cent):
                numbers.append((*pair.span(2), raw, scale))
            else:
                ordinary = False
        ordinary &= not self._told(line)
        self.misses += 1
        # A log whose lines are all shaped differently gains nothing by remembering shapes.
        if ordinary and numbers and self.misses < 1000 + 4 * self.hits:
            self._remember(line, named, numbers, [pair.span(1) for pair in pairs])

    def _cells(self, line: str) -> bool:
        """Whether `line` is of a table: its head, a rule, a row of numbers, or a name and its number in a frame."""
        framed = line.lstrip().startswith("|")
        if self.block and not framed:
            self._end_of_block()
        if not self.columns and not framed and "|" not in line and "step" not in line.lower():
            return False
        if self.columns and RULE.fullmatch(line):
            return True
        cells = CELLS.split(line.strip().strip("|").strip())
        numbers = [CELL.fullmatch(cell) for cell in cells]
        if self.columns and len(cells) - len(self.columns) in (0, 1) and any(numbers):
            # pandas prints the number of a row before it, under no name.
            self._row(numbers[len(cells) - len(self.columns) :])
            return True
        self.columns = []
        if len(cells) > 1 and not any(numbers) and any(cell.lower() in STEPS for cell in cells):
            self.columns = cells
            return True
        number = numbers[-1]
        if not framed or len(cells) != 2 or number is None or numbers[0] is not None:
            return False
        self.block.append((cells[0], number))
        return True

    def _end_of_block(self) -> None:
        """Keep what a frame held: its step may stand below its metrics. A frame without one is an update of its own."""
        block, self.block = self.block, []
        named = [int(float(n[1])) for name, n in block if name.lower() in STEPS and float(n[1]).is_integer()]
        self.step = named[0] if named else self.step + 1
        self.seen[self.step] = None
        for name, number in block:
            if name.lower() not in STEPLESS:
                self._number(name, number[1], number[2])

    def _row(self, numbers: list[re.Match[str] | None]) -> None:
        at = next(i for i, name in enumerate(self.columns) if name.lower() in STEPS)
        step = numbers[at]
        if step is None or not float(step[1]).is_integer():
            return
        self.step = int(float(step[1]))
        self.seen[self.step] = None
        for i, (name, number) in enumerate(zip(self.columns, numbers, strict=True)):
            if i != at and number is not None and name.lower() not in STEPLESS:
                self._number(name, number[1], number[2])

    def _number(self, raw: str, number: str, per_cent: str) -> float:
        """Keep one number. Returns what it was multiplied by, 0 where it was not kept."""
        value, scale = float(number), 1.0
        if not math.isfinite(value):
            self.builder.broke(self.step, raw)
            return 0.0
        if per_cent and canonical(raw) in SUCCESS_IN_PERCENT:
            scale = 0.01
            self.builder.percent(raw)
        self.builder.add(self.step, raw, value * scale)
        return scale

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

    def _remember(
        self,
        line: str,
        named: re.Match[str] | None,
        numbers: list[tuple[int, int, str, float]],
        names: list[tuple[int, int]],
    ) -> None:
        """Take `line` for the shape of the next ones: names stay, numbers that are no metric may be others."""
        spans: list[tuple[int, int, str, float]] = sorted(
            [*numbers, *([] if named is None else [(*named.span(1), "", 0.0)])]
        )
        parts, place = [], 0
        for begin, end, raw, _ in spans:
            if begin < place:
                return
            parts += [_between(line, place, begin, names), PLAIN_NUMBER if raw else r"(\d{1,15})"]
            place = end
        self.shape = re.compile("".join([*parts, _between(line, place, len(line), names)]))
        self.step_group = next((i for i, (_, _, raw, _) in enumerate(spans) if not raw), -1)
        self.groups = [(i, raw, scale) for i, (_, _, raw, scale) in enumerate(spans) if raw]

    def done(self) -> Evidence:
        """What was read."""
        if self.block:
            self._end_of_block()
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


def _between(line: str, begin: int, end: int, names: list[tuple[int, int]]) -> str:
    """A pattern for what stands between two numbers: `names` as they are, digits and bars of any length."""
    pattern, place = "", begin
    for first, last in [*((a, b) for a, b in names if begin <= a and b <= end), (end, end)]:
        pattern += LOOSE.sub(lambda m: r"\d+" if m[0].isdecimal() else r"\|[^|\w]*\|", re.escape(line[place:first]))
        pattern += re.escape(line[first:last])
        place = last
    return pattern


def _numbers(listed: str) -> list[float]:
    return [float(number) for number in re.findall(r"\d+(?:\.\d+)?", listed)]
