"""The memory of a run: its terms follow the settings, and their sum is what an update is measured to take."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed._tools.mem_tracker import MemTracker

from astarpo import footprint as subject
from astarpo.batch import Batch
from astarpo.errors import DataError
from astarpo.footprint import GPUS, Footprint, changed, footprint, shape_of, shape_of_policy, to_fit
from astarpo.memory import FLOAT, HALF, KNOWN, Shape
from astarpo.rollout import collect
from astarpo.run import Run, algorithm, merge
from astarpo.update import learn, new_optimizer
from small import small_policy
from test_memory import WIDTHS, learner, shape

LARGE = "Qwen/Qwen2.5-3B-Instruct"


def run(**over: Any) -> Run:
    """128 long episodes of a model of three thousand million parameters."""
    base: dict[str, Any] = {
        "environment": {"name": "webshop"},
        "algorithm": {"name": "grpo", "group_size": 8},
        "policy": {"model": LARGE, "dtype": "bfloat16"},
        "rollout": {"tasks_per_update": 16, "reply_tokens": 128, "episode_tokens": 4000},
    }
    return Run.build(merge(base, over))


def term(found: Footprint, name: str) -> int:
    return sum(term.bytes for term in found.terms if term.name == name)


def test_episodes_in_flight_are_those_of_the_rollout() -> None:
    assert inspect.signature(collect).parameters["width"].default == subject.IN_FLIGHT


@pytest.mark.parametrize("name", ["adamw", "muon"])
@pytest.mark.parametrize("width", WIDTHS)
def test_the_optimiser_keeps_the_bytes_that_are_said(name: str, width: int) -> None:
    of = shape()
    given = run(policy={"dtype": "float32" if width == FLOAT else "bfloat16"}, optimizer={"name": name})
    policy = learner(of, width)
    optimizer = new_optimizer(policy, given.optimizer)
    learn(policy, episodes(of), algorithm(given), optimizer, given.optimizer, **ONCE)
    states = [t for state in optimizer.state_dict()["state"].values() for t in state.values() if torch.is_tensor(t)]
    assert sum(t.numel() * t.element_size() for t in states if t.dim()) == pytest.approx(
        term(footprint(given, of), "optimiser"), rel=0.01
    )


ONCE: dict[str, Any] = {"reference": None, "update": 0, "updates": 1, "seed": 0}


def episodes(of: Shape, rows: int = 8, tokens: int = 192, acted: int = 64) -> Batch:
    """`rows` attempts at one task, of `tokens` tokens each, the last `acted` of them said."""
    said = torch.zeros((rows, tokens), dtype=torch.bool)
    said[:, tokens - acted :] = True
    return Batch(
        tokens=torch.randint(0, of.vocabulary, (rows, tokens)),
        lengths=torch.full((rows,), tokens),
        acted=said,
        turn=torch.where(said, 0, -1),
        behaviour_logp=torch.where(said, -1.0, 0.0),
        reward=torch.arange(rows).float(),
        success=torch.zeros(rows, dtype=torch.bool),
        task=torch.zeros(rows, dtype=torch.int64),
        temperature=1.0,
    )


MEASURED: dict[str, dict[str, Any]] = {
    "activations": {"of": shape(layers=6), "width": FLOAT},
    "activations in half precision": {"of": shape(layers=6), "width": HALF},
    "logits": {"of": shape(vocabulary=5000), "width": FLOAT, "acted": 150},
    "logits in half precision": {"of": shape(vocabulary=5000), "width": HALF, "acted": 150},
}


@pytest.mark.parametrize("case", MEASURED)
def test_one_update_peaks_where_it_is_said_to_within_a_quarter(case: str) -> None:
    of, width = MEASURED[case]["of"], MEASURED[case]["width"]
    tokens, acted, rows = 192, MEASURED[case].get("acted", 48), 8
    given = run(
        environment={"max_turns": 3},
        policy={"dtype": "float32" if width == FLOAT else "bfloat16"},
        rollout={"tasks_per_update": 1, "reply_tokens": acted // 3, "episode_tokens": tokens - acted // 3 + 1},
        optimizer={"microbatch_tokens": rows * tokens},
    )
    policy = learner(of, width)
    optimizer = new_optimizer(policy, given.optimizer)
    played = episodes(of, rows, tokens, acted)
    # The optimiser makes its state in the first step.
    learn(policy, played, algorithm(given), optimizer, given.optimizer, **ONCE)
    tracker = MemTracker()
    tracker.track_external(policy.model, *optimizer.parts)
    with tracker:
        learn(policy, played, algorithm(given), optimizer, given.optimizer, **ONCE)
    (measured,) = [
        n for kind, n in tracker.get_tracker_snapshot("peak")[torch.device("cpu")].items() if str(kind) == "Total"
    ]
    found = footprint(given, of)
    said = found.sum("always") + found.sum("learning")
    assert 0.99 * measured < said < 1.25 * measured


def test_a_reference_is_counted_where_one_is_kept() -> None:
    of = KNOWN[LARGE]
    assert term(footprint(run(), of), "reference") == 0
    kept = footprint(run(algorithm={"kl_coef": 0.01, "kl_estimator": "k3"}), of)
    assert term(kept, "reference") == of.parameters * HALF


def test_the_peak_is_what_stays_and_the_larger_of_what_comes_and_goes() -> None:
    found = footprint(run(), KNOWN[LARGE])
    assert found.peak == found.sum("always") + max(found.sum(when) for when in subject.TIMES)
    assert found.fits(found.needs() + 0.01)
    assert not found.fits(found.needs() - 0.01)


@pytest.mark.parametrize("gpu", GPUS)
def test_what_is_said_to_fit_fits_and_no_change_is_idle(gpu: int) -> None:
    given, of = run(rollout={"episode_tokens": 1000}), KNOWN["Qwen/Qwen2.5-1.5B-Instruct"]
    made = to_fit(given, of, gpu)
    assert made is not None
    smaller = given
    for change in made:
        before = footprint(smaller, of)
        assert not before.fits(gpu)
        smaller = changed(smaller, change.setting, change.value)
        assert footprint(smaller, of).needs() == pytest.approx(change.needs)
        assert footprint(smaller, of).peak < before.peak
    assert footprint(smaller, of).fits(gpu)


def test_where_nothing_helps_that_is_said() -> None:
    assert to_fit(run(), KNOWN[LARGE], 4) is None


def test_the_embedded_model_and_a_folder_are_read_from_their_config_alone(tmp_path: Path) -> None:
    given = run(policy={"model": "tiny", "dtype": "float32"})
    assert shape_of_policy(given).parameters == 567_264
    policy = small_policy()
    policy.model.config.save_pretrained(tmp_path)
    of = shape_of(str(tmp_path))
    assert of.parameters == sum(p.numel() for p in policy.model.parameters())
    assert (of.hidden, of.layers, of.other) == (16, 2, 0)


def test_another_architecture_has_its_own_number_of_parameters(tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=300, n_positions=128)
    config.save_pretrained(tmp_path)
    of = shape_of(str(tmp_path))
    assert of.parameters == sum(p.numel() for p in GPT2LMHeadModel(config).parameters())
    assert (of.hidden, of.layers, of.feed_forward) == (32, 2, 128)


def test_a_folder_without_a_config_is_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no config\.json in .*name the folder"):
        shape_of(str(tmp_path))
