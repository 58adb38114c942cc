"""What is drawn, as data: `static/charts.js` draws it with uPlot. Each chart says in words what it shows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np

from astarpo.report.episodes import Ref
from astarpo.report.reading import Evaluated, RunFacts, smoothed
from astarpo.report.shown import harmless

Column = Sequence[float | None]
Form = Literal["share", "number", "count", "seconds"]

MOST_POINTS = 1500
"""Updates that one line shows; of a longer run each point is the mean of several."""
BINS = 30


ELSEWHERE = (
    "train/",
    "reward/",
    "v_star/",
    "advantage/mean",
    "advantage/std",
    "ended/",
    "curriculum/",
    "used/",
)
"""Beginnings of metrics that charts of their own show, or that only add up what others say."""
A_CHART, MOST_OTHERS = 6, 60
"""Lines in one chart of other metrics, and charts of them."""


@dataclass(frozen=True)
class Series:
    """One line, row of points, or set of bars.

    Attributes:
        label: its name.
        y: [X] values, None where there is none.
        tone: which colour, from 0; equal tones belong together.
        how: drawn as a line, faint (what a line is the mean of), points with their intervals, or bars.
        low, high: [X] ends of an interval around it.
        dashed: whether the line is.
    """

    label: str
    y: Column
    tone: int = 0
    how: Literal["line", "faint", "points", "bars"] = "line"
    low: Column | None = None
    high: Column | None = None
    dashed: bool = False


@dataclass(frozen=True)
class Chart:
    """One picture.

    Attributes:
        id: unique on a page.
        title: what it shows.
        said: the same in a sentence with numbers, for who does not see it.
        note: what stands below it.
        mean_of: updates that lines in training are means of.
        x: [X] ascending.
        series: at least one.
        x_label: what x is.
        form: how values are written; shares are from 0 to 1.
    """

    id: str
    title: str
    said: str
    x: Sequence[float]
    series: Sequence[Series]
    x_label: str = "updates"
    form: Form = "number"
    note: str = ""
    mean_of: int = 1

    def as_dict(self) -> dict[str, Any]:
        """JSON values, five digits each."""
        plain = asdict(self)
        plain["x"] = _rounded(self.x)
        for series in plain["series"]:
            for name in ("y", "low", "high"):
                series[name] = None if series[name] is None else _rounded(series[name])
        return plain


@dataclass(frozen=True)
class Section:
    """Charts that answer one question."""

    id: str
    title: str
    lead: str
    charts: tuple[Chart, ...] = field(default=())


LINES: dict[str, tuple[tuple[str, str, Form, tuple[tuple[str, str], ...]], ...]] = {
    "weights": (
        (
            "weights",
            "Weights of episodes",
            "number",
            (("weights/max", "largest"), ("weights/mean", "mean"), ("weights/min", "smallest")),
        ),
        (
            "weights-shares",
            "Where the weight lies",
            "share",
            (
                ("weights/effective_share", "effective share of episodes"),
                ("weights/failure_share", "share that imitates failures"),
            ),
        ),
        ("ratio", "Ratio of policy to sampler", "number", (("ratio/mean", "mean"), ("ratio/max", "largest"))),
        (
            "importance",
            "Importance weights",
            "number",
            (("importance/mean", "mean"), ("importance/max", "largest"), ("importance/min", "smallest")),
        ),
        (
            "clipped",
            "Clipped",
            "share",
            (
                ("clip_frac", "tokens outside the clip range"),
                ("advantage/clip_frac", "advantages at their limit"),
                ("importance/cap_frac", "importance weights at their cap"),
            ),
        ),
        (
            "silent",
            "Tasks that teach nothing",
            "share",
            (
                ("signal/zero_std_frac", "tasks whose attempts all earned the same"),
                ("signal/skipped", "updates skipped"),
                ("filter/silent", "tasks dropped by the filter"),
            ),
        ),
        ("residual", "Gap of the regression", "number", (("residual/mean", "mean"), ("residual/std", "spread"))),
    ),
    "policy": (
        (
            "kl",
            "KL to the reference, nats a token",
            "number",
            (("kl/reference", "mean log-ratio of sampled tokens"), ("kl", "KL as the algorithm has it")),
        ),
        ("entropy", "Entropy, nats a token", "number", (("entropy", "entropy"),)),
        ("reply-tokens", "Tokens a reply", "number", (("reply_tokens", "tokens"),)),
        ("turns", "Turns an episode", "number", (("turns", "turns"),)),
        ("invalid", "Replies that could not be read or done", "share", (("invalid", "share of replies"),)),
        ("temperature", "Sampling temperature", "number", (("temperature", "temperature"),)),
    ),
    "optimiser": (
        ("loss", "Loss", "number", (("loss", "loss"),)),
        ("grad-norm", "Norm of the gradient, before clipping", "number", (("grad_norm", "norm"),)),
        ("rate", "Learning rate", "number", (("learning_rate", "learning rate"),)),
        (
            "mismatch",
            "Sampler and trainer differ by, nats a token",
            "number",
            (("mismatch/mean", "mean"), ("mismatch/max", "largest")),
        ),
        (
            "lag",
            "Policy and the one that sampled differ by, nats a token",
            "number",
            (("lag/mean", "mean"), ("lag/max", "largest")),
        ),
    ),
    "cost": (
        ("seconds", "Seconds an update", "seconds", (("seconds", "seconds"),)),
        ("speed", "Tokens a second", "count", (("tokens_per_second", "tokens a second"),)),
    ),
}
"""Charts of logged metrics by section: id, title, form, and (metric, label) of its lines. Absent metrics are left out;
so is a chart of which nothing is there."""

CONSTANT = frozenset({"temperature", "rate", "silent"})
"""Charts that are left out where they would be one level line at 0, or at the same value throughout."""


def learning(run: RunFacts) -> Chart | None:
    """Held-out success with its interval, and success in training."""
    train = run.columns.get("train/success")
    ends = [one for one in (run.before, run.after) if one is not None]
    if not (run.dev or ends or train):
        return None
    x = sorted({*run.updates, *(one.update for one in run.dev), *(one.update for one in ends)})
    series = []
    if run.dev:
        series.append(_evaluated("dev tasks, greedy, 95 % interval", run.dev, x, 0, "line"))
    if ends:
        series.append(_evaluated("test tasks, greedy, 95 % interval", ends, x, 3, "points"))
    if train:
        width = _width(run)
        placed = _placed(run.updates, smoothed(train, width), x)
        series.append(Series("training episodes, sampled", placed, 1, dashed=True))
    said = "Held-out success"
    told = list(run.dev) or ends
    if told:
        said += f" is {percent(told[0].success)} after {told[0].update} updates and {percent(told[-1].success)} after "
        said += f"{told[-1].update}."
    return _thinned(Chart("learning", "Success", said, x, series, form="share", note=said, mean_of=_width(run)))


def score_and_success(run: RunFacts) -> Chart | None:
    """The graded score against the share of tasks solved."""
    columns, width = run.columns, _width(run)
    shown = [("train/score", "score in training", 2), ("train/success", "success in training", 1)]
    x = sorted({*run.updates, *(one.update for one in run.dev)})
    series = [
        Series(f"{label}", _placed(run.updates, smoothed(columns[name], width), x), tone, dashed=True)
        for name, label, tone in shown
        if name in columns
    ]
    scored = [one for one in run.dev if one.score is not None]
    if scored:
        place = {one.update: one for one in scored}
        low = [place[u].score_low if u in place else None for u in x]
        score = [place[u].score if u in place else None for u in x]
        high = [place[u].score_high if u in place else None for u in x]
        series.append(Series("score on dev", score, 2, low=low, high=high))
        series.append(Series("success on dev", [place[u].success if u in place else None for u in x], 0))
    if not series:
        return None
    said = (
        "Score is the environment's own, success the share of tasks solved. Where score rises and success does not, "
        "part of the credit is earned without the task."
    )
    return _thinned(Chart("score", "Score against success", said, x, series, note=said, mean_of=width))


def rewards(run: RunFacts) -> Chart | None:
    """The training reward, and its spread."""
    mean = run.columns.get("reward/mean")
    if not mean:
        return None
    width = _width(run)
    series = [
        Series("mean of each update", mean, 1, how="faint"),
        Series("reward", smoothed(mean, width), 1),
    ]
    if spread := run.columns.get("reward/std"):
        series.append(Series("spread between episodes", smoothed(spread, width), 2, dashed=True))
    said = _first_last("Mean training reward", mean)
    return _thinned(Chart("reward", "Training reward", said, run.updates, series, mean_of=width))


def value_charts(run: RunFacts) -> list[Chart]:
    """V* over tasks, and V* of what was played against what it earned."""
    found = []
    if run.values is not None:
        summary = run.values.summary
        found.append(
            Chart(
                "v-star",
                "V* over tasks",
                f"{summary.words()} The mean of V* is {summary.mean:.3f}, its spread {summary.std:.3f}.",
                summary.edges[:-1],
                [Series("tasks", [float(count) for count in summary.counts], 0, how="bars")],
                x_label="V*, reward units",
                form="count",
                note=f"{summary.words()} The mean of V* is {summary.mean:.3f}, its spread {summary.std:.3f}.",
            )
        )
    if v_star := run.columns.get("v_star/mean"):
        width = _width(run)
        series = [Series("V* of the tasks played", smoothed(v_star, width), 0)]
        if mean := run.columns.get("reward/mean"):
            series.append(Series("reward they earned", smoothed(mean, width), 1))
        said = _first_last("Mean V* of the tasks played", v_star)
        note = "V* of a task is fixed: its line moves only because other tasks are played."
        title = "V* of the tasks played"
        found.append(_thinned(Chart("v-star-drift", title, said, run.updates, series, note=note, mean_of=width)))
    return found


def advantage_charts(run: RunFacts, refs: Sequence[Ref]) -> list[Chart]:
    """Advantages as logged, and how far returns lie from their baseline, early and late."""
    found = []
    columns, width = run.columns, _width(run)
    mean, spread = columns.get("advantage/mean"), columns.get("advantage/std")
    if mean and spread:
        middle, wide = smoothed(mean, width), smoothed(spread, width)
        both = [(m, s) if m is not None and s is not None else None for m, s in zip(middle, wide, strict=True)]
        low = [None if one is None else one[0] - one[1] for one in both]
        high = [None if one is None else one[0] + one[1] for one in both]
        series = [Series("mean ± one standard deviation", middle, 4, low=low, high=high)]
        said = _first_last("Mean advantage", mean) + " " + _first_last("Its spread", spread)
        title = "Advantage, as the algorithm has it"
        found.append(_thinned(Chart("advantage", title, said, run.updates, series, mean_of=width)))
    if (chart := _advantage_histogram(run, refs)) is not None:
        found.append(chart)
    return found


def ended(run: RunFacts) -> Chart | None:
    """Why episodes ended."""
    names = sorted(name for name in run.columns if name.startswith("ended/"))
    if not names:
        return None
    width = _width(run)
    # A reason that an update does not name did not occur in it.
    columns = {name: [0.0 if v is None else v for v in run.columns[name]] for name in names}
    names.sort(key=lambda name: -sum(columns[name]))
    series = [
        Series(f"{_word(name.removeprefix('ended/'))}", smoothed(columns[name], width), place)
        for place, name in enumerate(names)
    ]
    lasts = ", ".join(f"{one.label} {percent(one.y[-1] or 0.0)}" for one in series if one.y)
    said = f"In the end: {lasts}."
    return _thinned(Chart("ended", "By reason", said, run.updates, series, form="share", note=said, mean_of=width))


def curriculum(run: RunFacts, refs: Sequence[Ref]) -> list[Chart]:
    """Which level is played, and how it goes there."""
    found = []
    columns, width = run.columns, _width(run)
    if level := columns.get("curriculum/level"):
        series = [Series("level of the ladder", level, 0)]
        found.append(_thinned(Chart("level", "Level", _first_last("The level", level), run.updates, series)))
    success, low, high = (columns.get(f"curriculum/success{end}") for end in ("", "_low", "_high"))
    if success:
        series = [Series("success that the curriculum sees, 95 % interval", success, 1, low=low, high=high)]
        said = _first_last("Success that the curriculum sees", success)
        found.append(_thinned(Chart("curriculum", "Success at the level", said, run.updates, series, form="share")))
    for name, title in (("curriculum/learnability", "Learnability p (1 − p)"), ("curriculum/epoch", "Times through")):
        if column := columns.get(name):
            series = [Series(_word(name.removeprefix("curriculum/")), column, 2)]
            found.append(
                _thinned(Chart(name.replace("/", "-"), title, _first_last(title, column), run.updates, series))
            )
    levels = list(dict.fromkeys(ref.level for ref in refs))
    if 1 < len(levels) <= 8:
        place = {update: number for number, update in enumerate(run.updates)}
        counts = np.zeros((len(levels), len(run.updates)))
        for ref in refs:
            if ref.update in place:
                counts[levels.index(ref.level), place[ref.update]] += 1
        shares = counts / np.maximum(counts.sum(axis=0), 1)
        series = [
            Series(f"{harmless(name[:60]) or 'target'}", smoothed(row.tolist(), width), tone)
            for tone, (name, row) in enumerate(zip(levels, shares, strict=True))
        ]
        said = f"Levels in the order in which they were first played: {', '.join(one.label for one in series)}."
        found.append(_thinned(Chart("levels", "Levels played", said, run.updates, series, form="share", mean_of=width)))
    return found


def lines(run: RunFacts, section: str) -> list[Chart]:
    """The charts of `LINES` of which there is something to show."""
    found, width = [], _width(run)
    for id, title, form, wanted in LINES[section]:
        there = [(name, label) for name, label in wanted if any(v is not None for v in run.columns.get(name, ()))]
        if not there or (id in CONSTANT and all(_level(run.columns[name]) for name, _ in there)):
            continue
        series: list[Series] = []
        for tone, (name, label) in enumerate(there):
            column = run.columns[name]
            if len(there) == 1 and width > 1:
                series.append(Series("each update", column, tone, how="faint"))
            series.append(Series(f"{label}", smoothed(column, width), tone))
        said = " ".join(_first_last(label.capitalize(), run.columns[name]) for name, label in there)
        found.append(_thinned(Chart(id, title, said, run.updates, series, form=form, mean_of=width)))
    return found


def others(run: RunFacts) -> list[Chart]:
    """Whatever else was logged, metrics of one group together."""
    known = {name for wanted in LINES.values() for _, _, _, lines in wanted for name, _ in lines}
    groups: dict[str, list[str]] = {}
    for name, column in run.columns.items():
        if name not in known and not name.startswith(ELSEWHERE) and any(value is not None for value in column):
            groups.setdefault(name.partition("/")[0], []).append(name)
    found, width = [], _width(run)
    for place, (group, names) in enumerate(groups.items()):
        for begin in range(0, len(names), A_CHART):
            some = names[begin : begin + A_CHART]
            series = [
                Series(harmless(name[:60]), smoothed(run.columns[name], width), tone) for tone, name in enumerate(some)
            ]
            said = " ".join(_first_last(harmless(name[:60]), run.columns[name]) for name in some)
            id = f"other-{place}-{begin}"
            title = _word(group) if len(some) > 1 else harmless(some[0][:60])
            found.append(_thinned(Chart(id, title, said, run.updates, series, mean_of=width)))
    return found[:MOST_OTHERS]


def compared(runs: Sequence[RunFacts], names: Sequence[str]) -> list[Chart]:
    """Held-out success and training curves of several runs in one picture each."""
    found = []
    x = sorted({one.update for run in runs for one in run.dev})
    if x:
        series = [
            _evaluated(name, run.dev, x, tone, "line")
            for tone, (name, run) in enumerate(zip(names, runs, strict=True))
            if run.dev
        ]
        said = "; ".join(
            f"{name}: {percent(run.dev[-1].success)} after {run.dev[-1].update} updates"
            for name, run in zip(names, runs, strict=True)
            if run.dev
        )
        title = "Success on dev tasks, greedy, 95 % interval"
        found.append(Chart("compared-dev", title, said + ".", x, series, form="share"))
    shown: tuple[tuple[str, str, Form], ...] = (
        ("train/success", "Success in training", "share"),
        ("train/score", "Score in training", "number"),
        ("reward/mean", "Training reward", "number"),
        ("entropy", "Entropy, nats a token", "number"),
        ("kl/reference", "KL to the reference, nats a token", "number"),
        ("turns", "Turns an episode", "number"),
    )
    for metric, title, form in shown:
        having = [
            (tone, name, run) for tone, (name, run) in enumerate(zip(names, runs, strict=True)) if metric in run.columns
        ]
        if not having:
            continue
        x = sorted({update for _, _, run in having for update in run.updates})
        series = [
            Series(name, _placed(run.updates, smoothed(run.columns[metric], _width(run)), x), tone)
            for tone, name, run in having
        ]
        said = " ".join(_first_last(name, run.columns[metric]) for _, name, run in having)
        found.append(_thinned(Chart(f"compared-{metric.replace('/', '-')}", title, said, x, series, form=form)))
    return found


def percent(share: float) -> str:
    """A share in percent, one decimal."""
    return f"{100 * share:.1f} %"


def _advantage_histogram(run: RunFacts, refs: Sequence[Ref]) -> Chart | None:
    """Return less its baseline, of the first and the last fifth of the updates."""
    if not refs:
        return None
    first, last = refs[0].update, refs[-1].update
    span = max(1, (last - first + 1) // 5)
    parts = {
        "first fifth of the updates": [ref for ref in refs if ref.update < first + span],
        "last fifth": [ref for ref in refs if ref.update > last - span],
    }
    known: Mapping[str, float] = {} if run.values is None else run.values.of
    of_values = run.values is not None and "v_star/mean" in run.columns
    gaps = {}
    for name, part in parts.items():
        gaps[name] = _less_values(part, known) if of_values else _less_group(part)
    every = [gap for some in gaps.values() for gap in some]
    if not every or not all(map(math.isfinite, every)):
        return None
    low, high = min(every), max(every)
    if low == high:
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, BINS + 1)
    series = [
        Series(name, (np.histogram(some, edges)[0] / max(len(some), 1)).tolist(), tone, how="bars")
        for tone, (name, some) in enumerate(gaps.items())
        if some
    ]
    baseline = "V* of its task" if of_values else "the mean of the attempts at its task in that update"
    at_zero = {name: sum(abs(gap) < 1e-9 for gap in some) / len(some) for name, some in gaps.items() if some}
    said = "Exactly 0, so without a signal: " + ", ".join(f"{percent(s)} in the {n}" for n, s in at_zero.items()) + "."
    title = f"Return less {baseline}"
    return Chart(
        "advantages", title, said, edges[:-1].tolist(), series, x_label="reward units", form="share", note=said
    )


def _less_values(refs: Sequence[Ref], known: Mapping[str, float]) -> list[float]:
    return [ref.reward - known[ref.task] for ref in refs if ref.task in known]


def _less_group(refs: Sequence[Ref]) -> list[float]:
    groups: dict[tuple[int, str], list[float]] = {}
    for ref in refs:
        groups.setdefault((ref.update, ref.task), []).append(ref.reward)
    return [reward - sum(some) / len(some) for some in groups.values() if len(some) > 1 for reward in some]


def _evaluated(
    label: str, evaluations: Sequence[Evaluated], x: Sequence[float], tone: int, how: Literal["line", "points"]
) -> Series:
    place = {one.update: one for one in evaluations}
    return Series(
        label,
        [place[int(u)].success if u in place else None for u in x],
        tone,
        how,
        low=[place[int(u)].success_low if u in place else None for u in x],
        high=[place[int(u)].success_high if u in place else None for u in x],
    )


def _placed(updates: Sequence[int], values: Column, x: Sequence[float]) -> list[float | None]:
    place = dict(zip(updates, values, strict=True))
    return [place.get(int(update)) for update in x]


def _width(run: RunFacts) -> int:
    return max(1, len(run.updates) // 30)


def _word(name: str) -> str:
    return harmless(name[:60]).replace("_", " ")


def _level(column: Column) -> bool:
    there = {value for value in column if value is not None}
    return len(there) <= 1


def _first_last(what: str, column: Column) -> str:
    there = [value for value in column if value is not None]
    if not there:
        return f"{what}: no value."
    least, most = min(there), max(there)
    return f"{what} begins at {there[0]:.4g}, ends at {there[-1]:.4g}, and lies between {least:.4g} and {most:.4g}."


def _thinned(chart: Chart) -> Chart:
    """`chart` with at most MOST_POINTS points; of a longer one each is the mean of several, ends of intervals too."""
    count = len(chart.x)
    if count <= MOST_POINTS:
        return chart
    step = math.ceil(count / MOST_POINTS)
    groups = [range(begin, min(begin + step, count)) for begin in range(0, count, step)]

    def thin(column: Column | None) -> list[float | None] | None:
        if column is None:
            return None
        found: list[float | None] = []
        for group in groups:
            there = [value for place in group if (value := column[place]) is not None]
            found.append(sum(there) / len(there) if there else None)
        return found

    series = [
        Series(s.label, thin(s.y) or [], s.tone, s.how, thin(s.low), thin(s.high), s.dashed) for s in chart.series
    ]
    x = [chart.x[group[-1]] for group in groups]
    return replace(chart, x=x, series=series)


def _rounded(values: Sequence[float | None]) -> list[float | None]:
    return [None if value is None else float(f"{value:.5g}") for value in values]
