"""Finished runs of `astarpo train`, taken for those that a claim would make itself.

A run is taken where it stands in a folder PRESET.SEED and has the settings that the claim asks for. Its checkpoint at
100 updates is read from PRESET.SEED.100.json beside it, which `astarpo evaluate RUN/checkpoints/000100 ENV --json`
prints.
"""

from __future__ import annotations

import json
from pathlib import Path

from astarpo.checkpoint import is_run
from astarpo.compare.arms import differences
from astarpo.compare.claims.definitions import ArmSpec, Book, run_of
from astarpo.compare.claims.records import record
from astarpo.compare.claims.work import Job, held_by_us, keep
from astarpo.errors import RunError
from astarpo.evaluate import Evaluation
from astarpo.result import Result
from astarpo.run import load_file

FREE = ("seed", "checkpoint_every", "keep_checkpoints", "evaluation.every", "evaluation.dev_tasks", "preset")
"""Settings that may differ, since no weight and no test result depends on them. The seed is checked by itself."""


def adopt(book: Book, home: Path, out: Path) -> list[str]:
    """Records in `out` for the finished runs in `home`; the words of each that was taken.

    Raises:
        RunError: `home` is no folder, or a run in it has other settings than its arm.
    """
    if not home.is_dir():
        raise RunError(f"--adopt must be a folder of runs, got {home}, which is none.")
    taken = []
    for spec in book.arms.values():
        for seed in range(spec.seeds):
            folder = home / f"{spec.preset}.{seed}"
            if spec.checkpoints and is_run(folder) and (job := _taken(spec, seed, folder, out)) is not None:
                taken.append(job.words)
    return taken


def _taken(spec: ArmSpec, seed: int, folder: Path, out: Path) -> Job | None:
    """The job whose record `folder` gave; None where its run is not finished."""
    plain = spec.plain(seed=seed, rate=1.0)
    job, wanted, result = Job("run", spec.name, seed, plain), run_of(plain), Result.read(folder)
    if result is None or result.updates < wanted.updates:
        return None
    # As it was written: an earlier version may have had settings that there are not now, lack some, or spell a choice
    # as a switch. What both can say must agree.
    there = load_file(folder / "settings.yaml")
    if there.get("seed") != seed:
        raise RunError(f"{folder} holds a run of seed {there.get('seed')}, not {seed}: rename it.")
    for setting, has, asked in differences(there, wanted.dump()):
        if setting not in FREE and _comparable(has, asked):
            raise RunError(f"{folder} holds a run with {setting} {has!r} and {spec.name} has {asked!r}: move it away.")
    beside, judged = folder.with_name(f"{folder.name}.100.json"), dict[int, Evaluation]()
    if beside.exists() and 100 in spec.checkpoints:
        try:
            found = json.loads(beside.read_text("utf-8"))
            names = Evaluation.__dataclass_fields__
            judged[100] = Evaluation.from_dict({key: value for key, value in found.items() if key in names})
        except (OSError, ValueError, TypeError) as error:
            raise RunError(f"{beside}, the checkpoint at 100, cannot be read ({error}): make it again.") from None
    with held_by_us(out, job.key) as ours:
        if ours:
            keep(out, job, record(result, checkpoints=judged, seconds=None))
    return job


def _comparable(has: object, asked: object) -> bool:
    numbers = (int, float)
    if isinstance(has, bool) or isinstance(asked, bool):
        return isinstance(has, bool) and isinstance(asked, bool)
    return type(has) is type(asked) or (isinstance(has, numbers) and isinstance(asked, numbers))
