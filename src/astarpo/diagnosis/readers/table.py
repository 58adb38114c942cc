"""CSV and TSV: one row an update, W&B's export of charts among them, decimal commas between semicolons too."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

from astarpo.diagnosis.evidence import Builder, Evidence

STEPS = ("step", "global_step", "trainer/global_step", "train/global_step", "update", "iteration", "_step", "epoch")
LONGEST = 100_000
"""Characters of the header that are looked at for what stands between cells."""
BOUNDS = ("__MIN", "__MAX")
"""W&B exports each metric three times; the bounds repeat the value where one run is shown."""


def reads(path: Path) -> bool:
    """A file called .csv or .tsv."""
    return path.is_file() and path.suffix.lower() in {".csv", ".tsv"}


def read(path: Path) -> Evidence:
    """Every column whose cells are numbers; an empty cell is absent."""
    builder = Builder(path, "CSV")
    bad = 0
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        first = file.readline(LONGEST)
        file.seek(0)
        # The commonest of them in the header: programs in a language with decimal commas put semicolons between cells.
        between = "\t" if path.suffix.lower() == ".tsv" else max(",;\t", key=first.count)
        rows = csv.reader(_without_nul(file), delimiter=between)
        header = next(rows, [])
        names = [name.strip() for name in header]
        step_at = next((names.index(n) for want in STEPS for n in names if n.lower() == want), None)
        wanted = {i: _name(name) for i, name in enumerate(names) if i != step_at and name and not name.endswith(BOUNDS)}
        commas = between == ";"
        try:
            for counted, cells in enumerate(rows, 1):
                if commas:
                    cells = [cell.replace(",", ".") for cell in cells]
                step = counted if step_at is None else _number(cells[step_at]) if step_at < len(cells) else None
                if step is None or step != step:
                    bad += bool(cells)
                    continue
                given = {name: _number(cells[i]) for i, name in wanted.items() if i < len(cells)}
                bad += len(cells) != len(names)
                builder.row(int(step), {name: value for name, value in given.items() if value is not None})
        except csv.Error as error:
            builder.notes.append(f"reading stopped at line {rows.line_num}: {error}.")
    if step_at is None and builder.rows:
        builder.notes.append("no column names a step, so rows are counted from 1.")
    if bad:
        builder.notes.append(f"{bad:,} rows have no step, or more or fewer cells than the header has names.")
    return builder.build()


def _without_nul(lines: Iterable[str]) -> Iterable[str]:
    return (line.replace("\0", "") for line in lines)


def _name(column: str) -> str:
    # "run-name - train/reward", as W&B heads the columns of an exported chart.
    return column.rpartition(" - ")[2]


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None
