"""Failing runs, each by a seeded fault in a real run, and healthy runs: is the fault named?

    python benchmarks/diagnosis.py run --out /tmp/diagnosis --seeds 0,1 [--only FAULT,...]    resumable
    python benchmarks/diagnosis.py table --out /tmp/diagnosis                                the confusion table

A run is arithmetic with the embedded model, 8 tasks x 8 attempts, 40 updates unless the case says otherwise, and takes
about ten seconds of one idle core. Even seeds are for calibrating thresholds, odd seeds for the table. A fault is put
into the running program, as a bug would be, or into the settings where a user can write it.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import yaml

from astarpo import journal, rollout, stage_one, update
from astarpo import trainer as loop
from astarpo.algorithms import grpo
from astarpo.algorithms.regularisers import entropy_bonus
from astarpo.chat import Chat
from astarpo.checkpoint import mark_run
from astarpo.collate import collate
from astarpo.diagnosis.environment import play_environment
from astarpo.diagnosis.evidence import Evidence
from astarpo.diagnosis.readers import read
from astarpo.diagnosis.verdict import Diagnosis, diagnose
from astarpo.environments.arithmetic import Arithmetic
from astarpo.errors import AstarpoError
from astarpo.journal import write_atomically
from astarpo.policy import tiny
from astarpo.progress import Watch
from astarpo.run import Run, load_preset, merge
from astarpo.run import environment as playable
from astarpo.types import Episode, Step

SMALL: dict[str, Any] = {
    "rollout": {"tasks_per_update": 8, "reply_tokens": 24, "episode_tokens": 96},
    "optimizer": {"learning_rate": 3e-4, "warmup": 5},
    "evaluation": {"tasks": 200, "samples": 0, "every": 20, "dev_tasks": 100},
    "checkpoint_every": 1000,
    "updates": 40,
}
SHOP: dict[str, Any] = {
    "policy": {"model": str(tiny.folder("webshop"))},
    "rollout": {"tasks_per_update": 4},
    "evaluation": {"tasks": 20, "samples": 0, "every": 0},
    "checkpoint_every": 1000,
    "updates": 4,
}
FAILED_SHOP = {"name": "failed_shop.FailedShop", "reward": "bonuses_coded"}
"""The worked example, one of its faults at a time."""

HEALTHY = (
    "default",
    "grpo",
    "rloo",
    "reinforce",
    "reinforce_pp",
    "astar_po",
    "dr_grpo",
    "dapo",
    "gspo",
    "cispo",
    "lite_ppo",
)
"""Presets of arithmetic, at 64 episodes an update and for 100 updates."""

Patch = Callable[[ExitStack], None]


@dataclass(frozen=True)
class Case:
    """One kind of failing run.

    Attributes:
        expected: detectors that name the fault; the first is the best name for it.
        over: settings laid over `SMALL`, or over `SHOP` where the preset is one of webshop's.
        preset: what the settings begin from.
        patch: puts the fault into the program while the run goes on.
        shows: detectors that must find something as well, whether or not they name the fault.
        played: whether the environment is played for the diagnosis, with the fault in it.
    """

    expected: tuple[str, ...]
    over: Mapping[str, Any] = field(default_factory=dict)
    preset: str = "arithmetic/grpo"
    patch: Patch | None = None
    shows: tuple[str, ...] = ()
    played: bool = False


def _swallowed(stack: ExitStack) -> None:
    """The optimiser's step raises, the exception is swallowed, and a gradient of 0 is logged."""

    def nothing(*_: Any) -> dict[str, float]:
        return {"grad_norm": 0.0}

    stack.enter_context(mock.patch.object(update, "step", nothing))


def _other_temperature(stack: ExitStack) -> None:
    """Sampled at 1, scored at 0.6."""
    real = collate

    def wrong(*args: Any, **named: Any) -> Any:
        return replace(real(*args, **named), temperature=0.6)

    stack.enter_context(mock.patch.object(loop, "collate", wrong))


def _mask_with_prompt(stack: ExitStack) -> None:
    """The prompt's tokens are trained on too."""
    real = collate

    def wrong(*args: Any, **named: Any) -> Any:
        batch = real(*args, **named)
        positions = torch.arange(batch.tokens.shape[1])[None, :]
        inside = (positions >= 1) & (positions < batch.lengths[:, None])
        return replace(batch, acted=inside, turn=torch.where(inside, 0, -1))

    stack.enter_context(mock.patch.object(loop, "collate", wrong))


