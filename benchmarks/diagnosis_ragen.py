"""Runs of diagnosis.py as RAGEN would have logged them: samples for the tests, until a run of RAGEN itself is at hand.

    python benchmarks/diagnosis_ragen.py /tmp/diagnosis/faults/a_form_that_no_prompt_names.0 --to ragen.log

Names and layout are those of RAGEN's trainer (mll-lab-nu/RAGEN, April 2026: trainer/agent_trainer.py, es_manager.py,
rollout_filter.py and collapse_metrics.py) and of verl's console logger, which prints numbers and no tensors: the spread
of rewards within a group is a tensor there and stands in W&B alone. The first page is printed settings and progress, as
there. `--jsonl` writes what verl's file logger would, the tensors included as numbers.
"""

from __future__ import annotations

import argparse
import json
import pprint
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

TAG = "Arithmetic"
OPENING = """\
(TaskRunner pid=7) {'actor_rollout_ref': {'actor': {'clip_ratio': 0.2, 'entropy_coeff': 0.001, 'grad_clip': 1.0,
(TaskRunner pid=7)                                   'ppo_mini_batch_size': 32, 'kl_loss_coef': 0.0},
(TaskRunner pid=7)                         'rollout': {'rollout_filter_value': 0.9, 'n': 1, 'temperature': 1.0}},
(TaskRunner pid=7)  'es_manager': {'format_penalty': -0.1, 'train': {'env_groups': 8, 'group_size': 8}},
(TaskRunner pid=7)  'trainer': {'total_training_steps': 40, 'val_before_train': True}}
Total training steps: 40
"""
STEP = "list(reward_extra_infos_dict.keys())=[]\n"
BASE = 10
"""Updates whose mean spread is the base of RAGEN's early stop."""


def rows(folder: Path) -> Iterator[tuple[int, dict[str, Any], dict[str, float]]]:
    """Step, what the console shows, and what is a tensor there."""
    held_out: dict[int, float] = {}
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines()]
    for line in lines:
        if "evaluation" in line:
            held_out[line["update"]] = line["evaluation"]["success"]

    def validation(step: int) -> dict[str, Any]:
        if step not in held_out:
            return {}
        success = held_out[step]
        return {
            f"val-env/{TAG}/success": np.float64(success),
            f"val-env/{TAG}/pass@1": np.float64(success),
            f"val-core/{TAG}/reward/mean@1": success,
        }

    yield 0, validation(0), {}
    for line in lines:
        if "evaluation" in line:
            continue
        step, reward, spread = line["update"], line["reward/mean"], line["reward/std"]
        cut = line.get("ended/token_limit", 0.0)
        shown = {
            "train/real_batch_size": 64,
            "train/rollout_attempts": 1,
            "rollout/empty_after_filter": 0.0,
            f"train/{TAG}/action_is_effective": np.float64(1.0 - line["invalid"]),
            f"train/{TAG}/action_is_valid": np.float64(1.0 - line["invalid"]),
            f"train/{TAG}/num_actions": np.float64(line["turns"]),
            f"train/{TAG}/success": np.float64(line["train/success"]),
            "train/response_length": np.float64(line["reply_tokens"]),
            "actor/entropy": line["entropy"],
            "actor/pg_loss": np.float64(line.get("loss", 0.0)),
            "actor/pg_clipfrac": np.float64(line.get("clip_frac", 0.0)),
            "actor/ppo_kl": np.float64(0.0),
            "actor/grad_norm": np.float64(line.get("grad_norm", 0.0)),
            **validation(step),
            "critic/score/mean": reward,
            "critic/score/max": float(spread > 0 or reward > 0),
            "critic/score/min": float(spread == 0 and reward > 0),
            "critic/rewards/mean": reward,
            "critic/advantages/mean": line["advantage/mean"],
            "response_length/mean": line["reply_tokens"],
            "response_length/clip_ratio": cut,
            "prompt_length/mean": 8.0,
            "prompt_length/clip_ratio": 0.0,
            "timing_s/step": line["seconds"],
        }
        yield step, shown, {"rollout/in_group_reward_std": spread, "rollout/in_group_reward_mean": reward}


def console(folder: Path) -> Iterator[str]:
    """The lines of the console, the early stop's among them; what it stops is not written."""
    yield OPENING
    spreads: list[float] = []
    for step, shown, tensors in rows(folder):
        spread = tensors.get("rollout/in_group_reward_std")
        if spread is not None:
            spreads.append(spread)
            yield STEP
        yield " - ".join([f"step:{step}", *(f"{name}:{pprint.pformat(value)}" for name, value in shown.items())]) + "\n"
        base = sum(spreads[:BASE]) / BASE
        if len(spreads) == BASE:
            yield f"\n[Early Stopping] Base variance calculated from first 10 steps: {base:.6f}\n"
        if len(spreads) >= 2 * BASE and all(one < 0.1 * base for one in spreads[-BASE:]):
            yield "\n[Early Stopping] Reward variance collapsed!\n[Early Stopping] Stopping training.\n"
            return
        yield f"Training Progress:  {step}%|          | {step}/40 [00:0{step % 10}<?, ?it/s]\n"


def lines(folder: Path) -> Iterator[str]:
    """What the file logger would write."""
    for step, shown, tensors in rows(folder):
        plain = {name: float(value) for name, value in (shown | tensors).items()}
        yield json.dumps({"step": step, "data": plain}) + "\n"


def main() -> int:
    """Write one run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--to", type=Path, required=True)
    parser.add_argument("--jsonl", action="store_true")
    given = parser.parse_args()
    given.to.write_text("".join((lines if given.jsonl else console)(given.run)), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
