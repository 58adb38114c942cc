"""JSON and JSON lines: verl's and RAGEN's `{"step": n, "data": {...}}`, a W&B history, our metrics.jsonl, any rows."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from astarpo.diagnosis.evidence import Builder, Evidence, HeldOut
from astarpo.errors import DataError

STEPS = ("step", "global_step", "train/global_step", "training/global_step", "update", "iteration", "_step")
"""What names the update. W&B's own `_step` counts calls of its logger, an evaluation's among them, so it comes last."""
NO_METRICS = frozenset({*STEPS, "epoch"})
NESTED = ("data", "metrics", "logs")
"""Where a row keeps its metrics if not at its top."""
DEEPEST = 4
"""Levels of objects within a row that are read: `{"train": {"reward": {"mean": 0.4}}}` is train/reward/mean."""
BEGINS = re.compile(rb"(?:\xef\xbb\xbf)?\s*(?:\{\s*(?:[\"}]|$)|\[\s*(?:[\[{\"\]]|$))")
"""How JSON of rows begins. `[ 25/100]` and `{'loss': ...` are printed by people and by Python."""


def reads(path: Path) -> bool:
    """A file that begins with a bracket, whatever it is called."""
    if not path.is_file() or path.suffix == ".gz":
        return False
    with path.open("rb") as file:
        return BEGINS.match(file.read(64)) is not None and path.suffix != ".log"


def read(path: Path) -> Evidence:
    """Rows of metrics, as a list, as lines, or by name as pandas and W&B export them.

    Raises:
        DataError: it is JSON and holds no rows.
    """
    builder = Builder(path, "JSON lines" if path.suffix == ".jsonl" else "JSON")
    fill(builder, rows_of(path, builder))
    return builder.build()


def fill(builder: Builder, rows: Iterable[Mapping[str, Any]]) -> None:
    """Put `rows` into `builder`; rows without a step count from 1."""
    counted = 0
    for row in rows:
        counted += 1
        inside = next((row[name] for name in NESTED if isinstance(row.get(name), dict)), row)
        step = next((row[name] for name in STEPS if _whole(row.get(name))), None)
        if step is None:
            step = next((inside[name] for name in STEPS if _whole(inside.get(name))), counted)
        step = int(step)
        if isinstance(inside.get("evaluation"), dict):
            seen = held_out(step, inside["evaluation"])
            if seen is not None:
                builder.held_out.append(seen)
            continue
        if any(isinstance(value, dict) for value in inside.values()):
            inside = dict(_flat(inside))
        builder.row(step, inside, but=NO_METRICS)


def _flat(row: Mapping[str, Any], above: str = "", depth: int = 1) -> Iterator[tuple[str, Any]]:
    for name, value in row.items():
        if not isinstance(value, dict):
            yield f"{above}{name}", value
        elif depth < DEEPEST:
            yield from _flat(value, f"{above}{name}/", depth + 1)


def held_out(step: int, plain: Mapping[str, Any]) -> HeldOut | None:
    """An evaluation as our journal holds it; None where it holds no share of successes."""
    success, n, score = (plain.get(name) for name in ("success", "n", "score"))
    if not isinstance(success, int | float):
        return None
    return HeldOut(
        step,
        float(success),
        int(n) if isinstance(n, int | float) else None,
        float(score) if isinstance(score, int | float) else None,
        str(plain.get("split", "eval")),
    )


def rows_of(path: Path, builder: Builder) -> Iterator[Mapping[str, Any]]:
    """The rows of a JSON document or of JSON lines; damaged lines are counted in the notes."""
    with path.open(encoding="utf-8-sig", errors="replace") as lines:
        bad = first = good = 0
        for number, line in enumerate(lines, 1):
            stripped = line.strip()
            if not stripped:
                continue
            row = _row(stripped)
            if row is None:
                bad += 1
                first = first or number
                if not good and bad > 3:
                    break
                continue
            good += 1
            yield row
    if good or not bad:
        if bad:
            some = "a line that is" if bad == 1 else f"{bad:,} lines that are"
            builder.notes.append(f"{some} no JSON object, the first of them line {first}, left out.")
        return
    yield from _document(path, builder)


def _row(line: str) -> Mapping[str, Any] | None:
    try:
        read = json.loads(line.rstrip(","))
    except (ValueError, RecursionError):
        return None
    # A document on one line that holds rows, or columns, is not itself a row.
    if not isinstance(read, dict) or any(_is_rows(value) for value in read.values()):
        return None
    inside = next((read[name] for name in NESTED if isinstance(read.get(name), dict)), read)
    return read if any(isinstance(value, (int, float, str)) for value in inside.values()) else None


def _document(path: Path, builder: Builder) -> Iterator[Mapping[str, Any]]:
    text = path.read_text("utf-8-sig", errors="replace")
    try:
        read = json.loads(text)
    except (ValueError, RecursionError):
        salvaged = list(objects(text))
        if not salvaged:
            raise DataError(f"{path} is damaged JSON and no row of metrics could be saved from it.") from None
        builder.notes.append(f"the file is damaged or cut short: {len(salvaged)} complete rows were read.")
        yield from salvaged
        return
    if _is_rows(read):
        yield from read
        return
    if isinstance(read, Mapping):
        rows = next((value for value in read.values() if _is_rows(value)), None)
        if rows is not None:
            yield from rows
            return
        if read and all(isinstance(value, Mapping) for value in read.values()):
            # pandas' to_json: column → index → value.
            index = dict.fromkeys(key for column in read.values() for key in column)
            yield from ({name: column.get(key) for name, column in read.items()} for key in index)
            return
        if read and all(isinstance(value, list) for value in read.values()):
            longest = max(len(value) for value in read.values())
            yield from ({n: v[i] for n, v in read.items() if i < len(v)} for i in range(longest))
            return
        yield read
        return
    raise DataError(f"{path} is JSON without rows of metrics: it should hold objects with a step and numbers.")


def objects(text: str) -> Iterator[Mapping[str, Any]]:
    """The complete objects without nested rows that can be read from damaged JSON, in order."""
    decoder, place = json.JSONDecoder(), 0
    while (place := text.find("{", place)) >= 0:
        try:
            read, place = decoder.raw_decode(text, place)
        except (ValueError, RecursionError):
            place += 1
            continue
        if any(isinstance(value, int | float) for value in read.values()):
            yield read


def _is_rows(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, Mapping) for row in value[:20])


def _whole(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value and abs(value) < 1e15
