"""Gradient signal-to-noise of an algorithm on given rollouts: what "lower variance" means when it is measured.

The tasks of a batch are split into K equal parts, and g_k is the gradient of the algorithm's loss on part k. With the
mean g = mean_k g_k and the spread s² = Σ_k ‖g_k − g‖² / (K − 1),

    noise²  = s² / K               the squared standard error of g, summed over parameters; unbiased
    signal² = ‖g‖² − s² / K        unbiased for ‖E g‖²: a mean of noise alone has ‖g‖² = s² / K in expectation
    SNR     = signal / noise       0 where signal² comes out below 0

It is that of the whole batch: with n times as many episodes it grows by √n. A loss times a constant has the same SNR.
Parts are whole tasks, so that attempts at one task, which share its difficulty, never stand in two. Statistics that an
algorithm takes over a batch (`Algorithm.advantages`) are those of the whole. The standard error of the SNR is the
jackknife's over parts, each estimate scaled by √(K / (K − 1)) to the size of the whole batch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from astarpo.algorithms.base import Algorithm
from astarpo.backends.base import open_backend
from astarpo.batch import Batch
from astarpo.collate import collate
from astarpo.compare.arms import Arm
from astarpo.controls import controlled
from astarpo.curriculum.base import generator
from astarpo.environments.rewards import score as own_score
from astarpo.filters import filtered
from astarpo.policy.base import Player
from astarpo.policy.huggingface import HuggingFacePolicy
from astarpo.policy.load import load_policy
from astarpo.progress import Watch
from astarpo.rollout import Play, collect
from astarpo.run import Run, algorithm, environment
from astarpo.types import Episode
from astarpo.update import backward
from astarpo.values import v_star

KEY = 0x5A12
"""Keeps the randomness of these plays apart from that of training and evaluation."""

TASKS, ATTEMPTS, PARTS = 64, 8, 16


@dataclass(frozen=True)
class Ratio:
    """The SNR of a mean of `parts` gradients.

    Attributes:
        snr: signal / noise, without unit.
        standard_error: of `snr`; None with two parts.
        signal, noise: in the units of the gradient.
        parts: K.
    """

    snr: float
    standard_error: float | None
    signal: float
    noise: float
    parts: int

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "snr": self.snr,
            "standard_error": self.standard_error,
            "signal": self.signal,
            "noise": self.noise,
            "parts": self.parts,
        }


def signal_to_noise(gradients: Tensor) -> Ratio:
    """The ratio from the gradients of K parts, [K, P], K at least 2.

    Raises:
        ValueError: there are fewer than two parts.
    """
    if gradients.dim() != 2 or gradients.shape[0] < 2:
        raise ValueError(f"gradients must be [parts, parameters], at least 2 parts, got {list(gradients.shape)}.")
    # Every sum is one over products of two gradients; they are few, the parameters many.
    products = (gradients.double() if gradients.shape[1] <= 10**6 else gradients) @ gradients.to(
        torch.float64 if gradients.shape[1] <= 10**6 else gradients.dtype
    ).T
    products = products.double()
    k = int(products.shape[0])
    signal, noise = _of(products)
    error = None
    if k > 2:
        keep = ~torch.eye(k, dtype=torch.bool)
        without = [_ratio(*_of(products[rows][:, rows])) * math.sqrt(k / (k - 1)) for rows in keep]
        middle = sum(without) / k
        error = math.sqrt((k - 1) / k * sum((one - middle) ** 2 for one in without))
    return Ratio(_ratio(signal, noise), error, math.sqrt(max(signal, 0.0)), math.sqrt(noise), k)


def _of(products: Tensor) -> tuple[float, float]:
    """signal² and noise² from the inner products of gradients, [K, K]."""
    k = products.shape[0]
    mean = float(products.mean())
    noise = max((float(products.diagonal().sum()) - k * mean) / (k - 1), 0.0) / k
    return mean - noise, noise


def _ratio(signal: float, noise: float) -> float:
    return math.sqrt(max(signal, 0.0) / noise) if noise > 0 else 0.0


def measure(
    arms: Sequence[Arm],
    *,
    weights: Path | None = None,
    tasks: int = TASKS,
    attempts: int = ATTEMPTS,
    parts: int = PARTS,
    draw: int = 0,
    watch: Watch | None = None,
) -> Mapping[str, Ratio | None]:
    """The SNR of every arm's gradient on the same episodes, played at temperature 1 by one policy.

    V* comes from as many further plays of the starting policy, which is also the reference. The rewards of an arm are
    those of its own reward mode.

    Args:
        arms: they share their policy, and who generates.
        weights: a folder with the policy that plays; the arms' starting policy where not given.
        tasks: training tasks, drawn at random.
        attempts: at each.
        parts: K, no more than tasks.
        draw: which tasks and plays; another number makes an independent measurement.
        watch: told of progress.

    Returns:
        Arm → ratio; None where the arm has fewer than two parts to learn from on these episodes.
    """
    run, watch = arms[0].run, watch or Watch()
    world = environment(run)
    start = load_policy(run.policy, run.environment.name)
    acting = start
    if weights is not None:
        acting = load_policy(run.policy.model_copy(update={"model": str(weights)}), run.environment.name)
    ids = world.ids("train")
    drawn = generator(draw, "snr").choice(len(ids), size=min(tasks, len(ids)), replace=False)
    seeds = (draw,) if draw else ()
    watch.stage("gradient signal-to-noise", 2 + len(arms))

    def played(policy: Player, again: int) -> list[Episode]:
        plays = [Play(ids[int(i)], attempt, (KEY, again, *seeds)) for i in drawn for attempt in range(attempts)]
        found = collect(policy, world, plays, rollout=run.rollout, temperature=1.0, reward=own_score)
        watch.advance()
        return found

    needs = any(algorithm(arm.run).needs.values for arm in arms)
    with closing(open_backend(run)) as backend:
        episodes = played(backend.player(acting), 0)
        reference = played(backend.player(start), 1) if needs else []
    ratios: dict[str, Ratio | None] = {}
    for arm in arms:
        method = algorithm(arm.run)
        batch = collate(
            [_rewarded(episode, arm.run, arm.run.environment.reward) for episode in episodes],
            values=_values(reference, arm.run) if method.needs.values else None,
            device=acting.device,
        )
        if method.needs.reference:
            with torch.no_grad():
                batch = replace(batch, ref_logp=start.log_probs(batch).logp)
        ratios[arm.name] = of_batch(acting, batch, arm.run, method, start, parts)
        watch.advance()
    return ratios


def of_batch(
    policy: HuggingFacePolicy, batch: Batch, run: Run, method: Algorithm[Any], reference: HuggingFacePolicy, parts: int
) -> Ratio | None:
    """The ratio of `method` on one batch, through the filter and control of `run`; None with fewer than two tasks."""
    kept, _ = filtered(controlled(batch, run.control, seed=run.seed, update=0), run.filter)
    if kept is None:
        return None
    tasks = torch.unique(kept.task)
    if len(tasks) < 2:
        return None
    fixed = method.advantages(kept)
    whole = kept if fixed is None else replace(kept, advantage=fixed[0])
    gradients = []
    for some in torch.tensor_split(tasks, min(parts, len(tasks))):
        part = whole.take(torch.isin(whole.task, some))
        backward(policy, part, method, reference=reference, tokens=run.optimizer.microbatch_tokens)
        flat = [torch.zeros_like(p) if p.grad is None else p.grad for p in policy.model.parameters() if p.requires_grad]
        gradients.append(torch.cat([grad.detach().flatten().float().cpu() for grad in flat]))
    policy.model.zero_grad(set_to_none=True)
    return signal_to_noise(torch.stack(gradients))


def _rewarded(episode: Episode, run: Run, name: str) -> Episode:
    """`episode` with the rewards of the mode `name`."""
    mode = environment(run).reward_mode(name)
    rewards = mode([turn.step for turn in episode.turns], episode.success)
    turns = (replace(turn, reward=value) for turn, value in zip(episode.turns, rewards, strict=True))
    return replace(episode, turns=tuple(turns))


def _values(episodes: Sequence[Episode], run: Run) -> dict[str, float]:
    name, by_task = run.values.reward_for(run.environment.reward), dict[str, list[float]]()
    for episode in episodes:
        by_task.setdefault(episode.task, []).append(_rewarded(episode, run, name).reward)
    how = run.values
    return {task: v_star(rewards, estimator=how.estimator, beta=how.beta) for task, rewards in by_task.items()}
