"""Make an embedded model: imitate an environment's scripted players on training tasks, then save a model folder.

Two phases are the usual recipe. The first imitates careful players until the skill is there. The second imitates a
mixture in which careless players are many, as the text that large models learn from mixes them: greedy play becomes
careless while the careful habit stays latent. Reinforcement learning can then elicit it, and the skill phase's own
score is the ceiling of what eliciting alone could reach. The model card says so.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from pydantic import Field, field_validator, model_validator
from transformers.utils import logging as transformers_logging

from astarpo import plugins
from astarpo.batch import length_buckets
from astarpo.chat import Chat
from astarpo.environments.base import Environment, EnvironmentSettings
from astarpo.errors import EnvironmentContractError, SettingsError
from astarpo.evaluate import Evaluation, evaluate
from astarpo.exchange import Exchange
from astarpo.optimizers import build_optimizer
from astarpo.policy.huggingface import HuggingFacePolicy
from astarpo.policy.load import load_policy
from astarpo.policy.tiny.build import Architecture, build_model, build_tokenizer
from astarpo.progress import Watch
from astarpo.run import EvaluationSettings, PolicySettings, RolloutSettings
from astarpo.settings import Settings, When


def each_of(worlds: object) -> object:
    """A mapping stands for one world of each number in the range that it holds; all else stays as it is.

    >>> each_of({"catalogue_seed": {"first": 7, "last": 8}, "products": 10})
    ({'catalogue_seed': 7, 'products': 10}, {'catalogue_seed': 8, 'products': 10})
    """
    if not isinstance(worlds, Mapping):
        return worlds
    ranges = {name: span for name, span in worlds.items() if len(worlds) == 1 or isinstance(span, Mapping)}
    if len(ranges) != 1:
        raise ValueError(f"a range of worlds varies one setting, and {len(ranges)} were given ranges.")
    name, span = next(iter(ranges.items()))
    match span:
        case {"first": int(first), "last": int(last)} if len(span) == 2 and first <= last:
            return tuple({**worlds, name: number} for number in range(first, last + 1))
    raise ValueError(f"the range of {name!r} wants whole numbers first and last, first not above last: {span}.")


class Phase(Settings):
    """One stretch of imitation."""

    styles: dict[str, float] = Field(
        description="players to imitate and how often, for example {careful: 1, careless: 3}"
    )
    steps: int = Field(ge=1, le=1_000_000, description="optimiser steps")
    batch: int = Field(64, ge=1, le=65536, description="demonstrations in one step")
    optimizer: Literal["muon", "adamw"] = Field(
        "muon", description="muon: Muon for the matrices inside the blocks, AdamW for the rest; adamw: AdamW for all"
    )
    learning_rate: float = Field(1e-2, gt=0, le=1, description="peak learning rate; rises over 5 % of the steps")
    final: float = Field(0.1, ge=0, le=1, description="share of the learning rate left at the last step, linearly")
    levels: tuple[str, ...] = Field(
        (), description="curriculum levels to draw tasks from; none: the target distribution"
    )
    pool: int = Field(16384, ge=1, le=10_000_000, description="distinct demonstrations, drawn again and again")
    observation_weight: float = Field(
        0.0,
        ge=0,
        le=1,
        description="weight of the loss on tokens that were only read; copying is learned sooner with it",
    )
    exchanged: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of the demonstrations whose words are exchanged for others of the recipe's worlds, one for "
        "one, so that what is copied has to be read; for few products, which would be learned by heart",
    )
    worlds: tuple[dict[str, Any], ...] = Field(
        (), description="worlds of this phase, written as the recipe's; none: the recipe's"
    )

    @field_validator("worlds", mode="before")
    @classmethod
    def _each(cls, worlds: object) -> object:
        return each_of(worlds)


class Recipe(Settings):
    """How an embedded model comes about. Everything but the seed's dice is here."""

    environment: dict[str, Any] = Field(description="settings of the environment that is imitated and evaluated")
    worlds: tuple[dict[str, Any], ...] = Field(
        ({},),
        min_length=1,
        description="changes to those settings, one for each world that demonstrations come from; "
        "{catalogue_seed: {first: 101, last: 164}} makes one of each whole number",
    )
    tasks: int = Field(20000, ge=1, description="at most this many training tasks of each world")
    architecture: Architecture = Field(Architecture.model_construct(), description="size of the model")
    phases: tuple[Phase, ...] = Field(min_length=1, description="imitated one after the other")
    seed: int = Field(0, ge=0, lt=2**31, description="seeds weights, tasks and players")
    evaluation_tasks: int = Field(200, ge=1, description="dev tasks played after every phase")
    rollout: RolloutSettings = Field(RolloutSettings.model_construct(), description="limits of those plays")
    half: bool = Field(True, description="save the weights in float16, which halves the folder")

    effects: ClassVar[Mapping[str, When]] = dict.fromkeys(
        ("rollout.tasks_per_update", "rollout.temperature"),
        When("a run trains on the episodes", lambda _: False),
    )

    @model_validator(mode="after")
    def _episodes_fit(self) -> Self:
        if self.rollout.longest > self.architecture.context:
            raise ValueError(
                f"architecture.context must be {self.rollout.longest} or more, got {self.architecture.context}: the "
                f"plays that evaluate the model reach rollout.episode_tokens {self.rollout.episode_tokens} with a last "
                f"reply of {self.rollout.reply_tokens}; raise it, or lower those."
            )
        return self

    @field_validator("worlds", mode="before")
    @classmethod
    def _each(cls, worlds: object) -> object:
        return each_of(worlds)


