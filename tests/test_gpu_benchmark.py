"""benchmarks/gpu.py runs where there is no GPU and little beside torch and transformers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

REPO = Path(__file__).resolve().parent.parent
ABSENT = ("pydantic", "rapidfuzz", "matplotlib")
"""Packages that a machine with torch and transformers need not have, and transformers does not look for."""


def run(*arguments: str, without: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """The benchmark in a process that cannot import the packages `without`."""
    code = (
        "import runpy, sys\n"
        f"class Absent:\n    def find_spec(self, name, *_):\n        if name.partition('.')[0] in {without!r}:\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        f"sys.argv = ['gpu.py', *{list(arguments)!r}]\n"
        f"runpy.run_path({str(REPO / 'benchmarks' / 'gpu.py')!r}, run_name='__main__')\n"
    )
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)


def test_it_runs_on_a_cpu_with_torch_and_transformers_alone(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    arguments = ("--device=cpu", "--tiny", "--repeats=1", "--without-trl", f"--out={out}")
    done = run(*arguments, without=ABSENT)
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    assert found["machine"]["device"] == "cpu"
    tiny = found["models"]["tiny"]
    rollout, update = tiny["rollout"], tiny["update"]
    assert rollout["said_tokens"] == 4 * 2 * 6
    # A model that lies in the processor's cache owes its memory nothing, and PyTorch's product is no bound on ours.
    assert rollout["share_of_floor"] > 0
    assert rollout["said_tokens_per_second"] == pytest.approx(rollout["said_tokens"] / rollout["seconds"])
    assert (update["tokens"], update["acted_tokens"]) == (256, 64)
    assert update["mfu"] > 0
    assert tiny["whole"]["trl_seconds"] is None


@pytest.mark.slow
def test_trl_does_the_same_updates_where_it_is_installed(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    done = run("--device=cpu", "--tiny", "--repeats=1", f"--out={out}")
    assert done.returncode == 0, done.stderr
    assert json.loads(out.read_text())["models"]["tiny"]["whole"]["trl_seconds"] > 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_and_ends() -> None:
    done = run()
    assert done.returncode == 2
    assert "no CUDA GPU is visible to torch" in done.stderr
