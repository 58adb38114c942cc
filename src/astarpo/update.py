"""The optimiser steps on one batch of rollouts: score, lose, differentiate, step, for each part of it.

The gradient does not depend on how a part is cut to fit into memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from astarpo.algorithms.base import Algorithm, AlgorithmSettings, checked
from astarpo.batch import Batch, Scored
from astarpo.curriculum.base import generator
from astarpo.optimizers import Together, adamw, build_optimizer
from astarpo.policy import scoring
from astarpo.policy.huggingface import HuggingFacePolicy
from astarpo.run import OptimizerSettings

PASS_TOKENS = 2048
"""Tokens of one forward pass while activations are kept anyway: small enough to stay in a processor's cache."""


def pass_tokens(device: torch.device, most: int) -> int:
    """Tokens of one forward pass on `device`, of `most` that may be held: a GPU is the faster the more it is given."""
    return most if device.type == "cuda" else min(most, PASS_TOKENS)


def learn(
    policy: HuggingFacePolicy,
    batch: Batch,
    algorithm: Algorithm[Any],
    optimizer: Together,
    settings: OptimizerSettings,
    *,
    reference: HuggingFacePolicy | None,
    update: int,
    updates: int,
    seed: int,
    share: float | None = None,
) -> dict[str, float]:
    """Every optimiser step on one batch of rollouts: `epochs` times through it, in `minibatches` parts each time.

    Attempts at one task stay in one part. Which tasks share a part is drawn anew each time, keyed by `seed` and what is
    drawn. The learning rate is that of `update` at every step.

    Args:
        update: from 0.
        updates: of the whole run.
        share: of the budget used so far, where the run has one: the learning rate then follows it and not `updates`.

    Returns:
        Metrics of the one step; of several, `together`, and `optimizer/steps`, how often the weights moved. A step
        whose gradient is not finite is not made, and `signal/not_finite` is there.
    """

    def one(part: Batch) -> dict[str, float]:
        _drop_gradients(optimizer)
        metrics = backward(policy, part, algorithm, reference=reference, tokens=settings.microbatch_tokens)
        if metrics.get("signal/skipped"):
            return metrics
        try:
            return metrics | step(optimizer, settings, update, updates, share)
        except FloatingPointError:
            return metrics | {"signal/not_finite": 1.0}
        finally:
            # Nothing reads them any more, and playing may want the room.
            _drop_gradients(optimizer)

    if settings.minibatches == settings.epochs == 1:
        return one(batch)
    fixed, logged = algorithm.advantages(batch) or (None, {})
    whole, steps = replace(batch, advantage=fixed), list[tuple[int, dict[str, float]]]()
    for epoch in range(settings.epochs):
        random = generator(seed, "minibatches", update, epoch)
        steps += [(part.size, one(part)) for part in parts(whole, settings.minibatches, random)]
    moved = sum("grad_norm" in metrics for _, metrics in steps)
    return together(steps) | logged | {"optimizer/steps": float(moved)}


def _drop_gradients(optimizer: Together) -> None:
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = None


def parts(batch: Batch, count: int, random: np.random.Generator) -> Iterator[Batch]:
    """`batch` in `count` parts of as many tasks each as can be, or in as many as it has tasks; no task is in two.

    Rows keep their order within a part.
    """
    tasks = torch.unique(batch.task)
    order = torch.from_numpy(random.permutation(len(tasks))).to(tasks.device)
    for some in torch.tensor_split(order, min(count, len(tasks))):
        yield batch.take(torch.isin(batch.task, tasks[some]))


def together(steps: Sequence[tuple[int, dict[str, float]]]) -> dict[str, float]:
    """The metrics of several optimiser steps as one line.

    How far sampling and training disagree (`mismatch/...`) is that of the first step: later ones differ from the
    sampler because they learned. Largest and smallest values (`.../max`, `.../min`) are those of all steps. Everything
    else is a mean over the steps that have it, weighted by their episodes; `signal/skipped` is then a share of them.

    Args:
        steps: for each, its episodes and its metrics.
    """
    whole: dict[str, float] = {}
    for name in dict.fromkeys(name for _, metrics in steps for name in metrics):
        found = [(size, metrics[name]) for size, metrics in steps if name in metrics]
        values = [value for _, value in found]
        if name.startswith("mismatch/"):
            whole[name] = values[0]
        elif name.endswith(("/max", "/min")):
            whole[name] = max(values) if name.endswith("/max") else min(values)
        else:
            whole[name] = sum(size * value for size, value in found) / sum(size for size, _ in found)
    return whole


