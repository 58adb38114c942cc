"""A run: algorithm + environment + policy + curriculum + limits, as settings. Presets, files, overrides end here alike.

Everything is validated once; conflicts across parts are refused before anything is played.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import yaml
from pydantic import Field, SerializeAsAny, field_validator, model_validator

from astarpo import memory, plugins
from astarpo.algorithms.base import Algorithm, AlgorithmSettings
from astarpo.budget import BudgetSettings
from astarpo.curriculum.base import Curriculum, CurriculumSettings
from astarpo.environments.base import Environment, EnvironmentSettings
from astarpo.errors import SettingsError
from astarpo.filters import FilterSettings
from astarpo.generation import BackendName, EndpointSettings, VllmSettings
from astarpo.settings import Settings, When, above_zero, chosen
from astarpo.value_table import ValueSettings

PARTS: dict[str, tuple[str, type[Any]]] = {
    "environment": ("astarpo.environments", Environment),
    "algorithm": ("astarpo.algorithms", Algorithm),
    "curriculum": ("astarpo.curriculum", Curriculum),
}
"""Sections of a run whose settings class is that of the part they name: package of parts, base class."""

Control = Literal["none", "shuffled_rewards", "constant_reward"]
"""See controls.py."""


class LoraSettings(Settings):
    """An adapter of low rank that learns in the model's stead."""

    rank: int = Field(0, ge=0, le=4096, description="rank of the adapter's factors; 0 for none: all weights learn")
    alpha: float = Field(32.0, gt=0, le=65536, description="the adapter's product is scaled by alpha / rank")
    target_modules: tuple[str, ...] = Field(
        ("all-linear",),
        min_length=1,
        description="names of the layers that get an adapter, such as [q_proj, v_proj]; all-linear for every linear "
        "layer but the head",
    )

    effects: ClassVar[Mapping[str, When]] = {
        "alpha": above_zero("rank"),
        "target_modules": above_zero("rank"),
    }

    @field_validator("target_modules", mode="before")
    @classmethod
    def _one_is_a_list(cls, given: Any) -> Any:
        return (given,) if isinstance(given, str) else given


class PolicySettings(Settings):
    """Which model acts, and how it is told the rules."""

    model: str = Field(
        "tiny",
        description="tiny (the embedded model), tiny:VARIANT, a local folder of a model or an adapter, or a Hugging "
        "Face hub name",
    )
    rules: bool | None = Field(
        None,
        description="whether the environment's rules stand before the first observation; unset: told to every model "
        "but the embedded one, which was warm-started without them",
    )
    device: str = Field("auto", description="auto (cuda if there is one), cpu, cuda, cuda:N")
    dtype: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="precision of the model. Under bfloat16 the optimiser moves float32 copies of the weights, and "
        "log-probs and gradients are summed in float32",
    )
    quantize: Literal["none", "nf4"] = Field(
        "none", description="nf4: frozen weights in four bits under an adapter, as QLoRA has it; needs bitsandbytes"
    )
    lora: LoraSettings = Field(LoraSettings.model_construct(), description="an adapter that learns in its stead")
    gradient_checkpointing: bool = Field(
        False,
        description="layers forget their activations and compute them again on the way back: about a third more work, "
        "memory of one layer instead of all",
    )
    forward: Literal["auto", "fused", "transformers"] = Field(
        "auto",
        description="forward pass that plays. auto: astarpo's own where its logits are the model's, as for Qwen2, "
        "Qwen3, Llama and Mistral without windows, else transformers'; fused: the former or nothing",
    )
    kernels: Literal["auto", "native", "liger", "torch"] = Field(
        "auto",
        description="what runs the layers of a Qwen2, Qwen3, Llama or Mistral. auto: on a processor, playing and "
        "learning, astarpo's own where a C compiler is (Linux on x86-64, float32, 50 million parameters at most); on a "
        "CUDA GPU, learning, Liger's where they are installed; else PyTorch's. native, liger: those or nothing",
    )
    reference: Literal["start", "none"] = Field(
        "start",
        description="start: where the algorithm needs a reference policy, it is the starting policy, frozen. none: no "
        "reference is kept, and an algorithm that needs one is refused",
    )
    reference_device: Literal["policy", "cpu"] = Field(
        "policy",
        description="where the reference's weights are kept. policy: on the policy's device. cpu: in the processor's "
        "memory, and on the GPU only while the reference plays or scores; under an exact KL that is all of learning",
    )

    effects: ClassVar[Mapping[str, When]] = {
        "reference_device": chosen("reference", "start")
        & When("lora.rank is 0 (an adapter shares its frozen weights)", lambda policy: not policy.lora.rank),
    }

    @model_validator(mode="after")
    def _four_bits_do_not_learn(self) -> Self:
        if self.quantize != "none" and not self.lora.rank:
            raise ValueError(
                "quantize nf4 leaves weights that cannot learn and lora.rank is 0: set policy.lora.rank, 16 is the "
                "usual start, or leave policy.quantize at none."
            )
        return self


