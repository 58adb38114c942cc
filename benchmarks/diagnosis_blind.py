"""Broken runs of kinds that no rule was written for, and logs as people keep them: what were they called as first seen?

    python benchmarks/diagnosis_blind.py run --out /tmp/blind [--seed 0] [--only NAME,...]    resumable
    python benchmarks/diagnosis_blind.py table --out /tmp/blind

What each should be called was written down before the first of them was diagnosed. Ours and TRL's are runs of
`diagnosis.py` and `diagnosis_trl.py` with other faults, 10 to 20 CPU-seconds each; the logs are two of those runs as
other programs would have printed them.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import sys
import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import diagnosis_trl
import numpy as np
import torch
from diagnosis_trl import correct

import diagnosis
from astarpo import rollout, update
from astarpo import trainer as loop
from astarpo.algorithms.grpo import GRPO
from astarpo.collate import collate
from astarpo.diagnosis.evidence import Evidence
from astarpo.diagnosis.readers import read
from astarpo.diagnosis.verdict import diagnose
from astarpo.engine import conversations
from astarpo.environments.arithmetic import Arithmetic
from astarpo.errors import AstarpoError
from astarpo.policy import tiny
from astarpo.policy.load import load_policy
from astarpo.stage_one import frozen
from astarpo.types import Step
from diagnosis import Case

ALARM_FREE = ("healthy", "not_enough_evidence", "too_little_data")


# ---- ours --------------------------------------------------------------------------------------------------------


def _no_end(stack: ExitStack) -> None:
    """The token that ends a reply is never sampled, as under another model's chat template."""
    real = conversations.choose
    run = diagnosis.settings(OURS["end_token_never_sampled"], 0)
    stop = sorted(load_policy(run.policy, "arithmetic").chat.stop)

    def endless(logits: torch.Tensor, temperature: float, draw: torch.Tensor) -> Any:
        barred = logits.clone()
        barred[:, stop] = -1e30
        return real(barred, temperature, draw)

    stack.enter_context(mock.patch.object(conversations, "choose", endless))


def _wrong_sign(stack: ExitStack) -> None:
    """The loss is ascended."""
    real = GRPO.loss

    def negative(self: GRPO, scored: Any, batch: Any) -> Any:
        loss, metrics = real(self, scored, batch)
        return -loss, metrics

    stack.enter_context(mock.patch.object(GRPO, "loss", negative))


def _one_randomness(stack: ExitStack) -> None:
    """All attempts at a task draw the same random numbers."""
    real = rollout.Play.seed

    def same(self: rollout.Play) -> Any:
        return real(replace(self, attempt=0))

    stack.enter_context(mock.patch.object(rollout.Play, "seed", same))


def _step_of_a_copy(stack: ExitStack) -> None:
    """The optimiser holds other tensors than those that are played with."""

    def elsewhere(optimizer: Any, settings: Any, *_: Any) -> dict[str, float]:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, settings.clip))
        return {"grad_norm": norm, "learning_rate": settings.learning_rate}

    stack.enter_context(mock.patch.object(update, "step", elsewhere))


def _pays_length(steps: Sequence[Step], success: bool) -> list[float]:
    del success
    return [step.reward + min(len(str(step.info.get("reply", ""))), 40) / 10 for step in steps]


def _length_paid(stack: ExitStack) -> None:
    """A reply earns more the longer it is."""
    stack.enter_context(diagnosis._replies_in_info())
    stack.enter_context(mock.patch.object(Arithmetic, "rewards", {**Arithmetic.rewards, "score": _pays_length}))


def _never_synced(stack: ExitStack) -> None:
    """An engine that generates is never given the weights that were learned."""

    def keep(self: loop.Trainer, number: int) -> None:
        del number
        if self.sampler is self.policy:
            self.sampler = frozen(self.policy)
        self.sampler.version = self.policy.version

    stack.enter_context(mock.patch.object(loop.Trainer, "_sync", keep))


def _last_rewards(stack: ExitStack) -> None:
    """A batch is given the rewards of the batch before it."""
    real, kept = collate, []

    def late(*args: Any, **named: Any) -> Any:
        batch = real(*args, **named)
        kept.append(batch.reward)
        return replace(batch, reward=kept[-2] if len(kept) > 1 else batch.reward, turn_reward=None)

    stack.enter_context(mock.patch.object(loop, "collate", late))