def backward(
    policy: HuggingFacePolicy,
    batch: Batch,
    algorithm: Algorithm[Any],
    *,
    reference: HuggingFacePolicy | None,
    tokens: int,
) -> dict[str, float]:
    """Leave the gradient of the algorithm's loss in the policy's parameters and return its metrics.

    Episodes that have no gradient are not scored. Where the others have at most `tokens` tokens, their
    activations are held at once. Otherwise it is exact in two passes: the first, without gradient, gives
    dL/d(logp, entropy, KL); the second carries them back, part by part.
    """
    teacher = reference if algorithm.needs.exact_kl else None
    policy.model.zero_grad(set_to_none=True)
    idle = algorithm.idle(batch)
    rows = (~idle).nonzero()[:, 0] if bool(idle.any()) and not bool(idle.all()) else None
    part = batch if rows is None else batch.take(rows)

    def loss_of(scored: Scored) -> tuple[Tensor, dict[str, float]]:
        given = algorithm.loss(scored if rows is None else _spread(scored, rows, batch), batch)
        return checked(algorithm.settings.name, given)

    packed, at_once = policy.traits.packed, pass_tokens(batch.tokens.device, tokens)
    if scoring.size(part, packed=packed) <= tokens:
        scored = policy.log_probs(part, reference=teacher, tokens=at_once)
        loss, metrics = loss_of(scored)
        if not metrics.get("signal/skipped"):
            loss.backward()  # type: ignore[no-untyped-call]
        return _complete(metrics, loss, scored, part)
    with torch.no_grad():
        first = policy.log_probs(part, reference=teacher, tokens=at_once)
    leaves = Scored(
        logp=first.logp.detach().requires_grad_(),
        entropy=first.entropy.detach().requires_grad_(),
        kl_exact=None if first.kl_exact is None else first.kl_exact.detach().requires_grad_(),
    )
    loss, metrics = loss_of(leaves)
    if not metrics.get("signal/skipped"):
        loss.backward()  # type: ignore[no-untyped-call]
        for some in scoring.cuts(part.scored_lengths, tokens, packed=packed, group=part.task):
            cut = part.take(some)
            if not bool(cut.acted.any()):
                # Nothing was said in it, so no gradient goes there.
                continue
            scored = policy.log_probs(cut, reference=teacher, tokens=at_once)
            outs, grads = [], []
            for out, leaf in (
                (scored.logp, leaves.logp),
                (scored.entropy, leaves.entropy),
                (scored.kl_exact, leaves.kl_exact),
            ):
                if out is not None and leaf is not None and leaf.grad is not None:
                    outs.append(out)
                    grads.append(leaf.grad[some][:, : out.shape[1]])
            torch.autograd.backward(outs, grads)
    return _complete(metrics, loss, first, part)


def _spread(scored: Scored, rows: Tensor, batch: Batch) -> Scored:
    """`scored` of the episodes `rows` in the columns of the whole batch; the others get what was sampled, and no
    gradient. They are idle, which an algorithm says only where no exact KL is asked for."""
    logp, entropy = batch.behaviour_logp.clone(), torch.zeros_like(batch.behaviour_logp)
    place = (rows[:, None], torch.arange(scored.logp.shape[1], device=rows.device)[None, :])
    return Scored(logp=logp.index_put(place, scored.logp), entropy=entropy.index_put(place, scored.entropy))


def step(
    optimizer: Together, settings: OptimizerSettings, update: int, updates: int, share: float | None = None
) -> dict[str, float]:
    """Clip the gradient, set the learning rate of `update` (from 0), and move the weights. `share` as in `learn`.

    Raises:
        FloatingPointError: the gradient is not finite; the weights have not moved.
    """
    rate = settings.learning_rate
    if settings.warmup:
        rate *= min(1.0, (update + 1) / settings.warmup)
    if settings.schedule == "linear":
        rate *= 1.0 - 0.9 * update / max(updates, 1) if share is None else 1.0 - 0.9 * min(share, 1.0)
    parameters: list[Tensor] = []
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("speed", 1.0)
        parameters += group["params"]
    norm = float(torch.nn.utils.clip_grad_norm_(parameters, settings.clip))
    if norm != norm or norm == float("inf"):
        raise FloatingPointError(f"the gradient's norm is {norm}")
    optimizer.step()
    return {"grad_norm": norm, "learning_rate": rate}


def _complete(metrics: dict[str, float], loss: Tensor, scored: Scored, batch: Batch) -> dict[str, float]:
    """Metrics that hold for every algorithm: the loss, the entropy, and how far sampling and training disagree."""
    acted = batch.acted
    gap = (scored.logp.detach() - batch.behaviour_logp)[acted].abs()
    whole = {
        "loss": float(loss.detach()),
        "entropy": float(scored.entropy.detach()[acted].mean()),
        "mismatch/max": float(gap.max()),
        "mismatch/mean": float(gap.mean()),
    }
    if batch.ref_logp is not None:
        whole["kl/reference"] = float((scored.logp.detach() - batch.ref_logp)[acted].mean())
    return {**metrics, **whole}


def new_optimizer(
    policy: HuggingFacePolicy, settings: OptimizerSettings, algorithm: Algorithm[Any] | None = None
) -> Together:
    """The optimiser that the settings name, over every trainable parameter; AdamW for those of the algorithm's own."""
    own = build_optimizer(
        policy.model,
        settings.name,
        learning_rate=settings.learning_rate,
        betas=settings.betas,
        weight_decay=settings.weight_decay,
    )
    width = int(getattr(policy.model.config.get_text_config(), "hidden_size", 0))
    extra, speed = algorithm.learned(width, policy.device) if algorithm is not None else ([], 1.0)
    if not extra:
        return own
    group = {"params": extra, "speed": speed}
    return Together(
        *own.parts,
        adamw([group], lr=settings.learning_rate, betas=settings.betas, weight_decay=0.0),
        masters=own.masters,
    )


AnyAlgorithm = Algorithm[AlgorithmSettings]
