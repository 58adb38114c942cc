"""What every algorithm promises, checked on every algorithm there is, under each choice of each of its settings."""

from __future__ import annotations

import functools
import json
import typing
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from enumeration import (
    PLAYS,
    batch_of,
    by_token,
    random_rewards,
    random_table,
)
from pydantic.fields import FieldInfo
from torch import Tensor

from astarpo import plugins
from astarpo.algorithms.base import Algorithm, checked
from astarpo.batch import Batch, Scored
from astarpo.errors import MissingColumnError, SettingsError

FILES = plugins.names("astarpo.algorithms")
POLICY, REFERENCE = random_table(0), random_table(1)
# So that of the six plays below each task has one that earns 1 or more, and one that does not.
REWARDS = {play: 1.6 * reward for play, reward in random_rewards(2).items()}
# Two groups of three attempts, replies of both lengths.
SIX = [PLAYS[0], PLAYS[2], PLAYS[5], PLAYS[7], PLAYS[10], PLAYS[13]]
NOT_IN_THE_LOSS = {"name", "group_size", "critic_speed"}


@functools.cache
def kind_of(name: str) -> type[Algorithm[Any]]:
    found: type[Algorithm[Any]] = plugins.find("astarpo.algorithms", name, Algorithm)
    return found


def loadable(name: str) -> bool:
    try:
        kind_of(name)
    except SettingsError:
        return False
    return True


NAMES = [name for name in FILES if loadable(name)]
"""A file that cannot be used fails `test_every_file_can_be_used` and takes the others' tests with it no more."""


def choices(field: FieldInfo) -> list[object]:
    if typing.get_origin(field.annotation) is typing.Literal:
        return list(typing.get_args(field.annotation))
    return [False, True] if field.annotation is bool else []


def variants() -> Iterator[tuple[str, dict[str, object]]]:
    """Each algorithm as it comes, then with KL and entropy on and one setting changed at a time, or two where the one
    is refused without the other."""
    for name in NAMES:
        fields = kind_of(name).Settings.model_fields
        on = {key: 0.1 for key in ("kl_coef", "entropy_coef") if key in fields}
        yield name, {}
        for key, field in fields.items():
            for choice in choices(field):
                alone = on | {key: choice}
                with_another = (alone | {other: c} for other, f in fields.items() for c in choices(f) if other != key)
                found = next((given for given in (alone, *with_another) if accepted(name, given)), None)
                if found is not None:
                    yield name, found


def accepted(name: str, settings: dict[str, object]) -> bool:
    try:
        kind_of(name).Settings.parse(settings)
    except SettingsError:
        return False
    return True


VARIANTS = list(variants())
every_variant = pytest.mark.parametrize(
    ("name", "settings"), VARIANTS, ids=[f"{name}-{'-'.join(map(str, given.values()))}" for name, given in VARIANTS]
)
every_name = pytest.mark.parametrize("name", NAMES)


def make(name: str, settings: dict[str, object]) -> Algorithm[Any]:
    return kind_of(name)(kind_of(name).Settings.parse(settings))


@functools.cache
def a_batch(padding: int = 0) -> Batch:
    """Attempts of another, nearby policy, so that ratios are not all 1; of one turn and of two."""
    sampler = random_table(0)
    with torch.no_grad():
        sampler.logits.add_(0.1 * random_table(3).logits)
    return by_token(batch_of(SIX, REWARDS, sampler, REFERENCE, padding=padding))


def said_of(batch: Batch) -> Scored:
    """What the policy says about a batch of these six plays, whatever their rewards."""
    same = batch.tokens.shape == a_batch().tokens.shape and bool((batch.tokens == a_batch().tokens).all())
    return said() if same else POLICY.log_probs(batch, reference=REFERENCE)


@functools.cache
def said() -> Scored:
    with torch.no_grad():
        return POLICY.log_probs(a_batch(), reference=REFERENCE)


def leaves(batch: Batch) -> Scored:
    """What the policy says, cut loose from it: three columns that each take a gradient."""
    scored = said_of(batch)
    return Scored(*(column.detach().requires_grad_() for column in (scored.logp, scored.entropy, scored.exact_kl())))