def _other_weights(stack: ExitStack) -> None:
    """The weights that are loaded belong to no model."""
    real = load_policy

    def noise(*args: Any, **named: Any) -> Any:
        policy = real(*args, **named)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for weight in policy.model.parameters():
                weight.add_(0.2 * torch.randn(weight.shape, generator=generator))
        return policy

    stack.enter_context(mock.patch.object(loop, "load_policy", noise))


def _grader_errs(stack: ExitStack) -> None:
    """Three verdicts in ten are the wrong way round, the same for the same reply."""
    real = rollout._step

    def wrong(task: Any, reply: str) -> Step:
        step = real(task, reply)
        flipped = zlib.crc32(f"{task}{reply}".encode()) % 10 < 3
        return replace(step, reward=1.0 - step.reward, success=not step.success) if flipped else step

    stack.enter_context(mock.patch.object(rollout, "_step", wrong))


OURS: dict[str, Case] = {
    "end_token_never_sampled": Case(("replies_never_end", "sampler_mismatch"), patch=_no_end),
    "loss_of_the_wrong_sign": Case(("held_out_fell",), patch=_wrong_sign),
    "attempts_share_their_randomness": Case(("zero_variance",), patch=_one_randomness),
    "optimiser_of_a_copy": Case(("no_movement",), patch=_step_of_a_copy),
    "length_is_paid": Case(("failure_paid", "reward_without_success"), patch=_length_paid),
    "weights_never_synced": Case(("sampler_mismatch",), patch=_never_synced),
    "rewards_of_the_last_batch": Case(("reward_lost",), patch=_last_rewards),
    "weights_of_no_model": Case(
        ("replies_never_end", "mostly_invalid", "zero_variance", "batch_too_small"), patch=_other_weights
    ),
    "grader_errs_three_times_in_ten": Case(ALARM_FREE, patch=_grader_errs),
    "warmup_longer_than_the_run": Case(("no_movement",), {"optimizer": {"warmup": 100_000}}),
    "gradient_clipped_to_nothing": Case(("no_movement",), {"optimizer": {"clip": 1e-10}}),
}
"""A loss of the wrong sign has no rule of its own: `held_out_fell` says that it got worse, and not why."""


# ---- TRL ---------------------------------------------------------------------------------------------------------


def half(completions: Sequence[Any], **_: Any) -> list[float]:
    """Half a point for anything."""
    return [0.5] * len(completions)


def unknown(completions: Sequence[Any], **_: Any) -> list[Any]:
    """A grader for another kind of task."""
    return [None] * len(completions)


def correct_or_nan(completions: Sequence[Any], task: Sequence[str], **_: Any) -> list[float]:
    """As `correct`; the tenth part of the replies cannot be graded."""
    texts = diagnosis_trl._texts(completions)
    earned = correct(completions, task)
    return [float("nan") if zlib.crc32(text.encode()) % 10 == 0 else r for text, r in zip(texts, earned, strict=True)]


def length(completions: Sequence[Any], **_: Any) -> list[float]:
    """Pays long replies."""
    return [min(len(text), 60) / 10 for text in diagnosis_trl._texts(completions)]


def _end_ids() -> list[int]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny.folder("arithmetic"))
    return [tokenizer.eos_token_id]


def trl_cases() -> dict[str, diagnosis_trl.Case]:
    """The runs of GRPOTrainer."""
    own = diagnosis_trl.Case
    steady = {"learning_rate": 3e-4, "max_steps": 60}
    return {
        "half_a_point_for_anything": own(("zero_variance",), {"scale_rewards": "batch"}, (half,)),
        "one_of_two_graders_says_none": own(ALARM_FREE, steady, (correct, unknown)),
        "one_verdict_in_ten_is_nan": own((*ALARM_FREE, "not_finite"), steady, (correct_or_nan,)),
        "cut_and_masked": own(
            ("replies_never_end", "silent_update"), {"max_completion_length": 3, "mask_truncated_completions": True}
        ),
        "the_likeliest_token_only": own(("zero_variance",), {"top_k": 1}),
        "end_token_suppressed": own(
            ("replies_never_end", "sampler_mismatch"), {"generation_kwargs": {"suppress_tokens": _end_ids()}}
        ),
        "learning_rate_0": own(("no_movement",), {"learning_rate": 0.0}),
        "length_is_paid": own(("reward_without_success",), rewards=(correct, length)),
        "reward_weight_of_minus_one": own(("reward_without_success",), {"reward_weights": [-1.0]}),
        "rloo_kl_huge": own(("held_by_kl",), {"beta": 100.0, "trainer": "rloo"}),
        "sft": own(ALARM_FREE, {"trainer": "sft", "learning_rate": 1e-4}),
        "sft_learning_rate_times_1000": own(
            ("steps_too_large", "not_finite"), {"trainer": "sft", "learning_rate": 1.0}
        ),
    }