def _rewards(change: Callable[[torch.Tensor], torch.Tensor]) -> Patch:
    def patch(stack: ExitStack) -> None:
        real = collate

        def wrong(*args: Any, **named: Any) -> Any:
            batch = real(*args, **named)
            return replace(batch, reward=change(batch.reward), turn_reward=None)

        stack.enter_context(mock.patch.object(loop, "collate", wrong))

    return patch


def _pays_brevity(steps: Sequence[Step], success: bool) -> list[float]:
    del success
    return [2.0 - min(len(str(step.info.get("reply", ""))), 20) / 10 + 0.2 * step.reward for step in steps]


def _tiny_noise(steps: Sequence[Step], success: bool) -> list[float]:
    del success
    return [1e-5 * (hash(str(step.info)) % 97) for step in steps]


@contextmanager
def _replies_in_info() -> Iterator[None]:
    """Lets a reward mode read the reply's length."""
    real = rollout._step

    def told(task: Any, reply: str) -> Step:
        step = real(task, reply)
        return replace(step, info={**step.info, "reply": reply[:60]})

    with mock.patch.object(rollout, "_step", told):
        yield


def _brevity_paid(stack: ExitStack) -> None:
    stack.enter_context(_replies_in_info())
    stack.enter_context(mock.patch.object(Arithmetic, "rewards", {**Arithmetic.rewards, "score": _pays_brevity}))


def _noise_paid(stack: ExitStack) -> None:
    stack.enter_context(_replies_in_info())
    stack.enter_context(mock.patch.object(Arithmetic, "rewards", {**Arithmetic.rewards, "score": _tiny_noise}))


def _flipped_entropy(stack: ExitStack) -> None:
    """An entropy bonus with the wrong sign."""
    real = entropy_bonus
    stack.enter_context(mock.patch.object(grpo, "entropy_bonus", lambda scored, batch: -real(scored, batch)))


def _never_right(stack: ExitStack) -> None:
    """No answer is accepted."""
    real = rollout._step

    def wrong(task: Any, reply: str) -> Step:
        return replace(real(task, reply), reward=0.0, success=False)

    stack.enter_context(mock.patch.object(rollout, "_step", wrong))


def _tenfold_in_stage_one(stack: ExitStack) -> None:
    """Stage 1 counts rewards in other units than training."""
    real = stage_one.StageOne.play

    def tenfold(self: Any, wanted: Any) -> Any:
        return [play._replace(reward=10.0 * play.reward) for play in real(self, wanted)]

    stack.enter_context(mock.patch.object(stage_one.StageOne, "play", tenfold))


def _last_metrics_again(stack: ExitStack) -> None:
    """From the tenth update on an exception is swallowed around all of it, and the last line is logged again."""
    real = loop.Trainer.update
    kept: list[Any] = []

    def stuck(self: loop.Trainer, number: int) -> Any:
        if number < 10:
            kept[:] = [real(self, number)]
        return kept[0]

    stack.enter_context(mock.patch.object(loop.Trainer, "update", stuck))


def _probabilities_stored(stack: ExitStack) -> None:
    """Probabilities are stored where log-probs belong."""
    real = journal.episode_line

    def wrong(episode: Episode) -> dict[str, Any]:
        line = real(episode)
        for turn in line["turns"]:
            turn["log_probs"] = [math.exp(value) for value in turn["log_probs"]]
        return line

    stack.enter_context(mock.patch.object(journal, "episode_line", wrong))


def _one_huge_loss(stack: ExitStack) -> None:
    """One batch in the middle of the run is weighed ten thousand times."""
    real = update.step

    def huge(optimizer: Any, *args: Any, **named: Any) -> Any:
        huge.calls = getattr(huge, "calls", 0) + 1  # type: ignore[attr-defined]
        if huge.calls == 15:  # type: ignore[attr-defined]
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        parameter.grad.mul_(1e4)
        return real(optimizer, *args, **named)

    stack.enter_context(mock.patch.object(update, "step", huge))


