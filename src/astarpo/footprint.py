"""What a run needs of a GPU's memory, by term, from its settings and its model's shapes: nothing is loaded or played.

Training and playing take turns on one GPU, so the peak is what always stays plus the larger of the two.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from astarpo import memory
from astarpo.backends.base import require_weights
from astarpo.engine.conversations import READ_TOKENS_ON_GPU
from astarpo.errors import DataError, SettingsError
from astarpo.memory import FLOAT, HALF, KNOWN, Shape
from astarpo.policy import adapters
from astarpo.policy.head import CHUNK_ON_GPU
from astarpo.policy.load import embedded
from astarpo.run import Run, algorithm, keeps_reference, merge, override, plays_reference

GPUS = (24, 48, 80, 141)
"""Gigabytes of the GPUs that presets are made for; any other size can be asked about."""

CONTEXT_BYTES, SPARE = 1.0e9, 0.08
"""Held back on a GPU: for CUDA itself and the kernels it loads, and the share that an allocator loses to pieces that
fit nothing. Set by judgement until peaks are measured."""

DRAW_BYTES = 28
"""For each entry of a row's logits while its next token is drawn: three float32 and two float64 columns."""

HEAD_BYTES = 16
"""Bytes of each logit of an acted token until its gradient is there: four float32 columns."""

FOUR_BITS = 0.5 + 1 / 64 + 4 / (64 * 256)
"""Bytes of a weight under NF4: four bits, and a byte for each 64 with a float32 for each 256 of those. Source: QLoRA,
arXiv:2305.14314, section 3."""

EIGHT_BITS = 2 * (1 + FLOAT / 256)
"""Bytes of AdamW's two running means of one weight in eight bits: a byte each and a float32 for each 256."""

When = Literal["always", "playing", "scoring", "learning"]
TIMES: tuple[When, ...] = ("playing", "scoring", "learning")
"""What a run does by turns: generate episodes, let a reference whose weights are elsewhere score them, learn."""


@dataclass(frozen=True)
class Term:
    """One thing that takes memory.

    Attributes:
        name: what it is.
        bytes: how much.
        when: always, or while the run does one of `TIMES`.
        how: its equation with numbers.
        setting: what lowers it; empty where nothing does.
    """

    name: str
    bytes: int
    when: When
    how: str
    setting: str = ""


@dataclass(frozen=True)
class Footprint:
    """The memory of one run.

    Attributes:
        model: its name.
        parameters: of the model.
        learning: parameters that learn.
        terms: what takes memory.
        episodes: of one update.
        tokens: of one update at most.
        beside: what takes memory elsewhere, in words.
    """

    model: str
    parameters: int
    learning: int
    terms: tuple[Term, ...]
    episodes: int
    tokens: int
    beside: tuple[str, ...] = ()

    def sum(self, when: When) -> int:
        """Bytes of all terms of one time."""
        return sum(term.bytes for term in self.terms if term.when == when)

    @property
    def worst(self) -> When:
        """What the run does when it needs most."""
        return max(TIMES, key=self.sum)

    @property
    def peak(self) -> int:
        """Bytes at the worst moment."""
        return self.sum("always") + self.sum(self.worst)

    def needs(self) -> float:
        """Gigabytes (1e9 bytes) that a GPU must have, what is held back included."""
        return (self.peak + CONTEXT_BYTES) / (1 - SPARE) / 1e9

    def fits(self, gpu: float) -> bool:
        """Whether it fits on a GPU of `gpu` gigabytes."""
        return self.needs() <= gpu

    def largest(self) -> Term:
        """Of the terms at the worst moment that a setting lowers, the largest."""
        there = [term for term in self.terms if term.when in ("always", self.worst) and term.setting]
        return max(there, key=lambda term: term.bytes)

    def lines(self) -> list[str]:
        """What it comes to, in words."""
        largest = self.largest()
        share = "all of them learn" if self.learning == self.parameters else f"{self.learning:,} learn"
        return [
            f"{self.parameters:,} parameters, {share}. An update has {self.episodes} episodes and {self.tokens:,} "
            "tokens at most.",
            f"Peak {self.peak / 1e9:.1f} GB while {self.worst}; a GPU needs {self.needs():.1f} GB, with "
            f"{CONTEXT_BYTES / 1e9:g} GB for CUDA and {SPARE:.0%} to spare.",
            f"The largest term that a setting lowers: {largest.name}, {largest.bytes / 1e9:.1f} GB, by "
            f"{largest.setting}.",
            *self.beside,
        ]

    def as_dict(self) -> dict[str, Any]:
        """JSON values; bytes, and gigabytes of 1e9 bytes."""
        return {
            "model": self.model,
            "parameters": self.parameters,
            "learning": self.learning,
            "episodes": self.episodes,
            "tokens": self.tokens,
            "terms": [asdict(term) for term in self.terms],
            "peak": self.peak,
            "worst": self.worst,
            "needs_gigabytes": round(self.needs(), 2),
            "largest": self.largest().name,
            "lines": self.lines(),
        }