def slopes(loss: Tensor, scored: Scored) -> list[Tensor]:
    columns = [scored.logp, scored.entropy, scored.exact_kl()]
    found = torch.autograd.grad(loss, columns, allow_unused=True)
    return [torch.zeros_like(c) if slope is None else slope for c, slope in zip(columns, found, strict=True)]


def paid(reward: Tensor) -> Batch:
    """The same plays for another reward [B]."""
    return by_token(replace(a_batch(), reward=reward))


def permuted(batch: Batch, order: Tensor) -> Batch:
    columns = {key: value[order] for key, value in vars(batch).items() if isinstance(value, Tensor)}
    return replace(batch, **columns)  # type: ignore[arg-type]


def test_the_algorithms_of_the_project_are_found() -> None:
    assert {"astar_po", "weighted_sft", "reinforce", "grpo"} <= set(NAMES)


@pytest.mark.parametrize("name", FILES)
def test_every_file_can_be_used(name: str) -> None:
    plugins.find("astarpo.algorithms", name, Algorithm)


@every_variant
def test_loss_is_a_finite_scalar_and_metrics_are_finite_json(name: str, settings: dict[str, object]) -> None:
    batch = a_batch()
    scored = leaves(batch)
    loss, metrics = checked(name, make(name, settings).loss(scored, batch))
    assert loss.isfinite(), f"the loss is {loss.item()}"
    assert any(slope.any() for slope in slopes(loss, scored)), "no column that the policy gives has a gradient"
    assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics
    assert {"reward/mean", "advantage/mean", "entropy", "signal/skipped"} <= set(metrics)


def pull(name: str, settings: dict[str, object], reward: Tensor) -> Tensor:
    """[B] the loss's slope in each episode's log-probs, summed, where the plays earn `reward` [B]."""
    batch = paid(reward)
    scored = leaves(batch)
    loss, _ = make(name, settings).loss(scored, batch)
    return slopes(loss, scored)[0].sum(-1)


@every_variant
def test_who_earns_more_is_pushed_up_more(name: str, settings: dict[str, object]) -> None:
    """A loss is minimised: more reward may only lower the slope in what earned it."""
    reward, fell = a_batch().reward, False
    before = pull(name, settings, reward)
    for i in range(len(reward)):
        more = reward.clone()
        more[i] += 0.3
        change = float((pull(name, settings, more) - before)[i])
        assert change <= 1e-9, f"attempt {i} earned 0.3 more and its slope rose by {change}: is a sign turned round?"
        fell = fell or change < -1e-9
    assert fell, "no attempt is pushed up for what it earns"


@every_variant
def test_what_is_nothing_on_paper_is_nothing(name: str, settings: dict[str, object]) -> None:
    """AdamW makes a whole step of any gradient, of one of rounding too."""
    if "kl_coef" in settings:
        return
    for equal in (0.1, 0.3, 0.7):
        found = pull(name, settings, torch.full_like(a_batch().reward, equal)).abs()
        dust = found[(found > 0) & (found < 1e-9)]
        assert not len(dust), f"equal pay of {equal} leaves slopes of {dust.tolist()}: use numerics.uniform_groups."


@contextmanager
def constants(kept: list[Tensor], *, replay: bool) -> Iterator[None]:
    """What `detach` returns is kept; or what was kept is returned again, so that it stays where the policy moves."""
    original, again = torch.Tensor.detach, iter(kept)

    def detach(tensor: Tensor) -> Tensor:
        if replay:
            return next(again)
        kept.append(original(tensor))
        return kept[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "detach", detach)
        yield