USUAL_SLOTS, MOST_SLOTS = 64, 256
"""Episodes in flight where nothing is set: so many are always, and no more than so many ever."""

SLOT_BYTES = 256 * 2**20
"""Keys and values that more than the usual episodes in flight may take together. Steps over many rows cost less for
each; on WebShop, whose 64 take 212 MB, more than 64 gained nothing."""


class RolloutSettings(Settings):
    """How many episodes an update plays, and their limits."""

    tasks_per_update: int = Field(8, ge=1, le=65536, description="distinct tasks in one update")
    slots: int | None = Field(
        None,
        ge=1,
        le=65536,
        description="episodes in flight at once: where one ends, the next begins. What an episode says does not depend "
        "on it; the memory for keys and values does. Unset: 64, or 128 or 256 where keys and values of so many take no "
        "more than 256 MiB",
    )
    reply_tokens: int = Field(
        32, ge=1, le=65536, description="tokens after which one reply is cut and the episode ends"
    )
    episode_tokens: int = Field(
        192,
        ge=8,
        le=1048576,
        description="tokens after which an episode ends, prompt included; with the last reply it must fit into the "
        "model's context",
    )
    sync_every: int = Field(
        1,
        ge=1,
        le=1_000_000,
        description="updates after which the sampler gets the policy's weights. Above 1 a copy plays that lags behind: "
        "methods that neither weigh by a ratio nor hold to the sampler, as oapl does, then learn from another policy's "
        "samples",
    )
    temperature: tuple[Annotated[float, Field(gt=0, le=10)], ...] = Field(
        (1.0,),
        min_length=1,
        description="sampling temperatures of equally long phases of the run, for example [1.5, 1.0, 0.8]; the policy "
        "and the reference are scored at the temperature that sampled",
    )

    extra_rounds: int = Field(
        0,
        ge=0,
        le=100,
        description="dynamic sampling: times an update may replace the tasks whose attempts all earned the same by "
        "others and play those; what is then left without signal stays",
    )
    overlong_penalty: float = Field(
        0.0,
        ge=0,
        le=1e6,
        description="taken from the return of an episode in which the policy says overlong_tokens tokens or more, in "
        "reward units",
    )
    overlong_tokens: int = Field(
        128, ge=1, le=1048576, description="tokens said in one episode, all turns, at which the whole penalty is due"
    )
    overlong_cache: int = Field(
        32, ge=0, le=1048576, description="tokens before that over which the penalty grows from nothing"
    )

    history: Literal["full", "window", "summary"] = Field(
        "full",
        description="what is read before a reply. full: all turns so far. window: the first observation and the latest "
        "turns. summary: the same, with a summary of the turns between",
    )
    window: int = Field(4, ge=1, le=100_000, description="latest turns that are read, the one under way counted")
    summary: str = Field(
        "",
        description="dotted path to a function from the turns that are left out (list of astarpo.types.Turn) to text",
    )
    backend: BackendName = Field(
        "huggingface",
        description="who generates. huggingface: the policy itself. vllm: vLLM, with the policy's weights pushed after "
        "each update. openai: an endpoint, for `astarpo evaluate openai:MODEL` alone",
    )
    vllm: VllmSettings = Field(VllmSettings.model_construct(), description="vLLM, in this process or as a server")
    openai: EndpointSettings = Field(EndpointSettings.model_construct(), description="a chat endpoint to evaluate")

    effects: ClassVar[Mapping[str, When]] = {
        "window": chosen("history", "window", "summary"),
        "summary": chosen("history", "summary"),
        "vllm": chosen("backend", "vllm"),
        "openai": chosen("backend", "openai"),
        "overlong_tokens": above_zero("overlong_penalty"),
        "overlong_cache": above_zero("overlong_penalty"),
    }

    @model_validator(mode="after")
    def _the_penalty_can_be_reached(self) -> Self:
        free = self.overlong_tokens - self.overlong_cache
        if self.overlong_penalty and not 0 <= free < self.longest:
            raise ValueError(
                f"overlong_penalty acts from {free} tokens on (overlong_tokens {self.overlong_tokens} less "
                f"overlong_cache {self.overlong_cache}) and an episode has 0 to {self.longest}: set the two so that it "
                "can be reached."
            )
        return self

    @model_validator(mode="after")
    def _a_summary_is_named(self) -> Self:
        if self.history == "summary" and not self.summary:
            raise ValueError(
                "history is summary and no summary is named: set rollout.summary to the dotted path of a function from "
                "turns to text, or rollout.history to window."
            )
        return self

    def in_flight(self, position: int) -> int:
        """Episodes in flight at once, where keys and values of one token take `position` bytes; 0 where unknown."""
        if self.slots is not None:
            return self.slots
        found = USUAL_SLOTS
        while position and 2 * found <= MOST_SLOTS and 2 * found * memory.room(self.longest) * position <= SLOT_BYTES:
            found *= 2
        return found

    def overlong(self, said: int) -> float:
        """Penalty of an episode in which the policy said `said` tokens, reward units, 0 or more.

            overlong_penalty · clip( (said − overlong_tokens) / overlong_cache + 1, 0, 1 )

        Source: DAPO, arXiv:2503.14476, eq. 13, with the penalty's size a setting; it is 1 there.
        """
        beyond = said - (self.overlong_tokens - self.overlong_cache)
        share = beyond / self.overlong_cache if self.overlong_cache else float(said >= self.overlong_tokens)
        return self.overlong_penalty * min(max(share, 0.0), 1.0)

    @field_validator("temperature", mode="before")
    @classmethod
    def _one_is_a_list(cls, given: Any) -> Any:
        return (given,) if isinstance(given, int | float) else given

    @property
    def longest(self) -> int:
        """Tokens that an episode may reach: its last reply begins below `episode_tokens`."""
        return self.episode_tokens - 1 + self.reply_tokens

    def temperature_at(self, update: int, updates: int, share: float | None = None) -> float:
        """The temperature of `update` (from 0) in a run of `updates`, or of one that is over at share 1 of a budget."""
        phases = len(self.temperature)
        phase = update * phases // max(updates, 1) if share is None else int(share * phases)
        return self.temperature[min(phase, phases - 1)]


