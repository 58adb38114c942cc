"""One run, as the few numbers that claims read: small enough to commit, enough to take every interval again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from astarpo.errors import RunError
from astarpo.evaluate import Evaluation
from astarpo.journal import read_metrics, read_outcomes
from astarpo.result import Result

SCHEMA = "astarpo-claims/1"

METRICS = (
    *("entropy", "kl", "kl/reference", "grad_norm", "signal/skipped", "signal/zero_std_frac", "weights/failure_share"),
    *("train/success", "reward/mean", "advantage/mean", "v_star/mean", "turns", "invalid", "mismatch/mean"),
    *("mismatch/max", "importance/mean", "ended/bought", "ended/turn_limit", "ended/token_limit", "curriculum/level"),
)
"""What is kept of the journal, by tenths of the run: means, and the largest of a name that ends in /max."""

BINS = 10


def key_of(plain: Mapping[str, Any]) -> str:
    """Twelve hex digits that differ where anything that determines a run does."""
    whole = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(whole.encode()).hexdigest()[:12]


def record(
    result: Result, *, checkpoints: Mapping[int, Evaluation] | None = None, seconds: float | None
) -> dict[str, Any]:
    """JSON values of a finished run.

    Args:
        result: of the run; its folder is read.
        checkpoints: update → evaluation on test of the weights after it.
        seconds: CPU time of the run; None where it was not taken.

    Raises:
        RunError: files of the run are damaged.
    """
    before, after = _outcomes(result, "before"), _outcomes(result, "after")
    return {
        "environment": result.environment,
        "updates": result.updates,
        "cpu_seconds": None if seconds is None else round(seconds, 1),
        "episodes": None if result.used is None else result.used.episodes,
        "tasks": tasks_digest(after),
        "before": _judged(result.before, before),
        "after": _judged(result.after, after),
        "checkpoints": {str(update): _judged(found, found.outcomes) for update, found in (checkpoints or {}).items()},
        "curve": [
            [line["update"], round(line["evaluation"]["success"], 4)]
            for line in read_metrics(result.folder)
            if "evaluation" in line
        ],
        "metrics": journal(result.folder),
        "warnings": list(result.warnings),
    }


def journal(folder: Path) -> dict[str, list[float]]:
    """`METRICS` of a run by tenths, and `gradient/share`: of its updates, those with any gradient."""
    lines = [line for line in read_metrics(folder) if "evaluation" not in line]
    found = dict[str, list[float]]()
    if not lines:
        return found
    parts = [part for part in np.array_split(np.arange(len(lines)), min(BINS, len(lines))) if len(part)]
    for name in METRICS:
        if any(name in line for line in lines):
            pick = max if name.endswith("/max") else _mean
            values = [[float(lines[int(i)][name]) for i in part if name in lines[int(i)]] for part in parts]
            found[name] = [float(f"{pick(one):.5g}") for one in values if one]
    moved = [float(line.get("grad_norm", 0.0) > 0) for line in lines]
    found["gradient/share"] = [float(f"{_mean([moved[int(i)] for i in part]):.5g}") for part in parts]
    return found


def tasks_digest(outcomes: Mapping[str, Any]) -> str:
    """Tells whether two runs were judged on the same tasks; empty where single outcomes were not kept."""
    return hashlib.sha256("\n".join(sorted(outcomes)).encode()).hexdigest()[:12] if outcomes else ""


def packed(outcomes: Mapping[str, tuple[bool, float]]) -> str:
    """Success of each task, tasks in sorted order, as hexadecimal digits.

    >>> unpacked(packed({"b": (True, 1.0), "a": (False, 0.0), "c": (True, 1.0)}), 3).tolist()
    [0.0, 1.0, 1.0]
    """
    bits = "".join(str(int(outcomes[task][0])) for task in sorted(outcomes))
    return f"{int(bits, 2):x}" if bits else ""


def unpacked(digits: str, tasks: int) -> NDArray[np.float64]:
    """What `packed` was given, [tasks] of 0 and 1."""
    bits = f"{int(digits, 16):0{tasks}b}"
    return np.array([float(bit) for bit in bits])


def read_records(path: Path) -> list[dict[str, Any]]:
    """Records of a data file, one a line. Raises RunError where it cannot be read."""
    try:
        return [json.loads(line) for line in path.read_text("utf-8").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise RunError(
            f"{path}, the data of the claims, cannot be read ({error}): `astarpo claims` makes it."
        ) from None


def write_line(one: Mapping[str, Any]) -> str:
    """A record as one line of a data file."""
    return json.dumps(one, sort_keys=True, separators=(",", ":"), ensure_ascii=False) + "\n"


def _outcomes(result: Result, when: Literal["before", "after"]) -> Mapping[str, tuple[bool, float]]:
    """Task by task; empty for a run of an earlier version, which kept none. A result that was read has them on disk."""
    found = result.before.outcomes if when == "before" else result.after.outcomes
    kept = (result.folder / "outcomes" / f"{when}.json").exists()
    return read_outcomes(result.folder, when) if not found and kept else found


def _judged(found: Evaluation, outcomes: Mapping[str, tuple[bool, float]]) -> dict[str, Any]:
    plain: dict[str, Any] = {"success": round(found.success, 6), "score": round(found.score, 5), "n": found.n}
    if outcomes:
        plain["outcomes"] = packed(outcomes)
    if found.sampled is not None:
        plain["pass_at"] = {str(k): round(value, 5) for k, value in found.sampled.pass_at.items()}
    plain["turns"] = round(found.turns, 3)
    return plain


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
