"""Runs of TRL's own trainer on arithmetic, healthy and with one seeded fault each: what diagnose says of their logs.

    python benchmarks/diagnosis_trl.py run --out /tmp/trl --seeds 0,1 [--only FAULT,...]    resumable
    python benchmarks/diagnosis_trl.py table --out /tmp/trl --half odd                      the confusion table
    python benchmarks/diagnosis_trl.py keep --out /tmp/trl --to tests/diagnosis/trl         small logs for the tests

A run is GRPOTrainer with the embedded model, 8 prompts x 8 completions, 40 steps unless the case says otherwise, about
ten CPU-seconds. What is kept of it is its trainer_state.json. Even seeds are for calibrating, odd ones for the table.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import shutil
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from astarpo.diagnosis.readers import read
from astarpo.diagnosis.verdict import Diagnosis, diagnose
from astarpo.environments.arithmetic import Arithmetic, ArithmeticSettings
from astarpo.policy import tiny

Reward = Callable[..., list[float]]


def _arithmetic(level: str = "target") -> Arithmetic:
    return Arithmetic(ArithmeticSettings.parse({"level": level}, where="environment"))


def _texts(completions: Sequence[Any]) -> list[str]:
    return [one if isinstance(one, str) else str(one[0]["content"]) for one in completions]


def correct(completions: Sequence[Any], task: Sequence[str], **_: Any) -> list[float]:
    """1 for the right answer."""
    world = _arithmetic()
    earned = []
    for text, id in zip(_texts(completions), task, strict=True):
        problem = world.task(id)
        problem.start()
        earned.append(float(problem.step(text).reward))
    return earned


def nothing(completions: Sequence[Any], **_: Any) -> list[float]:
    """A grader whose answer is never found."""
    return [0.0] * len(completions)


def everything(completions: Sequence[Any], **_: Any) -> list[float]:
    """A grader that pays whatever is said."""
    return [1.0] * len(completions)


def brevity(completions: Sequence[Any], **_: Any) -> list[float]:
    """Pays short replies, more than an answer is worth."""
    return [2.0 * (1.0 - min(len(text), 24) / 24) for text in _texts(completions)]


def chance(completions: Sequence[Any], **_: Any) -> list[float]:
    """Pays one reply in two, whatever it says."""
    return torch.randint(0, 2, (len(completions),)).float().tolist()


def overflowing(completions: Sequence[Any], **_: Any) -> list[float]:
    """A logarithm of nothing, in the twentieth batch and later."""
    overflowing.calls = getattr(overflowing, "calls", 0) + 1  # type: ignore[attr-defined]
    bad = overflowing.calls > 20  # type: ignore[attr-defined]
    return [float("-inf") if bad and n == 0 else float(n % 2) for n in range(len(completions))]


@dataclass(frozen=True)
class Case:
    """One kind of run.

    Attributes:
        expected: what the root cause may be called, the best name first; empty where the run is healthy.
        over: arguments of GRPOConfig laid over the usual ones.
        rewards: reward functions.
        level: of the problems.
        tasks: how many different problems are trained on.
        held_out: whether held-out problems are played during training.
        swallow: whether the optimiser's step is skipped, as by a swallowed exception.
    """

    expected: tuple[str, ...]
    over: Mapping[str, Any] = field(default_factory=dict)
    rewards: tuple[Reward, ...] = (correct,)
    level: str = "target"
    tasks: int = 2000
    held_out: bool = False


HEALTHY = {"max_steps": 100, "learning_rate": 3e-4}
CASES: dict[str, Case] = {
    "healthy_grpo": Case((), HEALTHY, held_out=True),
    "healthy_kl": Case((), HEALTHY | {"beta": 0.02}),
    "healthy_dr_grpo": Case((), HEALTHY | {"loss_type": "dr_grpo", "scale_rewards": "none"}),
    "healthy_bnpo_two_steps": Case((), HEALTHY | {"loss_type": "bnpo", "num_iterations": 2, "learning_rate": 2e-4}),
    "healthy_every_tenth": Case((), HEALTHY | {"logging_steps": 10}),
    "learning_rate_times_10": Case(("steps_too_large",), {"learning_rate": 1e-2, "warmup_steps": 0}),
    "learning_rate_times_100": Case(("steps_too_large",), {"learning_rate": 1e-1, "warmup_steps": 0}),
    "learning_rate_tiny": Case(("no_movement",), {"learning_rate": 1e-9}),
    "kl_weight_huge": Case(("held_by_kl",), {"beta": 1000.0}),
    "reward_always_0": Case(("zero_variance",), rewards=(nothing,)),
    "reward_always_1": Case(("zero_variance",), rewards=(everything,)),
    "reward_by_chance": Case(("not_enough_evidence",), rewards=(chance,)),
    "all_cut": Case(("replies_never_end",), {"max_completion_length": 3}),
    "identical_samples": Case(("zero_variance",), {"temperature": 0.01}),
    "brevity_is_paid": Case(("reward_without_success",), rewards=(correct, brevity)),
    "too_hard": Case(("zero_variance",), level="huge"),
    "reward_infinite": Case(("not_finite",), rewards=(overflowing,)),
    "eight_tasks": Case(("held_out_flat",), {"learning_rate": 1e-3, "max_steps": 100}, tasks=8, held_out=True),
    "five_steps": Case(("too_little_data",), {"max_steps": 5, "learning_rate": 1e-6}),
}
"""The runs. A reward by chance looks in scalars like a task that is not learned: silence is right there."""


def play(case: Case, seed: int, out: Path) -> None:
    """Train, and keep the log."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl.trainer.grpo_config import GRPOConfig
    from trl.trainer.grpo_trainer import GRPOTrainer

    part = out.with_name(out.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    overflowing.calls = 0  # type: ignore[attr-defined]
    world = _arithmetic(case.level)
    levels = ("easy", "medium", "hard") if case.level == "target" else (case.level,)

    def rows(split: Any, n: int) -> Dataset:
        ids = [id for level in levels for id in list(world.ids(split, level))[: -(-n // len(levels))]][:n]
        return Dataset.from_list(
            [{"prompt": [{"role": "user", "content": world.task(id).start()}], "task": id} for id in ids]
        )

    folder = tiny.folder("arithmetic")
    assert folder is not None
    usual: dict[str, Any] = {
        "output_dir": str(part),
        "per_device_train_batch_size": 64,
        "num_generations": 8,
        "max_completion_length": 24,
        "learning_rate": 1e-3,
        "lr_scheduler_type": "constant_with_warmup",
        "warmup_steps": 5,
        "beta": 0.0,
        "max_steps": 40,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "seed": seed,
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "disable_tqdm": True,
        "temperature": 1.0,
        "log_completions": False,
    }
    if case.held_out:
        usual |= {
            "eval_strategy": "steps",
            "eval_steps": 25,
            "per_device_eval_batch_size": 64,
            "num_generations_eval": 1,
        }
    rewards: list[Any] = [*case.rewards]
    trainer = GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32),
        processing_class=AutoTokenizer.from_pretrained(folder),
        reward_funcs=rewards,
        args=GRPOConfig(**usual | dict(case.over)),
        train_dataset=rows("train", case.tasks),
        eval_dataset=rows("dev", 192) if case.held_out else None,
    )
    if case.held_out:
        trainer.evaluate()
    trainer.train()
    trainer.state.save_to_json(str(part / "trainer_state.json"))
    part.rename(out)


def told(found: Diagnosis) -> str:
    """What the diagnosis calls the root cause."""
    if found.root_cause is not None:
        return found.root_cause.name
    return "too_little_data" if any(f.name == "too_little_data" for f in found.remarks) else found.verdict


def right(case: Case, found: Diagnosis) -> bool:
    """A healthy run is to have no alarm, and a fault its name."""
    return told(found) in case.expected if case.expected else found.root_cause is None


def run_all(out: Path, seeds: Sequence[int], only: Sequence[str]) -> None:
    """Every run that is not there yet."""
    for seed in seeds:
        for name, case in CASES.items():
            folder = out / f"{name}.{seed}"
            if folder.exists() or (only and name not in only):
                continue
            began = time.process_time()
            play(case, seed, folder)
            found = diagnose(read(folder))
            word = "ok " if right(case, found) else "NO "
            print(
                f"{word} {name}.{seed}: {told(found)} ({time.process_time() - began:.0f} s) {found.summary[:160]}",
                flush=True,
            )


def table(out: Path, odd: int | None) -> str:
    """Markdown: each kind of run with what it was called."""
    lines = ["| run of TRL | runs | right | called |", "|---|---|---|---|"]
    for name, case in CASES.items():
        seen = [
            diagnose(read(folder))
            for folder in sorted(out.glob(f"{name}.*"))
            if folder.suffix != ".part" and (odd is None or int(folder.suffix[1:]) % 2 == odd)
        ]
        if seen:
            called = ", ".join(f"{one} {n}" for one, n in Counter(map(told, seen)).most_common())
            lines.append(f"| {name} | {len(seen)} | {sum(right(case, one) for one in seen)} | {called} |")
    return "\n".join(lines)


def keep(out: Path, to: Path, seed: int) -> None:
    """The logs of one seed, numbers to five digits, compressed: small enough to stand beside the tests."""
    to.mkdir(parents=True, exist_ok=True)
    for name in CASES:
        file = out / f"{name}.{seed}" / "trainer_state.json"
        if file.exists():
            state = json.loads(file.read_text("utf-8"))
            history = [
                {k: float(f"{v:.5g}") if isinstance(v, float) else v for k, v in row.items()}
                for row in state["log_history"]
            ]
            kept = {"log_history": history, "max_steps": state["max_steps"], "global_step": state["global_step"]}
            (to / f"{name}.json.gz").write_bytes(gzip.compress(json.dumps(kept).encode(), mtime=0))


def main() -> int:
    """Run, tell or keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "table", "keep"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--only", default="")
    parser.add_argument("--half", choices=("even", "odd", "all"), default="odd")
    parser.add_argument("--to", type=Path)
    given = parser.parse_args()
    seeds = [int(s) for s in given.seeds.split(",")]
    if given.what == "run":
        os.environ["HF_HUB_OFFLINE"] = "1"
        warnings.filterwarnings("ignore", category=FutureWarning)
        torch.set_num_threads(1)
        run_all(given.out, seeds, [s for s in given.only.split(",") if s])
    elif given.what == "table":
        print(table(given.out, {"even": 0, "odd": 1, "all": None}[given.half]))
    else:
        keep(given.out, given.to, seeds[0])
    return 0


if __name__ == "__main__":
    sys.exit(main())
