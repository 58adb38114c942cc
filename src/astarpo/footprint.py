"""What a run needs of a GPU's memory, by term, from its settings and its model's shapes: nothing is loaded or played.

Training and playing take turns on one GPU, so the peak is what always stays plus the larger of the two.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from astarpo import memory
from astarpo.errors import DataError, SettingsError
from astarpo.memory import FLOAT, HALF, KNOWN, Shape
from astarpo.policy import tiny
from astarpo.policy.load import FALLBACK
from astarpo.run import Run, algorithm, merge, override, plays_reference

GPUS = (24, 48, 80, 141)
"""Gigabytes of the GPUs that presets are made for; any other size can be asked about."""

CONTEXT_BYTES, SPARE = 1.0e9, 0.08
"""Held back on a GPU: for CUDA itself and the kernels it loads, and the share that an allocator loses to pieces that
fit nothing. Set by judgement until peaks are measured."""

IN_FLIGHT = 256
"""Episodes in flight at most, as rollout.py has it; a test compares."""

READ_TOKENS = 8192
"""Padded tokens that the engine reads in one pass, at most."""

DRAW_BYTES = 28
"""For each entry of a row's logits while its next token is drawn: three float32 and two float64 columns."""

CHUNK, HEAD_BYTES = 2**23, 16
"""Logits of acted tokens that exist at a time, and bytes of each until its gradient is there: four float32 columns."""

When = Literal["always", "playing", "learning", "stepping"]
TIMES: tuple[When, ...] = ("playing", "learning", "stepping")
"""What a run does by turns: generate episodes, compute the gradient, move the weights."""


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
    """

    model: str
    parameters: int
    learning: int
    terms: tuple[Term, ...]
    episodes: int
    tokens: int

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
        DataError: there is no such config, or it is not of a causal language model.
    """
    if model in KNOWN:
        return KNOWN[model]
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    if model.startswith((".", "/", "~")) and not (Path(model).expanduser() / "config.json").is_file():
        raise DataError(f"there is no config.json in {model}: name the folder of a Hugging Face causal model.")
    try:
        config = AutoConfig.from_pretrained(model)
        with torch.device("meta"):
            counted = sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())
    except (OSError, ValueError, KeyError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(f"cannot read the shapes of {model!r}: {first}") from error
    return _shape(config.get_text_config(), counted)


def shape_of_policy(run: Run) -> Shape:
    """The sizes of the model that `run` names; see `shape_of`."""
    name = run.policy.model
    if name != "tiny" and not name.startswith("tiny:"):
        return shape_of(name)
    found = tiny.folder(run.environment.name, name.partition(":")[2]) or tiny.folder(FALLBACK)
    return shape_of(str(found))


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
        context=int(config.max_position_embeddings),
    )
    return replace(bare, other=counted - bare.parameters)


def footprint(run: Run, shape: Shape) -> Footprint:
    """The memory of `run` with a model of `shape`."""
    learning = shape.parameters
    episodes = run.rollout.tasks_per_update * run.algorithm.group_size
    terms = (*_kept(run, shape, learning), *_playing(run, shape, episodes), *_learning(run, shape, learning))
    return Footprint(run.policy.model, shape.parameters, learning, terms, episodes, episodes * run.rollout.longest)


def _width(run: Run) -> int:
    return FLOAT if run.policy.dtype == "float32" else HALF


def _kept(run: Run, shape: Shape, learning: int) -> Iterator[Term]:
    """What stays in memory all the time."""
    width, needs = _width(run), algorithm(run).needs
    weights = shape.parameters * width
    yield Term("weights", weights, "always", f"{shape.parameters:,} parameters × {width} bytes", "policy.model")
    yield Term(
        "gradients", learning * width, "always", f"{learning:,} learning parameters × {width} bytes", "policy.model"
    )
    states, words = learning * 2, "two"
    if run.optimizer.name == "muon":
        inside = shape.layers * shape.block_matrices
        states, words = inside + 2 * (learning - inside), "one (inside the blocks) or two"
    yield Term(
        "optimiser", states * width, "always", f"{words} running means of {width} bytes a parameter", "policy.model"
    )
    if needs.reference or needs.exact_kl or plays_reference(run):
        yield Term("reference", weights, "always", "a frozen copy of the weights", "policy.reference")
    if run.rollout.sync_every > 1:
        yield Term("sampler", weights, "always", "a copy of the weights that lags behind", "rollout.sync_every")