def _four_tasks(stack: ExitStack) -> None:
    """Training draws from four tasks only."""
    real = Arithmetic.ids

    def few(self: Arithmetic, split: Any, level: str | None = None) -> Any:
        listed = real(self, split, level)
        return listed[:4] if split == "train" else listed

    stack.enter_context(mock.patch.object(Arithmetic, "ids", few))


PROMPT_LIMIT = 6
"""Tokens of a prompt that are kept in `_prompts_cut`: 6 of the usual 7 to 10."""


def _prompts_cut(stack: ExitStack) -> None:
    """The last tokens of a prompt are kept, as a limit on its length does that cuts on the left; the share is logged as
    verl logs it."""
    real, whole = Chat.first, loop.Trainer.update
    lengths: list[int] = []

    def cut(self: Chat, observation: str, rules: str = "") -> list[int]:
        ids = real(self, observation, rules)
        lengths.append(len(ids))
        return ids[-PROMPT_LIMIT:]

    def logged(self: loop.Trainer, number: int) -> Any:
        lengths.clear()
        episodes, metrics = whole(self, number)
        at_limit = sum(length >= PROMPT_LIMIT for length in lengths) / len(lengths)
        return episodes, metrics | {"prompt_length/clip_ratio": at_limit}

    stack.enter_context(mock.patch.object(Chat, "first", cut))
    stack.enter_context(mock.patch.object(loop.Trainer, "update", logged))


def _form_that_no_prompt_names(stack: ExitStack) -> None:
    """The parser reads `answer[46]` alone, and no prompt says so."""
    real = rollout._step

    def strict(task: Any, reply: str) -> Step:
        step = real(task, reply)
        read = re.fullmatch(r"answer\[.*\]", reply) is not None
        return step if read else replace(step, reward=0.0, success=False, valid=False)

    stack.enter_context(mock.patch.object(rollout, "_step", strict))


def _trained_on_the_test(stack: ExitStack) -> None:
    """Held-out tasks are tasks of training."""
    real = Arithmetic.ids

    def shared(self: Arithmetic, split: Any, level: str | None = None) -> Any:
        return real(self, "train", level)[: len(real(self, split, level))]

    stack.enter_context(mock.patch.object(Arithmetic, "ids", shared))


