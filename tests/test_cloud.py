"""The cloud files: what they would run elsewhere runs here, on a run that is over in seconds."""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from astarpo.footprint import GPUS
from astarpo.run import preset_names

REPO = Path(__file__).resolve().parent.parent
EXAMPLES = REPO / "examples"
QUICK = ["--rollout.tasks_per_update=2", "--evaluation.tasks=2", "--evaluation.every=0", "--evaluation.samples=0"]


@pytest.fixture(scope="module")
def app() -> ModuleType:
    """examples/modal_app.py, which needs no modal to be imported."""
    spec = importlib.util.spec_from_file_location("modal_app", EXAMPLES / "modal_app.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Subprocesses on one thread."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def test_a_second_attempt_resumes_what_the_first_began(app: ModuleType, tmp_path: Path) -> None:
    first = app.command("webshop/grpo", tmp_path, ["--seed=3"], 7)
    wanted = ["webshop", "--preset=grpo", f"--out={tmp_path}", "--updates=7", "--seed=3"]
    assert first == [sys.executable, "-m", "astarpo", "train", *wanted]
    (tmp_path / "version.json").touch()
    second = app.command("webshop/grpo", tmp_path, ["--seed=3"], 7)
    assert second == [sys.executable, "-m", "astarpo", "train", f"--resume={tmp_path}", "--updates=7"]


@pytest.mark.usefixtures("plain")
def test_a_run_is_trained_and_an_attempt_after_its_end_does_nothing(app: ModuleType, tmp_path: Path) -> None:
    folder = tmp_path / app.named("arithmetic/grpo", 0)
    assert folder.name == "arithmetic-grpo-seed0"
    result = app.train("arithmetic/grpo", folder, QUICK, updates=1)
    assert result["updates"] == 1
    assert app.seconds_per_update(folder) > 0
    written = (folder / "metrics.jsonl").read_bytes()
    assert app.train("arithmetic/grpo", folder, QUICK, updates=1) == result
    assert (folder / "metrics.jsonl").read_bytes() == written


@pytest.mark.slow
@pytest.mark.usefixtures("plain")
def test_a_run_whose_machine_was_taken_goes_on_where_it_was(app: ModuleType, tmp_path: Path) -> None:
    app.train("arithmetic/grpo", tmp_path / "run", QUICK, updates=1)
    result = app.train("arithmetic/grpo", tmp_path / "run", QUICK, updates=2)
    assert result["updates"] == 2


def test_a_price_is_hours_times_dollars(app: ModuleType) -> None:
    assert app.dollars("L4", updates=60, seconds_per_update=60, price=2.0) == pytest.approx(2.0)
    assert {memory for memory, _ in app.GPUS.values()} == set(GPUS)


@pytest.mark.usefixtures("plain")
def test_an_estimate_says_whether_it_fits(app: ModuleType) -> None:
    said = app.estimate("arithmetic/grpo", "L4", 100, 36.0, price=1.0)
    assert "fits on L4 (24 GB)." in said
    assert said.endswith("100 updates of 36 s cost about $1.00, evaluations and start aside.")


def test_the_app_is_wired_where_modal_is_installed(app: ModuleType) -> None:
    pytest.importorskip("modal", reason="modal is installed by those who use it")
    assert app.app.name == "astarpo"


@pytest.fixture(scope="module")
def sky() -> dict[str, Any]:
    return dict(yaml.safe_load((EXAMPLES / "skypilot.yaml").read_text("utf-8")))


def test_the_skypilot_task_names_a_preset_that_there_is(sky: dict[str, Any]) -> None:
    envs = sky["envs"]
    assert envs["PRESET"] in preset_names(envs["ENVIRONMENT"])
    assert set(sky) <= {"name", "workdir", "resources", "envs", "file_mounts", "setup", "run"}


@pytest.mark.usefixtures("plain")
@pytest.mark.parametrize("really", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_skypilot_task_begins_a_run_and_then_resumes_it(sky: dict[str, Any], really: bool, tmp_path: Path) -> None:
    there = tmp_path / "astarpo" / "bin"
    there.mkdir(parents=True)
    # The command itself, as far as what it would do; a resumed run has no dry run.
    (there / "astarpo").write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\ncase "$*" in *{"--resume" if really else ""}*) exit 0;; esac\n'
        f'exec {sys.executable} -m astarpo "$@" --dry-run --rollout.tasks_per_update=1\n'
    )
    (there / "astarpo").chmod(0o755)
    given = sky["envs"] | {"ENVIRONMENT": "arithmetic", "PRESET": "grpo", "HOME": str(tmp_path)}
    script = sky["run"].replace("/runs/", f"{tmp_path}/runs/")
    done = subprocess.run(["bash", "-c", script], env=os.environ | given, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert ("One update: 1 tasks" in done.stdout) == really
    run = tmp_path / "runs" / "arithmetic-grpo-seed0"
    run.mkdir(parents=True)
    (run / "version.json").write_text("{}")
    subprocess.run(["bash", "-c", script], env=os.environ | given, check=True, cwd=tmp_path)
    asked = (tmp_path / "asked").read_text().splitlines()
    assert asked == [
        f"train arithmetic --preset grpo --seed 0 --updates 150 --out {run}",
        f"train --resume {run} --updates 150",
    ]


def dockerfile() -> list[tuple[str, str]]:
    """Instruction and rest of every line, continued lines joined."""
    text = (REPO / "Dockerfile").read_text("utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(line.partition(" ")[0], line.partition(" ")[2]) for line in lines]


def extras(command: str) -> set[str]:
    """Extras that a `pip install '.[a,b]'` in `command` names."""
    (wanted,) = (word for word in shlex.split(command) if "[" in word)
    return set(wanted.partition("[")[2].rstrip("]").split(","))


def test_the_container_copies_files_that_exist_and_installs_extras_that_are_declared(sky: dict[str, Any]) -> None:
    declared = set(tomllib.loads((REPO / "pyproject.toml").read_text())["project"]["optional-dependencies"])
    for instruction, rest in dockerfile():
        if instruction == "COPY":
            assert all((REPO / source).exists() for source in rest.split()[:-1])
        if instruction == "RUN" and "pip install" in rest:
            assert extras(rest) <= declared
    (installs,) = (line for line in sky["setup"].splitlines() if "pip install" in line and "[" in line)
    assert extras(installs) <= declared


@pytest.mark.usefixtures("plain")
def test_what_the_container_tries_at_its_end_runs() -> None:
    (tried,) = (rest for instruction, rest in dockerfile() if instruction == "RUN" and rest.startswith("astarpo"))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(["sh", "-c", tried], env=os.environ | {"PATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("astarpo ")
    (entry,) = (json.loads(rest) for instruction, rest in dockerfile() if instruction == "ENTRYPOINT")
    assert entry == ["astarpo"]
