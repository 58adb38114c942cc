"""Stage 1 of a run: a frozen reference plays the training tasks, and V* of each is read off its plays."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from astarpo.backends.base import Backend
from astarpo.budget import Used
from astarpo.environments.base import Environment, EnvironmentSettings
from astarpo.policy.huggingface import HuggingFacePolicy
from astarpo.pools import Pools
from astarpo.progress import Watch
from astarpo.rollout import Play, collect, tokens_of
from astarpo.run import Run
from astarpo.value_store import PlayResult, ValueKey
from astarpo.value_summary import ValueSummary
from astarpo.value_table import ValueTable, measure, require

STAGE_ONE_KEY = 0x57A6E1
"""Keeps the randomness of reference plays apart from that of training and evaluation."""

FILE = "values.sqlite"
"""The table's name in a run folder."""


class StageOne:
    """The reference's plays of one run.

    Args:
        run: its settings.
        folder: where the table lies or is begun.
        reference: who plays; must not change.
        backend: what it plays through.
        environment: what is played.
        pools: which tasks; told of the table, whose filters then apply.
        watch: told of progress.
        note: shows a remark.
        near: a context in which the reference can play.

    Raises:
        SettingsError: the environment has no such reward mode.
        RunError: the table cannot be opened, or is of something else.
    """

    def __init__(
        self,
        run: Run,
        folder: Path,
        *,
        reference: HuggingFacePolicy,
        backend: Backend,
        environment: Environment[EnvironmentSettings],
        pools: Pools,
        watch: Watch,
        note: Callable[[str], None],
        near: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self._near = near
        self._run, self._player = run, backend.player(reference)
        self._environment, self._pools = environment, pools
        self._watch, self._note = watch, note
        training = run.environment.reward
        name = run.values.reward_for(training)
        self._reward = environment.reward_mode(name)
        limits = f"{run.rollout.reply_tokens}/{run.rollout.episode_tokens}"
        if run.rollout.history != "full":
            limits += f"/{run.rollout.history}/{run.rollout.window}/{run.rollout.summary}"
        if reference.rules and environment.prompt():
            # Whoever was told the rules is another player. The embedded model never is, so its key has no such mark.
            limits += "/rules"
        with near():
            whose = reference.fingerprint()
        key = ValueKey(
            reference=whose,
            environment=f"{fingerprint(environment, name)}/{limits}",
            reward=name,
            temperature=run.values.temperature,
        )
        self._went_on = (folder / FILE).exists()
        self.mismatch = run.values.mismatch(training)
        self.table = pools.table = ValueTable.open(folder / FILE, key, run.values)

    def measure(self) -> ValueSummary:
        """Play every task that training may draw; plays that are in the table already count."""
        settings, tasks = self._run.values, self._pools.stage_one()
        if self._went_on:
            stored = sum(len(self.table.attempts(task)) for task in tasks)
            self._note(
                f"{FILE} holds {stored:,} plays of these {len(tasks):,} tasks by this reference under this reward and "
                "temperature: they are not played again."
            )
        self._watch.stage("stage 1: reference plays", len(tasks) * settings.plays_wanted(0))
        done = 0

        def tell(played: int, _total: int) -> None:
            nonlocal done
            self._watch.advance(played - done)
            done = played

        return measure(self.table, tasks, self.play, settings, tell)

    def values(self, tasks: Sequence[str], update: int) -> dict[str, float]:
        """V* of `tasks`, reward units. Raises RunError where one was not played."""
        found = require(self.table, tasks, self.play, self._run.values, update=update)
        return {task: estimate.value for task, estimate in found.items()}

    def play(self, wanted: Sequence[tuple[str, int]]) -> list[PlayResult]:
        """Play (task, attempt) pairs. What comes of a pair does not depend on the others."""
        plays = [Play(task, attempt, (self._run.seed, STAGE_ONE_KEY)) for task, attempt in wanted]
        began = time.perf_counter()
        with self._near():
            episodes = collect(
                self._player,
                self._environment,
                plays,
                rollout=self._run.rollout,
                temperature=self._run.values.temperature,
                reward=self._reward,
            )
        each = (time.perf_counter() - began) / max(len(plays), 1)
        return [PlayResult(e.reward, e.score, e.success, str(e.ended), Used(1, *tokens_of(e), each)) for e in episodes]

    def close(self) -> None:
        """Close the table."""
        self.table.close()


def frozen(policy: HuggingFacePolicy) -> HuggingFacePolicy:
    """A copy of `policy` that does not learn. It shares weights that do not learn in `policy` either, as under LoRA."""
    shared: dict[int, Any] = {id(p): p for p in policy.model.parameters() if not p.requires_grad}
    return policy.over(copy.deepcopy(policy.model, shared).eval().requires_grad_(False))


def fingerprint(environment: Environment[EnvironmentSettings], reward: str) -> str:
    """The environment's fingerprint as if it were trained on the reward mode `reward`, that of V*.

    So plays outlive a change of the training reward, of which they do not know. A training reward that is no mode but a
    function of the user's own grades the task itself, and stays in.
    """
    if environment.settings.reward not in environment.rewards:
        return environment.fingerprint()
    seen = copy.copy(environment)
    seen.settings = environment.settings.model_copy(update={"reward": reward})
    return seen.fingerprint()
