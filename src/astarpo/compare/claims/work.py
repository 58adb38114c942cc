"""The queue: every run that the claims need, done by as many processes as share a folder.

    OUT/records/KEY.json   what is kept of a finished run; a run that has one is not done again
    OUT/runs/KEY/          its folder, resumed where it was interrupted
    OUT/locks/KEY          held by the process that is at it, given up by the system with the process
    OUT/failures/KEY.txt   why it failed; the next call tries again

KEY is the hash of all that determines the run, so a definition that changes makes other runs and spoils none.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
import yaml

import astarpo
from astarpo import __version__
from astarpo.checkpoint import is_run, mark_run, model_folder
from astarpo.compare import snr as snr_of
from astarpo.compare.arms import Arm
from astarpo.compare.claims.definitions import SWEEP_SEED, ArmSpec, Book, RatioSpec, run_of
from astarpo.compare.claims.records import SCHEMA, key_of, record
from astarpo.compare.jobs import lock
from astarpo.errors import AstarpoError, RunError, SettingsError
from astarpo.evaluate import Evaluation, evaluate
from astarpo.journal import write_atomically
from astarpo.policy.load import load_policy
from astarpo.progress import Watch
from astarpo.result import Result
from astarpo.run import Run, environment, merge
from astarpo.trainer import Trainer, resume, train

Kind = Literal["run", "sweep", "snr"]

PAUSE = 2.0
"""Seconds between two looks for work that another process holds up."""


@dataclass(frozen=True)
class Job:
    """One piece of work.

    Attributes:
        kind: a reported run, a run that chooses a learning rate, or a measurement of signal-to-noise.
        arm: whose it is; the name of the measurement under `snr`.
        number: seed, or draw.
        plain: all that determines it.
    """

    kind: Kind
    arm: str
    number: int
    plain: Mapping[str, Any]

    @property
    def key(self) -> str:
        """Names its files."""
        return key_of({"kind": self.kind, "number": self.number, **self.plain})

    @property
    def words(self) -> str:
        """For progress."""
        what = {"run": f"seed {self.number}", "sweep": f"rate × {self.plain.get('rate', 1):.3g}"}
        return f"{self.arm}, {what.get(self.kind, f'draw {self.number}')}"


def jobs(
    book: Book, records: Mapping[str, Mapping[str, Any]], *, seeds: int | None = None, only: Sequence[str] = ()
) -> tuple[list[Job], int]:
    """What the claims of `book` need, measurements before arms, and how many of either must wait for others.

    An arm whose learning rate is still to be chosen has its sweep alone.

    Args:
        book: claims and arms.
        records: key → record of what is done.
        seeds: at most so many of each arm; all where not given.
        only: beginnings of arms' names; all where none is given.
    """
    found, waiting, begins = list[Job](), 0, tuple(only) or ("",)
    for ratio in book.ratios.values():
        if ratio.name.startswith(begins):
            plain = _ratio_plain(book, ratio, records)
            if plain is None:
                waiting += 1
            else:
                count = ratio.draws if seeds is None else min(seeds, ratio.draws)
                found += [Job("snr", ratio.name, draw, plain) for draw in range(count)]
    for spec in book.arms.values():
        if spec.name.startswith(begins):
            found += sweep_jobs(spec)
            rate = chosen_rate(book, spec, records)
            if rate is None:
                waiting += 1
            else:
                count = spec.seeds if seeds is None else min(seeds, spec.seeds)
                found += [Job("run", spec.name, seed, spec.plain(seed=seed, rate=rate)) for seed in range(count)]
    return found, waiting


def sweep_jobs(spec: ArmSpec) -> list[Job]:
    """The runs that choose the learning rate of an arm; none where there is nothing to choose."""
    if len(spec.sweep) < 2:
        return []
    plains = [spec.plain(seed=SWEEP_SEED, rate=rate, updates=spec.sweep_updates) for rate in spec.sweep]
    return [Job("sweep", spec.name, SWEEP_SEED, plain) for plain in plains]


def chosen_rate(book: Book, spec: ArmSpec, records: Mapping[str, Mapping[str, Any]]) -> float | None:
    """The factor on its learning rate with the highest success on dev at the end of the sweep, the nearest to 1 of
    equals; None while runs of the sweep are missing."""
    if spec.rate_of:
        return chosen_rate(book, book.arms[spec.rate_of], records)
    swept = sweep_jobs(spec)
    if not swept:
        return spec.sweep[0]
    if any(job.key not in records for job in swept):
        return None
    best = max(swept, key=lambda job: (records[job.key]["curve"][-1][1], -abs(job.plain["rate"] - 1.0)))
    return float(best.plain["rate"])


def work(
    book: Book, folder: Path, *, watch: Watch | None = None, seeds: int | None = None, only: Sequence[str] = ()
) -> dict[str, str]:
    """Do what is left to do; other processes may be at the same folder.

    Args:
        book: claims and arms.
        folder: where everything goes; made where it was not there.
        watch: told of progress.
        seeds: at most so many of each arm.
        only: beginnings of arms' names; all where none is given.

    Returns:
        Words of a job → why it failed.

    Raises:
        RunError: `folder` cannot be written.
        KeyboardInterrupt: what was done is kept.
    """
    watch, failed = watch or Watch(), dict[str, str]()
    torch.set_num_threads(1)
    shown = -1
    while True:
        done = read_folder(folder)
        every, waiting = jobs(book, done, seeds=seeds, only=only)
        if shown < 0:
            watch.stage("claims", len(every) + waiting)
            shown = 0
        finished = sum(job.key in done for job in every)
        watch.advance(finished - shown)
        shown = finished
        left = [job for job in every if job.key not in done and job.words not in failed]
        held = False
        for job in left:
            with held_by_us(folder, job.key) as ours:
                if not ours:
                    held = True
                    continue
                if (folder / "records" / f"{job.key}.json").exists():
                    break
                watch.advance(0, now=job.words)
                if (why := _attempt(job, folder, book)) is not None:
                    failed[job.words] = why
                    watch.warn(f"{job.words} failed: {why}")
                break
        else:
            if not held:
                return failed
            time.sleep(PAUSE)


def share_out(
    folder: Path,
    workers: int,
    arguments: Sequence[str],
    *,
    watch: Watch,
    book: Book,
    seeds: int | None = None,
    only: Sequence[str] = (),
) -> dict[str, str]:
    """`workers` processes of `python -m astarpo claims` at one folder, until all of them are through.

    Returns:
        As `work`, read from the folder.

    Raises:
        KeyboardInterrupt: after they were told to stop.
    """
    command = [sys.executable, "-m", "astarpo", "claims", "--workers", "1", "--out", str(folder), *arguments]
    folder.mkdir(parents=True, exist_ok=True)
    running = []
    try:
        for number in range(workers):
            with (folder / f"worker-{number}.log").open("wb") as log:
                running.append(
                    subprocess.Popen(
                        command,
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=subprocess.STDOUT,
                        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "120"},
                        start_new_session=True,
                    )
                )
        every, waiting = jobs(book, read_folder(folder), seeds=seeds, only=only)
        watch.stage("claims", len(every) + waiting)
        shown = 0
        while any(one.poll() is None for one in running):
            done = read_folder(folder)
            finished = sum(job.key in done for job in jobs(book, done, seeds=seeds, only=only)[0])
            watch.advance(finished - shown)
            shown = finished
            time.sleep(PAUSE)
    finally:
        for one in running:
            if one.poll() is None:
                # Not SIGINT, which a shell may have told its background jobs to ignore.
                one.terminate()
        for one in running:
            one.wait()
    failures = sorted((folder / "failures").glob("*.txt"))
    return dict(path.read_text("utf-8").strip().split(": ", 1) for path in failures)


def read_folder(folder: Path) -> dict[str, dict[str, Any]]:
    """Key → record, for all that is finished in `folder`. Raises RunError where one is damaged."""
    found = dict[str, dict[str, Any]]()
    for path in (folder / "records").glob("*.json"):
        try:
            found[path.stem] = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise RunError(
                f"{path} cannot be read ({error}): remove it, and the same command makes it again."
            ) from None
    return found


@contextmanager
def held_by_us(folder: Path, key: str) -> Iterator[bool]:
    """Whether this process got hold of the job `key`; given up at the end.

    Raises:
        RunError: the folder cannot be written.
    """
    try:
        for name in ("records", "runs", "locks", "failures"):
            (folder / name).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot make the folder {folder}: {error.strerror}; choose another --out.") from error
    handle = lock(folder / "locks" / key)
    if handle is None:
        yield False
        return
    with handle:
        yield True


def _attempt(job: Job, folder: Path, book: Book) -> str | None:
    """Do a job and write its record; why it failed, where it did."""
    sorry = folder / "failures" / f"{job.key}.txt"
    began = time.process_time()
    try:
        found = _measured(job, folder, book) if job.kind == "snr" else _trained(job, folder, began)
    except AstarpoError as error:
        write_atomically(sorry, f"{job.words}: {error}\n".encode())
        return str(error)
    found["cpu_seconds"] = round(time.process_time() - began, 1)
    keep(folder, job, found)
    sorry.unlink(missing_ok=True)
    return None


def keep(folder: Path, job: Job, found: Mapping[str, Any]) -> None:
    """Write the record of a job."""
    head: dict[str, Any] = {"schema": SCHEMA, "version": __version__, "key": job.key, "kind": job.kind, "arm": job.arm}
    head["number"] = job.number
    if job.kind != "snr":
        head["rate"] = job.plain["rate"]
    write_atomically(folder / "records" / f"{job.key}.json", json.dumps({**head, **found}).encode())


def _trained(job: Job, folder: Path, began: float) -> dict[str, Any]:
    out = folder / "runs" / job.key
    with at_hand(str(job.plain["settings"]["environment"]["name"])):
        run = run_of(job.plain)
        if is_run(out):
            result = resume(out)
        else:
            # A kill between the first two files of a run leaves a folder that is none yet.
            shutil.rmtree(out, ignore_errors=True)
            result = unchecked(run, out) if job.plain.get("unchecked") else train(run, out)
        judged = {update: at_checkpoint(run, out, update) for update in job.plain.get("checkpoints", ())}
        if "judged_in" in job.plain:
            result = elsewhere(job.plain, result)
    return record(result, checkpoints=judged, seconds=time.process_time() - began)


def elsewhere(plain: Mapping[str, Any], result: Result) -> Result:
    """`result` with start and end judged in the environment of `judged_in`; what was judged before stays in its folder.

    A fault of the environment that was trained in would else be a fault of the judgement as well.
    """
    settings = merge(plain["settings"], {"environment": plain["judged_in"]})
    run = run_of({**plain, "settings": settings})
    found = []
    for weights in (run.policy.model, str(model_folder(result.folder))):
        player = load_policy(run.policy.model_copy(update={"model": weights}), run.environment.name)
        found.append(evaluate(player, environment(run), settings=run.evaluation, rollout=run.rollout))
    return replace(result, before=found[0], after=found[1])


def unchecked(run: Run, out: Path) -> Result:
    """What `train` does without the check before it, which an environment that is faulty on purpose would fail."""
    out.mkdir(parents=True)
    write_atomically(out / "settings.yaml", yaml.safe_dump(run.dump(), sort_keys=False).encode())
    mark_run(out)
    with closing(Trainer(run, out, Watch())) as trainer:
        return trainer.start()


def at_checkpoint(run: Run, out: Path, update: int) -> Evaluation:
    """The weights after `update` updates on the held-out tasks of `run`. Raises RunError where they were not kept."""
    weights = out / "checkpoints" / f"{update:06d}"
    if not weights.is_dir():
        raise RunError(f"{out} has no checkpoint of update {update}: remove it, and the same command runs it again.")
    player = load_policy(run.policy.model_copy(update={"model": str(weights)}), run.environment.name)
    return evaluate(player, environment(run), settings=run.evaluation, rollout=run.rollout)


def _measured(job: Job, folder: Path, book: Book) -> dict[str, Any]:
    ratio = book.ratios[job.arm]
    arms = [Arm(name, run_of(plain), "") for name, plain in job.plain["arms"].items()]
    weights = None if not ratio.at else model_folder(folder / "runs" / job.plain["at"])
    found = snr_of.measure(
        arms, weights=weights, tasks=ratio.tasks, attempts=ratio.attempts, parts=ratio.parts, draw=job.number
    )
    return {"ratios": {name: None if one is None else one.as_dict() for name, one in found.items()}}


def _ratio_plain(book: Book, ratio: RatioSpec, records: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
    """What determines a measurement; None while the policy that plays is still to be trained."""
    # Of an arm only the loss counts here, so no rate is waited for.
    arms = {name: book_arm(book, name).plain(seed=0, rate=1.0) for name in ratio.arms}
    plain: dict[str, Any] = {"arms": arms, "tasks": ratio.tasks, "attempts": ratio.attempts, "parts": ratio.parts}
    if ratio.at:
        spec = book_arm(book, ratio.at)
        rate = chosen_rate(book, spec, records)
        if rate is None:
            return None
        key = Job("run", spec.name, 0, spec.plain(seed=0, rate=rate)).key
        if key not in records:
            return None
        plain["at"] = key
    return plain


def book_arm(book: Book, name: str) -> ArmSpec:
    """An arm, of the whole book where `book` is a part of it without that arm."""
    from astarpo.compare.claims.definitions import book as whole

    return book.arms[name] if name in book.arms else whole().arms[name]


@contextmanager
def at_hand(name: str) -> Iterator[None]:
    """Environments of the examples that claims train on, `failed_shop.FailedShop` for one, can be imported inside.

    Raises:
        SettingsError: the examples are not there, as in an installed package.
    """
    module = name.partition(".")[0]
    if "." not in name or find_spec(module) is not None:
        yield
        return
    roots = (Path(astarpo.__file__).resolve().parents[2], Path.cwd())
    places = [path.parent for root in roots for path in (root / "examples").glob(f"*/{module}.py")]
    if not places:
        raise SettingsError(
            f"{name} is one of the examples, which are not where astarpo is nor in the current folder: call this from "
            "a checkout of the repository."
        )
    sys.path.insert(0, str(places[0]))
    try:
        yield
    finally:
        sys.path.remove(str(places[0]))