@dataclass(frozen=True)
class WarmStart:
    """What a recipe gave.

    Attributes:
        folder: the model folder.
        phases: dev evaluation after each phase.
        parameters: of the model.
        seconds: it took.
    """

    folder: Path
    phases: tuple[Evaluation, ...]
    parameters: int
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "folder": str(self.folder),
            "parameters": self.parameters,
            "seconds": self.seconds,
            "phases": [phase.as_dict() for phase in self.phases],
        }


PASS_TOKENS = 2048
"""Padded tokens of one forward pass."""

Demonstration = tuple[list[int], list[bool]]
"""Token ids of one played demonstration, and which of them the player said."""


def warm_start(recipe: Recipe, out: Path, *, watch: Watch | None = None) -> WarmStart:
    """Follow `recipe` and save a Hugging Face model folder at `out`, with its model card.

    The model as it stood after each phase but the last is saved in `out/phase-N`, in float32. Called again after an
    interruption, or with phases added, it goes on after the last of them that the same recipe made: with the same
    result as if it had never stopped, since every phase begins with a new optimiser and its own dice.

    Raises:
        EnvironmentContractError: the environment has no demonstrations of a style the recipe names.
        SettingsError: `out` holds phases of another recipe.
    """
    watch = watch or Watch()
    worlds = [_world({**recipe.environment, **change}) for change in recipe.worlds]
    home = _world(recipe.environment)
    finished, exchange = _finished(recipe, out), None
    if finished:
        policy = load_policy(PolicySettings(model=str(_phase_folder(out, len(finished)))), recipe.environment["name"])
        watch.note(f"going on after phase {len(finished)}, which is in {out}")
    else:
        shape = recipe.architecture
        tokenizer = build_tokenizer(_texts(worlds, recipe), shape.vocabulary, shape.digits)
        model = build_model(recipe.architecture, tokenizer, recipe.seed)
        policy = HuggingFacePolicy(model, tokenizer, rules=False, name="warm start")
    for number, phase in list(enumerate(recipe.phases))[len(finished) :]:
        began = time.perf_counter()
        watch.stage(f"phase {number + 1}: imitating {', '.join(phase.styles)}", phase.steps)
        if phase.exchanged and exchange is None:
            exchange = Exchange("\n".join(texts) for texts in _told(worlds, recipe))
            if not exchange.words:
                raise SettingsError(
                    f"phases.exchanged is {phase.exchanged} and demonstrations of {home.settings.name} have no words "
                    "to exchange: set it to 0."
                )
        there = [_world({**recipe.environment, **change}) for change in phase.worlds] or worlds
        stream = demonstrations(there, policy.chat, phase, recipe, number, exchange)
        imitate(policy, stream, phase, watch=watch)
        settings = EvaluationSettings(tasks=recipe.evaluation_tasks, samples=1)
        got = evaluate(policy, home, settings=settings, rollout=recipe.rollout, split="dev", watch=watch)
        watch.note(f"phase {number + 1}: dev success {got.success:.1%} greedy, score {got.score:.3f}")
        finished.append(FinishedPhase(got, time.perf_counter() - began))
        if number + 1 < len(recipe.phases):
            _keep(policy, recipe, out, finished)
    parameters = sum(p.numel() for p in policy.model.parameters())
    done = WarmStart(out, tuple(f.dev for f in finished), parameters, sum(f.seconds for f in finished))
    save(policy, out, half=recipe.half)
    (out / "recipe.json").write_text(json.dumps(recipe.model_dump(mode="json"), indent=1) + "\n", "utf-8")
    (out / "README.md").write_text(model_card(recipe, done), "utf-8")
    return done


