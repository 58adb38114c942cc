"""What a person sees: live bars or plain lines while work goes on, one table at the end."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
)
from rich.table import Table
from rich.text import Text

from astarpo.progress import Watch

if TYPE_CHECKING:
    from astarpo.evaluate import Evaluation

SECONDS_BETWEEN_LINES = 10.0
"""Plain output: at most one line in this time for each stage, beside its first and its last."""

LOUD = "bold red"
"""Style of what must not be missed."""

HEADLINE: tuple[tuple[str, str, str], ...] = (
    ("reward", "reward/mean", "{:.3f}"),
    ("success", "train/success", "{:.0%}"),
    ("dev", "dev/success", "{:.1%}"),
    ("budget", "budget/share", "{:.0%}"),
    ("kl", "kl/reference", "{:.4f}"),
    ("tokens/s", "tokens_per_second", "{:,.0f}"),
)
"""What stands beside the bar of the training loop: its word, the metric, its format."""


def watching(*, quiet_stdout: bool = False) -> LiveWatch | PlainWatch:
    """The watch that fits the terminal: bars where stderr is one, else plain lines.

    Args:
        quiet_stdout: stdout carries JSON. Progress goes to stderr in any case; the flag leaves bars out where both are
            the same terminal, so that the document stays readable.
    """
    live = sys.stderr.isatty() and not (quiet_stdout and sys.stdout.isatty())
    return LiveWatch(Console(stderr=True)) if live else PlainWatch()


class PlainWatch(Watch):
    """One line every few seconds on stderr, for logs and pipes."""

    def __init__(self, between: float = SECONDS_BETWEEN_LINES) -> None:
        self._between = between
        self._stages: dict[str, _Stage] = {}
        self._current: _Stage | None = None
        self._loop: _Stage | None = None
        self._before: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def stage(self, name: str, total: int) -> None:
        """Say that the stage begins."""
        self._current = self._stages[name] = _Stage(name, total)
        self._say(name)

    def advance(self, steps: int = 1, **shown: float | str) -> None:
        """Say how far the stage is, now and then."""
        if self._current is not None:
            self._current.done += steps
            self._line(self._current, " ".join(f"{name} {_value(value)}" for name, value in shown.items()))

    def update(self, number: int, metrics: Mapping[str, float]) -> None:
        """Say how the training loop is doing, now and then."""
        loop = self._loop = self._loop or self._current or _Stage("training", 0)
        self._before = number - 1 if self._before is None else self._before
        loop.done = number - self._before
        self._line(loop, headline(metrics))

    def note(self, text: str) -> None:
        """Say `text`."""
        self._say(text)

    def warn(self, text: str) -> None:
        """Say that `text` is a warning."""
        self._say(f"WARNING: {text}")

    def _line(self, stage: _Stage, shown: str) -> None:
        now = time.monotonic()
        last = stage.total > 0 and stage.done >= stage.total
        if (now - stage.said < self._between and not last) or stage.ended:
            return
        stage.said, stage.ended = now, last
        left = stage.left(now)
        ahead = (
            f"{duration(now - stage.began)} in all" if last else f"{duration(left)} left" if left is not None else ""
        )
        of = f"/{stage.total}" if stage.total else ""
        self._say("  ".join(part for part in (f"{stage.name}: {stage.done}{of}", shown, ahead) if part))

    def _say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)


class _Stage:
    """How far one stage is."""

    def __init__(self, name: str, total: int) -> None:
        self.name, self.total, self.done, self.ended = name, total, 0, False
        self.began = self.said = time.monotonic()

    def left(self, now: float) -> float | None:
        """Seconds left at the pace so far; None before the first step."""
        if not self.done or not self.total:
            return None
        return (now - self.began) / self.done * max(self.total - self.done, 0)


class LiveWatch(Watch):
    """Bars with the time left and the latest metrics, drawn in place."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            _Left(),
            TextColumn("[dim]{task.fields[shown]}"),
            console=console,
            refresh_per_second=4,
        )
        self._bars: dict[str, TaskID] = {}
        self._current: TaskID | None = None
        self._loop: TaskID | None = None
        self._before = 0

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def stage(self, name: str, total: int) -> None:
        """Add a bar, or begin the one of that name anew."""
        if name in self._bars:
            self._progress.reset(self._bars[name], total=total, shown="")
        else:
            self._bars[name] = self._progress.add_task(name, total=total or None, shown="")
        self._current = self._bars[name]

    def advance(self, steps: int = 1, **shown: float | str) -> None:
        """Move the bar."""
        if self._current is not None:
            fields: dict[str, Any] = {}
            if shown:
                fields["shown"] = " ".join(f"{name} {_value(value)}" for name, value in shown.items())
            self._progress.update(self._current, advance=steps, **fields)

    def update(self, number: int, metrics: Mapping[str, float]) -> None:
        """Move the bar of the training loop and show how it is doing."""
        if self._loop is None:
            if self._current is None:
                self.stage("training", 0)
            # A resumed run counts on from where it stopped, its bar from the first update it does itself.
            self._loop, self._before = self._current, number - 1
        assert self._loop is not None
        self._progress.update(self._loop, completed=number - self._before, shown=headline(metrics))

    def note(self, text: str) -> None:
        """Print `text` above the bars."""
        self._progress.console.print(text, markup=False, highlight=False)

    def warn(self, text: str) -> None:
        """Print `text` in red above the bars."""
        self._progress.console.print(f"WARNING: {text}", style=LOUD, markup=False, highlight=False)