def play_other(case: diagnosis_trl.Case, seed: int, out: Path) -> None:
    """RLOOTrainer, or SFTTrainer on the right answers, as `diagnosis_trl.play` does it for GRPO."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer

    world = diagnosis_trl._arithmetic()
    folder = tiny.folder("arithmetic")
    assert folder is not None
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = [id for level in ("easy", "medium", "hard") for id in list(world.ids("train", level))[:600]]
    over = dict(case.over)
    kind = over.pop("trainer")
    usual: dict[str, Any] = {
        "output_dir": str(out),
        "per_device_train_batch_size": 64,
        "max_steps": 40,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "seed": seed,
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "disable_tqdm": True,
        "learning_rate": 1e-3,
    } | over
    trainer: Any
    rewards: list[Any] = [*case.rewards]
    if kind == "rloo":
        from trl.trainer.rloo_config import RLOOConfig
        from trl.trainer.rloo_trainer import RLOOTrainer

        prompts = [{"prompt": [{"role": "user", "content": world.task(id).start()}], "task": id} for id in ids]
        trainer = RLOOTrainer(
            model=model,
            processing_class=tokenizer,
            reward_funcs=rewards,
            args=RLOOConfig(num_generations=8, max_completion_length=24, **usual),
            train_dataset=Dataset.from_list(prompts),
        )
    else:
        from trl.trainer.sft_config import SFTConfig
        from trl.trainer.sft_trainer import SFTTrainer

        rows = []
        for id in ids:
            problem: Any = world.task(id)
            said = {"role": "assistant", "content": _answer(problem.start())}
            rows.append({"messages": [{"role": "user", "content": problem.start()}, said]})
        trainer = SFTTrainer(
            model=model, processing_class=tokenizer, args=SFTConfig(**usual), train_dataset=Dataset.from_list(rows)
        )
    trainer.train()
    out.mkdir(parents=True, exist_ok=True)
    trainer.state.save_to_json(str(out / "trainer_state.json"))


def _answer(question: str) -> str:
    import re

    numbers = [int(n) for n in re.findall(r"\d+", question)]
    sign = next((s for s in "+-*" if s in question), "+")
    return str({"+": numbers[0] + numbers[1], "-": numbers[0] - numbers[1], "*": numbers[0] * numbers[1]}[sign])


# ---- logs as people keep them ------------------------------------------------------------------------------------

Rows = list[dict[str, float]]


def rows_of(evidence: Evidence) -> Rows:
    """Step, reward, success, loss, entropy, gradient's norm and length of every update."""
    names = ("reward", "success", "loss", "entropy", "grad_norm", "length")
    steps = evidence.series["reward"].steps
    # Where nothing was learned from an update we log no gradient; others log a 0.
    columns = {
        name: np.nan_to_num(evidence.series[name].at(steps)) if name in evidence.series else np.zeros(len(steps))
        for name in names
    }
    return [{"step": float(s)} | {n: float(c[i]) for n, c in columns.items()} for i, s in enumerate(steps)]


def _ray(rows: Rows) -> str:
    names = {"reward": "critic/score/mean", "entropy": "actor/entropy", "grad_norm": "actor/grad_norm"}
    return "\n".join(
        f"\x1b[36m(TaskRunner pid=23412)\x1b[0m step:{r['step']:.0f} - "
        + " - ".join(f"{other}:np.float64({r[name]:.6f})" for name, other in names.items())
        for r in rows
    )