@dataclass(frozen=True)
class FinishedPhase:
    """A phase that is over: what the model then scored on dev, and how long it took."""

    dev: Evaluation
    seconds: float


def _phase_folder(out: Path, number: int) -> Path:
    return out / f"phase-{number}"


def _keep(policy: HuggingFacePolicy, recipe: Recipe, out: Path, finished: Sequence[FinishedPhase]) -> None:
    """Save the model after the last finished phase; phase.json comes last, so a folder that has it is whole."""
    folder = _phase_folder(out, len(finished))
    save(policy, folder)
    last = finished[-1]
    facts = {"recipe": _so_far(recipe, len(finished)), "dev": last.dev.as_dict(), "seconds": last.seconds}
    (folder / "phase.json").write_text(json.dumps(facts, indent=1) + "\n", "utf-8")


def _finished(recipe: Recipe, out: Path) -> list[FinishedPhase]:
    """The phases of `recipe` that are already in `out`, from the first without a gap."""
    found: list[FinishedPhase] = []
    for number in range(1, len(recipe.phases)):
        file = _phase_folder(out, number) / "phase.json"
        if not file.exists():
            break
        facts = json.loads(file.read_text("utf-8"))
        if facts["recipe"] != _so_far(recipe, number):
            raise SettingsError(f"{file.parent} holds a phase of another recipe: name another folder with --out.")
        found.append(FinishedPhase(Evaluation.from_dict(facts["dev"]), float(facts["seconds"])))
    return found


def _so_far(recipe: Recipe, number: int) -> dict[str, Any]:
    """What the model after `number` phases depends on."""
    plain = recipe.model_dump(mode="json", exclude={"half"})
    return plain | {"phases": plain["phases"][:number]}


