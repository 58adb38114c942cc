"""W&B's offline folders: the .wandb file, a log of protocol-buffer records, read without the wandb package.

The file begins with seven bytes of its own; after them it is a log of 32 KiB blocks (LevelDB's log format). A fragment
is a checksum (4 bytes), a length (2), a kind (1: whole, 2: first, 3: middle, 4: last) and its bytes. A record is a
wandb_internal.Record, of which the history, field 2, is what was logged.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from astarpo.diagnosis.evidence import Builder, Evidence
from astarpo.diagnosis.readers import json_log
from astarpo.errors import DataError

MARK = b":W&B"
OPENING, BLOCK, HEAD = 7, 32768, 7
WHOLE, FIRST, MIDDLE, LAST = 1, 2, 3, 4

HISTORY = 2
"""Field of a Record."""
ITEM, STEP = 1, 2
"""Fields of a HistoryRecord."""
KEY, NESTED_KEY, INTEGER, NUMBER, VALUE_JSON = 1, 2, 5, 6, 16
"""Fields of a HistoryItem; numbers stand in one of the last three."""

Fields = list[tuple[int, int | bytes]]


def reads(path: Path) -> bool:
    """A .wandb file, or the folder of a run that holds one."""
    return _file(path) is not None


def read(path: Path) -> Evidence:
    """The history.

    Raises:
        DataError: the file does not begin as W&B's files do.
    """
    file = _file(path)
    assert file is not None
    builder = Builder(path, "W&B offline run")
    with file.open("rb") as opened:
        if opened.read(OPENING)[: len(MARK)] != MARK:
            raise DataError(f"{file} does not begin as W&B's offline files do: export the run's history as CSV.")
        json_log.fill(builder, _history(opened, file.name, builder))
    return builder.build()


def _history(opened: BinaryIO, name: str, builder: Builder) -> Iterator[dict[str, Any]]:
    try:
        for record in _records(opened):
            for field, inside in _fields(record):
                if field == HISTORY and isinstance(inside, bytes):
                    yield _row(inside)
    except (ValueError, struct.error):
        builder.notes.append(f"{name} is cut short or damaged: what came before was read.")


def _records(opened: BinaryIO) -> Iterator[bytes]:
    """Every record, put together from its fragments. Raises ValueError where the file ends inside one."""
    parts: list[bytes] = []
    place = OPENING
    while True:
        left = BLOCK - place % BLOCK
        if left < HEAD:
            opened.read(left)
            place += left
            continue
        head = opened.read(HEAD)
        if not head:
            if parts:
                raise ValueError("the file ends inside a record")
            return
        _, length, kind = struct.unpack("<IHB", head)
        body = opened.read(length)
        place += HEAD + length
        if len(body) != length or kind not in (WHOLE, FIRST, MIDDLE, LAST):
            raise ValueError("a fragment is cut or of no known kind")
        parts = [body] if kind in (WHOLE, FIRST) else [*parts, body]
        if kind in (WHOLE, LAST):
            yield b"".join(parts)
            parts = []


def _row(history: bytes) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for field, inside in _fields(history):
        if field == STEP and isinstance(inside, bytes):
            row["_step"] = next((number for n, number in _fields(inside) if n == 1), 0)
        if field != ITEM or not isinstance(inside, bytes):
            continue
        names: list[str] = []
        value: Any = None
        for n, part in _fields(inside):
            if n in (KEY, NESTED_KEY) and isinstance(part, bytes):
                names.append(part.decode("utf-8", "replace"))
            elif n == INTEGER and isinstance(part, int):
                value = part - (1 << 64) if part >> 63 else part
            elif n == NUMBER and isinstance(part, bytes):
                value = struct.unpack("<d", part)[0]
            elif n == VALUE_JSON and isinstance(part, bytes):
                value = _number(json.loads(part))
        name = "/".join(one for one in names if one)
        # Names that begin so are W&B's own: its clock and its counter.
        if value is not None and not name.startswith("_"):
            row[name] = value
    return row


def _number(value: Any) -> Any:
    # JSON has no NaN, so W&B writes it as text.
    words = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}
    return words.get(value, value) if isinstance(value, str) else value


def _fields(message: bytes) -> Fields:
    """Numbers and contents of a message's fields: whole numbers as they are, everything else as bytes."""
    found: Fields = []
    place = 0
    while place < len(message):
        tag, place = _varint(message, place)
        kind = tag & 7
        if kind == 0:
            number, place = _varint(message, place)
            found.append((tag >> 3, number))
            continue
        if kind == 2:
            length, place = _varint(message, place)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise ValueError("no field of protocol buffers begins so")
        if place + length > len(message):
            raise ValueError("a field is longer than its message")
        found.append((tag >> 3, message[place : place + length]))
        place += length
    return found


def _varint(message: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while place < len(message) and shift < 64:
        byte = message[place]
        value |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return value, place
    raise ValueError("a number is cut")


def _file(path: Path) -> Path | None:
    if path.is_file():
        return path if path.suffix == ".wandb" else None
    return next(iter(sorted(path.glob("*.wandb"))), None) or next(iter(sorted(path.glob("latest-run/*.wandb"))), None)
