"""The same rules while a run goes on: they warn once, stop what is to be stopped, and leave a healthy run alone."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from astarpo.cli import app
from astarpo.diagnosis.live import RuleStopError, Sentinel, said_in, sentinel
from astarpo.diagnosis.trl import DiagnosisCallback
from astarpo.errors import RunError, SettingsError
from astarpo.progress import Watch


class Ear(Watch):
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.warned: list[str] = []
        self.updates = 0

    def update(self, number: int, metrics: Any) -> None:  # noqa: ARG002
        """Counts."""
        self.updates += 1

    def warn(self, text: str) -> None:
        """Keeps."""
        self.warned.append(text)


def go_on(folder: Path, watch: Watch, first: int, last: int, line: dict[str, float]) -> None:
    """Updates from `first` to `last`, journalled before the watch hears of them, as the trainer does it."""
    for number in range(first, last + 1):
        with (folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({"update": number, **line}) + "\n")
        watch.update(number, line)


STUCK = {"reward/mean": 0.2, "train/success": 0.2, "signal/zero_std_frac": 0.99, "entropy": 0.5, "grad_norm": 1.0}


def test_a_fault_is_warned_of_once_and_kept(tmp_path: Path) -> None:
    ear = Ear()
    go_on(tmp_path, Sentinel(ear, tmp_path), 1, 60, STUCK)
    assert ear.updates == 60
    about = [text for text in ear.warned if text.startswith("zero_variance")]
    assert len(about) == 1
    assert "--curriculum.name=learnable" in about[0]
    assert (tmp_path / "notes.txt").read_text("utf-8").count("zero_variance") == 1


def test_a_young_run_is_not_judged_by_what_time_may_mend(tmp_path: Path) -> None:
    ear = Ear()
    go_on(tmp_path, Sentinel(ear, tmp_path), 1, 15, STUCK)
    assert ear.warned == []


def test_a_critical_finding_stops_a_run_that_is_to_stop(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"stopped after update \d+ because .*--resume"):
        go_on(tmp_path, Sentinel(Ear(), tmp_path, stop_on="critical"), 1, 60, STUCK)


def test_train_stops_by_the_rules_with_a_report_of_what_there_is(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    small = ["--rollout.tasks_per_update=2", "--algorithm.group_size=2", "--evaluation.every=0", "--evaluation.tasks=2"]
    command = ["train", "arithmetic", "--control", "constant_reward", "--updates", "60", "--stop-on", "critical"]
    run = CliRunner().invoke(app, [*command, *small, "--out", str(folder)])
    assert isinstance(run.exception, RuleStopError)
    assert str(run.exception).endswith(f"goes on all the same. The report of what there is: {folder / 'report.html'}.")
    assert "The run is not finished" in (folder / "report.html").read_text("utf-8")
    said = (folder / "notes.txt").read_text("utf-8").splitlines()
    assert any(line.startswith("zero_variance:") for line in said)
    assert len(set(said)) == len(said)


def test_a_run_that_a_rule_stops_is_kept_up_to_that_update_and_goes_on_from_it(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    small = ["--rollout.tasks_per_update=2", "--algorithm.group_size=2", "--evaluation.every=0", "--evaluation.tasks=2"]
    command = [
        "train",
        "arithmetic",
        "--control",
        "constant_reward",
        "--stop-on",
        "critical",
        "--checkpoint-every=1000",
    ]
    run = CliRunner().invoke(app, [*command, *small, "--updates", "25", "--out", str(folder)])
    assert isinstance(run.exception, RuleStopError)
    stopped = int(str(run.exception).split("stopped after update ")[1].split()[0])
    assert (folder / "checkpoints" / f"{stopped:06d}").is_dir()
    said = said_in(folder)
    again = CliRunner().invoke(app, ["train", "--resume", str(folder)])
    assert again.exit_code == 0, again.output
    notes = (folder / "notes.txt").read_text("utf-8")
    assert f"resumed after update {stopped}\n" in notes
    assert "zero_variance" in said
    assert all(notes.count(f"\n{name}: ") == 1 for name in said)


def test_what_a_run_was_told_is_not_said_again_when_it_goes_on(tmp_path: Path) -> None:
    first, second = Ear(), Ear()
    go_on(tmp_path, Sentinel(first, tmp_path), 1, 40, STUCK)
    assert said_in(tmp_path) == {text.partition(":")[0] for text in first.warned}
    go_on(tmp_path, Sentinel(second, tmp_path, stop_on="critical"), 41, 80, STUCK)
    assert first.warned
    assert second.warned == []


def test_stop_on_takes_severities_alone(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="never, warning or critical"):
        sentinel(Ear(), tmp_path, "sometimes")
    run = CliRunner().invoke(app, ["train", "arithmetic", "--stop-on", "sometimes", "--out", str(tmp_path / "x")])
    assert isinstance(run.exception, SettingsError)


def test_inside_trl_it_warns_once_and_stops(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    from transformers import TrainerControl, TrainerState, TrainingArguments

    callback, state, control = DiagnosisCallback("critical"), TrainerState(), TrainerControl()
    arguments: Any = SimpleNamespace(output_dir=str(tmp_path))
    assert hasattr(TrainingArguments, "output_dir") or "output_dir" in TrainingArguments.__dataclass_fields__
    line = {"reward": 0.2, "frac_reward_zero_std": 0.99, "entropy": 0.5, "grad_norm": 1.0, "loss": 0.0}
    with caplog.at_level(logging.WARNING, "astarpo.diagnosis.trl"):
        for step in range(1, 41):
            state.log_history.append({"step": step, **line, "reward": 0.2 + 0.01 * (step % 3)})
            callback.on_log(arguments, state, control)
    assert [finding.name for finding in callback.findings].count("zero_variance") == 1
    assert sum("zero_variance" in record.message for record in caplog.records) == 1
    assert control.should_training_stop


def test_inside_trl_a_checkpoint_remembers_what_was_said(tmp_path: Path) -> None:
    from transformers import TrainerControl, TrainerState

    arguments: Any = SimpleNamespace(output_dir=str(tmp_path))
    line = {"reward": 0.2, "frac_reward_zero_std": 0.99, "entropy": 0.5, "grad_norm": 1.0, "loss": 0.0}

    def forty_lines(callback: DiagnosisCallback, state: TrainerState) -> None:
        callback.on_train_begin(arguments, state, TrainerControl())
        for step in range(1, 41):
            state.log_history.append({"step": step, **line, "reward": 0.2 + 0.01 * (step % 3)})
            callback.on_log(arguments, state, TrainerControl())

    first = DiagnosisCallback()
    forty_lines(first, TrainerState())
    assert "zero_variance" in first.said
    TrainerState(stateful_callbacks=[first]).save_to_json(str(tmp_path / "trainer_state.json"))
    second = DiagnosisCallback()
    forty_lines(second, TrainerState.load_from_json(str(tmp_path / "trainer_state.json")))
    assert "zero_variance" not in [finding.name for finding in second.findings]
