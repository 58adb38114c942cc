"""Logs of TRL's trainers, healthy and with seeded faults (benchmarks/diagnosis_trl.py and diagnosis_blind.py, seed 0),
and a live one."""

from __future__ import annotations

import gzip
import json
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from astarpo.diagnosis.readers import read
from astarpo.diagnosis.trl import DiagnosisCallback
from astarpo.diagnosis.verdict import Diagnosis, diagnose
from astarpo.policy import tiny

LOGS = Path(__file__).parent / "trl"

FAULTS = {
    "learning_rate_times_10": "steps_too_large",
    "learning_rate_times_100": "steps_too_large",
    "learning_rate_tiny": "no_movement",
    "kl_weight_huge": "held_by_kl",
    "reward_always_0": "zero_variance",
    "reward_always_1": "zero_variance",
    "all_cut": "replies_never_end",
    "identical_samples": "zero_variance",
    "brevity_is_paid": "reward_without_success",
    "too_hard": "zero_variance",
    "reward_infinite": "not_finite",
    "eight_tasks": "held_out_flat",
    "cut_and_masked": "replies_never_end",
    "learning_rate_0": "no_movement",
    "reward_weight_of_minus_one": "reward_without_success",
    "rloo_kl_huge": "held_by_kl",
    "sft_learning_rate_times_1000": "steps_too_large",
}
HEALTHY = ("healthy_grpo", "healthy_kl", "healthy_every_tenth", "one_of_two_graders_says_none")
SILENT = ("reward_by_chance", "five_steps", "sft")

FEW = ("step", "epoch", "loss", "reward", "reward_std", "entropy", "grad_norm", "learning_rate")
"""What older trainers logged, and what people keep."""


def state(name: str) -> dict[str, Any]:
    """The kept part of trainer_state.json."""
    kept: dict[str, Any] = json.loads(gzip.decompress((LOGS / f"{name}.json.gz").read_bytes()))
    return kept


def judged(kept: dict[str, Any], folder: Path) -> Diagnosis:
    (folder / "trainer_state.json").write_text(json.dumps(kept), "utf-8")
    return diagnose(read(folder))


@pytest.mark.parametrize(("name", "cause"), FAULTS.items())
def test_a_seeded_fault_is_the_root_cause(name: str, cause: str, tmp_path: Path) -> None:
    found = judged(state(name), tmp_path)
    assert found.root_cause is not None, found.summary
    assert found.root_cause.name == cause


@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_run_has_a_clean_bill(name: str, tmp_path: Path) -> None:
    found = judged(state(name), tmp_path)
    assert found.root_cause is None, found.summary
    assert found.verdict == "healthy"


@pytest.mark.parametrize("name", SILENT)
def test_what_scalars_do_not_show_is_not_guessed(name: str, tmp_path: Path) -> None:
    found = judged(state(name), tmp_path)
    assert found.root_cause is None, found.summary
    assert found.verdict == "not_enough_evidence"


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("learning_rate_times_10", "steps_too_large"),
        ("learning_rate_tiny", "no_movement"),
        ("reward_always_0", "zero_variance"),
        ("reward_infinite", "not_finite"),
        ("healthy_grpo", None),
        ("healthy_kl", None),
        ("reward_by_chance", None),
        ("too_hard", "zero_variance"),
    ],
)
def test_few_columns_are_enough_or_nothing_is_said(name: str, cause: str | None, tmp_path: Path) -> None:
    kept = state(name)
    kept["log_history"] = [{key: row[key] for key in FEW if key in row} for row in kept["log_history"]]
    found = judged(kept, tmp_path)
    assert (found.root_cause.name if found.root_cause else None) == cause


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """TRL's use of transformers is behind the times, and no model is looked for on the network."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)
        yield


@pytest.mark.usefixtures("quiet")
def test_the_callback_stops_a_trainer_whose_grader_says_no_to_anything(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl.trainer.grpo_config import GRPOConfig
    from trl.trainer.grpo_trainer import GRPOTrainer

    def grader(completions: list[Any], **_: Any) -> list[float | None]:
        return [0.0] * len(completions)

    folder = tiny.folder("arithmetic")
    assert folder is not None
    callback = DiagnosisCallback(stop_on="critical")
    usual: dict[str, Any] = {
        "report_to": [],
        "save_strategy": "no",
        "use_cpu": True,
        "bf16": False,
        "disable_tqdm": True,
    }
    sizes: dict[str, Any] = {
        "per_device_train_batch_size": 4,
        "num_generations": 4,
        "max_completion_length": 4,
        "max_steps": 60,
    }
    trainer = GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32),
        processing_class=AutoTokenizer.from_pretrained(folder),
        reward_funcs=[grader],
        args=GRPOConfig(str(tmp_path), logging_steps=1, gradient_checkpointing=False, **usual, **sizes),
        train_dataset=Dataset.from_list([{"prompt": [{"role": "user", "content": f"{n}+3="}]} for n in range(60)]),
        callbacks=[callback],
    )
    with caplog.at_level(logging.WARNING, "astarpo.diagnosis.trl"):
        trainer.train()
    assert trainer.state.global_step < 40
    assert [one.name for one in callback.findings].count("zero_variance") == 1
    assert any("zero_variance" in record.message for record in caplog.records)
