"""What a run will do, before it does it: the batch arithmetic in words, and what one update costs, measured."""

from __future__ import annotations

import math
import time
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from astarpo.backends.base import open_backend
from astarpo.budget import Used
from astarpo.collate import collate
from astarpo.environments.base import Environment, EnvironmentSettings
from astarpo.environments.rewards import score
from astarpo.policy.base import Player
from astarpo.policy.huggingface import HuggingFacePolicy
from astarpo.policy.load import load_policy
from astarpo.pools import Pools
from astarpo.preflight import unreachable
from astarpo.rollout import Play, collect
from astarpo.run import Run, algorithm, environment, plays_reference
from astarpo.value_table import STEP_SCHEDULE

PROBE_EPISODES, PROBE_SECONDS = 8, 3.0
"""Episodes first played to measure what an update costs; doubled until a batch takes that long or is a whole update."""


@dataclass(frozen=True)
class Plan:
    """The arithmetic of a run.

    Attributes:
        episodes: in one update: tasks × attempts.
        turns: at most, in one update.
        tokens: read and said in one update, estimated from a few episodes of this policy.
        stage_one_plays: reference plays before the first update, the most there may be under the schedule
            "sequential"; 0 without V* and under "steps".
        parameters: of the policy.
        seconds: one update on this machine, estimated from the same episodes.
        lines: all of it in words.
        warnings: what must not be missed before such a run is started.
    """

    episodes: int
    turns: int
    tokens: int
    stage_one_plays: int
    parameters: int
    seconds: float
    lines: list[str]
    warnings: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "episodes": self.episodes,
            "turns": self.turns,
            "tokens": self.tokens,
            "stage_one_plays": self.stage_one_plays,
            "parameters": self.parameters,
            "seconds": round(self.seconds, 3),
            "lines": self.lines,
            "warnings": self.warnings,
        }


def plan(run: Run) -> Plan:
    """Play and score a few episodes of `run` to see what an update will cost. Trains nothing, writes nothing.

    Raises:
        AstarpoError: settings, data or environment are not fit to train on, or who generates is not to be had.
    """
    world, policy, method = environment(run), load_policy(run.policy, run.environment.name), algorithm(run)
    tasks, attempts = run.rollout.tasks_per_update, run.algorithm.group_size
    ids = world.ids("train")
    episodes = tasks * attempts
    temperature = run.rollout.temperature_at(0, run.updates)
    probe = min(PROBE_EPISODES, episodes)

    def plays() -> list[Play]:
        return [Play(ids[i % len(ids)], 0, (run.seed, 0)) for i in range(probe)]

    with closing(open_backend(run)) as backend:
        player = backend.player(policy)
        # The first batch pays for allocations, indices and thread pools that no later one pays for.
        _cost(policy, player, world, plays(), run, temperature)
        each, played, trained = _cost(policy, player, world, plays(), run, temperature)
        # A small batch costs nearly as much as a large one where the model is small: only a large one tells.
        while played + trained < PROBE_SECONDS and probe < episodes:
            probe = min(2 * probe, episodes)
            each, played, trained = _cost(policy, player, world, plays(), run, temperature)
    # A pass without gradient costs a third of one with it.
    passes = run.optimizer.epochs + (1 / 3 if method.needs.reference or method.needs.exact_kl else 0.0)
    seconds = (played + trained * passes) * episodes / probe
    stage_one, said = _stage_one(run, world) if plays_reference(run) else (0, [])
    mismatch = run.values.mismatch(run.environment.reward) if plays_reference(run) else None
    parameters = sum(p.numel() for p in policy.model.parameters())
    updates, until = _length(run, Used(episodes, round(each * episodes), 0, seconds), stage_one, each, played / probe)
    turns = episodes * world.settings.max_turns
    lines = [
        f"{parameters:,} parameters learn {run.environment.name} by {run.algorithm.name} {until}.",
        f"One update: {tasks} tasks × {attempts} attempts = {episodes} episodes, each of at most "
        f"{world.settings.max_turns} turns, so at most {turns} turns.",
        f"An episode has about {each:.0f} tokens now, an update about {each * episodes:,.0f}; a reply is cut "
        f"at {run.rollout.reply_tokens} tokens and an episode at {run.rollout.episode_tokens}.",
        f"One update costs about {seconds:.1f} s here, the run about {seconds * updates / 60:.0f} minutes, judged "
        f"from {probe} episodes.",
    ]
    if run.rollout.backend == "vllm":
        where = f"the server at {run.rollout.vllm.url}" if run.rollout.vllm.url else "this process"
        lines.append(f"vLLM in {where} generated these episodes, after a push of weights as before each update.")
    steps = run.optimizer.epochs * run.optimizer.minibatches
    if steps > 1:
        lines.append(f"Each update makes {steps} optimiser steps on its episodes.")
    if run.rollout.extra_rounds:
        lines.append(
            f"Tasks without signal are replaced in up to {run.rollout.extra_rounds} further rounds an update, which "
            f"may play up to {run.rollout.extra_rounds + 1} times as many episodes."
        )
    warnings = [] if mismatch is None else [mismatch]
    return Plan(episodes, turns, round(each * episodes), stage_one, parameters, seconds, lines + said, warnings)