@every_variant
def test_gradient_equals_central_differences(name: str, settings: dict[str, object]) -> None:
    """Where it stops gradients on purpose, everything that it detaches is held fixed."""
    batch, kept, holds = a_batch(), list[Tensor](), make(name, settings).stops_gradient
    scored, step = leaves(batch), 1e-6
    with constants(kept, replay=False):
        loss, _ = make(name, settings).loss(scored, batch)
    found = slopes(loss, scored)
    direction = torch.Generator().manual_seed(4)
    ways = [torch.randn(slope.shape, generator=direction, dtype=torch.float64) for slope in found]

    def at(t: float) -> float:
        columns = [scored.logp, scored.entropy, scored.exact_kl()]
        moved = Scored(*(column.detach() + t * way for column, way in zip(columns, ways, strict=True)))
        with constants(kept, replay=True) if holds else nullcontext():
            return make(name, settings).loss(moved, batch)[0].item()

    slope = sum(float((slope * way).sum()) for slope, way in zip(found, ways, strict=True))
    assert slope == pytest.approx((at(step) - at(-step)) / (2 * step), rel=1e-5, abs=1e-8), (
        "the gradient is not the slope of the loss: if a weight is held constant on purpose, say so by stops_gradient."
    )


@every_variant
def test_gradient_flows_through_what_the_policy_says_and_nothing_else(name: str, settings: dict[str, object]) -> None:
    plain = a_batch()
    columns = {
        "reward": plain.reward,
        "v_star": plain.values(),
        "ref_logp": plain.reference(),
        "behaviour_logp": plain.behaviour_logp,
    }
    watched = {column: value.clone().requires_grad_() for column, value in columns.items()}
    batch = replace(plain, **watched)  # type: ignore[arg-type]
    scored = leaves(batch)
    loss, _ = make(name, settings).loss(scored, batch)
    found = torch.autograd.grad(loss, list(watched.values()), allow_unused=True)
    flows = [column for column, slope in zip(watched, found, strict=True) if slope is not None]
    assert not flows, f"the loss has a gradient in batch.{', batch.'.join(flows)}, a constant: detach() it."


@every_variant
def test_tokens_that_nobody_sampled_do_not_count_even_when_they_are_not_numbers(
    name: str, settings: dict[str, object]
) -> None:
    batch = a_batch()
    clean, dirty = leaves(batch), leaves(batch)
    broken = replace(
        batch,
        behaviour_logp=torch.where(batch.acted, batch.behaviour_logp, torch.nan),
        ref_logp=torch.where(batch.acted, batch.reference(), torch.inf),
    )
    for column in (dirty.logp, dirty.entropy, dirty.exact_kl()):
        column.data[~batch.acted] = torch.nan
    expected, _ = make(name, settings).loss(clean, batch)
    loss, _ = make(name, settings).loss(dirty, broken)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    for slope, wanted in zip(slopes(loss, dirty), slopes(expected, clean), strict=True):
        assert not slope[~batch.acted].any()
        torch.testing.assert_close(slope, wanted)


@every_variant
def test_entropy_is_encouraged_and_kl_discouraged(name: str, settings: dict[str, object]) -> None:
    batch = a_batch()
    scored = leaves(batch)
    loss, _ = make(name, settings).loss(scored, batch)
    _, entropy_slope, kl_slope = slopes(loss, scored)
    assert (entropy_slope <= 0).all()
    assert (kl_slope >= 0).all()
    assert bool(entropy_slope.any()) == ("entropy_coef" in settings)


@every_variant
def test_the_order_of_episodes_does_not_matter(name: str, settings: dict[str, object]) -> None:
    batch, order = a_batch(), torch.tensor([3, 0, 5, 2, 4, 1])
    mixed = permuted(batch, order)
    loss, metrics = make(name, settings).loss(leaves(batch), batch)
    other, their_metrics = make(name, settings).loss(leaves(mixed), mixed)
    assert other.item() == pytest.approx(loss.item(), rel=1e-12)
    assert their_metrics == pytest.approx(metrics, rel=1e-9, abs=1e-12)


@every_variant
def test_padding_changes_nothing(name: str, settings: dict[str, object]) -> None:
    batch, padded = a_batch(), a_batch(7)
    loss, metrics = make(name, settings).loss(leaves(batch), batch)
    other, their_metrics = make(name, settings).loss(leaves(padded), padded)
    assert other.item() == pytest.approx(loss.item(), rel=1e-12)
    assert their_metrics == pytest.approx(metrics)