def _charts(rows: Rows) -> str:
    names = {"reward": "critic/score/mean", "entropy": "actor/entropy"}
    heads = [f'"lively-sun-12 - {other}{end}"' for other in names.values() for end in ("", "__MIN", "__MAX")]
    lines = [",".join(['"Step"', *heads])]
    for r in rows:
        lines.append(",".join([f'"{r["step"]:.0f}"', *(f'"{r[name]}"' for name in names for _ in range(3))]))
    return "\n".join(lines)


def _words(rows: Rows) -> str:
    return "\n".join(
        f"[{r['step']:4.0f}/{len(rows)}] the mean reward was {r['reward']:.3f}, success {100 * r['success']:.1f} %, "
        f"with a loss of {r['loss']:.4f} and an entropy of {r['entropy']:.3f}"
        for r in rows
    )


def _bar(rows: Rows) -> str:
    return "".join(
        f"\rEpisode [1/1]: {100 * r['step'] / len(rows):3.0f}%|####      | {r['step']:.0f}/{len(rows)} "
        f"[00:{r['step'] % 60:02.0f}<00:30, 1.02s/it, policy_loss={r['loss']:.3g}, reward={r['reward']:.3g}, "
        f"entropy={r['entropy']:.3g}, act_lr=1e-3]"
        for r in rows
    )


def _printed(rows: Rows) -> str:
    said = []
    for r in rows:
        row = {n: f"{r[n]:.4g}" for n in ("loss", "grad_norm", "reward", "entropy")} | {"reward_std": "0"}
        said.append(str(row | {"epoch": f"{r['step'] / 250:.3g}"}))
        said.append(
            f" {100 * r['step'] / len(rows):2.0f}%|###       | {r['step']:.0f}/{len(rows)} [00:10<00:30, 1.02it/s]"
        )
    return "\n".join(said)


def _loguru(rows: Rows) -> str:
    return "\n".join(
        f"2026-03-04 12:{r['step'] // 60:02.0f}:{r['step'] % 60:02.0f}.123 | INFO     | trainer:step:412 - "
        f"update={r['step']:.0f} | mean_reward={r['reward']:.4f} | accuracy={100 * r['success']:.1f}% | "
        f"loss={r['loss']:.4f} | entropy={r['entropy']:.4f}"
        for r in rows
    )


def _nested(rows: Rows) -> str:
    return "\n".join(
        json.dumps(
            {
                "iteration": int(r["step"]),
                "train": {"reward": {"mean": r["reward"]}, "success_rate": r["success"], "entropy": r["entropy"]},
            }
        )
        for r in rows
    )


def _semicolons(rows: Rows) -> str:
    lines = ["step;reward;entropy;grad_norm"]
    for r in rows:
        cells = [f"{r['step']:.0f}", *(f"{r[n]:.5f}" for n in ("reward", "entropy", "grad_norm"))]
        lines.append(";".join(cells).replace(".", ","))
    return "\n".join(lines)


def _blocks(rows: Rows) -> str:
    said = []
    for r in rows:
        said.append("-" * 44)
        for name, value in (
            ("rollout/", ""),
            ("   ep_rew_mean", f"{r['reward']:.3g}"),
            ("time/", ""),
            ("   iterations", f"{r['step']:.0f}"),
            ("train/", ""),
            ("   entropy", f"{r['entropy']:.3g}"),
            ("   loss", f"{r['loss']:.3g}"),
        ):
            said.append(f"| {name:<24} | {value:<12} |")
    return "\n".join(said)


def _markdown(rows: Rows) -> str:
    said = ["| step | reward | success | entropy |", "|---|---|---|---|"]
    said += [f"| {r['step']:.0f} | {r['reward']:.3f} | {r['success']:.3f} | {r['entropy']:.3f} |" for r in rows]
    return "\n".join(said)


