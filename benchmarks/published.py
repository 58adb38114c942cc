"""Two arms of two comparisons, paired: one algorithm under one budget against another under another.

    python benchmarks/published.py HALF:astar_po WHOLE:grpo

HALF and WHOLE are folders of `astarpo compare` over the same environment and held-out tasks. `compare` itself gives
every arm one budget; a claim of "as good at half the rollouts" pairs arms of two.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np

from astarpo.compare.intervals import paired_difference, success_interval
from astarpo.errors import AstarpoError, RunError
from astarpo.journal import read_outcomes
from astarpo.result import Result


class Arm(NamedTuple):
    """One arm of one comparison.

    Attributes:
        name: folder and arm.
        outcomes: [seeds, tasks] of 0 and 1, tasks in the order of `tasks`.
        tasks: ids of the held-out tasks.
        results: of each seed.
    """

    name: str
    outcomes: np.ndarray
    tasks: list[str]
    results: list[Result]


def read(given: str) -> Arm:
    """The arm FOLDER:NAME. Raises RunError where a run of it is not finished."""
    folder, _, name = given.rpartition(":")
    runs = sorted((Path(folder) / "runs" / name).glob("seed-*/result.json"))
    if not runs:
        raise RunError(f"{folder} holds no finished run of an arm {name!r}: finish `astarpo compare` there first.")
    results = [Result.read(run.parent) for run in runs]
    after = [read_outcomes(run.parent, "after") for run in runs]
    tasks = sorted(after[0])
    solved = np.array([[float(one[task][0]) for task in tasks] for one in after])
    return Arm(given, solved, tasks, [result for result in results if result is not None])


def main() -> None:
    """Print both arms and what lies between them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("arms", nargs=2, metavar="FOLDER:ARM")
    first, second = (read(given) for given in parser.parse_args().arms)
    for arm in (first, second):
        one = success_interval(arm.outcomes)
        used = [result.used for result in arm.results if result.used is not None]
        each = ", ".join(f"{100 * share:.1f}" for share in arm.outcomes.mean(1))
        played = sum(one.episodes for one in used) / len(used)
        said = sum(one.said for one in used) / len(used)
        updates = sum(result.updates for result in arm.results) / len(arm.results)
        print(
            f"{arm.name}: {100 * one.mean:.1f} % ({100 * one.low:.1f} to {100 * one.high:.1f}); seeds {each}; "
            f"{updates:.0f} updates, {played:,.0f} episodes, {said:,.0f} tokens said, stage 1 counted"
        )
    if first.tasks != second.tasks:
        raise RunError("the two were judged on different held-out tasks and cannot be paired.")
    seeds = min(len(first.outcomes), len(second.outcomes))
    gap = paired_difference(first.outcomes[:seeds], second.outcomes[:seeds])
    print(f"difference: {100 * gap.mean:+.1f} points ({100 * gap.low:+.1f} to {100 * gap.high:+.1f}), {seeds} seeds")


if __name__ == "__main__":
    try:
        main()
    except AstarpoError as error:
        raise SystemExit(f"published.py: {error}") from None
