"""Small real things for tests: a model of a few thousand parameters, an environment, a run of a second."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from astarpo.algorithms.base import Algorithm, AlgorithmSettings, Needs
from astarpo.batch import Batch, Scored
from astarpo.environments.base import Environment, EnvironmentSettings
from astarpo.environments.rewards import RewardMode, score, success
from astarpo.policy.huggingface import HuggingFacePolicy
from astarpo.policy.tiny.build import Architecture, build_model, build_tokenizer
from astarpo.run import Run, algorithm, merge
from astarpo.types import Ended, Split, Step

ARCHITECTURE = Architecture(width=16, layers=2, heads=2, feed_forward=32, context=512, vocabulary=300)


@cache
def small_tokenizer() -> PreTrainedTokenizerFast:
    """260 tokens of bytes and controls, and forty merges."""
    return build_tokenizer(["12+34=46", "the answer is 7", "search click buy now", "talk talk about it"] * 4, 300)


def small_policy(seed: int = 0, stops: int = 0, scale: float = 4.0) -> HuggingFacePolicy:
    """A random Qwen2.

    Args:
        seed: of the weights.
        stops: ids that also end a reply, beside the end token: a random model samples one of 260 too seldom.
        scale: the embeddings are multiplied by it: distributions that are far from uniform show more mistakes.
    """
    tokenizer = small_tokenizer()
    model: Any = build_model(ARCHITECTURE, tokenizer, seed)
    model.model.embed_tokens.weight.data.mul_(scale)
    model.generation_config.eos_token_id = [int(tokenizer.eos_token_id), *range(10, 10 + stops)]
    return HuggingFacePolicy(model.eval(), tokenizer, rules=False, name="small")


class TalkSettings(EnvironmentSettings):
    """Settings of `Talk`."""

    name: str = Field("small.Talk", description="which environment")
    max_turns: int = Field(3, ge=1, description="turns after which an episode is stopped")
    long: int = Field(400, ge=1, description="letters of the long observation")


class TalkTask:
    """`answered/2` ends at turn 2 as answered; `chatty/1` goes on for ever; other words plant a fault at that turn."""

    def __init__(self, id: str, long: int) -> None:
        self.id = id
        self._word, turns = id.split("/")[:2]
        self._last, self._long = int(turns), long
        self._turn = 0

    def start(self) -> str:
        """The id itself."""
        if self._word == "raise_at_start":
            raise RuntimeError("no chalk")
        return f"talk about {self.id}"

    def step(self, action: str) -> Step:
        """Says how long the reply was, until the turn in the id."""
        self._turn += 1
        going_on = Step(f"you said {len(action)} letters", valid=len(action) % 2 == 0, info={"letters": len(action)})
        if self._word == "chatty" or self._turn < self._last:
            return going_on
        if self._word == "raise":
            raise RuntimeError("the blackboard fell down")
        if self._word == "nothing":
            return None  # type: ignore[return-value]
        if self._word == "nan":
            return Step(reward=float("nan"), ended=Ended.ANSWERED)
        if self._word == "long":
            return Step("a" * self._long)
        return Step("bye", reward=float(len(action) % 3 == 0), ended=Ended(self._word))

    def solution(self) -> None:
        """None is known."""


def nothing_finite(steps: Sequence[Step], _success: bool) -> list[float]:
    """A reward mode that broke."""
    return [float("nan")] * len(steps)


def one_too_few(steps: Sequence[Step], _success: bool) -> list[float]:
    """A reward mode that forgot a turn."""
    return [0.0] * (len(steps) - 1)


def raising(_steps: Sequence[Step], _success: bool) -> list[float]:
    """A reward mode that raises."""
    raise ZeroDivisionError("division by zero")


class Talk(Environment[TalkSettings]):
    """Any reply is taken; what happens when is in the task's id."""

    Settings = TalkSettings
    rewards: ClassVar[Mapping[str, RewardMode]] = {
        "score": score,
        "success": success,
        "nothing_finite": nothing_finite,
        "one_too_few": one_too_few,
        "raising": raising,
    }

    def ids(self, split: Split, level: str | None = None) -> Sequence[str]:  # noqa: ARG002
        """Ten tasks a split."""
        return [f"{word}/{turns}/{split}" for word in ("answered", "finished") for turns in range(1, 6)]

    def task(self, id: str) -> TalkTask:
        """A fresh play of `id`."""
        return TalkTask(id, self.settings.long)


