"""The two sides of benchmarks/against_trl.py: our trainer and TRL's, set to the same work on the same model.

Both get the same tasks in the same order, the same tokens, limits, optimiser and learning rate, and neither logs,
writes or evaluates. The learning rate is so small that replies stay as long as they were: every update is then the same
work, and none of it is saved by learning. TRL is set as is fastest here: float32, no gradient checkpointing, the whole
batch in one pass, no padding beyond the longest, its own choice of optimiser kernel.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from transformers import PrinterCallback
from trl import GRPOConfig, GRPOTrainer
from trl.experimental.a2po import A2POConfig, A2POTrainer

from astarpo.environments.base import Environment, EnvironmentSettings, solved
from astarpo.policy.load import load_policy
from astarpo.progress import Watch
from astarpo.run import Run
from astarpo.trainer import Trainer
from astarpo.types import Episode, Step

LEARNING_RATE = 1e-6
GROUP = 8
LIMITS = {
    "arithmetic": {"reply_tokens": 24, "episode_tokens": 96},
    "webshop": {"reply_tokens": 20, "episode_tokens": 700},
}
"""Those of the presets: tokens of one reply, and of an episode before its last reply."""


CUT = Step(valid=False, info={"kind": "cut"})
"""What stands for the answer to a reply without an end, as in our rollout."""


@dataclass
class Work:
    """What was done in each update: tokens that were read, and tokens that were sampled."""

    read: list[int] = field(default_factory=list)
    said: list[int] = field(default_factory=list)

    def add(self, read: int, said: int) -> None:
        """Note one update."""
        self.read.append(read)
        self.said.append(said)


def grpo_run(world: str, batch: int, reward: str = "score", **more: Any) -> Run:
    """GRPO as TRL computes it, on `batch` episodes an update."""
    algorithm = {"name": "grpo", "group_size": GROUP, "std_eps": 1e-4, "old_log_probs": "detached"}
    return _run(world, algorithm, reward, tasks=batch // GROUP, **more)


def a2po_run(tasks: int, batch: int, updates: int) -> Run:
    """A*-PO as TRL computes it: one attempt at each of `batch` tasks, eight reference plays of each of `tasks`."""
    algorithm = {"name": "astar_po", "group_size": 1, "beta": 1e-3, "normalize_gradient": False}
    # One commit of all plays: TRL keeps its values in memory alone.
    values = {"samples": 8, "beta": 0.5, "tasks": tasks, "batch": 8 * tasks}
    return _run("arithmetic", algorithm, "score", tasks=batch, values=values, updates=updates)


def _run(world: str, algorithm: Mapping[str, Any], reward: str, *, tasks: int, **more: Any) -> Run:
    return Run.build(
        {
            "environment": {"name": world, "reward": reward},
            "algorithm": dict(algorithm),
            "rollout": {"tasks_per_update": tasks, **LIMITS[world]},
            "optimizer": {"learning_rate": LEARNING_RATE},
            "evaluation": {"every": 0},
            **more,
        }
    )


class Ours:
    """Our trainer, as `astarpo train` makes it; `Trainer.update` is all of an update but the writing."""

    def __init__(self, run: Run) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="against_trl_")
        self.run, self.played = run, list[list[Episode]]()
        self.trainer = Trainer(run, Path(self._folder.name), Watch())

    def update(self) -> None:
        """The next update."""
        episodes, _ = self.trainer.update(len(self.played))
        self.played.append(episodes)

    def updates(self, count: int) -> None:
        """The next `count` updates."""
        for _ in range(count):
            self.update()

    @property
    def work(self) -> Work:
        """What was done so far."""
        done = Work()
        for episodes in self.played:
            done.add(*counts(episodes))
        return done

    def groups(self) -> list[list[list[Episode]]]:
        """Attempts at one task, of each task, of each update so far."""
        size = self.run.algorithm.group_size
        return [[some[first : first + size] for first in range(0, len(some), size)] for some in self.played]

    def silent(self) -> float:
        """Share of groups whose attempts all earned the same: nothing is learned from them, and nothing scored."""
        return fmean(not has_signal(group) for update in self.groups() for group in update)

    def flops(self) -> float:
        """Floating-point operations of an update, as few as there can be; see `flops`."""
        return sum(flops(self.trainer.policy.model, group) for update in self.groups() for group in update) / len(
            self.played
        )

    def close(self) -> None:
        """Remove its folder."""
        self.trainer.close()
        self._folder.cleanup()


def has_signal(group: Sequence[Episode]) -> bool:
    """Whether anything is learned from these attempts at one task."""
    return len(group) == 1 or len({episode.reward for episode in group}) > 1


def counts(episodes: Sequence[Episode]) -> tuple[int, int]:
    """Tokens read and sampled."""
    turns = [turn for episode in episodes for turn in episode.turns]
    return sum(len(turn.observation_ids) for turn in turns), sum(len(turn.reply.ids) for turn in turns)


def flops(model: Any, group: Sequence[Episode]) -> float:
    """Floating-point operations of playing attempts at one task and of learning from them, as few as there can be.

    Played: every token once through the layers, the prompt once for the group; the head only where a token is sampled.
    Learned from, unless all earned the same: the same forward and twice as much backward, each episode for itself. A
    product of matrices counts two for each entry of the weight and token; attention is causal.
    """
    config = model.config
    inside = sum(p.numel() for name, p in model.named_parameters() if p.ndim == 2 and ".layers." in name)
    pair = 4 * config.hidden_size * config.num_hidden_layers
    head = 2 * config.hidden_size * config.vocab_size
    total = 0.0
    for number, episode in enumerate(group):
        read, said = counts([episode])
        tokens, prompt = read + said, len(episode.turns[0].observation_ids) if number else 0
        forward = 2 * inside * tokens + pair * tokens**2 / 2 + head * said
        total += forward - 2 * inside * prompt - pair * prompt**2 / 2
        total += 3 * forward if has_signal(group) else 0.0
    return total


# ---------------------------------------------------------------------------------------------- TRL


def trl_arguments(batch: int, updates: int, out: str) -> dict[str, Any]:
    """Training arguments that both of TRL's trainers share."""
    return {
        "output_dir": out,
        "per_device_train_batch_size": batch,
        "gradient_accumulation_steps": 1,
        "max_steps": updates,
        "learning_rate": LEARNING_RATE,
        "lr_scheduler_type": "constant",
        "adam_beta1": 0.9,
        "adam_beta2": 0.99,
        "max_grad_norm": 1.0,
        "temperature": 1.0,
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "logging_strategy": "no",
        "save_strategy": "no",
        "eval_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "seed": 0,
    }


