"""One update: the gradient is that of the whole batch however it is cut, and a bad one moves nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from astarpo.algorithms.base import Algorithm
from astarpo.batch import Batch, Scored
from astarpo.collate import collate
from astarpo.curriculum.base import generator
from astarpo.environments.rewards import score
from astarpo.errors import AlgorithmContractError
from astarpo.optimizers import Together
from astarpo.policy import scoring
from astarpo.policy.huggingface import HuggingFacePolicy
from astarpo.rollout import Play, collect
from astarpo.run import OptimizerSettings, RolloutSettings, Run, algorithm
from astarpo.update import backward, learn, new_optimizer, parts, step, together
from small import Explodes, ExplodesSettings, small_policy, talk

TASKS = ["answered/1", "finished/2", "answered/4", "bought/3"]


def method(name: str, **settings: Any) -> Algorithm[Any]:
    return algorithm(Run.build({"environment": "arithmetic", "algorithm": {"name": name, "group_size": 4, **settings}}))


def batch(policy: HuggingFacePolicy, reference: HuggingFacePolicy, temperature: float = 1.3) -> Batch:
    """Sixteen real episodes of one to four turns, with values and reference log-probs."""
    episodes = collect(
        policy,
        talk(max_turns=4),
        [Play(task, attempt, (0, 0)) for task in TASKS for attempt in range(4)],
        rollout=RolloutSettings.parse({"reply_tokens": 6, "episode_tokens": 200}),
        temperature=temperature,
        reward=score,
    )
    whole = collate(episodes, values={task: 0.1 * i for i, task in enumerate(TASKS)})
    with torch.no_grad():
        return replace(whole, ref_logp=reference.log_probs(whole).logp)


@pytest.fixture(scope="module")
def pair() -> tuple[HuggingFacePolicy, HuggingFacePolicy, Batch]:
    policy, reference = small_policy(0, stops=120), small_policy(1)
    return policy, reference, batch(policy, reference)


def gradient(policy: HuggingFacePolicy) -> Tensor:
    return torch.cat([p.grad.flatten() for p in policy.model.parameters() if p.grad is not None])


METHODS = [
    method("grpo"),
    method("grpo", kl_estimator="k3", kl_coef=0.1),
    method("weighted_sft", kl_coef=0.5),
    method("reinforce", entropy_coef=0.1),
    method("astar_po"),
]


@pytest.mark.parametrize("how", METHODS, ids=lambda how: str(how.settings.name))
@pytest.mark.parametrize("tokens", [1, 100, 400])
def test_a_batch_cut_small_has_the_gradient_of_the_whole(
    pair: tuple[HuggingFacePolicy, HuggingFacePolicy, Batch], how: Algorithm[Any], tokens: int
) -> None:
    policy, reference, given = pair
    assert int(given.lengths.max()) * given.size > 400
    whole = backward(policy, given, how, reference=reference, tokens=10**6)
    expected = gradient(policy)
    cut = backward(policy, given, how, reference=reference, tokens=tokens)
    found = gradient(policy)
    assert not whole.get("signal/skipped")
    assert float((found - expected).norm() / expected.norm()) < 1e-5
    assert float(expected.norm()) > 1e-3
    assert cut == pytest.approx(whole, rel=1e-4, abs=1e-5)
    assert all(p.grad is None for p in reference.model.parameters())


@pytest.mark.parametrize("tokens", [1, 100, 10**6])
def test_episodes_without_signal_change_nothing_however_the_others_are_cut(
    pair: tuple[HuggingFacePolicy, HuggingFacePolicy, Batch], tokens: int
) -> None:
    policy, reference, given = pair
    how = method("grpo")
    first = given.task == given.task[0]
    mixed = replace(given, reward=torch.where(first, 0.5, given.reward + torch.arange(given.size) % 3))
    assert 0 < int(how.idle(mixed).sum()) < given.size
    found_metrics = backward(policy, mixed, how, reference=reference, tokens=tokens)
    found = gradient(policy)
    policy.model.zero_grad(set_to_none=True)
    scored = policy.log_probs(mixed)
    loss, metrics = how.loss(scored, mixed)
    loss.backward()  # type: ignore[no-untyped-call]
    assert float((found - gradient(policy)).norm() / found.norm()) < 1e-5
    assert found_metrics["loss"] == pytest.approx(float(loss.detach()), abs=1e-5)
    assert found_metrics["advantage/std"] == pytest.approx(metrics["advantage/std"])


@pytest.mark.parametrize("tokens", [1, 10**6])
def test_an_episode_in_which_nothing_was_said_adds_nothing(
    pair: tuple[HuggingFacePolicy, HuggingFacePolicy, Batch], tokens: int
) -> None:
    policy, reference, given = pair
    acted = given.acted & (torch.arange(given.size) > 0)[:, None]
    silent = replace(
        given,
        acted=acted,
        turn=torch.where(acted, given.turn, -1),
        behaviour_logp=torch.where(acted, given.behaviour_logp, 0),
        ref_logp=torch.where(acted, given.reference(), 0),
    )
    how = method("astar_po")
    backward(policy, silent, how, reference=reference, tokens=tokens)
    found = gradient(policy)
    backward(policy, silent.take(torch.arange(1, given.size)), how, reference=reference, tokens=10**6)
    # The loss is a mean over the episodes.
    expected = gradient(policy) * (given.size - 1) / given.size
    assert float((found - expected).norm() / expected.norm()) < 1e-5


def test_one_of_them_asks_for_the_exact_kl() -> None:
    assert any(how.needs.exact_kl for how in METHODS)


@pytest.mark.parametrize("tokens", [100, 10**6])
def test_padding_does_not_matter(pair: tuple[HuggingFacePolicy, HuggingFacePolicy, Batch], tokens: int) -> None:
    policy, reference, given = pair
    how = method("weighted_sft", kl_coef=0.5)
    backward(policy, given, how, reference=reference, tokens=tokens)
    expected = gradient(policy)

    def wider(column: Tensor, fill: int) -> Tensor:
        return torch.nn.functional.pad(column, (0, 37), value=fill)

    padded = replace(
        given,
        tokens=wider(given.tokens, 55),
        acted=wider(given.acted, False),
        turn=wider(given.turn, -1),
        behaviour_logp=wider(given.behaviour_logp, 0),
        ref_logp=wider(given.reference(), 0),
    )
    backward(policy, padded, how, reference=reference, tokens=tokens)
    assert float((gradient(policy) - expected).norm() / expected.norm()) < 1e-5


@pytest.mark.parametrize("tokens", [100, 10**6])
def test_a_batch_without_signal_leaves_no_gradient(
    pair: tuple[HuggingFacePolicy, HuggingFacePolicy, Batch], tokens: int
) -> None:
    policy, _, given = pair
    alike = replace(given, reward=torch.full_like(given.reward, 0.5))
    metrics = backward(policy, alike, method("grpo"), reference=None, tokens=tokens)
    assert metrics["signal/skipped"] == 1.0
    assert all(p.grad is None for p in policy.model.parameters())


def test_metrics_tell_how_far_sampling_and_training_disagree(
    pair: tuple[HuggingFacePolicy, HuggingFacePolicy, Batch],
) -> None:
    policy, _, given = pair
    metrics = backward(policy, given, method("grpo"), reference=None, tokens=10**6)
    assert 0 < metrics["mismatch/max"] < 1e-4
    assert metrics["entropy"] > 0
    off = replace(given, behaviour_logp=torch.where(given.acted, given.behaviour_logp - 0.25, 0.0))
    metrics = backward(policy, off, method("grpo"), reference=None, tokens=10**6)
    assert metrics["mismatch/mean"] == pytest.approx(0.25, abs=1e-4)


def test_the_kl_metric_is_the_mean_log_ratio_to_the_reference(
    pair: tuple[HuggingFacePolicy, HuggingFacePolicy, Batch],
) -> None:
    policy, reference, given = pair
    metrics = backward(policy, given, method("astar_po"), reference=reference, tokens=10**6)
    with torch.no_grad():
        gap = (policy.log_probs(given).logp - given.reference())[given.acted]
    assert metrics["kl/reference"] == pytest.approx(float(gap.mean()), abs=1e-5)


def test_a_gradient_that_is_not_finite_moves_no_weight(
    pair: tuple[HuggingFacePolicy, HuggingFacePolicy, Batch],
) -> None:
    policy, _, given = pair
    before = {name: tensor.clone() for name, tensor in policy.model.state_dict().items()}
    settings = OptimizerSettings.parse({})
    optimizer = new_optimizer(policy, settings)
    explodes = Explodes(ExplodesSettings.parse({}))
    backward(policy, given, explodes, reference=None, tokens=10**6)
    with pytest.raises(FloatingPointError, match=r"the gradient's norm is (nan|inf)"):
        step(optimizer, settings, 0, 10)
    assert all(torch.equal(tensor, before[name]) for name, tensor in policy.model.state_dict().items())


def test_learning_leaves_out_a_gradient_that_is_not_finite(
    pair: tuple[HuggingFacePolicy, HuggingFacePolicy, Batch],
) -> None:
    policy, _, given = pair
    before = {name: tensor.clone() for name, tensor in policy.model.state_dict().items()}
    explodes = Explodes(ExplodesSettings.parse({}))
    metrics = taught(policy, given, explodes, new_optimizer(policy, OptimizerSettings.parse({})))
    assert metrics["signal/not_finite"] == 1.0
    assert "grad_norm" not in metrics
    assert all(torch.equal(tensor, before[name]) for name, tensor in policy.model.state_dict().items())


@pytest.mark.parametrize("tokens", [100, 10**6])
def test_layers_that_forget_their_activations_leave_the_same_gradient_and_keep_less(
    pair: tuple[HuggingFacePolicy, HuggingFacePolicy, Batch], tokens: int
) -> None:
    _, reference, given = pair
    found, held = [], []
    for forgets in (False, True):
        small = small_policy(0, stops=120)
        # Our own kernels keep less than either.
        policy = HuggingFacePolicy(small.model, small.tokenizer, rules=False, own_kernels=False)
        if forgets:
            scoring.forget_activations(policy.model)
        kept = 0

        def keep(tensor: Tensor) -> Tensor:
            nonlocal kept
            kept += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            backward(policy, given, METHODS[0], reference=reference, tokens=tokens)
        found.append(gradient(policy))
        held.append(kept)
        assert policy.model.config._attn_implementation == "sdpa"
    assert float((found[0] - found[1]).norm() / found[0].norm()) < 1e-6
    assert tokens == 100 or held[1] < 0.6 * held[0]


def one_step(settings: dict[str, Any], update: int, scale: float = 1.0) -> dict[str, float]:
    weights = torch.nn.Linear(2, 1, bias=False)
    torch.nn.init.zeros_(weights.weight)
    optimizer = Together(torch.optim.SGD(weights.parameters(), lr=1.0))
    weights.weight.grad = torch.tensor([[3.0, 4.0]]) * scale
    metrics = step(optimizer, OptimizerSettings.parse(settings), update, 10)
    return metrics | {"moved": float(weights.weight.detach().norm())}


@pytest.mark.parametrize(
    ("settings", "update", "rate"),
    [
        ({}, 7, 0.1),
        ({"warmup": 4}, 0, 0.025),
        ({"warmup": 4}, 3, 0.1),
        ({"warmup": 4}, 9, 0.1),
        ({"schedule": "linear"}, 0, 0.1),
        ({"schedule": "linear"}, 5, 0.055),
    ],
)
def test_the_learning_rate_of_an_update(settings: dict[str, Any], update: int, rate: float) -> None:
    metrics = one_step({"learning_rate": 0.1, "clip": 100.0, **settings}, update)
    assert metrics["learning_rate"] == pytest.approx(rate)
    assert metrics["moved"] == pytest.approx(5 * rate)


def test_a_gradient_is_scaled_down_to_the_clip_and_its_norm_is_told_as_it_was() -> None:
    metrics = one_step({"learning_rate": 0.1, "clip": 1.0}, 0)
    assert metrics["grad_norm"] == pytest.approx(5.0)
    assert metrics["moved"] == pytest.approx(0.1, rel=1e-5)


# ---- several steps on one batch ------------------------------------------------------------------------------------


class Diary(Together):
    """Notes each gradient and moves nothing, so that gradients of different parts can be held against each other."""

    def __init__(self, policy: HuggingFacePolicy) -> None:
        super().__init__(torch.optim.SGD(policy.model.parameters(), lr=1e-9))
        self.gradients: list[Tensor] = []

    def step(self) -> None:
        """Only notes."""
        grads = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        self.gradients.append(torch.cat([grad.flatten() for grad in grads]).clone())


def taught(
    policy: HuggingFacePolicy,
    given: Batch,
    how: Algorithm[Any],
    optimizer: Together,
    update: int = 3,
    **settings: Any,
) -> dict[str, float]:
    whole = OptimizerSettings.parse({"clip": 1e9, **settings})
    return learn(policy, given, how, optimizer, whole, reference=None, update=update, updates=10, seed=0)


def test_parts_hold_every_episode_once_and_tear_no_task_apart() -> None:
    given = batch(small_policy(0, stops=120), small_policy(1))
    mixed = given.take(torch.randperm(given.size, generator=torch.Generator().manual_seed(0)))
    mixed = replace(mixed, v_star=torch.arange(16.0))
    for count, sizes in ((1, [16]), (2, [8, 8]), (3, [8, 4, 4]), (4, [4] * 4), (9, [4] * 4)):
        cut = list(parts(mixed, count, generator(0, count)))
        assert [part.size for part in cut] == sizes
        assert sorted(number for part in cut for number in part.values().tolist()) == list(range(16))
        homes = [set(part.task.tolist()) for part in cut]
        assert sum(map(len, homes)) == 4
    one, other = ([part.task.tolist() for part in parts(mixed, 4, generator(0, epoch))] for epoch in (0, 1))
    assert one != other
    (whole,) = parts(mixed, 1, generator(0))
    assert torch.equal(whole.tokens, mixed.tokens)


def test_one_step_is_what_it_was_before_there_could_be_several() -> None:
    moved = []
    for several in (False, True):
        policy = small_policy(0, stops=120)
        given, how = batch(policy, small_policy(1)), method("grpo")
        settings = OptimizerSettings.parse({"learning_rate": 0.01})
        optimizer = new_optimizer(policy, settings)
        if several:
            metrics = learn(policy, given, how, optimizer, settings, reference=None, update=0, updates=9, seed=0)
        else:
            metrics = backward(policy, given, how, reference=None, tokens=settings.microbatch_tokens)
            metrics |= step(optimizer, settings, 0, 9)
        moved.append((metrics, torch.cat([p.flatten() for p in policy.model.parameters()])))
    assert moved[0][0] == moved[1][0]
    assert torch.equal(moved[0][1], moved[1][1])


@pytest.mark.parametrize("how", [method("grpo"), Explodes(ExplodesSettings.parse({}))], ids=["moves", "not finite"])
def test_no_gradient_is_held_once_the_weights_have_moved(
    pair: tuple[HuggingFacePolicy, HuggingFacePolicy, Batch], how: Algorithm[Any]
) -> None:
    policy, (_, _, given) = small_policy(0, stops=120), pair
    given = replace(given, reward=torch.arange(16.0))
    for settings in ({}, {"minibatches": 2, "epochs": 2}):
        metrics = taught(policy, given, how, new_optimizer(policy, OptimizerSettings.parse({})), **settings)
        assert ("grad_norm" in metrics) == (how.settings.name == "grpo")
        assert all(p.grad is None for p in policy.model.parameters())


WHOLE_BATCH = [
    method("reinforce", baseline="batch_mean", normalise="batch"),
    method("grpo", scale_by_std="batch", aggregation="sum"),
    method("reinforce_pp", aggregation="sum"),
    method("rloo"),
]


@pytest.mark.parametrize("how", WHOLE_BATCH, ids=lambda how: str(how.settings.name))
def test_the_gradients_of_the_parts_average_to_that_of_the_whole(
    pair: tuple[HuggingFacePolicy, HuggingFacePolicy, Batch], how: Algorithm[Any]
) -> None:
    """So what is normalised over the batch is normalised over all of it; parts by themselves would give others."""
    policy, _, given = pair
    given = replace(given, reward=torch.linspace(0, 3, 16).square())
    diary = Diary(policy)
    taught(policy, given, how, diary, minibatches=2)
    backward(policy, given, how, reference=None, tokens=10**6)
    expected, found = gradient(policy), (diary.gradients[0] + diary.gradients[1]) / 2
    assert float((found - expected).norm() / expected.norm()) < 1e-4
    assert float((diary.gradients[0] - expected).norm() / expected.norm()) > 0.1


def test_every_pass_meets_every_episode_and_state_moves_once_a_batch(
    pair: tuple[HuggingFacePolicy, HuggingFacePolicy, Batch],
) -> None:
    policy, _, given = pair
    given = replace(given, reward=torch.arange(16.0))
    several, one = (method("reinforce", baseline="moving_average", clip="adaptive") for _ in range(2))
    diary = Diary(policy)
    metrics = taught(policy, given, several, diary, minibatches=4, epochs=3)
    assert len(diary.gradients) == metrics["optimizer/steps"] == 12
    one.advantages(given)
    assert several.state() == one.state()
    assert metrics["reward/mean"] == pytest.approx(7.5)
    assert {"advantage/raw_mean", "advantage/clip_limit"} <= set(metrics)


def test_later_steps_see_that_the_policy_moved_and_the_mismatch_is_that_of_the_first() -> None:
    policy = small_policy(0, stops=120)
    given = replace(batch(policy, small_policy(1)), reward=torch.arange(16.0) % 3)
    settings = OptimizerSettings.parse({"learning_rate": 0.01})
    metrics = taught(policy, given, method("grpo"), new_optimizer(policy, settings), epochs=3, learning_rate=0.01)
    assert metrics["mismatch/max"] < 1e-4
    assert metrics["ratio/max"] > 1.05
    assert metrics["learning_rate"] == 0.01


def test_a_part_without_signal_moves_nothing(pair: tuple[HuggingFacePolicy, HuggingFacePolicy, Batch]) -> None:
    policy, _, given = pair
    first = given.task == given.task[0]
    given = replace(given, reward=torch.where(first, torch.arange(16.0), 0.5))
    diary = Diary(policy)
    metrics = taught(policy, given, method("grpo"), diary, minibatches=4)
    assert len(diary.gradients) == metrics["optimizer/steps"] == 1
    assert metrics["signal/skipped"] == 0.75
    alike = replace(given, reward=torch.full_like(given.reward, 0.5))
    metrics = taught(policy, alike, method("grpo"), diary, minibatches=2, epochs=2)
    assert (metrics["signal/skipped"], metrics["optimizer/steps"], len(diary.gradients)) == (1.0, 0.0, 1)
    assert "grad_norm" not in metrics


def test_metrics_of_several_steps_become_one_line() -> None:
    steps = [
        (
            6,
            {"loss": 1.0, "mismatch/max": 0.1, "mismatch/mean": 0.01, "ratio/max": 1.0, "w/min": 0.3, "grad_norm": 2.0},
        ),
        (2, {"loss": 3.0, "mismatch/max": 0.7, "mismatch/mean": 0.09, "ratio/max": 1.5, "w/min": 0.2}),
    ]
    assert together(steps) == pytest.approx(
        {"loss": 1.5, "mismatch/max": 0.1, "mismatch/mean": 0.01, "ratio/max": 1.5, "w/min": 0.2, "grad_norm": 2.0}
    )


class Forgetful(Explodes):
    """Returns one loss an episode, as a loss that nobody averaged is."""

    def loss(self, scored: Scored, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        return (scored.logp * batch.acted).sum(-1), {}


def test_a_loss_that_is_no_number_stops_the_run_in_one_sentence(
    pair: tuple[HuggingFacePolicy, HuggingFacePolicy, Batch],
) -> None:
    policy, reference, whole = pair
    with pytest.raises(AlgorithmContractError, match=r"\.loss must return a scalar tensor first, got .* \[16\]"):
        backward(policy, whole, Forgetful(ExplodesSettings.parse({})), reference=reference, tokens=400)