FELL, LEARNED, NO = "learning_rate_large", "grpo", "grader_always_says_no"
LOGS: dict[str, tuple[str, str, Callable[[Rows], str], tuple[str, ...]]] = {
    "ray_prefix_and_colours": ("train.log", FELL, _ray, ("steps_too_large",)),
    "charts_of_wandb_two_columns": ("wandb_export.csv", FELL, _charts, ("steps_too_large",)),
    "a_sentence_a_line": ("notes.txt", LEARNED, _words, ("healthy",)),
    "progress_bar": ("stderr.log", FELL, _bar, ("steps_too_large",)),
    "printed_dictionaries": ("out.txt", NO, _printed, ("zero_variance",)),
    "timestamps_and_bars": ("app.log", LEARNED, _loguru, ("healthy",)),
    "nested_json": ("metrics.jsonl", LEARNED, _nested, ("healthy",)),
    "decimal_commas": ("export.csv", FELL, _semicolons, ("steps_too_large",)),
    "blocks_of_a_table": ("sb3.log", FELL, _blocks, ("steps_too_large",)),
    "table_of_markdown": ("readme.md", LEARNED, _markdown, ("healthy",)),
}
"""File name, the run it shows, its writer, and what it should be called."""


# ---- together ----------------------------------------------------------------------------------------------------


def told(path: Path) -> tuple[str, str]:
    """What the run or log at `path` is called, and why; "refused" where it cannot be read."""
    try:
        found = diagnose(read(path))
    except AstarpoError as error:
        return "refused", str(error)
    return diagnosis.told(found), found.summary


def run_all(out: Path, seed: int, only: Sequence[str]) -> None:
    """Every run and log that is not there yet."""

    def wanted(kind: str, name: str) -> Path | None:
        folder = out / kind / f"{name}.{seed}"
        return None if folder.exists() or (only and name not in only and kind not in only) else folder

    def say(kind: str, name: str, expected: Sequence[str], path: Path) -> None:
        called, why = told(path)
        print(f"{'ok ' if called in expected else 'NO '} {kind} {name}: {called} | {why[:200]}", flush=True)

    for name, case in OURS.items():
        if (folder := wanted("ours", name)) is not None:
            diagnosis.play(diagnosis.settings(case, seed), folder, case.patch)
            say("ours", name, case.expected, folder)
    for name, fault in trl_cases().items():
        if (folder := wanted("trl", name)) is not None:
            play = play_other if "trainer" in fault.over else diagnosis_trl.play
            play(copy.deepcopy(fault), seed, folder)
            say("trl", name, fault.expected, folder)
    shown: Mapping[str, Path] = {
        FELL: out / "shown" / FELL,
        NO: out / "shown" / NO,
        LEARNED: out / "shown" / LEARNED,
    }
    for name, folder in shown.items():
        if not folder.exists():
            broken = diagnosis.CASES.get(name)
            run = diagnosis.healthy(name, seed) if broken is None else diagnosis.settings(broken, seed)
            diagnosis.play(run, folder, None if broken is None else broken.patch)
    for name, (file, source, write, expected) in LOGS.items():
        if (folder := wanted("logs", name)) is not None:
            folder.mkdir(parents=True)
            (folder / file).write_text(write(rows_of(read(shown[source]))) + "\n", "utf-8")
            say("logs", name, expected, folder / file)


def table(out: Path) -> str:
    """Markdown: each kind with what it should be called and what it is called."""
    lines = ["| kind | should be called | is called | right |", "|---|---|---|---|"]
    right = 0

    def row(name: str, expected: Sequence[str], path: Path) -> None:
        nonlocal right
        if path.exists():
            called, _ = told(path)
            right += called in expected
            lines.append(f"| {name} | {' or '.join(expected)} | {called} | {'yes' if called in expected else 'no'} |")

    for kind, cases in (("ours", OURS), ("trl", trl_cases())):
        for name, case in cases.items():
            for folder in sorted((out / kind).glob(f"{name}.*")):
                if folder.suffix != ".part":
                    row(f"{kind}: {name}", case.expected, folder)
    for name, (file, _, _, expected) in LOGS.items():
        for folder in sorted((out / "logs").glob(f"{name}.*")):
            row(f"log: {name}", expected, folder / file)
    return "\n".join([*lines, "", f"{right} of {len(lines) - 2} are called right."])


def main() -> int:
    """Run, or tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "table"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="")
    given = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    warnings.filterwarnings("ignore", category=FutureWarning)
    torch.set_num_threads(1)
    np.seterr(all="ignore")
    if given.what == "run":
        run_all(given.out, given.seed, [s for s in given.only.split(",") if s])
    else:
        print(table(given.out))
    return 0


if __name__ == "__main__":
    sys.exit(main())
