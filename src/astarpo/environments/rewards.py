"""Reward modes: from the finished steps of one episode to one training reward a turn. Score and success stay apart.

Each mode is a pure function, so the reward for V* and the reward for training can differ on the very same episode.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from astarpo.errors import SettingsError
from astarpo.types import Step

RewardMode: TypeAlias = Callable[[Sequence[Step], bool], list[float]]
"""(steps of one episode in order, whether it solved the task) → one reward per step."""


def score(steps: Sequence[Step], success: bool) -> list[float]:
    """The environment's own reward, step by step."""
    return [step.reward for step in steps]


def success(steps: Sequence[Step], success: bool) -> list[float]:
    """1 on the last step of an episode that solved the task, 0 everywhere else."""
    return [0.0] * (len(steps) - 1) + [float(success)]


def partial(steps: Sequence[Step], success: bool) -> list[float]:
    """Partial credit in [0, 1] on the last step, as the environment states it in `info["partial"]`; 0 where it ended
    without an answer to credit."""
    credit = steps[-1].info.get("partial", 0.0)
    return [0.0] * (len(steps) - 1) + [float(credit)]


def named(name: str, modes: Mapping[str, RewardMode], owner: str) -> RewardMode:
    """The mode called `name`. Raises SettingsError with the names there are."""
    if name not in modes:
        raise SettingsError(f"{owner} has no reward mode {name!r}: known: {', '.join(sorted(modes))}.")
    return modes[name]
