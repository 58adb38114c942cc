"""The memory of a run: its terms follow the settings, and their sum is what an update is measured to take."""

from __future__ import annotations

import re
import weakref
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from astarpo import footprint as subject
from astarpo.batch import Batch
from astarpo.errors import DataError, SettingsError
from astarpo.footprint import GPUS, Footprint, changed, footprint, shape_of, shape_of_policy, to_fit
from astarpo.memory import FLOAT, HALF, KNOWN, Shape
from astarpo.policy import adapters, scoring
from astarpo.run import Run, algorithm, load_preset, merge, preset_names
from astarpo.update import backward, learn, new_optimizer
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


@pytest.mark.parametrize("name", ["adamw", "adamw_8bit", "muon"])
@pytest.mark.parametrize("width", WIDTHS)
def test_the_optimiser_keeps_the_bytes_that_are_said(name: str, width: int) -> None:
    # Eight bits pay from 4,096 numbers on, so that nearly all of these have them.
    of = shape(hidden=64, feed_forward=256, head_width=32)
    given = run(policy={"dtype": "float32" if width == FLOAT else "bfloat16"}, optimizer={"name": name})
    policy = learner(of, width)
    optimizer = new_optimizer(policy, given.optimizer)
    learn(policy, episodes(of), algorithm(given), optimizer, given.optimizer, **ONCE)
    states = [state for part in optimizer.parts for state in part.state.values()]
    held = sum(
        t.untyped_storage().nbytes() for state in states for t in state.values() if torch.is_tensor(t) and t.dim()
    )
    found = footprint(given, of)
    assert held == pytest.approx(term(found, "optimiser"), rel=0.02)
    backward(policy, episodes(of), algorithm(given), reference=None, tokens=10**6)
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    assert sum(t.numel() * t.element_size() for t in gradients) == term(found, "gradients")
    copies = [master for _, master in optimizer.masters]
    assert sum(t.numel() * t.element_size() for t in copies) == term(found, "float32 copies")


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


