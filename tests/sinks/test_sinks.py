"""Metrics go elsewhere when asked, a run never ends because of it, and by default they go nowhere."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest

from astarpo import plugins
from astarpo.errors import RunError, SettingsError
from astarpo.progress import Watch
from astarpo.sinks.base import Sink, Sinks, numbers
from astarpo.sinks.mlflow import RETRIES, few_retries
from astarpo.trainer import resume, train
from small import small_run


class Heard(Watch):
    """Keeps warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        """One sentence."""
        self.warnings.append(text)


def sent(folder: Path) -> list[Any]:
    return [json.loads(line) for line in (folder / "sent.jsonl").read_text().splitlines()]


def test_every_line_of_metrics_is_sent_and_a_resumed_run_goes_on(
    small_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    train(small_run(small_model, sinks=["kept_sinks.ToFile"]), folder)
    first = sent(folder)
    assert first[0] == ["open", 0, "run", 3]
    # Standard output may carry a JSON document.
    assert capsys.readouterr().out == ""
    assert first[-1] == ["close"]
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [one[1:] for one in first[1:-1]] == [[line["update"], numbers(line)] for line in lines]
    assert {"dev/success", "dev/n"} <= set(first[1][2])
    assert "reward/mean" in first[2][2]
    resume(folder, updates=4)
    assert sent(folder)[len(first)] == ["open", 4, "run", 4]


def test_a_sink_that_fails_is_told_of_once_and_the_run_goes_on(small_model: Path, tmp_path: Path) -> None:
    heard = Heard()
    result = train(small_run(small_model, sinks=["kept_sinks.Breaks"]), tmp_path / "run", watch=heard)
    assert result.updates == 3
    assert [text for text in heard.warnings if "kept_sinks" in text] == [
        "kept_sinks.Breaks failed (ConnectionError: the service is gone) and gets no more metrics; metrics.jsonl has "
        "them all."
    ]
    assert len(sent(tmp_path / "run")) == 3


def test_what_is_missing_is_one_sentence_before_anything_is_played(small_model: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"the package no_such_package_anywhere is not installed: pip install"):
        train(small_run(small_model, sinks=["kept_sinks.Missing"]), tmp_path / "run")
    with pytest.raises(SettingsError, match="there is no sink 'tensorbord': did you mean 'tensorboard'"):
        train(small_run(small_model, sinks=["tensorbord"]), tmp_path / "run")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_by_default_nothing_is_sent_and_nothing_is_left(small_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    train(small_run(small_model, updates=1), folder)
    assert not {"sinks.json", "tensorboard", "sent.jsonl", "wandb"} & {path.name for path in folder.iterdir()}


def test_every_sink_that_ships_is_found_without_its_package() -> None:
    kinds = {name: plugins.find("astarpo.sinks", name, Sink) for name in plugins.names("astarpo.sinks")}
    assert {name: kind.package for name, kind in kinds.items()} == {
        name: name for name in ("mlflow", "tensorboard", "trackio", "wandb")
    }


def test_only_finite_numbers_are_sent() -> None:
    line = {"update": 2, "kl": math.nan, "loss": math.inf, "ok": 1, "said": "x", "flag": True, "none": None}
    assert numbers(line) == {"ok": 1.0}


def test_a_damaged_memory_of_a_run_is_no_memory(tmp_path: Path) -> None:
    kind = plugins.find("astarpo.sinks", "wandb", Sink)
    (tmp_path / "sinks.json").write_text("[")
    assert kind(tmp_path, {}).remembered() is None
    kind(tmp_path, {}).remember("abc")
    assert kind(tmp_path, {}).remembered() == "abc"


def test_tensorboard_holds_what_metrics_hold(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    told: list[str] = []
    for first in (1, 3):
        sinks = Sinks(["tensorboard"], tmp_path, {}, told.append)
        for update in range(first, 5):
            sinks({"update": update, "loss": first + update / 10})
        sinks.close()
    assert told == []
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    # Updates 3 and 4 were done again.
    assert [e.step for e in events.Scalars("loss")] == [1, 2, 3, 4]
    assert [e.value for e in events.Scalars("loss")] == pytest.approx([1.1, 1.2, 3.3, 3.4])


def test_sinks_that_are_no_sinks_are_refused(small_model: Path, tmp_path: Path) -> None:
    with pytest.raises((SettingsError, RunError)):
        train(small_run(small_model, sinks=["small.Talk"]), tmp_path / "run")


def test_mlflow_gives_up_soon_where_nobody_answers_unless_the_user_says_how_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(RETRIES, raising=False)
    with few_retries():
        assert os.environ[RETRIES] == "2"
    assert RETRIES not in os.environ
    monkeypatch.setenv(RETRIES, "9")
    with few_retries():
        assert os.environ[RETRIES] == "9"
    assert os.environ[RETRIES] == "9"
