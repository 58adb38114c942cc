"""How good a policy is on held-out tasks: success and score, greedy and sampled, with intervals."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean, stdev
from typing import Any

from scipy.stats import binomtest
from scipy.stats import t as student

from astarpo.environments.base import Environment, EnvironmentSettings
from astarpo.environments.rewards import score as own_score
from astarpo.errors import DataError
from astarpo.policy.base import Player
from astarpo.progress import Watch
from astarpo.rollout import Play, collect
from astarpo.run import EvaluationSettings, RolloutSettings
from astarpo.types import Episode, Split

EVALUATION_KEY = 0xE7A1
"""Keeps the randomness of evaluation apart from that of training."""


@dataclass(frozen=True)
class Evaluation:
    """What was seen over `n` plays.

    Attributes:
        success: share of plays that solved their task.
        success_low, success_high: 95 % Wilson interval of it. Over sampled plays it is taken over tasks × samples as if
            independent, which is a little narrow for several samples a task.
        score: mean of the environment's own score.
        n: plays.
        split: which tasks.
        decoding: "greedy" or "sampled".
        turns: mean turns a play.
        invalid: share of replies that could not be read or done.
        ended: how many plays ended for which reason.
        pass_at: k → chance that at least one of k sampled plays solves the task, averaged over tasks.
        sampled: the same policy sampled, beside this greedy evaluation.
        score_low, score_high: 95 % interval of `score`, see `score_interval`; over sampled plays as for success. None
            where the evaluation was read from a file that was written before intervals of scores were kept.
        outcomes: task id → (success, score) of a greedy evaluation, for comparing task by task; not part of `as_dict`,
            since a run keeps it in a file of its own.
    """

    success: float
    success_low: float
    success_high: float
    score: float
    n: int
    split: str
    decoding: str
    turns: float
    invalid: float
    ended: Mapping[str, int]
    pass_at: Mapping[int, float] = field(default_factory=dict)
    sampled: Evaluation | None = None
    score_low: float | None = None
    score_high: float | None = None
    outcomes: Mapping[str, tuple[bool, float]] = field(default_factory=dict, compare=False, repr=False)

    def as_dict(self) -> dict[str, Any]:
        """JSON values, as they stand in result.json."""
        plain: dict[str, Any] = {
            "success": self.success,
            "success_low": self.success_low,
            "success_high": self.success_high,
            "score": self.score,
            "score_low": self.score_low,
            "score_high": self.score_high,
            "n": self.n,
            "split": self.split,
            "decoding": self.decoding,
            "turns": self.turns,
            "invalid": self.invalid,
            "ended": dict(self.ended),
        }
        if self.pass_at:
            plain["pass_at"] = {str(k): value for k, value in self.pass_at.items()}
        if self.sampled is not None:
            plain["sampled"] = self.sampled.as_dict()
        return plain

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Evaluation:
        """What `as_dict` gave."""
        given = dict(plain)
        given["pass_at"] = {int(k): float(value) for k, value in given.get("pass_at", {}).items()}
        given["sampled"] = cls.from_dict(given["sampled"]) if given.get("sampled") else None
        return cls(**given)


def wilson(successes: int, n: int) -> tuple[float, float]:
    """95 % Wilson interval of a share.

    >>> low, high = wilson(5, 10)
    >>> round(low, 3), round(high, 3)
    (0.237, 0.763)
    """
    interval = binomtest(successes, n).proportion_ci(confidence_level=0.95, method="wilson")
    return float(interval.low), float(interval.high)


def score_interval(scores: Sequence[float]) -> tuple[float, float]:
    """95 % interval of the mean of `scores`: Student's t interval, m ± t(0.975; n−1) s/√n, within the scores' range.

    The range is from 0 to 1, or wider where a score lies outside. Scores that are all 0 or 1 are a share, and get
    Wilson's interval: t's would have no width where all plays agree. A single score that is neither says nothing.

    >>> low, high = score_interval([0.4, 0.5, 0.6])
    >>> round(low, 3), round(high, 3)
    (0.252, 0.748)
    """
    n, least, most = len(scores), min(0.0, *scores), max(1.0, *scores)
    if set(scores) <= {0.0, 1.0}:
        return wilson(round(sum(scores)), n)
    if n == 1:
        return least, most
    half = float(student.ppf(0.975, n - 1)) * stdev(scores) / math.sqrt(n)
    return max(least, fmean(scores) - half), min(most, fmean(scores) + half)


def pass_at_k(successes: int, samples: int, k: int) -> float:
    """Unbiased chance that at least one of `k` plays succeeds: 1 − C(n−c, k)/C(n, k). Source: arXiv:2107.03374.

    >>> pass_at_k(1, 4, 2)
    0.5
    """
    missed = 1.0
    for i in range(k):
        missed *= max(samples - successes - i, 0) / (samples - i)
    return 1.0 - missed


def summarise(episodes: Sequence[Episode], *, split: str, decoding: str) -> Evaluation:
    """An Evaluation of episodes already played."""
    n = len(episodes)
    successes = sum(episode.success for episode in episodes)
    low, high = wilson(successes, n)
    score_low, score_high = score_interval([episode.score for episode in episodes])
    turns = sum(len(episode.turns) for episode in episodes)
    unread = sum(not turn.step.valid for episode in episodes for turn in episode.turns)
    return Evaluation(
        success=successes / n,
        success_low=low,
        success_high=high,
        score=sum(episode.score for episode in episodes) / n,
        n=n,
        split=split,
        decoding=decoding,
        turns=turns / n,
        invalid=unread / turns,
        ended=dict(sorted(Counter(str(episode.ended) for episode in episodes).items())),
        pass_at=_pass_at(episodes) if decoding == "sampled" else {},
        score_low=score_low,
        score_high=score_high,
        outcomes={episode.task: (episode.success, episode.score) for episode in episodes if decoding == "greedy"},
    )


def evaluate(
    policy: Player,
    environment: Environment[EnvironmentSettings],
    *,
    settings: EvaluationSettings,
    rollout: RolloutSettings,
    split: Split = "test",
    tasks: int | None = None,
    samples: int | None = None,
    watch: Watch | None = None,
) -> Evaluation:
    """Play held-out tasks greedily, and sampled beside it.

    Args:
        policy: who plays.
        environment: what is played; its own score is reported whatever reward the policy was trained on.
        settings: how many tasks and samples, and the temperature of the samples.
        rollout: token limits.
        split: "test" for a reported figure, "dev" for a choice.
        tasks: instead of `settings.tasks`.
        samples: instead of `settings.samples`.
        watch: told of progress.

    Raises:
        DataError: the split is empty.
    """
    ids = environment.ids(split)
    wanted = min(len(ids), settings.tasks if tasks is None else tasks)
    if wanted == 0:
        raise DataError(f"the {split} split of {environment.settings.name} has no task: give it more data.")
    chosen = [ids[i] for i in range(wanted)]
    repeats = settings.samples if samples is None else samples
    watch = watch or Watch()
    watch.stage(f"evaluation on {wanted} {split} tasks", wanted * (1 + repeats))

    def played(attempts: int, temperature: float) -> list[Episode]:
        episodes: list[Episode] = []
        plays = [Play(task, attempt, (EVALUATION_KEY,)) for task in chosen for attempt in range(attempts)]
        for begin in range(0, len(plays), 256):
            part = plays[begin : begin + 256]
            episodes += collect(
                policy,
                environment,
                part,
                rollout=rollout,
                temperature=temperature,
                reward=own_score,
                tell=watch.advance,
            )
        return episodes

    greedy = summarise(played(1, 0.0), split=split, decoding="greedy")
    if not repeats:
        return greedy
    return replace(greedy, sampled=summarise(played(repeats, settings.temperature), split=split, decoding="sampled"))


def _pass_at(episodes: Sequence[Episode]) -> dict[int, float]:
    by_task: dict[str, list[bool]] = {}
    for episode in episodes:
        by_task.setdefault(episode.task, []).append(episode.success)
    fewest = min(len(plays) for plays in by_task.values())
    ks = [k for k in (1, 2, 4, 8, 16, 32, 64, 128) if k <= fewest]
    return {k: sum(pass_at_k(sum(plays), len(plays), k) for plays in by_task.values()) / len(by_task) for k in ks}