class Live(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of all tensors that are alive, every operation's results as they come and until they go.

    Args:
        there: tensors that are there before it begins.

    Attributes:
        peak: the most there were.
    """

    def __init__(self, there: Iterable[torch.Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = self._now = 0
        self._known: set[int] = set()
        for tensor in there:
            self._see(tensor)

    def _see(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        where, size = storage._cdata, storage.nbytes()
        if where in self._known:
            return
        self._known.add(where)
        self._now += size
        self.peak = max(self.peak, self._now)

        def gone() -> None:
            self._known.discard(where)
            self._now -= size

        weakref.finalize(storage, gone)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run `func` and see what came of it."""
        out = func(*args, **(kwargs or {}))
        for one in tree_leaves(out):
            if isinstance(one, torch.Tensor):
                self._see(one)
        return out


MEASURED: dict[str, dict[str, Any]] = {
    "activations": {"of": shape(layers=6), "width": FLOAT},
    "activations in half precision": {"of": shape(layers=6), "width": HALF},
    "activations of one block at a time": {"of": shape(layers=12), "width": HALF, "checkpointing": True},
    "an adapter": {"of": shape(layers=6), "width": HALF, "rank": 4},
    "logits": {"of": shape(vocabulary=5000), "width": FLOAT, "acted": 150},
    "logits in half precision": {"of": shape(vocabulary=5000), "width": HALF, "acted": 150},
}


@pytest.mark.parametrize("case", MEASURED)
def test_one_update_peaks_where_it_is_said_to_within_three_tenths(case: str) -> None:
    of, width = MEASURED[case]["of"], MEASURED[case]["width"]
    tokens, acted, rows = 192, MEASURED[case].get("acted", 48), 8
    given = run(
        environment={"max_turns": 3},
        policy={
            "dtype": "float32" if width == FLOAT else "bfloat16",
            "gradient_checkpointing": MEASURED[case].get("checkpointing", False),
            "lora": {"rank": MEASURED[case].get("rank", 0)},
        },
        rollout={"tasks_per_update": 1, "reply_tokens": acted // 3, "episode_tokens": tokens - acted // 3 + 1},
        optimizer={"microbatch_tokens": rows * tokens},
    )
    policy = learner(of, width)
    if given.policy.lora.rank:
        adapters.attach(policy.model, rank=given.policy.lora.rank, alpha=8.0, target_modules=["all-linear"])
    if given.policy.gradient_checkpointing:
        scoring.forget_activations(policy.model)
    optimizer = new_optimizer(policy, given.optimizer)
    played = episodes(of, rows, tokens, acted)
    # The optimiser makes its state in the first step.
    learn(policy, played, algorithm(given), optimizer, given.optimizer, **ONCE)
    there = [*policy.model.parameters(), *(p for group in optimizer.param_groups for p in group["params"])]
    states = [t for part in optimizer.parts for state in part.state.values() for t in state.values()]
    with Live([*there, *(p.grad for p in there if p.grad is not None), *states]) as live:
        learn(policy, played, algorithm(given), optimizer, given.optimizer, **ONCE)
    measured = live.peak
    found = footprint(given, of)
    said = found.sum("always") + found.sum("learning")
    assert 0.99 * measured < said < 1.3 * measured


def test_a_reference_is_counted_where_one_is_kept() -> None:
    of = KNOWN[LARGE]
    assert term(footprint(run(), of), "reference") == 0
    kept = footprint(run(algorithm={"kl_coef": 0.01, "kl_estimator": "k3"}), of)
    assert term(kept, "reference") == of.parameters * HALF


def test_a_reference_kept_elsewhere_is_counted_while_it_is_there() -> None:
    of, kl = KNOWN[LARGE], {"kl_coef": 0.01, "kl_estimator": "k3"}
    at_hand = footprint(run(algorithm=kl), of)
    elsewhere = footprint(run(algorithm=kl, policy={"reference_device": "cpu"}), of)
    weights = of.parameters * HALF
    assert at_hand.sum("always") - elsewhere.sum("always") == weights == elsewhere.sum("scoring")
    assert at_hand.peak - elsewhere.peak == weights
    exact = footprint(run(algorithm=kl | {"kl_estimator": "exact"}, policy={"reference_device": "cpu"}), of)
    assert exact.peak == at_hand.peak


def test_the_peak_is_what_stays_and_the_larger_of_what_comes_and_goes() -> None:
    found = footprint(run(), KNOWN[LARGE])
    assert found.peak == found.sum("always") + max(found.sum(when) for when in subject.TIMES)
    assert found.fits(found.needs() + 0.01)
    assert not found.fits(found.needs() - 0.01)


@pytest.mark.parametrize("gpu", GPUS)
def test_what_is_said_to_fit_fits_and_no_change_is_idle(gpu: int) -> None:
    given, of = run(), KNOWN["Qwen/Qwen2.5-1.5B-Instruct"]
    made = to_fit(given, of, gpu)
    assert made is not None
    assert bool(made) == (not footprint(given, of).fits(gpu))
    for left_out in (None, *made):
        smaller = given
        for change in made:
            if change is not left_out:
                smaller = changed(smaller, change.setting, change.value)
        assert footprint(smaller, of).fits(gpu) == (left_out is None)


QWEN = [(home, name) for home in ("webshop", "arithmetic") for name in preset_names(home) if name.startswith("qwen")]


@pytest.mark.parametrize(("home", "name"), QWEN)
def test_a_preset_fits_the_gpu_that_its_first_line_names(home: str, name: str) -> None:
    first = (files("astarpo") / "presets" / home / f"{name}.yaml").read_text("utf-8").splitlines()[0]
    told = re.search(r"one GPU of (\d+) GB or more", first)
    assert told is not None
    preset = Run.build(load_preset(home, name))
    of = shape_of_policy(preset)
    assert preset.policy.model in KNOWN
    assert footprint(preset, of).fits(int(told[1]))
    assert preset.rollout.longest <= of.context
    assert 64 <= preset.rollout.tasks_per_update * preset.algorithm.group_size <= 128


def test_every_size_of_gpu_has_a_preset_of_every_model() -> None:
    for home in ("webshop", "arithmetic"):
        fitting = {
            (gpu, run.policy.model)
            for run in (Run.build(load_preset(home, name)) for at, name in QWEN if at == home)
            for gpu in GPUS
            if footprint(run, shape_of_policy(run)).fits(gpu)
        }
        assert fitting == {(gpu, model) for gpu in GPUS for model in KNOWN if "7B" not in model}


def test_four_bits_are_proposed_with_the_adapter_that_they_need() -> None:
    made = to_fit(run(policy={"dtype": "float32"}), KNOWN["Qwen/Qwen2.5-7B-Instruct"], 22)
    assert made is not None
    assert {change.setting for change in made} >= {"policy.lora.rank", "policy.quantize"}
    assert any(change.learns_otherwise for change in made)


def by(found: Footprint, name: str) -> str:
    """What is said to lower a term."""
    (setting,) = (term.setting for term in found.terms if term.name == name)
    return setting


def test_a_setting_is_only_said_to_lower_what_it_still_can() -> None:
    of, long = KNOWN[LARGE], {"microbatch_tokens": 4096}
    four = {"policy": {"lora": {"rank": 8}, "quantize": "nf4"}}
    assert by(footprint(run(policy={"lora": {"rank": 8}}), of), "weights") == "policy.quantize"
    assert by(footprint(run(**four), of), "weights") == "policy.model"
    assert by(footprint(run(), of), "optimiser") == "optimizer.name"
    assert by(footprint(run(optimizer={"name": "adamw_8bit"}), of), "optimiser") == "policy.lora.rank"
    # An episode of 4,127 tokens is not cut.
    assert by(footprint(run(optimizer={"microbatch_tokens": 8192}), of), "activations") == "optimizer.microbatch_tokens"
    assert by(footprint(run(optimizer=long), of), "activations") == "policy.gradient_checkpointing"
    frugal = run(optimizer=long, policy={"gradient_checkpointing": True})
    assert by(footprint(frugal, of), "activations") == "rollout.episode_tokens"


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


def test_an_embedded_model_that_does_not_ship_is_refused() -> None:
    with pytest.raises(SettingsError, match="there is no embedded model 'tiny:purple' for webshop: known"):
        shape_of_policy(run(policy={"model": "tiny:purple"}))


def test_a_model_without_heads_is_refused_and_one_without_a_longest_context_is_not(tmp_path: Path) -> None:
    from transformers import BloomConfig, MambaConfig

    MambaConfig(hidden_size=16, num_hidden_layers=1, vocab_size=100).save_pretrained(tmp_path / "mamba")
    with pytest.raises(DataError, match=r"the config of a mamba names no num_attention_heads, and its memory is not"):
        shape_of(str(tmp_path / "mamba"))
    BloomConfig(hidden_size=16, n_layer=1, n_head=2, vocab_size=100).save_pretrained(tmp_path / "bloom")
    assert shape_of(str(tmp_path / "bloom")).context > 10**9


def test_an_adapter_is_planned_by_its_base(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "some/base", "r": 8}')
    with pytest.raises(SettingsError, match=r"is an adapter, .* plan with policy\.model=some/base and the adapter's"):
        shape_of(str(tmp_path))


def test_a_vllm_in_the_process_is_counted_in_its_own_precision_and_its_cache_is_lowered() -> None:
    of = KNOWN[LARGE]
    given = run(rollout={"backend": "vllm", "vllm": {"kv_cache_gib": 64, "dtype": "float32"}})
    assert term(footprint(given, of), "vLLM") == 4 * of.parameters + 64 * 2**30
    (cache,) = [one.how for one in footprint(given, of).terms if one.name == "vLLM"]
    # 36 layers × 2 heads × 128, keys and values, 4 bytes: 73,728 a token, 4,127 tokens an episode.
    assert f"room for {64 * 2**30 // (73_728 * 4_127):,} episodes at once" in cache
    made = to_fit(given, of, 141)
    assert made is not None
    assert "rollout.vllm.kv_cache_gib" in [change.setting for change in made]
    assert made[-1].needs <= 141


def test_a_vllm_server_is_told_beside_what_the_run_itself_needs() -> None:
    of = KNOWN[LARGE]
    found = footprint(run(rollout={"backend": "vllm", "vllm": {"url": "http://there:8000"}}), of)
    assert not term(found, "vLLM")
    assert not term(found, "KV cache")
    (said,) = found.beside
    assert said in found.lines()
    assert "server at http://there:8000 is not counted: it holds 6.2 GB of weights of its own and 0.15 GB" in said
    assert footprint(run(), of).beside == ()