class OptimizerSettings(Settings):
    """AdamW, or Muon inside the blocks."""

    name: Literal["adamw", "adamw_8bit", "muon"] = Field(
        "adamw",
        description="muon: Muon for the matrices inside the blocks, AdamW for the rest; adamw: AdamW for all; "
        "adamw_8bit: AdamW whose two running means take a byte each instead of four",
    )
    learning_rate: float = Field(3e-4, gt=0, le=1, description="step size; Muon's is scaled to the size of AdamW's")
    schedule: Literal["constant", "linear"] = Field(
        "constant", description="linear: falls to a tenth over the run, or its budget"
    )
    warmup: int = Field(0, ge=0, le=100000, description="updates over which the learning rate rises from zero")
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = Field(
        (0.9, 0.99), description="decay of AdamW's two running means"
    )
    weight_decay: float = Field(0.0, ge=0, le=1, description="decoupled weight decay")
    clip: float = Field(1.0, gt=0, description="largest norm of the gradient; larger ones are scaled down to it")
    microbatch_tokens: int = Field(
        16384,
        ge=1,
        description="tokens whose activations are held at once, padding counted for models that need it; the gradient "
        "does not depend on it",
    )
    minibatches: int = Field(
        1,
        ge=1,
        le=65536,
        description="optimiser steps in one pass through an update's episodes; attempts at one task stay together",
    )
    epochs: int = Field(
        1,
        ge=1,
        le=1000,
        description="passes through an update's episodes; all but the first step learn from episodes "
        "that an older policy played",
    )


class EvaluationSettings(Settings):
    """How a policy is judged. Choices are made on dev, test is touched once before and once after a run."""

    tasks: int = Field(
        500, ge=1, le=1000000, description="held-out tasks; all there are where the environment has fewer"
    )
    samples: int = Field(1, ge=0, le=1024, description="sampled plays of each task beside the greedy one; 0 for none")
    temperature: float = Field(1.0, gt=0, le=10, description="temperature of the sampled plays")
    every: int = Field(20, ge=0, description="updates between evaluations on dev during training; 0 for none")
    dev_tasks: int = Field(200, ge=1, le=1000000, description="dev tasks of the evaluations during training")

    effects: ClassVar[Mapping[str, When]] = {
        "temperature": above_zero("samples"),
        "dev_tasks": above_zero("every"),
    }