def shape_of(model: str) -> Shape:
    """The sizes of `model`: a known name, the embedded model, a folder, or a hub name, whose config is then fetched.

    No weights are read. Parameters are counted on a model without memory, so they are right for any architecture; the
    activations of one without a gated feed-forward layer are counted as if it had one.

    Raises:
        DataError: there is no such config, or it is not of a causal language model that attends.
        SettingsError: it is the folder of an adapter.
    """
    if model in KNOWN:
        return KNOWN[model]
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    if (Path(model) / adapters.CONFIG).is_file():
        raise SettingsError(
            f"{model} is an adapter, which has no shapes of its own: plan with policy.model="
            f"{adapters.base_of(Path(model))} and the adapter's policy.lora.rank."
        )
    if model.startswith((".", "/", "~")) and not (Path(model).expanduser() / "config.json").is_file():
        raise DataError(f"there is no config.json in {model}: name the folder of a Hugging Face causal model.")
    try:
        config = AutoConfig.from_pretrained(model)
        with torch.device("meta"):
            counted = sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())
    except (OSError, ValueError, KeyError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(f"cannot read the shapes of {model!r}: {first}") from error
    try:
        return _shape(config.get_text_config(), counted)
    except AttributeError as error:
        raise DataError(
            f"cannot plan for {model!r}: the config of a {config.model_type} names no {error.name}, and its memory is "
            "not known here; `astarpo train --dry-run` tries it."
        ) from error


def shape_of_policy(run: Run) -> Shape:
    """The sizes of the model that `run` names; see `shape_of`.

    Raises:
        DataError, SettingsError: as `shape_of`, or there is no such embedded model.
    """
    name = run.policy.model
    if name != "tiny" and not name.startswith("tiny:"):
        return shape_of(name)
    return shape_of(str(embedded(name, run.environment.name)))


def _shape(config: Any, counted: int) -> Shape:
    heads = int(config.num_attention_heads)
    bare = Shape(
        hidden=int(config.hidden_size),
        layers=int(config.num_hidden_layers),
        heads=heads,
        kv_heads=int(getattr(config, "num_key_value_heads", None) or heads),
        head_width=int(getattr(config, "head_dim", None) or config.hidden_size // heads),
        feed_forward=int(getattr(config, "intermediate_size", None) or 4 * config.hidden_size),
        vocabulary=int(config.vocab_size),
        tied=bool(config.tie_word_embeddings),
        bias=config.model_type == "qwen2",
        context=int(getattr(config, "max_position_embeddings", None) or sys.maxsize),
    )
    return replace(bare, other=counted - bare.parameters)


def footprint(run: Run, shape: Shape) -> Footprint:
    """The memory of `run` with a model of `shape`. Raises SettingsError where the weights are elsewhere."""
    require_weights(run)
    rank = run.policy.lora.rank
    learning = shape.adapter(rank) if rank else shape.parameters
    episodes = run.rollout.tasks_per_update * run.algorithm.group_size
    terms = (*_kept(run, shape, learning), *_playing(run, shape), *_learning(run, shape, learning))
    tokens = episodes * run.rollout.longest
    return Footprint(run.policy.model, shape.parameters, learning, terms, episodes, tokens, _beside(run, shape))


def _beside(run: Run, shape: Shape) -> tuple[str, ...]:
    """What a server needs that generates."""
    url = run.rollout.vllm.url
    if run.rollout.backend != "vllm" or not url:
        return ()
    width = _width(run)
    one = memory.kv_bytes(shape, 1, run.rollout.longest, width)
    return (
        f"The vLLM server at {url} is not counted: it holds {shape.parameters * width / 1e9:.1f} GB of weights of its "
        f"own and {one / 1e9:.2f} GB of keys and values for each episode at once, on a GPU of its own or beside this.",
    )


def _width(run: Run) -> int:
    return FLOAT if run.policy.dtype == "float32" else HALF


def _kept(run: Run, shape: Shape, learning: int) -> Iterator[Term]:
    """What stays in memory all the time."""
    width, needs, rank = _width(run), algorithm(run).needs, run.policy.lora.rank
    weights, how = shape.parameters * width, f"{shape.parameters:,} parameters × {width} bytes"
    if run.policy.quantize != "none":
        inside = shape.layers * shape.block_matrices
        weights = round(inside * FOUR_BITS) + (shape.parameters - inside) * width
        how = f"{inside:,} parameters × {FOUR_BITS:.3f} bytes, the others × {width}"
    lower = "policy.quantize" if rank and run.policy.quantize == "none" else "policy.model"
    yield Term("weights", weights, "always", how, lower)
    if rank:
        yield Term("adapter", learning * FLOAT, "always", f"rank {rank}: {learning:,} × 4 bytes", "policy.lora.rank")
    elif width != FLOAT:
        yield Term("float32 copies", learning * FLOAT, "always", f"{learning:,} weights × 4 bytes", "policy.lora.rank")
    states, words = learning * 2.0 * FLOAT, "two running means of 4 bytes"
    if run.optimizer.name == "adamw_8bit":
        states, words = learning * EIGHT_BITS, f"two running means of {EIGHT_BITS / 2:.3f} bytes"
    elif run.optimizer.name == "muon":
        inside = learning if rank else shape.layers * shape.block_matrices
        states, words = (
            FLOAT * (inside + 2.0 * (learning - inside)),
            "one running mean of 4 bytes, outside the blocks two",
        )
    lower = "optimizer.name" if run.optimizer.name != "adamw_8bit" else "policy.lora.rank"
    yield Term("optimiser", round(states), "always", words, lower)
    # What does not learn is shared with a copy that never does.
    copied = learning * FLOAT if rank else weights
    if keeps_reference(run):
        times: dict[When, bool] = {"always": True}
        lower = "policy.lora.rank" if rank else "policy.reference_device"
        if run.policy.reference_device == "cpu":
            times = {"playing": plays_reference(run), "scoring": needs.reference, "learning": needs.exact_kl}
            lower = "policy.lora.rank"
        for when in (when for when, there in times.items() if there):
            yield Term("reference", copied, when, "a frozen copy of what learns", lower)
    if run.rollout.sync_every > 1:
        yield Term("sampler", copied, "always", "a copy of what learns, which lags behind", "rollout.sync_every")
    if run.rollout.backend == "vllm" and not run.rollout.vllm.url:
        gib, held = run.rollout.vllm.kv_cache_gib, shape.parameters * _vllm_width(run)
        room = round(gib * 2**30)
        yield Term(
            "vLLM",
            held + room,
            "always",
            f"its own weights, and {gib:g} GiB of keys and values: room for {room // _vllm_episode(run, shape):,} "
            "episodes at once",
            "rollout.vllm.kv_cache_gib",
        )


def _vllm_width(run: Run) -> int:
    """Bytes of a weight in vLLM."""
    dtype = run.rollout.vllm.dtype
    return _width(run) if dtype == "auto" else FLOAT if dtype == "float32" else HALF


def _vllm_episode(run: Run, shape: Shape) -> int:
    """Bytes of keys and values that one episode may need in vLLM."""
    return memory.kv_bytes(shape, 1, run.rollout.longest, _vllm_width(run))


def in_flight(run: Run, shape: Shape) -> int:
    """Episodes that `run` plays at once where it plays most: in an update, in stage 1 or when it is evaluated."""
    most = max(run.rollout.tasks_per_update * run.algorithm.group_size, run.evaluation.tasks)
    if plays_reference(run):
        most = max(most, run.values.batch)
    return min(most, run.rollout.in_flight(memory.kv_bytes(shape, 1, 1, _width(run))))


def _playing(run: Run, shape: Shape) -> Iterator[Term]:
    """What episodes under way take."""
    if run.rollout.backend == "vllm":
        return
    width, rows, longest = _width(run), in_flight(run, shape), run.rollout.longest
    positions = memory.room(longest)
    yield Term(
        "KV cache",
        memory.kv_bytes(shape, rows, positions, width),
        "playing",
        f"{rows} slots × {positions:,} positions × {memory.kv_bytes(shape, 1, 1, width):,} bytes",
        "rollout.slots",
    )
    yield Term(
        "KV cache in motion",
        memory.kv_bytes(replace(shape, layers=1), rows, longest, width),
        "playing",
        "the keys and values of one layer, while they move to more room or are read by some rows alone",
        "rollout.slots",
    )
    yield Term(
        "drawing tokens",
        rows * shape.vocabulary * DRAW_BYTES,
        "playing",
        f"{rows} rows × {shape.vocabulary:,} logits × {DRAW_BYTES} bytes",
        "rollout.slots",
    )
    # Inference keeps nothing for later: the widest moment of a block is its feed-forward layer. A page is read whole.
    read = max(READ_TOKENS_ON_GPU, longest)
    inner = read * (3 * shape.feed_forward + 3 * shape.hidden) * width + read * longest * width
    yield Term("reading pages", inner, "playing", f"one block and its mask over {read:,} tokens")


def _learning(run: Run, shape: Shape, learning: int) -> Iterator[Term]:
    """What one forward and backward pass takes."""
    yield Term("gradients", learning * FLOAT, "learning", f"{learning:,} that learn × 4 bytes", "policy.lora.rank")
    width, tokens = _width(run), max(run.optimizer.microbatch_tokens, run.rollout.longest)
    checkpointing, adapters = run.policy.gradient_checkpointing, run.policy.lora.rank > 0
    fused = run.policy.kernels == "liger"
    held = memory.activations(shape, tokens, width, checkpointing=checkpointing, adapters=adapters, fused=fused)
    kept = "the inputs of all blocks and one block" if checkpointing else "all blocks"
    # An episode is not cut.
    lower = _MICROBATCH if run.optimizer.microbatch_tokens > run.rollout.longest else "rollout.episode_tokens"
    if lower != _MICROBATCH and not checkpointing:
        lower = "policy.gradient_checkpointing"
    yield Term("activations", held, "learning", f"{tokens:,} tokens × {held // tokens:,} bytes, {kept}", lower)
    acted = acted_at_most(run, tokens)
    logits = min(acted * shape.vocabulary, max(CHUNK_ON_GPU, shape.vocabulary))
    # The head's gradient is summed over chunks in float32, and handed on in the weights' own precision.
    head = 0 if adapters else shape.vocabulary * shape.hidden * (FLOAT + (width if width != FLOAT else 0))
    yield Term(
        "logits",
        logits * HEAD_BYTES + head,
        "learning",
        f"{logits // shape.vocabulary:,} of {acted:,} acted tokens at a time × {shape.vocabulary:,} × 16 bytes"
        + (", and the head's gradient" if head else ""),
    )


_MICROBATCH = "optimizer.microbatch_tokens"


def acted_at_most(run: Run, tokens: int) -> int:
    """Acted tokens that `tokens` tokens of episodes may have: every reply as long as is allowed."""
    turns = run.environment.max_turns
    return min(tokens, -(-tokens // run.rollout.longest) * turns * run.rollout.reply_tokens)


@dataclass(frozen=True)
class Change:
    """A setting that makes a run smaller.

    Attributes:
        setting: dotted name.
        value: as it would be typed.
        needs: gigabytes that a GPU must then have, with the changes before it.
        learns_otherwise: whether the run then learns differently, and not only more slowly.
    """

    setting: str
    value: str
    needs: float
    learns_otherwise: bool

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self) | {"needs": round(self.needs, 2)}


def changed(run: Run, setting: str, value: str) -> Run:
    """`run` with one setting changed. Raises SettingsError where that is no run."""
    return Run.build(merge(run.dump(), override(setting, value)))


def to_fit(run: Run, shape: Shape, gpu: float) -> list[Change] | None:
    """Changes after which `run` fits on `gpu` gigabytes, the ones first that change nothing of what is learned.

    Returns:
        Empty where it fits as it is; None where no change of those known here is enough.
    """
    made, smaller = dict[str, _Rung](), run
    for rung in _rungs(run, shape) if not footprint(run, shape).fits(gpu) else ():
        try:
            after = changed(smaller, rung.setting, rung.value)
        except SettingsError:
            # Not every setting goes with every algorithm or model.
            continue
        if footprint(after, shape).peak >= footprint(smaller, shape).peak:
            continue
        smaller, made[rung.setting] = after, rung
        if footprint(after, shape).fits(gpu):
            break
    if not footprint(smaller, shape).fits(gpu):
        return None
    # What came first may not be needed after all; what changes the learning is given up last.
    for rung in sorted(made.values(), key=lambda rung: not rung.learns_otherwise):
        try:
            left = _after(run, shape, [one for one in made.values() if one is not rung])
        except SettingsError:
            # Another change needs it.
            continue
        if left and left[-1].needs <= gpu:
            del made[rung.setting]
    return _after(run, shape, made.values())


def _after(run: Run, shape: Shape, rungs: Iterable[_Rung]) -> list[Change]:
    """The rungs as changes, one on top of the other."""
    changes = []
    for rung in rungs:
        run = changed(run, rung.setting, rung.value)
        changes.append(Change(rung.setting, rung.value, footprint(run, shape).needs(), rung.learns_otherwise))
    return changes


@dataclass(frozen=True)
class _Rung:
    """A change that may be made: setting, value, and whether it changes what is learned."""

    setting: str
    value: str
    learns_otherwise: bool = False


def _rungs(run: Run, shape: Shape) -> Iterator[_Rung]:
    """The cheapest first."""
    yield _Rung("policy.gradient_checkpointing", "true")
    tokens = run.optimizer.microbatch_tokens
    while tokens > run.rollout.longest:
        tokens = max(tokens // 2, run.rollout.longest)
        yield _Rung(_MICROBATCH, str(tokens))
    slots, fewer = in_flight(run, shape), list[_Rung]()
    while slots > FEWEST_SLOTS:
        slots //= 2
        fewer.append(_Rung("rollout.slots", str(slots)))
    if run.rollout.backend == "vllm" and not run.rollout.vllm.url:
        gib, least = run.rollout.vllm.kv_cache_gib, FEWEST_SLOTS * _vllm_episode(run, shape) / 2**30
        while gib / 2 >= least:
            gib /= 2
            fewer.append(_Rung("rollout.vllm.kv_cache_gib", f"{gib:g}"))
    yield from fewer
    yield _Rung("policy.dtype", "bfloat16", learns_otherwise=True)
    yield _Rung("optimizer.name", "adamw_8bit", learns_otherwise=True)
    yield _Rung("policy.lora.rank", "32", learns_otherwise=True)
    # Float32 copies of all weights may have made it larger; an adapter has none.
    yield _Rung("policy.dtype", "bfloat16", learns_otherwise=True)
    yield _Rung("policy.quantize", "nf4", learns_otherwise=True)
    # Where learning took more than playing, fewer slots were of no use until it took less.
    yield from fewer


FEWEST_SLOTS = 8
"""Fewer episodes in flight would leave a GPU idle."""
