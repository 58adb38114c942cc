"""What a run leaves behind while it goes: metrics and episodes. Whatever is there was written whole.

settings.yaml            every setting of the run
metrics.jsonl            one line an update; evaluations on dev are lines of their own
episodes/000012.jsonl.gz the episodes of update 12, one a line, under a versioned schema
checkpoints/000012/      weights, optimiser, curriculum, algorithm and value table after 12 updates
values.sqlite            stage 1
outcomes/before.json     success and score of every held-out task, played greedily; after.json the same at the end
unreachable.json         tasks that were left out of training
notes.txt                warnings and remarks, as they were shown
sinks.json               what services that metrics also go to call the run, where some do
result.json, curve.png   once the run is finished
"""

from __future__ import annotations

import gzip
import json
import os
import secrets
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from astarpo.errors import EnvironmentContractError, RunError
from astarpo.types import Ended, Episode, Reply, Step, Turn

RUN_VERSION = 1
"""Version of the run folder's layout; a folder of another version is refused."""

EPISODE_SCHEMA = "astarpo-episode/1"


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` so that `path` is either as it was or complete, whatever happens in between.

    Raises:
        RunError: the disk is full or the folder cannot be written.
    """
    # Temporary files of the system are for their owner alone, and a run may be shared: this one has the usual rights.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    try:
        try:
            with temporary.open("xb") as file:
                file.write(data)
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise RunError(_disk(path, error)) from error


def append(path: Path, text: str) -> None:
    """Add `text` to `path` and hand it to the system at once. Raises RunError where that fails."""
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise RunError(_disk(path, error)) from error


class Journal:
    """Writes the metrics, episodes and notes of one run folder; `sinks` are told each line of metrics too."""

    def __init__(self, folder: Path, sinks: Callable[[Mapping[str, Any]], None] | None = None) -> None:
        self.folder, self._sinks = folder, sinks
        (folder / "episodes").mkdir(parents=True, exist_ok=True)

    def metrics(self, line: Mapping[str, Any]) -> None:
        """Add one line to metrics.jsonl."""
        append(self.folder / "metrics.jsonl", json.dumps(line) + "\n")
        if self._sinks is not None:
            self._sinks(line)

    def episodes(self, update: int, episodes: Sequence[Episode]) -> None:
        """Store the episodes of `update` (counted from 1)."""
        try:
            lines = "".join(json.dumps(episode_line(episode), separators=(",", ":")) + "\n" for episode in episodes)
        except (TypeError, ValueError) as error:
            raise EnvironmentContractError(
                f"the episodes of update {update} cannot be stored: {error}; Step.info must hold JSON values only."
            ) from error
        # mtime 0: the same episodes are the same bytes.
        packed = gzip.compress(lines.encode(), compresslevel=1, mtime=0)
        write_atomically(self.folder / "episodes" / f"{update:06d}.jsonl.gz", packed)

    def outcomes(self, when: Literal["before", "after"], outcomes: Mapping[str, tuple[bool, float]]) -> None:
        """Keep what the greedy policy did on each held-out task: task id to success and score."""
        (self.folder / "outcomes").mkdir(exist_ok=True)
        write_atomically(self.folder / "outcomes" / f"{when}.json", json.dumps(outcomes).encode())

    def note(self, text: str) -> None:
        """Add a remark to notes.txt."""
        append(self.folder / "notes.txt", text.rstrip() + "\n")

    def rewind(self, update: int) -> None:
        """Forget everything after `update`: what a resumed run is about to do again."""
        path = self.folder / "metrics.jsonl"
        kept = [line for line in read_metrics(self.folder) if int(line["update"]) <= update]
        write_atomically(path, "".join(json.dumps(line) + "\n" for line in kept).encode())
        for stored in (self.folder / "episodes").glob("*.jsonl.gz"):
            if int(stored.name.split(".")[0]) > update:
                stored.unlink()


def read_outcomes(folder: Path, when: Literal["before", "after"]) -> dict[str, tuple[bool, float]]:
    """Task id → (success, score) of the greedy evaluation before or after. Raises RunError where it cannot be read."""
    path = folder / "outcomes" / f"{when}.json"
    try:
        plain = json.loads(path.read_text("utf-8"))
        return {task: (bool(success), float(score)) for task, (success, score) in plain.items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise RunError(f"{path}, what was done on each held-out task, cannot be read ({error}).") from None


def metric_lines(folder: Path) -> Iterator[dict[str, Any] | None]:
    """The lines of metrics.jsonl from the first on; None for one that is not the line of an update.

    Raises:
        RunError: the file is there and cannot be read.
    """
    path = folder / "metrics.jsonl"
    try:
        lines = path.read_bytes().splitlines() if path.exists() else []
    except OSError as error:
        raise RunError(f"{path} cannot be read ({error.strerror}): it must be a file that you may read.") from error
    for line in lines:
        try:
            read = json.loads(line)
            yield {"update": int(read["update"]), **read}
        # A number of 400 digits overflows, and brackets may be nested deeper than Python goes.
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
            yield None


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl. A last line cut short by a kill is left out.

    Raises:
        RunError: a line other than the last is damaged, or the file cannot be read.
    """
    lines = list(metric_lines(folder))
    if lines and lines[-1] is None:
        del lines[-1]
    for number, line in enumerate(lines, start=1):
        if line is None:
            raise RunError(
                f"{folder / 'metrics.jsonl'} line {number} is not the line of an update: the file was damaged after it "
                "was written; mend or remove that line."
            )
    return [line for line in lines if line is not None]


def episode_line(episode: Episode) -> dict[str, Any]:
    """One episode as JSON values, with the schema's name."""
    return {
        "schema": EPISODE_SCHEMA,
        "task": episode.task,
        "attempt": episode.attempt,
        "ended": str(episode.ended),
        "success": episode.success,
        "score": episode.score,
        "reward": episode.reward,
        "temperature": episode.temperature,
        "policy_version": episode.policy_version,
        "level": episode.level,
        "turns": [
            {
                "observation": turn.observation,
                "observation_ids": list(turn.observation_ids),
                "reply": turn.reply.text,
                "reply_ids": list(turn.reply.ids),
                "log_probs": list(turn.reply.log_probs),
                "complete": turn.reply.complete,
                "reward": turn.reward,
                "step": {**asdict(turn.step), "info": dict(turn.step.info)},
                **({} if turn.context is None else {"context": list(turn.context)}),
            }
            for turn in episode.turns
        ],
    }


def read_episodes(path: Path) -> list[Episode]:
    """The episodes of one stored file.

    Raises:
        RunError: the file is damaged or of another schema.
    """
    try:
        lines = gzip.decompress(path.read_bytes()).decode().splitlines()
        return [_episode(json.loads(line), path) for line in lines]
    except (OSError, EOFError, zlib.error, KeyError, TypeError, ValueError) as error:
        raise RunError(f"{path} does not hold readable episodes ({type(error).__name__}: {error}).") from error


def _episode(line: Mapping[str, Any], path: Path) -> Episode:
    if line.get("schema") != EPISODE_SCHEMA:
        raise RunError(
            f"{path} holds episodes of schema {line.get('schema')!r}; this version reads {EPISODE_SCHEMA!r}."
        )
    turns = []
    for turn in line["turns"]:
        step = dict(turn["step"])
        step["ended"] = Ended(step["ended"]) if step["ended"] else None
        said = Reply(tuple(turn["reply_ids"]), tuple(turn["log_probs"]), turn["reply"], turn["complete"])
        context = tuple(turn["context"]) if "context" in turn else None
        seen = tuple(turn["observation_ids"])
        turns.append(Turn(turn["observation"], seen, said, Step(**step), turn["reward"], context))
    return Episode(
        task=line["task"],
        attempt=line["attempt"],
        turns=tuple(turns),
        ended=Ended(line["ended"]),
        success=line["success"],
        score=line["score"],
        temperature=line["temperature"],
        policy_version=line["policy_version"],
        level=line["level"],
    )


def _disk(path: Path, error: OSError) -> str:
    return f"cannot write {path}: {error.strerror or error}; make room or choose another --out, then resume."