class TrlGrpo:
    """TRL's GRPOTrainer on the tasks that `run` draws, in their order.

    Args:
        run: what our side does.
        updates: how many there will be.
        world: the environment; its tasks answer replies.
        tasks: of all updates, in order.
        passes: forward passes that an update is cut into.
    """

    def __init__(
        self,
        run: Run,
        updates: int,
        world: Environment[EnvironmentSettings],
        tasks: Sequence[str],
        *,
        passes: int = 1,
    ) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="against_trl_")
        self.run, self.world, self.work = run, world, Work()
        self.policy = load_policy(run.policy, run.environment.name)
        self.policy.tokenizer.padding_side = "left"
        self.chat = self.policy.chat
        one_turn = world.settings.max_turns == 1
        batch = run.rollout.tasks_per_update * GROUP
        prompts = [self.chat.tokenizer.decode(self.chat.first(world.task(task).start())) for task in tasks]
        arguments = GRPOConfig(
            **trl_arguments(batch // passes, updates, self._folder.name) | {"gradient_accumulation_steps": passes},
            num_generations=GROUP,
            max_completion_length=run.rollout.reply_tokens,
            shuffle_dataset=False,
            top_k=0,
            beta=0.0,
            loss_type="grpo",
            scale_rewards="group",
        )
        self.trainer = GRPOTrainer(
            model=self.policy.model,
            reward_funcs=self._reward if one_turn else _earned,
            args=arguments,
            train_dataset=Dataset.from_dict({"prompt": prompts, "task": list(tasks)}),
            processing_class=self.policy.tokenizer,
            rollout_func=None if one_turn else self._rollout,
        )
        self.trainer.remove_callback(PrinterCallback)
        self._tasks = dict(zip(prompts, tasks, strict=True))

    def _reward(
        self, completions: Sequence[str], completion_ids: Sequence[Sequence[int]], task: Sequence[str], **_: Any
    ) -> list[float]:
        """What each reply earns, under the run's reward; one that was cut is not shown to the task, as on our side."""
        self.work.add(0, sum(map(len, completion_ids)))
        mode, earned = self.world.reward_mode(self.run.environment.reward), []
        for id, text, ids in zip(task, completions, completion_ids, strict=True):
            step = self.world.task(id).step(text) if ids[-1] in self.chat.stop else CUT
            earned.append(sum(mode([step], solved([step]))))
        return earned

    def _rollout(self, prompts: Sequence[str], trainer: Any) -> dict[str, Any]:
        """Every open episode's whole history through TRL's own generation, once a turn.

        The ids of a history are what was sampled and read: nothing is encoded twice. This is what `environment_factory`
        does, less its templates and the parsing of calls.
        """
        limits, most = self.run.rollout, self.world.settings.max_turns
        tasks = [self.world.task(self._tasks[prompt]) for prompt in prompts]
        first = [self.chat.first(task.start()) for task in tasks]
        history, mask = [list(ids) for ids in first], [list[int]() for _ in first]
        earned, going, said = [0.0] * len(tasks), list(range(len(tasks))), 0
        for turn in range(most):
            replies, _ = trainer._generate_single_turn([history[i] for i in going], None, {}, 1)
            still = []
            for i, ids in zip(going, replies, strict=True):
                said += len(ids)
                history[i] += ids
                mask[i] += [1] * len(ids)
                if ids[-1] not in self.chat.stop:
                    continue
                step = tasks[i].step(self.chat.decode(ids))
                earned[i] += step.reward
                if step.ended is not None or turn == most - 1:
                    continue
                seen = self.chat.next(step.text)
                if len(history[i]) + len(seen) >= limits.episode_tokens:
                    continue
                history[i] += seen
                mask[i] += [0] * len(seen)
                still.append(i)
            going = still
            if not going:
                break
        self.work.add(sum(map(len, history)) - said, said)
        completions = [whole[len(ids) :] for whole, ids in zip(history, first, strict=True)]
        return {
            "prompt_ids": first,
            "completion_ids": completions,
            "logprobs": None,
            "env_mask": mask,
            "earned": earned,
        }

    def gradient_of(self, episodes: Sequence[Episode]) -> tuple[float, dict[str, Tensor]]:
        """TRL's loss and gradient where these episodes, and no others, are what it rolled out.

        Its own code scores, centres, clips and differentiates; rewards are asked for again.
        """
        trainer, own, kept = self.trainer, self.trainer.rollout_func, self.trainer.reward_funcs
        self.replay(episodes)
        trainer.reward_funcs = kept
        firsts = [self.chat.tokenizer.decode(episode.turns[0].observation_ids) for episode in episodes]
        rows = [{"prompt": prompt, "task": e.task} for prompt, e in zip(firsts, episodes, strict=True)]
        trainer.model.train()
        trainer.current_gradient_accumulation_steps = 1
        inputs = trainer._generate_and_score_completions(rows)
        trainer.rollout_func, trainer.reward_funcs = own, kept
        loss = trainer._compute_loss(trainer.model, inputs)
        loss.backward()
        return float(loss.detach()), gradient(trainer.model)

    def replay(self, episodes: Sequence[Episode]) -> None:
        """Let these episodes be what is rolled out from now on, with the rewards that they have."""
        prompt_ids, completion_ids, mask = (list(some) for some in zip(*map(_ids, episodes), strict=True))
        given = {"prompt_ids": prompt_ids, "completion_ids": completion_ids, "logprobs": None, "env_mask": mask}
        # TRL takes entries out of what it is given.
        self.trainer.rollout_func = lambda *_: given | {"earned": [episode.reward for episode in episodes]}
        self.trainer.reward_funcs = [_earned]

    def close(self) -> None:
        """Remove its folder."""
        self._folder.cleanup()


def _earned(earned: Sequence[float], **_: Any) -> list[float]:
    return list(earned)


def _ids(episode: Episode) -> tuple[list[int], list[int], list[int]]:
    """Prompt, the rest, and which of the rest was sampled."""
    first, *later = episode.turns
    rest, mask = list(first.reply.ids), [1] * len(first.reply.ids)
    for turn in later:
        rest += [*turn.observation_ids, *turn.reply.ids]
        mask += [0] * len(turn.observation_ids) + [1] * len(turn.reply.ids)
    return list(first.observation_ids), rest, mask


class TrlA2po:
    """TRL's A2POTrainer on the tasks that our stage 1 plays."""

    def __init__(self, run: Run, world: Environment[EnvironmentSettings], tasks: Sequence[str]) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="against_trl_")
        self.world, self._texts = world, list[str]()
        self.policy = load_policy(run.policy, run.environment.name)
        self.policy.tokenizer.padding_side = "left"
        self.chat = self.policy.chat
        prompts = [self.chat.tokenizer.decode(self.chat.first(world.task(task).start())) for task in tasks]
        self.trainer = A2POTrainer(
            model=self.policy.model,
            reward_funcs=self._reward,
            args=A2POConfig(
                **trl_arguments(run.rollout.tasks_per_update, run.updates, self._folder.name),
                max_prompt_length=run.rollout.episode_tokens,
                max_completion_length=run.rollout.reply_tokens,
                num_value_samples=8,
                beta1=0.5,
                beta2=1e-3,
                filter_all_incorrect=False,
            ),
            train_dataset=Dataset.from_dict({"prompt": prompts, "task": list(tasks)}),
            processing_class=self.policy.tokenizer,
        )
        self.trainer.remove_callback(PrinterCallback)

    @property
    def said(self) -> int:
        """Tokens sampled so far, with a stop token for each reply; TRL shows texts only, so they are encoded again."""
        return sum(len(self.chat.encode(text)) + 1 for text in self._texts)

    def _reward(self, completions: Sequence[str], task: Sequence[str], **_: Any) -> list[float]:
        self._texts += completions
        return [self.world.task(id).step(text).reward for id, text in zip(task, completions, strict=True)]

    def loss_of(self, episodes: Sequence[Episode], values: Mapping[str, float]) -> tuple[float, dict[str, Tensor]]:
        """TRL's stage 2 loss and gradient on these episodes with these V*."""
        trainer = self.trainer
        parts = [_ids(episode) for episode in episodes]
        wide, long = max(len(p[0]) for p in parts), max(len(p[1]) for p in parts)
        ids = torch.zeros((len(parts), wide + long), dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for row, (prompt, rest, _) in enumerate(parts):
            both = torch.tensor([*prompt, *rest])
            at = slice(wide - len(prompt), wide + len(rest))
            ids[row, at], mask[row, at] = both, 1
        trainer.model.train()
        with torch.no_grad():
            reference = trainer._get_sequence_logps(trainer.ref_model, ids, mask, long)
        inputs = {
            "input_ids": ids,
            "attention_mask": mask,
            "logits_to_keep": long,
            "ref_logps": reference,
            "rewards": torch.tensor([e.reward for e in episodes]),
            "v_star": torch.tensor([values[e.task] for e in episodes]),
        }
        loss = trainer.compute_loss(trainer.model, inputs)
        loss.backward()
        return float(loss.detach()), gradient(trainer.model)

    def close(self) -> None:
        """Remove its folder."""
        self._folder.cleanup()


def gradient(model: Any) -> dict[str, Tensor]:
    """The gradient by parameter, taken out of `model`."""
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


def furthest(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    """Largest difference of two gradients over the largest entry of the first."""
    if one.keys() != other.keys():
        raise AssertionError(f"gradients of other parameters: {sorted(set(one) ^ set(other))}")
    size = max(float(g.abs().max()) for g in one.values())
    return max(float((g - other[name]).abs().max()) for name, g in one.items()) / size
