"""Runs side by side, each a process of `python -m astarpo train`: finished ones are kept, interrupted ones resumed.

A run that a killed comparison left behind may still be training. Every process holds a lock on a file beside its run,
which the system gives up with the process: whoever comes next waits for it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import yaml

from astarpo.budget import Used
from astarpo.checkpoint import is_run
from astarpo.compare.arms import differences
from astarpo.compare.design import Job
from astarpo.errors import RunError
from astarpo.journal import read_metrics, write_atomically
from astarpo.progress import Watch
from astarpo.result import Result
from astarpo.trainer import load_run

POLL, LOOK = 0.1, 2.0
"""Seconds between two looks at the processes, and at how far they are."""

PATIENCE = 15.0
"""Seconds that a process has to stop by itself."""


def cores() -> list[int]:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Holds `folder` against a second comparison. Raises RunError where there is one."""
    handle = lock(folder / ".lock")
    if handle is None:
        raise RunError(f"another comparison is at work in {folder}: wait for it, or choose another --out.")
    with handle:
        yield


def finished(folder: Path) -> Result | None:
    """The result of the run in `folder`; None where there is none yet."""
    return Result.read(folder)


@dataclass
class _Running:
    """A process at work."""

    job: Job
    core: int
    process: subprocess.Popen[bytes]
    log: Path


@dataclass
class _Todo:
    """What is to be done and what came of it."""

    waiting: list[Job]
    running: list[_Running] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    done: set[str] = field(default_factory=set)
    held: set[str] = field(default_factory=set)
    """Runs that a process of an earlier comparison still trains."""


def run_all(jobs: Sequence[Job], folder: Path, *, at_once: int, watch: Watch, stage: str) -> dict[str, str]:
    """Finish every run of `jobs` below `folder`; a failed one does not stop the others.

    Args:
        jobs: runs with a budget.
        folder: of the comparison.
        at_once: processes side by side, each on a core of its own as far as there are cores.
        watch: told of progress, in units of the budget.
        stage: what it is called.

    Returns:
        Name of the run → one sentence, for each that failed.

    Raises:
        KeyboardInterrupt: after every process was stopped; what they did is kept.
    """
    todo = _Todo([])
    for job in jobs:
        if (why := _another(job, folder)) is not None:
            todo.failed[job.name] = why
            watch.warn(f"{job.name} failed: {why}")
        elif finished(folder / job.name) is None:
            todo.waiting.append(job)
        else:
            todo.done.add(job.name)
    places = cores()
    watch.stage(f"{stage}, {jobs[0].run.budget.kind if jobs else ''}", round(sum(job.run.budget.most for job in jobs)))
    shown, looked = 0, -LOOK
    try:
        while todo.waiting or todo.running:
            _collect(todo, folder, watch)
            _begin(todo, folder, at_once, places, watch)
            if time.monotonic() - looked >= LOOK or not (todo.waiting or todo.running):
                looked = time.monotonic()
                used = round(sum(_used(job, folder, todo) for job in jobs))
                names = ", ".join(one.job.name.partition("/")[2] for one in todo.running)
                watch.advance(used - shown, runs=f"{len(todo.done)} of {len(jobs)}", now=names)
                shown = used
            time.sleep(POLL)
        watch.advance(round(sum(job.run.budget.most for job in jobs)) - shown, runs=f"{len(todo.done)} of {len(jobs)}")
    finally:
        _stop(todo.running)
    return todo.failed


def _begin(todo: _Todo, folder: Path, at_once: int, places: Sequence[int], watch: Watch) -> None:
    """Start waiting runs while there is room."""
    for job in list(todo.waiting):
        if len(todo.running) >= at_once:
            return
        target = folder / job.name
        target.parent.mkdir(parents=True, exist_ok=True)
        handle = lock(target.with_name(f".{target.name}.lock"))
        if handle is None:
            if job.name not in todo.held:
                todo.held.add(job.name)
                watch.note(f"{job.name} is still being trained by a process that an earlier comparison left: waiting.")
            continue
        todo.waiting.remove(job)
        with handle:
            if finished(target) is not None:
                todo.done.add(job.name)
                continue
            taken = {one.core for one in todo.running}
            core = next((place for place in places if place not in taken), places[len(todo.running) % len(places)])
            todo.running.append(_start(job, folder, core, handle))