CASES: dict[str, Case] = {
    "swallowed_exception": Case(("silent_update",), patch=_swallowed),
    "scored_at_another_temperature": Case(("sampler_mismatch",), patch=_other_temperature),
    "prompt_in_the_mask": Case(("sampler_mismatch",), patch=_mask_with_prompt),
    "rewards_zeroed_on_the_way": Case(("reward_lost",), patch=_rewards(torch.zeros_like)),
    "rewards_in_another_order": Case(("reward_lost",), patch=_rewards(lambda r: r[torch.randperm(len(r))])),
    "control_run": Case(("reward_lost", "control"), {"control": "shuffled_rewards"}, shows=("control",)),
    "replies_cut": Case(("replies_never_end",), {"rollout": {"reply_tokens": 3}}),
    "brevity_is_paid": Case(
        ("failure_paid", "reward_without_success"),
        patch=_brevity_paid,
        shows=("reward_without_success", "shrinking", "more_invalid", "same_reply", "entropy_collapse", "best_of_many"),
    ),
    "noise_is_paid": Case(("noise_amplified",), patch=_noise_paid),
    "grader_always_says_no": Case(("zero_variance", "batch_too_small"), patch=_never_right),
    "v_star_of_another_reward": Case(
        ("reference_reward",),
        {"values": {"tasks": 256}, "rollout": {"tasks_per_update": 64}},
        "arithmetic/astar_po",
        patch=_tenfold_in_stage_one,
        shows=("one_sided", "kl_blow_up"),
    ),
    "nothing_succeeds_in_stage_one": Case(
        ("values_say_nothing", "batch_too_small", "no_signal"),
        {"values": {"tasks": 64}, "rollout": {"tasks_per_update": 64}},
        "arithmetic/astar_po",
        patch=_never_right,
        shows=("no_signal", "zero_variance", "values_say_nothing", "batch_too_small"),
    ),
    "learning_rate_tiny": Case(("no_movement",), {"optimizer": {"learning_rate": 1e-9}}),
    "learning_rate_huge": Case(
        ("steps_too_large",),
        {"optimizer": {"learning_rate": 0.1, "warmup": 0}},
        shows=("echo_trap", "more_cut"),
    ),
    "learning_rate_large": Case(("steps_too_large",), {"optimizer": {"learning_rate": 0.02, "warmup": 0}}),
    "entropy_bonus_too_large": Case(("entropy_explosion",), {"algorithm": {"entropy_coef": 1.0}}),
    "entropy_bonus_of_the_wrong_sign": Case(
        ("entropy_collapse", "same_reply"), {"algorithm": {"entropy_coef": 10.0}}, patch=_flipped_entropy
    ),
    "four_tasks": Case(
        ("held_out_flat",),
        {"rollout": {"tasks_per_update": 4}, "algorithm": {"group_size": 16}, "optimizer": {"learning_rate": 1e-3}},
        patch=_four_tasks,
    ),
    "three_updates": Case(
        ("too_little_data",),
        {"updates": 3, "optimizer": {"learning_rate": 1e-6}, "evaluation": {"tasks": 20}},
        shows=("few_held_out",),
    ),
    "last_metrics_again": Case(("repeated_lines",), patch=_last_metrics_again),
    "probabilities_for_log_probs": Case(("impossible_log_probs",), {"updates": 10}, patch=_probabilities_stored),
    "one_huge_loss": Case(
        ("gradient_spike", "steps_too_large"),
        {"optimizer": {"learning_rate": 2e-3, "clip": 1e9, "warmup": 0}, "updates": 30},
        patch=_one_huge_loss,
        shows=("gradient_spike",),
    ),
    "weights_all_even": Case(
        ("steps_too_large", "even_weights"),
        {"algorithm": {"scheme": "exp", "beta": 1e5}, "optimizer": {"learning_rate": 2e-3}, "values": {"tasks": 64}}
        | {"rollout": {"tasks_per_update": 64}},
        "arithmetic/weighted_sft",
        shows=("even_weights",),
    ),
    "prompts_lose_their_beginning": Case(("prompts_cut",), patch=_prompts_cut),
    "a_form_that_no_prompt_names": Case(
        ("mostly_invalid",), patch=_form_that_no_prompt_names, shows=("zero_variance", "batch_too_small")
    ),
    "clip_of_nothing": Case(
        ("clipping",),
        {
            "algorithm": {"clip_low": 0.0, "clip_high": 0.0},
            "optimizer": {"learning_rate": 3e-6, "minibatches": 8, "epochs": 4},
        },
    ),
    "tested_on_the_training_tasks": Case(("broken_promise",), patch=_trained_on_the_test, played=True),
    "purchase_does_nothing": Case(
        ("final_action_dead",), {"environment": FAILED_SHOP | {"faults": ["purchase"]}}, "webshop/grpo"
    ),
    "scored_by_another_goal": Case(
        ("another_task",), {"environment": FAILED_SHOP | {"faults": ["goals"]}}, "webshop/grpo"
    ),
}
"""The faults. Where one shows in two detectors, either name is right."""


def settings(case: Case, seed: int) -> Run:
    """What a case is run with."""
    environment, _, preset = case.preset.partition("/")
    small = SMALL if environment == "arithmetic" else SHOP
    return Run.build(merge(merge(merge(load_preset(environment, preset), small), dict(case.over)), {"seed": seed}))


