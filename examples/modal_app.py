"""Train on a GPU that Modal lends by the second; a run that is interrupted goes on from its last checkpoint.

    pip install modal && modal setup
    modal run examples/modal_app.py --preset webshop/qwen_1.5b --gpu L40S --updates 150
    modal run examples/modal_app.py --preset webshop/qwen_1.5b --gpu L40S --estimate-only   # what it costs; no training
    modal volume get astarpo-runs RUN .                                                # fetch the run's folder

Modal may take a machine back and starts the function again with the same arguments, on the same volume: `train` then
finds the run's folder there and resumes it. The functions below need no Modal; the app at the end wires them up.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parent.parent
VOLUME, MOUNTED = "astarpo-runs", "/runs"
HUB, CACHE = "astarpo-models", "/root/.cache/huggingface"
"""Models are downloaded once and kept."""

SECONDS = 24 * 3600
"""Longest that Modal lets one attempt run; a longer run is started again by `retries` and resumes."""

GPUS: dict[str, tuple[int, float]] = {
    "L4": (24, 0.80),
    "L40S": (48, 1.95),
    "A100-80GB": (80, 2.50),
    "H100": (80, 3.95),
    "H200": (141, 4.54),
}
"""Memory in GB, and dollars an hour as listed in May 2026 for the GPU alone: look them up before you rely on them."""


def command(preset: str, folder: Path, arguments: Sequence[str] = (), updates: int | None = None) -> list[str]:
    """The `astarpo train` that begins the run in `folder`, or goes on with it where it was begun.

    Args:
        preset: ENV/PRESET.
        folder: of the run.
        arguments: further settings, as `--section.name=value`; a run that goes on keeps those it began with.
        updates: of the whole run; None leaves the preset's.
    """
    wanted = [] if updates is None else [f"--updates={updates}"]
    begin = [sys.executable, "-m", "astarpo", "train"]
    if (folder / "version.json").exists():
        return [*begin, f"--resume={folder}", *wanted]
    environment, _, name = preset.partition("/")
    return [*begin, environment, f"--preset={name or 'default'}", f"--out={folder}", *wanted, *arguments]


def train(preset: str, folder: Path, arguments: Sequence[str] = (), updates: int | None = None) -> dict[str, Any]:
    """Begin or go on; the run's result. Raises CalledProcessError where astarpo refused, which no retry would mend."""
    result = folder / "result.json"
    # An attempt that was started again after the last update has nothing left to do.
    if not result.exists() or (updates or 0) > json.loads(result.read_text("utf-8"))["updates"]:
        subprocess.run(command(preset, folder, arguments, updates), check=True)
    return dict(json.loads(result.read_text("utf-8")))


def plan(preset: str, gpu: str, arguments: Sequence[str] = ()) -> dict[str, Any]:
    """What `astarpo plan` says of the preset on `gpu`; loads and trains nothing."""
    memory, _ = GPUS[gpu]
    asked = [sys.executable, "-m", "astarpo", "plan", preset, f"--gpu={memory}", "--json", *arguments]
    # Exit code 1 says that it does not fit, and the document says so too.
    done = subprocess.run(asked, capture_output=True, text=True)
    if done.returncode not in (0, 1):
        raise SystemExit(done.stderr.strip())
    return dict(json.loads(done.stdout))


def dollars(gpu: str, updates: int, seconds_per_update: float, price: float | None = None) -> float:
    """What `updates` updates cost on `gpu`: hours times dollars an hour. Nothing else that Modal charges is in it.

    >>> round(dollars("H100", updates=150, seconds_per_update=60), 2)
    9.88
    """
    hourly = GPUS[gpu][1] if price is None else price
    return updates * seconds_per_update / 3600 * hourly


def seconds_per_update(folder: Path) -> float | None:
    """Median seconds of the updates that the run in `folder` has made; None before the first."""
    lines = folder / "metrics.jsonl"
    rows = [json.loads(line) for line in lines.read_text("utf-8").splitlines()] if lines.exists() else []
    seconds = sorted(row["seconds"] for row in rows if "seconds" in row and "update" in row and "loss" in row)
    return float(seconds[len(seconds) // 2]) if seconds else None


def named(preset: str, seed: int) -> str:
    """The run's folder: the same arguments find the same run, so that a second attempt resumes it."""
    return re.sub(r"[^\w.-]+", "-", f"{preset}-seed{seed}")


def estimate(preset: str, gpu: str, updates: int, seconds: float | None, price: float | None = None) -> str:
    """In words: whether it fits, and what it costs once it is known how long an update takes."""
    told = plan(preset, gpu)
    fits = "fits" if told["gpus"][0]["fits"] else "does not fit"
    said = f"{preset} needs {told['needs_gigabytes']} GB and {fits} on {gpu} ({GPUS[gpu][0]} GB)."
    if seconds is None:
        return f"{said} What it costs is told once an update was timed: run it with --updates 3, then ask again."
    cost = dollars(gpu, updates, seconds, price)
    return f"{said} {updates} updates of {seconds:.0f} s cost about ${cost:.2f}, evaluations and start aside."


try:
    import modal
except ModuleNotFoundError:
    modal = None

if modal is not None:
    image = (
        modal.Image.debian_slim(python_version="3.12")
        # What torch compiles for the GPU at run time needs a C compiler.
        .apt_install("gcc", "libc6-dev")
        .add_local_dir(REPO / "src", "/astarpo/src", copy=True)
        .add_local_file(REPO / "pyproject.toml", "/astarpo/pyproject.toml", copy=True)
        .add_local_file(REPO / "README.md", "/astarpo/README.md", copy=True)
        .add_local_file(REPO / "LICENSE", "/astarpo/LICENSE", copy=True)
        .pip_install("/astarpo[liger,lora]")
    )
    app = modal.App("astarpo", image=image)
    runs = modal.Volume.from_name(VOLUME, create_if_missing=True)
    models = modal.Volume.from_name(HUB, create_if_missing=True)

    @app.function(
        volumes={MOUNTED: runs, CACHE: models},
        timeout=SECONDS,
        retries=modal.Retries(max_retries=10, initial_delay=10.0, backoff_coefficient=1.0),
        single_use_containers=True,
    )
    def train_there(preset: str, name: str, arguments: list[str], updates: int | None) -> dict[str, Any]:
        """`train` in the volume; what the volume holds is kept every few seconds and at the end."""
        runs.reload()
        result = train(preset, Path(MOUNTED) / name, arguments, updates)
        runs.commit()
        return result

    @app.function(volumes={MOUNTED: runs})
    def timed_there(name: str) -> float | None:
        """`seconds_per_update` of a run in the volume."""
        runs.reload()
        return seconds_per_update(Path(MOUNTED) / name)

    @app.local_entrypoint()
    def main(
        preset: str = "webshop/qwen_0.5b",
        gpu: str = "L4",
        updates: int = 150,
        seed: int = 0,
        settings: str = "",
        estimate_only: bool = False,
    ) -> None:
        """Say what it may cost, then train and print the result."""
        name = named(preset, seed)
        print(estimate(preset, gpu, updates, timed_there.remote(name)))
        if estimate_only:
            return
        there = train_there.with_options(gpu=gpu)
        print(json.dumps(there.remote(preset, name, [f"--seed={seed}", *settings.split()], updates), indent=2))