class CollapseSettings(Settings):
    """When collapse is measured, and on how many episodes."""

    every: int = Field(0, ge=0, le=1_000_000, description="updates between two measurements; 0 for none")
    episodes: int = Field(
        64, ge=2, le=4096, description="episodes of the update whose first reply is scored under every first prompt"
    )

    effects: ClassVar[Mapping[str, When]] = {"episodes": above_zero("every")}


PLAYING = (
    *(f"rollout.{name}" for name in ("temperature", "sync_every", "extra_rounds")),
    *(f"values.{name}" for name in ("tasks", "schedule", "samples", "tolerance", "per_round", "max_samples", "batch")),
)
"""Settings of how tasks are played to learn from them: idle where episodes were saved, as a curriculum is."""


class Run(Settings):
    """All settings of one run. Written whole into the run folder as settings.yaml.

    >>> run = Run.build({"environment": {"name": "arithmetic"}, "algorithm": {"name": "grpo"}})
    >>> run.environment.name
    'arithmetic'
    """

    environment: SerializeAsAny[EnvironmentSettings] = Field(description="the task; fields depend on its name")
    algorithm: SerializeAsAny[AlgorithmSettings] = Field(description="the loss; fields depend on its name")
    policy: PolicySettings = Field(PolicySettings.model_construct(), description="the model that learns")
    values: ValueSettings = Field(ValueSettings.model_construct(), description="stage 1: V* from reference plays")
    curriculum: SerializeAsAny[CurriculumSettings] = Field(description="which tasks an update plays")
    rollout: RolloutSettings = Field(RolloutSettings.model_construct(), description="episodes of one update")
    filter: FilterSettings = Field(
        FilterSettings.model_construct(), description="which tasks of an update are learned from"
    )
    optimizer: OptimizerSettings = Field(OptimizerSettings.model_construct(), description="how the weights move")
    evaluation: EvaluationSettings = Field(EvaluationSettings.model_construct(), description="held-out success")
    budget: BudgetSettings = Field(BudgetSettings.model_construct(), description="what ends the run, beside updates")
    episodes: str | None = Field(
        None,
        min_length=1,
        description="a run, or a folder of its episode files, to learn from instead of playing; nothing is played then "
        "but evaluations, and a budget counts the episodes each time that they are learned from",
    )
    control: Control = Field(
        "none",
        description="rewards that say nothing, to see what is learned without any signal. shuffled_rewards: those of "
        "an update, dealt out among its episodes at random. constant_reward: 1 for every episode",
    )
    collapse: CollapseSettings = Field(
        CollapseSettings.model_construct(), description="whether first replies still depend on what was asked"
    )
    updates: int = Field(100, ge=0, le=10_000_000, description="optimiser updates")
    seed: int = Field(0, ge=0, lt=2**31, description="seeds task choice and sampling")
    checkpoint_every: int = Field(1, ge=1, description="updates between checkpoints")
    keep_checkpoints: int = Field(3, ge=1, le=1000, description="latest checkpoints kept, beside the best on dev")
    sinks: tuple[str, ...] = Field(
        (),
        description="where metrics go beside metrics.jsonl: tensorboard, wandb, mlflow, trackio, or a dotted path to a "
        "class of your own",
    )
    preset: str = Field("", description="the preset these settings began from")

    effects: ClassVar[Mapping[str, When]] = {
        "values": When("the algorithm or its baseline reads V*", lambda run: algorithm(run).needs.values),
        **{name: When("episodes is unset", lambda run: run.episodes is None) for name in PLAYING},
        "policy.reference_device": When("a reference stands beside the policy", lambda run: keeps_reference(run)),
    }

    @classmethod
    def build(cls, given: Mapping[str, Any]) -> Self:
        """Settings from nested mappings as they come from YAML and overrides.

        Raises:
            SettingsError: one sentence per problem, conflicts across parts included.
        """
        whole: dict[str, Any] = {"curriculum": {}, **given}
        if isinstance(whole["curriculum"], Mapping):
            whole["curriculum"] = {"name": "uniform", **whole["curriculum"]}
        for section in PARTS:
            whole[section] = _part(section, whole.get(section))
        return cls.parse(whole)

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        needs = algorithm(self).needs
        if self.algorithm.group_size < needs.group_size:
            raise ValueError(
                f"algorithm.group_size must be {needs.group_size} or more under {self.algorithm.name}, got "
                f"{self.algorithm.group_size}: it compares attempts at one task with each other; 8 is the usual start."
            )
        if self.optimizer.minibatches > self.rollout.tasks_per_update:
            raise ValueError(
                f"optimizer.minibatches must be {self.rollout.tasks_per_update} or less, got "
                f"{self.optimizer.minibatches}: attempts at one task are learned from together and an update has "
                "rollout.tasks_per_update tasks; raise that or lower this."
            )
        if self.rollout.extra_rounds and self.algorithm.group_size < 2:
            raise ValueError(
                f"rollout.extra_rounds needs an algorithm.group_size of 2 or more, got {self.algorithm.group_size}: a "
                "lone attempt never differs from another; raise it, or leave extra_rounds at 0."
            )
        if self.filter.name != "none" and self.algorithm.group_size < 2:
            raise ValueError(
                f"filter.name {self.filter.name} needs an algorithm.group_size of 2 or more, got "
                f"{self.algorithm.group_size}: the rewards of a lone attempt have no spread, so every task would be "
                "dropped; raise it, or set filter.name to none."
            )
        if self.rollout.overlong_penalty and needs.values:
            raise ValueError(
                "rollout.overlong_penalty does not reach V*, which stage 1 estimates from rewards without it, so the "
                f"two would not compare under {self.algorithm.name}: leave it at 0, or choose an algorithm or baseline "
                "without V*."
            )
        return self

    @model_validator(mode="after")
    def _saved_episodes_are_not_chosen(self) -> Self:
        if self.episodes is not None and self.curriculum.name != "uniform":
            raise ValueError(
                f"curriculum.name {self.curriculum.name} chooses tasks to play and episodes is set, so that nothing is "
                "played: leave curriculum out, or episodes."
            )
        return self

    @model_validator(mode="after")
    def _rewards_and_ladders_exist(self) -> Self:
        own, world = self.environment, plugins.find(*PARTS["environment"][:1], self.environment.name, Environment)
        known = {*world.rewards, *own.own_rewards}
        for setting, given in (("environment.reward", own.reward), ("values.reward", self.values.reward)):
            if given is not None and given not in known:
                raise ValueError(
                    f"{setting}: {own.name} has no reward mode {given!r}: known: {', '.join(sorted(known))}."
                )
        ladder = self.curriculum.ladder
        if ladder is not None and ladder not in world.ladders:
            raise ValueError(
                f"curriculum.ladder {ladder!r} is not one of {own.name}'s ladders: known: "
                f"{', '.join(world.ladders) or 'none'}."
            )
        plugins.find(PARTS["curriculum"][0], self.curriculum.name, Curriculum).check_ladder(self.curriculum)
        return self

    @model_validator(mode="after")
    def _reference_where_needed(self) -> Self:
        needs = algorithm(self).needs
        plays = plays_reference(self)
        if self.policy.reference == "none" and (plays or needs.reference or needs.exact_kl):
            what = "V* of each task, from plays of the reference" if plays else "the KL to the reference"
            raise ValueError(
                f"policy.reference is none and {self.algorithm.name} with its settings needs {what}: set it to start, "
                "or choose an algorithm, baseline and KL without it."
            )
        return self

    def dump(self) -> dict[str, Any]:
        """Plain values that `Run.build` turns into an equal run."""
        return self.model_dump(mode="json")


