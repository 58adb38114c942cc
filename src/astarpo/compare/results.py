"""What a comparison found, read off its run folders, as one document that a machine reads and the page is made from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from astarpo import __version__
from astarpo.budget import Used
from astarpo.compare.arms import Arm, differences, told_apart
from astarpo.compare.design import SWEEP_SHARE, Design, Job, Point, points
from astarpo.compare.intervals import Interval, mean_interval, paired_difference, success_interval
from astarpo.compare.jobs import finished
from astarpo.compare.snr import Ratio
from astarpo.errors import RunError
from astarpo.journal import read_metrics, read_outcomes, write_atomically
from astarpo.result import Result

SCHEMA = "astarpo-compare/1"

CHOSEN = "chosen.json"
"""What the sweep chose, in the folder of a comparison."""

Verdict = Literal["better", "worse", "undecided"]

Outcomes = dict[str, tuple[bool, float]]


def choices(design: Design, folder: Path) -> dict[str, Point]:
    """Where each arm did best on dev in the sweep; ties go to the place nearest to the preset, which also stands where
    no run of the sweep was finished.

    Once `keep_choices` has written them down they stand, though a run of the sweep that had failed be made up for.

    Raises:
        RunError: what was written down cannot be read.
    """
    kept, chosen = _kept_choices(folder), {}
    for arm in design.arms:
        if arm.name in kept:
            chosen[arm.name] = kept[arm.name]
            continue
        seen = [(job.point, dev) for job, dev in _swept(design, folder, arm.name) if dev is not None]
        best = min(seen, key=lambda one: (-one[1], one[0].distance), default=(points()[0], 0.0))
        chosen[arm.name] = best[0]
    return chosen


def keep_choices(chosen: Mapping[str, Point], folder: Path) -> None:
    """Write down the places of the arms, beside those of arms that were there before."""
    whole = {**_kept_choices(folder), **chosen}
    plain = {name: {"rate": point.rate, "temperature": point.temperature} for name, point in whole.items()}
    write_atomically(folder / CHOSEN, (json.dumps(plain, indent=1) + "\n").encode())


def _kept_choices(folder: Path) -> dict[str, Point]:
    path = folder / CHOSEN
    if not path.exists():
        return {}
    try:
        plain = json.loads(path.read_text("utf-8"))
        return {name: Point(float(one["rate"]), float(one["temperature"])) for name, one in plain.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(
            f"{path}, what the sweep chose, cannot be read ({error}): remove it to choose again from its runs."
        ) from None


def document(
    design: Design,
    folder: Path,
    *,
    failures: Mapping[str, str],
    snr: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """Everything that was found, as JSON values; see docs/compare.md.

    Args:
        design: of the comparison.
        folder: where its runs are.
        failures: run → sentence.
        snr: policy ("start" or a folder) → arm → `Ratio.as_dict`.

    Raises:
        RunError: runs were judged on different tasks, or their files are damaged.
    """
    chosen = choices(design, folder)
    jobs = design.jobs(chosen)
    seen = {job.name: run for job in jobs if job.name not in failures and (run := _run(job, folder)) is not None}
    tasks = _same_tasks(seen)
    arms = [
        _arm(arm, design, folder, chosen, _of(jobs, seen, arm.name, "none"), tasks, snr or {}) for arm in design.arms
    ]
    found: dict[str, Any] = {
        "schema": SCHEMA,
        "version": __version__,
        "environment": design.environment,
        "budget": {"kind": design.budget.kind, "most": design.budget.most},
        "seeds": list(design.seeds),
        "tasks": len(tasks),
        "sweep": {"name": design.sweep, "share": SWEEP_SHARE, "chosen_by": "greedy success on dev at its end"},
        "arms": arms,
        "pairs": _pairs(design, jobs, seen, tasks),
        "controls": _controls(design, jobs, seen, tasks),
        "untrained": _untrained(seen, tasks),
        "notes": [*told_apart(design.arms), *_notes(design, chosen, seen)],
        "failures": [{"run": name, "why": why} for name, why in failures.items()],
    }
    found["verdict"] = verdict(found)
    return found


def verdict(found: Mapping[str, Any]) -> str:
    """What the comparison says, in a sentence or two and no more than its intervals allow."""
    judged = [arm for arm in found["arms"] if arm["success"]]
    if not judged:
        return "No arm has two finished runs, so nothing can be said."
    ranked = sorted(judged, key=lambda arm: -arm["success"]["mean"])
    top, budget = ranked[0], f"{found['budget']['most']:,.10g} {found['budget']['kind']}"
    said = f"Within {budget} each, {top['name']} solves the most: {_percent(top['success']['mean'])} of held-out tasks"
    said += f" ({_percent(top['success']['low'])} to {_percent(top['success']['high'])})"
    if len(ranked) > 1:
        words = {(pair["first"], pair["second"]): pair["verdict"] for pair in found["pairs"]}
        words |= {(b, a): {"better": "worse", "worse": "better"}.get(word, word) for (a, b), word in words.items()}
        beaten = [arm["name"] for arm in ranked[1:] if words.get((top["name"], arm["name"])) == "better"]
        open_ = [arm["name"] for arm in ranked[1:] if words.get((top["name"], arm["name"])) == "undecided"]
        if beaten:
            said += f"; that is better than {_listed(beaten)}"
        if open_:
            said += f"{', and' if beaten else ';'} undecided against {_listed(open_)}"
    learned = [arm["name"] for arm in judged if arm["over_untrained"] and arm["over_untrained"]["verdict"] == "better"]
    missed = [arm["name"] for arm in judged if arm["name"] not in learned]
    said += ". "
    if not missed:
        said += "Every arm learned."
    elif not learned:
        said += "No arm is shown to have learned."
    else:
        said += f"Not shown to have learned at all: {_listed(missed)}."
    without = [
        row for row in found["controls"] if row["over_untrained"] and row["over_untrained"]["verdict"] == "better"
    ]
    if without:
        said += (
            " Rose without any signal: " + _listed([f"{row['arm']} under {row['control']}" for row in without]) + "."
        )
    return said


def judged(interval: Interval) -> dict[str, Any]:
    """A difference with its verdict, as JSON values."""
    word: Verdict = "undecided"
    if interval.excludes(0.0):
        word = "better" if interval.mean > 0 else "worse"
    return {**_interval(interval), "verdict": word}


class _Run:
    """One finished run."""

    def __init__(self, job: Job, folder: Path, result: Result) -> None:
        self.job, self.folder, self.result = job, folder / job.name, result
        self.before: Outcomes = read_outcomes(self.folder, "before")
        self.after: Outcomes = read_outcomes(self.folder, "after")
        self.curve = _curve(self.folder)


def _run(job: Job, folder: Path) -> _Run | None:
    result = finished(folder / job.name)
    return None if result is None else _Run(job, folder, result)


def _curve(folder: Path) -> list[dict[str, float]]:
    """Success on dev, and what was used by then."""
    lines = read_metrics(folder)
    used = {line["update"]: Used.from_metrics(line) for line in lines if "evaluation" not in line}
    found = []
    for line in lines:
        if "evaluation" in line:
            there = used.get(line["update"]) or Used()
            found.append(
                {
                    "update": line["update"],
                    "success": line["evaluation"]["success"],
                    "episodes": there.episodes,
                    "tokens": there.tokens,
                    "seconds": there.seconds,
                }
            )
    return found


def _of(jobs: Sequence[Job], seen: Mapping[str, _Run], arm: str, control: str) -> list[_Run]:
    return [seen[job.name] for job in jobs if job.arm == arm and job.control == control and job.name in seen]


def _same_tasks(seen: Mapping[str, _Run]) -> list[str]:
    """The held-out tasks. Raises RunError where two runs played different ones."""
    tasks: list[str] = []
    for name, run in seen.items():
        if tasks and set(tasks) != set(run.after):
            raise RunError(
                f"{name} was judged on other held-out tasks than the runs before it, so they cannot be paired: give "
                "every arm the same environment, or compare them apart."
            )
        tasks = tasks or sorted(run.after)
    return tasks


def _matrix(runs: Sequence[_Run], tasks: Sequence[str], what: int, when: str = "after") -> NDArray[np.float64]:
    """[seeds, tasks] of success (0) or score (1)."""
    return np.array([[float(getattr(run, when)[task][what]) for task in tasks] for run in runs])


def _enough(matrix: NDArray[np.float64]) -> bool:
    return matrix.ndim == 2 and min(matrix.shape) >= 2


def _arm(
    arm: Arm,
    design: Design,
    folder: Path,
    chosen: Mapping[str, Point],
    runs: Sequence[_Run],
    tasks: Sequence[str],
    snr: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    success, score = _matrix(runs, tasks, 0), _matrix(runs, tasks, 1)
    job = next(job for job in design.jobs(chosen) if job.arm == arm.name)
    return {
        "name": arm.name,
        "words": arm.words,
        "success": _interval(success_interval(success)) if _enough(success) else None,
        "score": _interval(mean_interval(score)) if _enough(score) else None,
        "over_untrained": _over(success, runs, tasks),
        "runs": [_plain(run) for run in runs],
        "cost": _cost(runs),
        "snr": {policy: ratios[arm.name] for policy, ratios in snr.items() if arm.name in ratios},
        "sweep": [
            {
                "rate": swept.run.optimizer.learning_rate,
                "temperature": list(swept.run.rollout.temperature),
                "dev": dev,
                "chosen": swept.point == chosen[arm.name],
            }
            for swept, dev in _swept(design, folder, arm.name)
        ],
        "settings": {key: value for key, value in job.run.dump().items() if key not in {"seed", "control"}},
    }


def _over(success: NDArray[np.float64], runs: Sequence[_Run], tasks: Sequence[str]) -> dict[str, Any] | None:
    """Gain over the untrained policy."""
    return judged(paired_difference(success, _matrix(runs, tasks, 0, "before"))) if _enough(success) else None


def _plain(run: _Run) -> dict[str, Any]:
    result, used = run.result, run.result.used or Used()
    return {
        "seed": run.job.seed,
        "folder": run.job.name,
        "success": result.after.success,
        "score": result.after.score,
        "sampled": None if result.after.sampled is None else result.after.sampled.success,
        "updates": result.updates,
        "episodes": used.episodes,
        "tokens_read": used.read,
        "tokens_said": used.said,
        "seconds": used.seconds,
        "peak_memory": result.peak_memory,
        "warnings": list(result.warnings),
        "curve": run.curve,
    }


def _cost(runs: Sequence[_Run]) -> dict[str, float] | None:
    """Means over runs; peak memory is the largest."""
    if not runs:
        return None
    plain = [_plain(run) for run in runs]
    names = ("updates", "episodes", "tokens_read", "tokens_said", "seconds")
    return {name: fmean(one[name] for one in plain) for name in names} | {
        "peak_memory": max(one["peak_memory"] for one in plain)
    }


def _pairs(design: Design, jobs: Sequence[Job], seen: Mapping[str, _Run], tasks: Sequence[str]) -> list[dict[str, Any]]:
    """Every two arms, over the seeds that both have finished."""
    found = []
    for first, second in combinations([arm.name for arm in design.arms], 2):
        mine, other = ({run.job.seed: run for run in _of(jobs, seen, name, "none")} for name in (first, second))
        seeds = [seed for seed in design.seeds if seed in mine and seed in other]
        a, b = (_matrix([runs[seed] for seed in seeds], tasks, 0) for runs in (mine, other))
        if _enough(a):
            found.append({"first": first, "second": second, "seeds": seeds, **judged(paired_difference(a, b))})
    return found


def _controls(
    design: Design, jobs: Sequence[Job], seen: Mapping[str, _Run], tasks: Sequence[str]
) -> list[dict[str, Any]]:
    found = []
    for control in design.controls:
        for arm in design.arms:
            runs = _of(jobs, seen, arm.name, control)
            success = _matrix(runs, tasks, 0)
            if runs:
                found.append(
                    {
                        "control": control,
                        "arm": arm.name,
                        "success": _interval(success_interval(success)) if _enough(success) else None,
                        "over_untrained": _over(success, runs, tasks),
                        "runs": [_plain(run) for run in runs],
                    }
                )
    return found


def _untrained(seen: Mapping[str, _Run], tasks: Sequence[str]) -> dict[str, Any] | None:
    """The policy that all arms begin from: one policy, so the interval is over tasks alone."""
    run = next(iter(seen.values()), None)
    if run is None:
        return None
    before = run.result.before
    return {
        "success": {"mean": before.success, "low": before.success_low, "high": before.success_high},
        "score": before.score,
        "tasks": len(tasks),
    }


def _notes(design: Design, chosen: Mapping[str, Point], seen: Mapping[str, _Run]) -> list[str]:
    notes = []
    starts = {str(sorted(run.before.items())) for run in seen.values()}
    if len(starts) > 1:
        notes.append("Runs did not begin from one policy: their results before training differ.")
    for arm in design.arms:
        said = dict.fromkeys(
            w
            for name, run in seen.items()
            if run.job.arm == arm.name and run.job.control == "none"
            for w in run.result.warnings
        )
        notes += [f"{arm.name}: {warning}" for warning in said]
        unfinished = [seed for seed in design.seeds if f"runs/{arm.name}/seed-{seed}" not in seen]
        if unfinished:
            notes.append(f"{arm.name} lacks seed {', '.join(map(str, unfinished))}: its intervals are over the others.")
    if design.sweep != "none":
        edge = [name for name, point in chosen.items() if point.rate != 1.0]
        if edge:
            notes.append(
                f"The sweep's best learning rate lies at its edge for {_listed(edge)}: a wider one might find a better."
            )
    pairs = len(design.arms) * (len(design.arms) - 1) // 2
    if pairs > 1:
        notes.append(
            f"Each interval holds with 95 %. Of {pairs} differences that are all none, at least one would be called "
            f"better or worse in up to {min(100 * (1 - 0.95**pairs), 99):.0f} of 100 comparisons."
        )
    return notes


def _swept(design: Design, folder: Path, arm: str) -> list[tuple[Job, float | None]]:
    """Runs of the sweep of an arm, with success on dev at their end; None where it is not finished."""
    found = []
    for job in design.sweep_jobs():
        if job.arm == arm:
            done = finished(folder / job.name) is not None
            curve = _curve(folder / job.name) if done else []
            found.append((job, curve[-1]["success"] if curve else None))
    return found


def settings_apart(arms: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[Any]]]:
    """Settings in which arms of a document differ: dotted name and the value of each arm."""
    plain = [{key: value for key, value in arm["settings"].items() if key != "preset"} for arm in arms]
    names = dict.fromkeys(name for one in plain[1:] for name, _, _ in differences(plain[0], one))
    return [(name, [_at(one, name) for one in plain]) for name in names]


def _at(plain: Any, dotted: str) -> Any:
    for name in dotted.split("."):
        plain = plain.get(name) if isinstance(plain, Mapping) else None
    return plain


def ratios(found: Mapping[str, Ratio | None]) -> dict[str, Any]:
    """Ratios as JSON values."""
    return {name: None if ratio is None else ratio.as_dict() for name, ratio in found.items()}


def _interval(interval: Interval) -> dict[str, float]:
    return {"mean": interval.mean, "low": interval.low, "high": interval.high}


def _percent(share: float) -> str:
    return f"{100 * share:.1f}\u00a0%"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