class _Left(ProgressColumn):
    """Time left while a bar moves, time taken once it is full."""

    def render(self, task: Task) -> Text:
        """The words beside the bar."""
        if task.finished:
            return Text(f"{duration(task.finished_time or 0.0)} in all", style="dim")
        left = task.time_remaining
        return Text("" if left is None else f"{duration(left)} left", style="dim")


def headline(metrics: Mapping[str, float]) -> str:
    """The few metrics that a person watches, in words. Absent ones are left out."""
    return "  ".join(f"{word} {form.format(metrics[key])}" for word, key, form in HEADLINE if key in metrics)


def duration(seconds: float) -> str:
    """Seconds as a person says them.

    >>> duration(42.4), duration(372), duration(7260)
    ('42 s', '6 min 12 s', '2 h 1 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def evaluations_table(title: str, rows: Sequence[tuple[str, Evaluation]]) -> Table:
    """One row for greedy play and one for sampled play of each labelled evaluation; n is the number of plays.

    Where tasks were sampled several times, the last column is the chance that one of so many plays solves the task.
    """
    most = min((max(one.sampled.pass_at, default=1) for _, one in rows if one.sampled is not None), default=1)
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        caption_justify="left",
        box=SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    table.add_column("")
    table.add_column("decoding")
    for name in (
        "success",
        "95 % interval",
        "score",
        "95 % interval",
        *([f"pass@{most}"] if most > 1 else []),
        "n",
    ):
        table.add_column(name, justify="right")
    for label, greedy in rows:
        for decoding, one in (("greedy", greedy), ("sampled", greedy.sampled)):
            if one is not None:
                passed = [percent(one.pass_at[most]) if one.pass_at else ""] if most > 1 else []
                table.add_row(
                    label if decoding == "greedy" else "",
                    decoding,
                    Text(percent(one.success), style="bold"),
                    f"{100 * one.success_low:.1f} to {percent(one.success_high)}",
                    f"{one.score:.3f}",
                    _score_interval(one),
                    *passed,
                    str(one.n),
                )
        table.add_section()
    return table


def _score_interval(one: Evaluation) -> str:
    if one.score_low is None or one.score_high is None:
        return "not kept"
    return f"{one.score_low:.3f} to {one.score_high:.3f}"


def verdict(before: Evaluation, after: Evaluation) -> str:
    """What the two evaluations say about learning, no more than their intervals allow."""
    from astarpo.report.verdict import moved

    said, _ = moved(before, after)
    return f"{said} Greedy, {after.n} held-out tasks."


def percent(share: float) -> str:
    """A share in percent, one decimal.

    >>> percent(0.832)
    '83.2 %'
    """
    return f"{100 * share:.1f} %"


def _value(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.4g}"
