"""Play most what is solved sometimes: tasks drawn in proportion to p(1−p).

    P(task) = (1 − floor) · p(1−p) / Σ p(1−p)  +  floor / N

p(1−p) is the variance of a binary reward and bounds the expected improvement from below (arXiv:2504.03380). p is the
mean of a Beta tracker per task, α / (α + β), that forgets: α ← keep · α + successes, β ← keep · β + failures, so it
follows a policy that changes. A task that has not been played yet borrows the success of its level, `prior` plays'
worth; without that, most of a large pool would sit at 1/2 for ever and drown the tasks known to be learnable.
The floor returns to every task now and then, since a task thought hopeless or mastered is otherwise never played again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from astarpo.curriculum.base import Curriculum, CurriculumSettings, IdsOf, generator
from astarpo.types import Episode


class LearnableSettings(CurriculumSettings):
    """Settings of sampling by learnability. With a ladder, the pool is the tasks of all its levels."""

    floor: float = Field(0.1, ge=0, le=1, description="share drawn uniformly from the whole pool; 1 is no curriculum")
    keep: float = Field(0.9, gt=0, le=1, description="what is left of a tracker's old counts each time it is updated")
    prior: float = Field(2.0, gt=0, le=1000, description="plays that the success of the level counts for in each task")


class Learnable(Curriculum[LearnableSettings]):
    """Sampling by p(1−p), without replacement within an update."""

    Settings = LearnableSettings

    def __init__(self, settings: LearnableSettings, ids_of: IdsOf, levels: tuple[str, ...], seed: int) -> None:
        super().__init__(settings, ids_of, levels, seed)
        self._names: tuple[str | None, ...] = levels or (None,)
        self._pool: list[str] = []
        self._index: dict[str, int] = {}
        of_level: list[int] = []
        for number, name in enumerate(self._names):
            for id in self.tasks(name):
                if id not in self._index:  # levels may be nested: a task belongs to the easiest that has it
                    self._index[id] = len(self._pool)
                    self._pool.append(id)
                    of_level.append(number)
        self._of_level: NDArray[np.int64] = np.array(of_level, dtype=np.int64)
        self._task_counts = np.zeros((len(self._pool), 2))
        self._level_counts = np.zeros((len(self._names), 2))

    def choose(self, update: int, n: int) -> list[str]:
        """`n` tasks by learnability; all of them, as often as needed, where the pool is smaller."""
        random = generator(self.seed, "learnable", update)
        chosen: list[str] = []
        while n - len(chosen) > len(self._pool):
            chosen += self._pool
        rest = self._gumbel_top(random, n - len(chosen))
        return chosen + [self._pool[i] for i in rest]

    def success(self) -> NDArray[np.float64]:
        """[N] tracked success rate of each task of the pool, in (0, 1)."""
        s, f = self._level_counts.T
        of_level = (s + 1) / (s + f + 2)
        alpha, beta = self._task_counts.T
        prior = self.settings.prior
        rate: NDArray[np.float64] = (alpha + prior * of_level[self._of_level]) / (alpha + beta + prior)
        return rate

    def probabilities(self) -> NDArray[np.float64]:
        """[N] chance of each task of the pool at the next single draw; sums to 1."""
        p = self.success()
        learnable = p * (1 - p)
        mixed: NDArray[np.float64] = (1 - self.settings.floor) * learnable / learnable.sum()
        return mixed + self.settings.floor / len(self._pool)

    def observe(self, episodes: Sequence[Episode]) -> dict[str, float]:
        """Update the trackers of the tasks that were played, and of their levels."""
        tasks, levels = np.zeros_like(self._task_counts), np.zeros_like(self._level_counts)
        for episode in episodes:
            column = 0 if episode.success else 1
            index = self._index[episode.task]
            tasks[index, column] += 1
            levels[self._of_level[index], column] += 1
        for counts, new in ((self._task_counts, tasks), (self._level_counts, levels)):
            played = new.sum(axis=1) > 0
            counts[played] = self.settings.keep * counts[played] + new[played]
        p = self.success()
        return {
            "curriculum/seen": float((self._task_counts.sum(axis=1) > 0).mean()),
            "curriculum/success": float(p.mean()),
            "curriculum/learnability": float((p * (1 - p)).mean()),
        }

    def state(self) -> dict[str, Any]:
        """The counts of the tasks played so far and of the levels."""
        seen = np.flatnonzero(self._task_counts.sum(axis=1))
        return {
            "tasks": {self._pool[i]: self._task_counts[i].tolist() for i in seen},
            "levels": self._level_counts.tolist(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what `state` gave."""
        self._task_counts = np.zeros((len(self._pool), 2))
        for id, counts in state["tasks"].items():
            self._task_counts[self._index[id]] = counts
        self._level_counts = np.array(state["levels"], dtype=np.float64)

    def _gumbel_top(self, random: np.random.Generator, n: int) -> NDArray[np.intp]:
        # The n largest of ln P + Gumbel noise are a draw without replacement in proportion to P.
        with np.errstate(divide="ignore"):
            keys = np.log(self.probabilities()) + random.gumbel(size=len(self._pool))
        return np.argsort(-keys, kind="stable")[:n]
