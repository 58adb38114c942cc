"""What a finished run says of itself: success before and after, where its time went, how much memory it took."""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from astarpo.budget import Used
from astarpo.evaluate import Evaluation

STATUS = Path("/proc/self/status")
"""What Linux says of this process."""


@dataclass(frozen=True)
class Result:
    """A finished run, as result.json holds it.

    Attributes:
        folder: the run.
        environment, algorithm: names.
        updates: optimiser updates done in all.
        seconds: training, stage 1 included, evaluations on test left out.
        before, after: the untrained and the trained policy on the same held-out tasks.
        times: seconds by what they were spent on.
        peak_memory: largest resident size of the process, bytes.
        warnings: what must be known to read the figures, for example that V* and training used different rewards.
        used: what counts against a budget, stage 1 included; None in a run from before it was kept.
    """

    folder: Path
    environment: str
    algorithm: str
    updates: int
    seconds: float
    before: Evaluation
    after: Evaluation
    times: Mapping[str, float] = field(default_factory=dict)
    peak_memory: int = 0
    warnings: tuple[str, ...] = ()
    used: Used | None = None

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "folder": str(self.folder),
            "environment": self.environment,
            "algorithm": self.algorithm,
            "updates": self.updates,
            "seconds": round(self.seconds, 3),
            "before": self.before.as_dict(),
            "after": self.after.as_dict(),
            "times": {name: round(seconds, 3) for name, seconds in self.times.items()},
            "peak_memory": self.peak_memory,
            "warnings": list(self.warnings),
            "used": None if self.used is None else asdict(self.used),
        }

    @classmethod
    def read(cls, folder: Path) -> Result | None:
        """What result.json of `folder` says; None where it is missing or damaged."""
        try:
            plain = json.loads((folder / "result.json").read_text("utf-8"))
            before, after = (Evaluation.from_dict(plain[when]) for when in ("before", "after"))
            said, used = tuple(plain.get("warnings", ())), plain.get("used")
            typed = {"folder": folder, "before": before, "after": after, "warnings": said}
            return cls(**plain | typed | {"used": None if used is None else Used(**used)})
        except (OSError, ValueError, KeyError, TypeError):
            return None


class Clock:
    """Where the time goes. Sections may not nest."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self.spent[name] = self.spent.get(name, 0.0) + time.perf_counter() - began


def peak_memory() -> int:
    """The largest resident size of this process so far, bytes."""
    if STATUS.exists():
        # getrusage's begins with what the process that started this one had, which may be more.
        line = next(line for line in STATUS.read_text("ascii").splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