@every_variant
def test_what_is_declared_as_needed_is_enough_and_its_absence_is_an_error(
    name: str, settings: dict[str, object]
) -> None:
    needs = make(name, settings).needs
    batch = a_batch()
    scored = leaves(batch)
    without_kl = Scored(scored.logp, scored.entropy)
    provided = replace(
        batch,
        ref_logp=batch.ref_logp if needs.reference else None,
        v_star=batch.v_star if needs.values else None,
    )
    make(name, settings).loss(scored if needs.exact_kl else without_kl, provided)
    if needs.values:
        with pytest.raises(MissingColumnError):
            make(name, settings).loss(scored, replace(provided, v_star=None))
    if needs.exact_kl:
        with pytest.raises(MissingColumnError):
            make(name, settings).loss(without_kl, provided)
    elif needs.reference:
        with pytest.raises(MissingColumnError):
            make(name, settings).loss(scored, replace(provided, ref_logp=None))


@every_variant
def test_state_survives_json_and_a_fresh_object(name: str, settings: dict[str, object]) -> None:
    first, second = make(name, settings), make(name, settings)
    batch = a_batch()
    louder = replace(batch, reward=3 * batch.reward + 1)
    first.loss(leaves(batch), batch)
    second.restore(json.loads(json.dumps(first.state())))
    assert second.state() == first.state()
    assert second.loss(leaves(louder), louder)[0].item() == first.loss(leaves(louder), louder)[0].item()


@every_name
def test_a_batch_of_one_episode_does_not_break_it(name: str) -> None:
    batch = permuted(a_batch(), torch.tensor([1]))
    loss, metrics = make(name, {}).loss(POLICY.log_probs(batch, reference=REFERENCE), batch)
    assert loss.isfinite()
    json.dumps(metrics, allow_nan=False)


@every_name
def test_every_setting_is_described_and_bounded(name: str) -> None:
    for key, field in kind_of(name).Settings.model_fields.items():
        assert field.description, key
        if field.annotation in (int, float):
            limits = {type(limit).__name__ for limit in field.metadata}
            assert limits & {"Ge", "Gt"}, key
            assert limits & {"Le", "Lt"}, key


@every_name
def test_it_is_called_after_its_file_and_needs_no_more_than_its_default_group(name: str) -> None:
    own = make(name, {})
    assert own.settings.name == name
    assert own.needs.group_size <= own.settings.group_size


def outcome(name: str, settings: dict[str, object]) -> Iterator[float]:
    """Losses and gradients of five updates in a row: two plain, one wild, one of equal pay, one unpaid."""
    algorithm, plain = make(name, settings), a_batch()
    louder = paid(plain.reward + 1)
    wild = paid(plain.reward * torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0, 40.0]).double())
    silent = paid(torch.where(plain.task == 0, 0.3, 0.6).double())
    for batch in (plain, louder, wild, silent, paid(torch.zeros_like(plain.reward))):
        scored = leaves(batch)
        loss, _ = algorithm.loss(scored, batch)
        yield loss.item()
        yield from (float(slope.square().sum()) for slope in slopes(loss, scored))


def others(field: FieldInfo) -> list[object]:
    """Values to try instead of the default."""
    if choices(field):
        return [choice for choice in choices(field) if choice != field.default]
    default = field.default
    return [default * 3 or 0.5, default / 3, 1e-2] if isinstance(default, float) else [default + 1, 1]


@every_name
def test_no_setting_does_nothing(name: str) -> None:
    """Under some choice of the others, each setting changes what the update does."""
    bases = [settings for of, settings in VARIANTS if of == name]

    @functools.cache
    def before(index: int) -> list[float]:
        return list(outcome(name, bases[index]))

    for key, field in kind_of(name).Settings.model_fields.items():
        if key in NOT_IN_THE_LOSS:
            continue
        tried = [(index, value) for value in others(field) for index in range(len(bases))]
        found = (differs(name, bases[index] | {key: value}, functools.partial(before, index)) for index, value in tried)
        assert any(found), key


def differs(name: str, settings: dict[str, object], before: Callable[[], list[float]]) -> bool:
    if not accepted(name, settings):
        return False
    return any(now != then for now, then in zip(outcome(name, settings), before(), strict=True))