def healthy(preset: str, seed: int) -> Run:
    """A preset as it ships, but for the size of an update and of evaluations."""
    own = load_preset("arithmetic", preset)
    size = int(getattr(Run.build(own).algorithm, "group_size", 1))
    less = {"evaluation": SMALL["evaluation"], "checkpoint_every": 1000, "updates": 100, "seed": seed}
    return Run.build(merge(own, less | {"rollout": {"tasks_per_update": 64 // size}}))


def play(run: Run, out: Path, patch: Patch | None) -> str:
    """Train into `out`, past the check before training. Returns what stopped it, if anything did."""
    part = out.with_name(out.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    write_atomically(part / "settings.yaml", yaml.safe_dump(run.dump(), sort_keys=False).encode())
    mark_run(part)
    stopped = ""
    with ExitStack() as stack:
        if patch is not None:
            patch(stack)
        try:
            with closing(loop.Trainer(run, part, Watch())) as trainer:
                trainer.start()
        except AstarpoError as error:
            stopped = str(error)
    shutil.rmtree(part / "checkpoints", ignore_errors=True)
    part.rename(out)
    return stopped


def judged(case: Case, folder: Path) -> Diagnosis:
    """What is said of a case's run; its environment is played where the case wants it."""
    seen: Evidence = read(folder)
    if case.played:
        with ExitStack() as stack:
            if case.patch is not None:
                case.patch(stack)
            seen = replace(seen, environment=play_environment(playable(settings(case, 0))))
    return diagnose(seen)


def told(found: Diagnosis) -> str:
    """What the diagnosis calls the root cause."""
    if found.root_cause is not None:
        return found.root_cause.name
    return "too_little_data" if any(f.name == "too_little_data" for f in found.remarks) else found.verdict


def run_all(out: Path, seeds: Sequence[int], only: Sequence[str]) -> None:
    """Every case and every healthy preset that is not there yet."""
    for seed in seeds:
        for name, case in CASES.items():
            folder = out / "faults" / f"{name}.{seed}"
            if folder.exists() or (only and name not in only):
                continue
            stopped = play(settings(case, seed), folder, case.patch)
            found = judged(case, folder)
            right = told(found) in case.expected
            print(f"{'ok ' if right else 'NO '} {name}.{seed}: {told(found)} {stopped[:60]}", flush=True)
            for absent in set(case.shows) - {finding.name for finding in found.findings}:
                print(f"NO  {name}.{seed}: {absent} finds nothing", flush=True)
        for preset in HEALTHY:
            folder = out / "healthy" / f"{preset}.{seed}"
            if folder.exists() or (only and "healthy" not in only and preset not in only):
                continue
            play(healthy(preset, seed), folder, None)
            found = diagnose(read(folder))
            print(
                f"{'ok ' if found.root_cause is None else 'NO '} healthy {preset}.{seed}: {found.summary}", flush=True
            )


def table(out: Path, odd: int | None) -> str:
    """Markdown: each fault with what it was called, then the healthy runs with every alarm.

    Args:
        out: where runs lie.
        odd: 1 for odd seeds, 0 for even ones, None for all.
    """
    lines = ["| fault | runs | named | called |", "|---|---|---|---|"]
    for name, case in CASES.items():
        called = Counter(
            told(judged(case, folder))
            for folder in sorted((out / "faults").glob(f"{name}.*"))
            if folder.suffix != ".part" and (odd is None or int(folder.suffix[1:]) % 2 == odd)
        )
        if called:
            right = sum(count for one, count in called.items() if one in case.expected)
            listed = ", ".join(f"{one} {count}" for one, count in called.most_common())
            lines.append(f"| {name} | {called.total()} | {right} | {listed} |")
    healthy = [
        (folder.name, diagnose(read(folder)))
        for folder in sorted((out / "healthy").glob("*.*"))
        if folder.suffix != ".part" and (odd is None or int(folder.suffix[1:]) % 2 == odd)
    ]
    alarms = [f"{name}: {found.root_cause.name}" for name, found in healthy if found.root_cause is not None]
    lines += [
        "",
        f"Healthy runs: {len(healthy)}; alarms of warning or above: {len(alarms)} {'; '.join(alarms)}".rstrip(),
    ]
    return "\n".join(lines)


def features(out: Path) -> dict[str, Any]:
    """What thresholds are set against: every detector's numbers on every run, as JSON values."""
    kept: dict[str, Any] = {}
    for folder in sorted(out.glob("*/*")):
        found = diagnose(read(folder))
        kept[f"{folder.parent.name}/{folder.name}"] = {
            **{finding.name: dict(finding.numbers) for finding in found.findings},
            **{name: detail for name, _, detail in found.checked if detail},
        }
    return kept


def main() -> int:
    """Run, or tell."""
    sys.path.append(str(Path(__file__).resolve().parents[1] / "examples" / "failed_run"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "table", "features"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--only", default="")
    parser.add_argument("--half", choices=("even", "odd", "all"), default="odd")
    given = parser.parse_args()
    if given.what == "run":
        torch.set_num_threads(1)
        run_all(given.out, [int(s) for s in given.seeds.split(",")], [s for s in given.only.split(",") if s])
    elif given.what == "table":
        print(table(given.out, {"even": 0, "odd": 1, "all": None}[given.half]))
    else:
        json.dump(
            features(given.out), sys.stdout, indent=1, default=lambda value: None if value != value else str(value)
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