def _length(run: Run, update: Used, stage_one: int, tokens: float, seconds: float) -> tuple[int, str]:
    """Updates that the run will have, and what it is said to end with.

    Args:
        run: its settings.
        update: what one update uses.
        stage_one: reference plays before the first.
        tokens, seconds: of one play.
    """
    kind = run.budget.kind
    if kind is None:
        return run.updates, f"over {run.updates} updates"
    first = Used(stage_one, round(stage_one * tokens), 0, stage_one * seconds)
    each = max(float(getattr(update, kind)), 1e-9)
    left = max(math.ceil((run.budget.most - float(getattr(first, kind))) / each), 0)
    updates = min(run.updates, left)
    which = "at most" if updates == run.updates else "about"
    return updates, f"until {run.budget.most:,.10g} {kind} are used, {which} {updates:,} updates"


def _stage_one(run: Run, world: Environment[EnvironmentSettings]) -> tuple[int, list[str]]:
    """Reference plays before the first update, and in words what stage 1 does."""
    pools, said = Pools(run, world), list[str]()
    pools.unreachable = frozenset(unreachable(world, pools.levels, tell=said.append))
    if run.values.schedule == "steps":
        plays = ", ".join(
            f"{n} times later" if before is None else f"{n} times before update {before}" for before, n in STEP_SCHEDULE
        )
        return 0, [*said, f"Stage 1 plays nothing first: the reference plays a task when it is first drawn, {plays}."]
    tasks, each = len(pools.stage_one()), run.values.plays_wanted(0)
    levels = f" of {len(pools.levels)} levels" if len(pools.levels) > 1 else ""
    most = "at most " if run.values.schedule == "sequential" else ""
    return tasks * each, [
        *said,
        f"Stage 1 first plays {tasks:,} tasks{levels} × {most}{each} = {most}{tasks * each:,} reference episodes for "
        "V*.",
    ]


def _cost(
    policy: HuggingFacePolicy,
    player: Player,
    world: Environment[EnvironmentSettings],
    plays: list[Play],
    run: Run,
    temperature: float,
) -> tuple[float, float, float]:
    """Mean tokens of an episode, seconds for `player` to play `plays`, and seconds to score them and go back through
    the score."""
    # To another engine these are new weights, which are pushed again, as after every update.
    policy.version += 1
    began = time.perf_counter()
    seen = collect(player, world, plays, rollout=run.rollout, temperature=temperature, reward=score)
    batch = collate(seen, device=policy.device)
    played = time.perf_counter() - began
    policy.log_probs(batch).logp.sum().backward()  # type: ignore[no-untyped-call]
    trained = time.perf_counter() - began - played
    policy.model.zero_grad(set_to_none=True)
    return float(batch.lengths.float().mean()), played, trained