def environment(run: Run) -> Environment[EnvironmentSettings]:
    """The environment of `run`, ready to play. Raises SettingsError where its rules are to be told and it has none."""
    found: Environment[EnvironmentSettings] = plugins.find(
        *PARTS["environment"][:1], run.environment.name, Environment
    )(run.environment)
    if run.policy.rules and not found.prompt():
        raise SettingsError(
            f"policy.rules is true and {run.environment.name} as set up here has no rules to tell: leave policy.rules "
            "out, or choose settings of the environment that put its problems in words."
        )
    return found


def algorithm(run: Run) -> Algorithm[AlgorithmSettings]:
    """The algorithm of `run`, with fresh state."""
    return plugins.find("astarpo.algorithms", run.algorithm.name, Algorithm)(run.algorithm)


def plays_reference(run: Run) -> bool:
    """Whether stage 1 plays the reference for V*: the algorithm reads V* and nothing else tracks it."""
    return algorithm(run).needs.values and run.values.source == "reference"


def keeps_reference(run: Run) -> bool:
    """Whether a frozen copy of the starting policy stands beside the policy.

    An exact KL reads it while it learns. Otherwise it plays stage 1 and scores each batch; saved episodes are scored
    before the first update, when the policy still is the reference.
    """
    needs = algorithm(run).needs
    return needs.exact_kl or (run.episodes is None and (needs.reference or plays_reference(run)))