def _another(job: Job, folder: Path) -> str | None:
    """A sentence where the folder of `job` holds a run with other settings, else None."""
    target = folder / job.name
    if not is_run(target):
        return None
    for setting, there, wanted in differences(load_run(target).dump(), job.run.dump()):
        return f"its folder holds a run with {setting} {there!r} instead of {wanted!r}: move {target} away."
    return None


def _start(job: Job, folder: Path, core: int, lock: IO[bytes]) -> _Running:
    target = folder / job.name
    if is_run(target):
        arguments = ["--resume", str(target)]
    else:
        # A kill between the first two files of a run leaves a folder that is none yet.
        shutil.rmtree(target, ignore_errors=True)
        settings = target.with_name(f"{target.name}.yaml")
        write_atomically(settings, yaml.safe_dump(job.run.dump(), sort_keys=False).encode())
        arguments = [job.run.environment.name, "--settings", str(settings), "--out", str(target)]
    log = target.with_name(f"{target.name}.log")
    with log.open("wb") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "astarpo", "train", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "120"},
            # Ctrl-C goes to the comparison, which passes it on.
            start_new_session=True,
            pass_fds=(lock.fileno(),),
        )
    if hasattr(os, "sched_setaffinity"):
        # It may have ended already.
        with suppress(OSError):
            os.sched_setaffinity(process.pid, {core})
    return _Running(job, core, process, log)


def _collect(todo: _Todo, folder: Path, watch: Watch) -> None:
    """Take note of processes that ended."""
    for one in list(todo.running):
        code = one.process.poll()
        if code is None:
            continue
        todo.running.remove(one)
        if code == 0 and finished(folder / one.job.name) is not None:
            todo.done.add(one.job.name)
            continue
        why = _sentence(one.log, code)
        todo.failed[one.job.name] = why
        watch.warn(f"{one.job.name} failed: {why}")


def _sentence(log: Path, code: int) -> str:
    """Why a process failed, in its own words where it had any."""
    lines = [line for line in log.read_text("utf-8", "replace").splitlines() if line.strip()]
    said = [number for number, line in enumerate(lines) if line.startswith("astarpo: ")]
    if code == 2 and said:
        return " ".join([lines[said[-1]].removeprefix("astarpo: "), *lines[said[-1] + 1 :]])
    if code < 0:
        return f"its process was ended by {signal.Signals(-code).name}; the same command goes on with it."
    last = lines[-1] if lines else "it said nothing"
    return f"its process ended with code {code}: {last} (all of it is in {log})."


def _stop(running: Sequence[_Running]) -> None:
    """Interrupt every process and wait; what does not stop is killed, which a run survives."""
    for one in running:
        if one.process.poll() is None:
            one.process.send_signal(signal.SIGINT)
    deadline = time.monotonic() + PATIENCE
    for one in running:
        try:
            one.process.wait(max(deadline - time.monotonic(), 0.1))
        except subprocess.TimeoutExpired:
            one.process.kill()
            one.process.wait()


def _used(job: Job, folder: Path, todo: _Todo) -> float:
    """How much of its budget a run has used, as far as its journal says."""
    if job.name in todo.done or job.name in todo.failed:
        return job.run.budget.most
    return min(used_by(folder / job.name).get(job.run.budget.kind or "", 0.0), job.run.budget.most)


def used_by(folder: Path) -> Mapping[str, float]:
    """Episodes, tokens and seconds that the run in `folder` has used after its last update."""
    lines = [line for line in read_metrics(folder) if "evaluation" not in line]
    used = Used.from_metrics(lines[-1]) if lines else None
    used = used or Used()
    return {"episodes": used.episodes, "tokens": used.tokens, "seconds": used.seconds}


def lock(path: Path) -> IO[bytes] | None:
    """An open file that holds the lock `path`; None where another process holds it."""
    handle = path.open("wb")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        handle.close()
        return None
    return handle