def imitate(
    policy: HuggingFacePolicy, stream: Iterator[list[Demonstration]], phase: Phase, *, watch: Watch | None = None
) -> None:
    """Supervised learning on what the players said. Changes `policy` in place.

    Args:
        policy: who learns.
        stream: batches of demonstrations.
        phase: steps, learning rate, weights.
        watch: told of every step, with the mean nats per said token.
    """
    model, watch = policy.model.train(), watch or Watch()
    optimizer = build_optimizer(
        model, phase.optimizer, learning_rate=phase.learning_rate, betas=(0.9, 0.98), weight_decay=0.01
    )
    rise = max(1, phase.steps // 20)
    for step in range(phase.steps):
        share = min((step + 1) / rise, 1.0) * (1 - (1 - phase.final) * step / phase.steps)
        model.zero_grad(set_to_none=True)
        nats = imitation_gradient(policy, next(stream), phase.observation_weight)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = phase.learning_rate * share
        optimizer.step()
        watch.advance(nats=round(nats, 4))
    model.eval()


def imitation_gradient(
    policy: HuggingFacePolicy, batch: Sequence[Demonstration], observation_weight: float = 0.0
) -> float:
    """Leave the gradient of the weighted mean −ln π of a batch in the policy's parameters.

    Said tokens weigh 1, read ones `observation_weight`. Rows of like length go through the model together, so little
    is padding.

    Returns:
        Mean nats over the said tokens alone.
    """
    weights = [torch.tensor([1.0 if s else observation_weight for s in said[1:]]) for _, said in batch]
    whole = sum(float(row.sum()) for row in weights)
    nats_said, count = 0.0, 0
    for rows in length_buckets(torch.tensor([len(ids) for ids, _ in batch]), PASS_TOKENS):
        part = [batch[i] for i in rows.tolist()]
        width = len(part[0][0])
        ids = torch.zeros((len(part), width), dtype=torch.int64)
        weight = torch.zeros((len(part), width - 1))
        said = torch.zeros((len(part), width - 1), dtype=torch.bool)
        for i, (row, spoken) in enumerate(part):
            ids[i, : len(row)] = torch.tensor(row)
            weight[i, : len(row) - 1] = weights[int(rows[i])]
            said[i, : len(row) - 1] = torch.tensor(spoken[1:])
        ids, weight, said = ids.to(policy.device), weight.to(policy.device), said.to(policy.device)
        used = weight > 0
        hidden = policy.model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state[:, :-1][used]
        logits = policy.model.get_output_embeddings()(hidden)
        nats = torch.nn.functional.cross_entropy(logits, ids[:, 1:][used], reduction="none")
        ((nats * weight[used]).sum() / whole).backward()  # type: ignore[no-untyped-call]
        nats_said += float(nats.detach()[said[used]].sum())
        count += int(said.sum())
    return nats_said / count


def demonstrations(
    worlds: Sequence[Environment[EnvironmentSettings]],
    chat: Chat,
    phase: Phase,
    recipe: Recipe,
    number: int,
    exchange: Exchange | None = None,
) -> Iterator[list[Demonstration]]:
    """Endless batches; which task and player each is depends on the recipe's seed alone."""
    pools = [_pool(world, phase, recipe) for world in worlds]
    styles = list(phase.styles)
    chance = np.array([phase.styles[style] for style in styles]) / sum(phase.styles.values())
    known: dict[int, Demonstration] = {}

    def one(index: int) -> Demonstration:
        if index not in known:
            random = np.random.default_rng([recipe.seed, number, index])
            w = int(random.integers(len(worlds)))
            ids = pools[w][int(random.integers(len(pools[w])))]
            id = ids[int(random.integers(len(ids)))]
            style = styles[int(random.choice(len(styles), p=chance))]
            seed = int(random.integers(2**31))
            # Without a share to exchange nothing is drawn, so that older recipes give what they gave.
            words: Callable[[str], str] = str
            if exchange is not None and phase.exchanged and random.random() < phase.exchanged:
                words = exchange.draw(random)
            known[index] = played(worlds[w], chat, id, style, seed, words)
        return known[index]

    random = np.random.default_rng([recipe.seed, number])
    while True:
        yield [one(int(index)) for index in random.integers(phase.pool, size=phase.batch)]


def played(
    environment: Environment[EnvironmentSettings],
    chat: Chat,
    id: str,
    style: str,
    seed: int,
    words: Callable[[str], str] = str,
) -> Demonstration:
    """One demonstration through exactly the text path that rollouts take, every text said in `words`."""
    task = environment.task(id)
    ids = chat.first(words(task.start()))
    said = [False] * len(ids)
    end = sorted(chat.stop)[0]
    for reply in environment.demonstrate(id, style, seed):
        spoken = [*chat.encode(words(reply)), end]
        ids, said = [*ids, *spoken], [*said, *[True] * len(spoken)]
        step = task.step(reply)
        if step.ended is not None:
            break
        read = chat.next(words(step.text))
        ids, said = [*ids, *read], [*said, *[False] * len(read)]
    return ids, said


def save(policy: HuggingFacePolicy, out: Path, *, half: bool = False) -> None:
    """A Hugging Face model folder that `load_policy` and transformers read."""
    out.mkdir(parents=True, exist_ok=True)
    policy.model.config.astarpo_embedded = True
    state = {name: tensor.half() if half else tensor for name, tensor in policy.model.state_dict().items()}
    transformers_logging.disable_progress_bar()
    policy.model.save_pretrained(out, state_dict=state)
    policy.tokenizer.save_pretrained(out)
    # safetensors writes for the owner alone; a model in a wheel is for everybody who installs it.
    (out / "model.safetensors").chmod(0o644)


def model_card(recipe: Recipe, done: WarmStart) -> str:
    """How the weights came about and what they score, in Markdown."""
    lines = [
        "---",
        "license: apache-2.0",
        "library_name: transformers",
        "---",
        "",
        f"# The embedded model for `{recipe.environment['name']}`",
        "",
        f"A Qwen2 architecture of {done.parameters:,} parameters with a byte-fallback tokenizer, made from nothing in "
        f"{done.seconds / 60:.0f} minutes on a CPU by `astarpo warm-start {recipe.environment['name']}`; the whole "
        "recipe stands in `recipe.json`. It imitated scripted players on generated training tasks only, one phase "
        "after the other:",
        "",
        "| phase | imitates | steps | dev success, greedy (95 % interval) | dev score | dev success, sampled |",
        "|---|---|---|---|---|---|",
    ]
    for number, (phase, got) in enumerate(zip(recipe.phases, done.phases, strict=True), start=1):
        total = sum(phase.styles.values())
        mix = ", ".join(f"{100 * share / total:.0f} % {style}" for style, share in phase.styles.items())
        sampled = f"{got.sampled.success:.1%}" if got.sampled else ""
        lines.append(
            f"| {number} | {mix} | {phase.steps} | {got.success:.1%} ({got.success_low:.1%} to {got.success_high:.1%}, "
            f"n = {got.n}) | {got.score:.3f} | {sampled} |"
        )
    if len(done.phases) > 1:
        before = done.phases[-2]
        lines += [
            "",
            "The last phase mixes in careless players, as the text that large models learn from mixes them. What the "
            f"careful share alone scored, {before.success:.1%}, is the ceiling of what reinforcement learning could "
            "reach by merely eliciting a habit that is already there; anything above it was learned.",
        ]
    lines += ["", "Not for use outside these environments: it knows no language beyond their few hundred words.", ""]
    return "\n".join(lines)


def _world(settings: Mapping[str, Any]) -> Environment[EnvironmentSettings]:
    found = plugins.find("astarpo.environments", str(settings["name"]), Environment)
    parsed = found.Settings.parse(settings, where="environment")
    return found(parsed)


def _pool(world: Environment[EnvironmentSettings], phase: Phase, recipe: Recipe) -> list[Sequence[str]]:
    """Training ids of one world, one list a level."""
    unknown = set(phase.styles) - set(world.styles)
    if unknown:
        raise EnvironmentContractError(
            f"{world.settings.name} has no player {sorted(unknown)[0]!r} to imitate: known: {', '.join(world.styles)}."
        )
    levels: list[str | None] = list(phase.levels) or [None]
    return [world.ids("train", level)[: recipe.tasks] for level in levels]


def _texts(worlds: Sequence[Environment[EnvironmentSettings]], recipe: Recipe) -> Iterator[str]:
    """What the tokenizer is fitted to: pages and replies of a sample of demonstrations, and the rules in words."""
    for world in worlds:
        yield world.prompt()
    for told in _told(worlds, recipe):
        yield from told


def _told(worlds: Sequence[Environment[EnvironmentSettings]], recipe: Recipe) -> Iterator[list[str]]:
    """The texts of each of a sample of demonstrations."""
    random = np.random.default_rng([recipe.seed, 1 << 20])
    for world in worlds:
        pools = _pool(world, recipe.phases[0], recipe)
        for _ in range(max(1, 2000 // len(worlds))):
            ids = pools[int(random.integers(len(pools)))]
            id = ids[int(random.integers(len(ids)))]
            task = world.task(id)
            texts = [task.start()]
            for reply in world.demonstrate(id, next(iter(recipe.phases[0].styles)), int(random.integers(2**31))):
                texts += [reply, task.step(reply).text]
            yield texts