def preset_names(environment: str) -> list[str]:
    """Names of the presets that ship for `environment`."""
    folder = files("astarpo") / "presets" / environment
    if not folder.is_dir():
        return []
    return sorted(p.name.removesuffix(".yaml") for p in folder.iterdir() if not p.name.startswith("warm_start"))


def load_preset(environment: str, name: str) -> dict[str, Any]:
    """The preset `name` of `environment` as nested mappings, the environment's name in it; those of "any" fit every
    environment and name none. Raises SettingsError with the names there are."""
    path = files("astarpo") / "presets" / environment / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(preset_names(environment)) or "none"
        raise SettingsError(f"there is no preset {name!r} for {environment}: known: {known}.")
    named = {} if environment == "any" else {"environment": {"name": environment}}
    return merge(named, _mapping(path.read_text("utf-8"), f"preset {name}"))


def without_playing(preset: Mapping[str, Any]) -> dict[str, Any]:
    """`preset` without what it says of choosing and playing tasks: what is left of it for saved episodes."""
    kept = {name: given for name, given in preset.items() if name != "curriculum"}
    for dotted in PLAYING:
        section, _, name = dotted.partition(".")
        if isinstance(below := kept.get(section), Mapping):
            kept[section] = {key: value for key, value in below.items() if key != name}
    return kept


def load_file(path: Path) -> dict[str, Any]:
    """Settings from a YAML file. Raises SettingsError where it is missing, not YAML, or not a mapping."""
    try:
        return _mapping(path.read_text("utf-8"), str(path))
    except OSError as error:
        raise SettingsError(f"cannot read the settings file {path}: {error.strerror}.") from error


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `over` laid on top, section by section. A section that names another part starts afresh."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        if isinstance(value, Mapping) and isinstance(below, Mapping):
            other = "name" in value and value["name"] != below.get("name") and key in PARTS
            merged[key] = dict(value) if other else merge(below, value)
        else:
            merged[key] = value
    return merged


def override(dotted: str, value: str) -> dict[str, Any]:
    """`a.b`, `"3"` → `{"a": {"b": 3}}`. The value is read as YAML, and `1e-4` as the number it looks like."""
    try:
        read = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise SettingsError(
            f"--{dotted}={value} cannot be read: write a YAML value such as 3, true or [1, 2]."
        ) from error
    nested: Any = _numbers(read)
    for name in reversed(dotted.split(".")):
        nested = {name: nested}
    return dict(nested)


def _part(section: str, given: Any) -> Settings:
    package, base = PARTS[section]
    if isinstance(given, Settings):
        return given
    if isinstance(given, str):
        given = {"name": given}
    if not isinstance(given, Mapping) or "name" not in given:
        raise SettingsError(f"{section}.name is required: one of {', '.join(plugins.names(package))}.")
    settings: type[Settings] = plugins.find(package, str(given["name"]), base).Settings
    return settings.parse(given, where=section)


def _mapping(text: str, where: str) -> dict[str, Any]:
    try:
        read = yaml.safe_load(text)
    except yaml.YAMLError as error:
        line = getattr(getattr(error, "problem_mark", None), "line", -1) + 1
        raise SettingsError(f"{where} is not YAML (line {line}): mend that line.") from error
    if not isinstance(read, dict):
        raise SettingsError(f"{where} must hold settings by name, got {type(read).__name__}.")
    return {str(key): _numbers(value) for key, value in read.items()}


def _numbers(read: Any) -> Any:
    """YAML 1.1 reads `1e-4` as text; here it is the number that everyone means."""
    if isinstance(read, dict):
        return {key: _numbers(value) for key, value in read.items()}
    if isinstance(read, list):
        return [_numbers(value) for value in read]
    if isinstance(read, str) and read[:1] in "+-.0123456789":
        try:
            return float(read)
        except ValueError:
            return read
    return read