def talk(**settings: Any) -> Talk:
    """The environment with these settings."""
    return Talk(TalkSettings.parse({"name": "small.Talk", **settings}))


class RiddlesSettings(EnvironmentSettings):
    """Settings of `Riddles`."""

    name: str = Field("small.Riddles", description="which environment")
    unsolvable: int = Field(20, ge=1, description="every so many train tasks one cannot be solved")


class Riddle:
    """A sum. The unsolvable ones accept no answer."""

    def __init__(self, id: str, number: int, *, solvable: bool) -> None:
        self.id, self._number, self._solvable = id, number, solvable

    def start(self) -> str:
        """The sum."""
        return f"{self._number}+1="

    def step(self, action: str) -> Step:
        """1 for the right answer."""
        right = self._solvable and action.strip() == str(self._number + 1)
        return Step(reward=float(right), ended=Ended.ANSWERED)

    def solution(self) -> list[str]:
        """The answer."""
        return [str(self._number + 1)]


class Riddles(Environment[RiddlesSettings]):
    """A hundred sums to train on; numbers 3, 23, 43, ... are unsolvable unless the settings say otherwise."""

    Settings = RiddlesSettings

    def ids(self, split: Split, level: str | None = None) -> Sequence[str]:  # noqa: ARG002
        """By their numbers."""
        first = {"train": 0, "dev": 100, "test": 200}[split]
        return [f"riddle/{number}" for number in range(first, first + 100)]

    def task(self, id: str) -> Riddle:
        """A fresh play of `id`."""
        number = int(id.removeprefix("riddle/"))
        return Riddle(id, number, solvable=number % self.settings.unsolvable != 3)


def riddles(**settings: Any) -> Riddles:
    """The environment with these settings."""
    return Riddles(RiddlesSettings.parse(settings))


class ExplodesSettings(AlgorithmSettings):
    """Settings of `Explodes`."""

    name: str = Field("small.Explodes", description="which algorithm")


class Explodes(Algorithm[ExplodesSettings]):
    """A loss without a finite gradient."""

    Settings = ExplodesSettings

    @property
    def needs(self) -> Needs:
        """Nothing."""
        return Needs()

    def loss(self, scored: Scored, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """Infinity times the log-probs."""
        return (scored.logp[batch.acted] * math.inf).sum(), {}


class HoardsSettings(AlgorithmSettings):
    """Settings of `Hoards`."""

    name: str = Field("small.Hoards", description="which algorithm")


class Hoards(Algorithm[HoardsSettings]):
    """A loss for which no GPU is large enough."""

    Settings = HoardsSettings

    @property
    def needs(self) -> Needs:
        """Nothing."""
        return Needs()

    def loss(self, scored: Scored, batch: Batch) -> tuple[Tensor, dict[str, float]]:  # noqa: ARG002
        """Raises what torch raises where an allocation on a GPU fails."""
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def small_run(model: Path, **over: Any) -> Run:
    """A run of three updates on arithmetic, over in about a second."""
    base: dict[str, Any] = {
        "environment": {"name": "arithmetic", "level": "easy", "reward": "partial"},
        "algorithm": {"name": "grpo", "group_size": 4},
        "policy": {"model": str(model), "device": "cpu"},
        "rollout": {"tasks_per_update": 3, "reply_tokens": 6, "episode_tokens": 48},
        "optimizer": {"learning_rate": 1e-3},
        "evaluation": {"tasks": 6, "dev_tasks": 4, "every": 2},
        "updates": 3,
    }
    run = Run.build(merge(base, over))
    if algorithm(run).needs.values and run.values.schedule != "steps":
        return Run.build(merge(merge(base, {"values": {"tasks": 12}}), over))
    return run