def _playing(run: Run, shape: Shape, episodes: int) -> Iterator[Term]:
    """What episodes under way take."""
    width, rows = _width(run), min(episodes, IN_FLIGHT)
    positions = memory.room(run.rollout.longest)
    yield Term(
        "KV cache",
        memory.kv_bytes(shape, rows, positions, width),
        "playing",
        f"{rows} episodes × {positions:,} positions × {memory.kv_bytes(shape, 1, 1, width):,} bytes",
        "rollout.episode_tokens",
    )
    yield Term(
        "KV cache, growing",
        memory.kv_bytes(replace(shape, layers=1), rows, run.rollout.longest, width),
        "playing",
        "the keys and values of one layer while they move to where there is more room",
        "rollout.episode_tokens",
    )
    yield Term(
        "drawing tokens",
        rows * shape.vocabulary * DRAW_BYTES,
        "playing",
        f"{rows} rows × {shape.vocabulary:,} logits × {DRAW_BYTES} bytes",
        "rollout.tasks_per_update",
    )
    # Inference keeps nothing for later: the widest moment of a block is its feed-forward layer.
    inner = READ_TOKENS * (3 * shape.feed_forward + 3 * shape.hidden) * width
    yield Term("reading pages", inner, "playing", f"one block over {READ_TOKENS:,} padded tokens")


def _learning(run: Run, shape: Shape, learning: int) -> Iterator[Term]:
    """What one forward and backward pass takes, and what one step of the optimiser takes beside its state."""
    width, tokens = _width(run), max(run.optimizer.microbatch_tokens, run.rollout.longest)
    held = memory.activations(shape, tokens, width, checkpointing=False)
    yield Term("activations", held, "learning", f"{tokens:,} tokens × {held // tokens:,} bytes", _MICROBATCH)
    acted = acted_at_most(run, tokens)
    logits = min(acted * shape.vocabulary, max(CHUNK, shape.vocabulary))
    yield Term(
        "logits",
        logits * HEAD_BYTES,
        "learning",
        f"{logits:,} of {acted:,} acted tokens × {shape.vocabulary:,} at a time × {HEAD_BYTES} bytes",
    )
    yield Term("optimiser's step", learning * width, "stepping", "one more number a parameter while they all move")


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
        term: the term that it lowers.
        needs: gigabytes that a GPU must then have, with the changes before it.
        learns_otherwise: whether the run then learns differently, and not only more slowly.
    """

    setting: str
    value: str
    term: str
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
    now, made = footprint(run, shape), list[Change]()
    if now.fits(gpu):
        return []
    for setting, value, term, otherwise in _rungs(run):
        try:
            smaller = changed(run, setting, value)
        except SettingsError:
            # Not every setting goes with every algorithm or model.
            continue
        after = footprint(smaller, shape)
        if after.peak >= now.peak:
            continue
        if made and made[-1].setting == setting:
            made.pop()
        made.append(Change(setting, value, term, after.needs(), otherwise))
        run, now = smaller, after
        if now.fits(gpu):
            return made
    return None


def _rungs(run: Run) -> Iterator[tuple[str, str, str, bool]]:
    """Setting, value, the term it lowers, whether it changes what is learned; the cheapest first."""
    tokens = run.optimizer.microbatch_tokens
    while tokens > run.rollout.longest:
        tokens //= 2
        yield _MICROBATCH, str(max(tokens, run.rollout.longest)), "activations", False
    yield "policy.dtype", "bfloat16", "weights", True
