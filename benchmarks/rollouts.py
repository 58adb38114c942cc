"""How fast episodes are played: ours, batched `generate` that encodes the history again each turn, one at a time.

    python benchmarks/rollouts.py                 the three side by side, a few CPU-minutes
    python benchmarks/rollouts.py short           the three again, on pages of a few words
    python benchmarks/rollouts.py company         the same episodes in batches of 1 to 256: are their tokens the same?
    python benchmarks/rollouts.py growth          tokens per second against slots, turns and context
    python benchmarks/rollouts.py sizes           tokens per second against the model's parameters
    python benchmarks/rollouts.py cores           tokens per second on one core and on two
    python benchmarks/rollouts.py all --save      everything; writes rollouts.json and docs/performance_growth.png

With the embedded WebShop model, but for sizes and cores, float32, one thread, but for cores. Seconds are process time;
cores has wall time beside it. The three sides play the same
episodes: five pages on the way to a product, greedy replies, whatever they say, so that all do the same work; at least
99 % must have replies that are equal token for token: two words can be equally likely but for rounding. Repetitions are
paired: each plays all sides, one after the other.
"""

from __future__ import annotations

import os

# One thread: what one core does.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from astarpo import native, plugins
from astarpo.engine.conversations import _generator
from astarpo.engine.slots import position_bytes
from astarpo.environments.base import Environment, EnvironmentSettings, Task
from astarpo.environments.rewards import score
from astarpo.policy.huggingface import HuggingFacePolicy
from astarpo.policy.load import load_policy
from astarpo.policy.tiny.build import Architecture, build_model
from astarpo.rollout import Play, collect
from astarpo.run import RolloutSettings, Run, load_preset
from astarpo.types import Ended, Episode, Step

REPO = Path(__file__).resolve().parent.parent
TURNS = 5
SIZES = {
    "0.4 M": Architecture(width=96, layers=4, heads=3, feed_forward=256),
    "1.8 M": Architecture(width=192, layers=4, heads=6, feed_forward=512),
    "6.4 M": Architecture(width=320, layers=5, heads=8, feed_forward=896),
    "26 M": Architecture(width=512, layers=8, heads=8, feed_forward=1408),
}
"""Models with random weights, by the parameters inside their blocks."""
COMPANY = (1, 3, 16, 64, 256)
PLAYED = ("webshop", "arithmetic")
NEAR_TIE = 1e-5
"""Float32 logits near 10 are exact to 1e-6, and a cumulative sum over a thousand of them to about this."""


@dataclass
class Pages:
    """The pages on the way to a product, one a turn, whatever is said: every player reads the same."""

    id: str
    pages: list[str]
    turn: int = 0

    def start(self) -> str:
        """The first page."""
        return self.pages[0]

    def step(self, _action: str) -> Step:
        """The next page, until the last reply."""
        self.turn += 1
        if self.turn == len(self.pages):
            return Step(ended=Ended.FINISHED)
        return Step(self.pages[self.turn])

    def solution(self) -> None:
        """There is nothing to solve."""


class Walk(Environment[EnvironmentSettings]):
    """WebShop's tasks as fixed walks of `turns` pages; a walk with fewer pages begins again from its second."""

    Settings = EnvironmentSettings

    def __init__(self, shop: Environment[EnvironmentSettings], turns: int) -> None:
        super().__init__(shop.settings.model_copy(update={"max_turns": turns}))
        self._shop, self._turns = shop, turns
        self._walks: dict[str, list[str]] = {}

    def ids(self, split: Any, level: str | None = None) -> Sequence[str]:
        """Those of the shop."""
        return self._shop.ids(split, level)

    def task(self, id: str) -> Task:
        """A fresh walk."""
        if id not in self._walks:
            shown = self._shop.task(id)
            pages = [shown.start()]
            for action in shown.solution() or []:
                step = shown.step(action)
                if step.ended is None:
                    pages.append(step.text)
            rest = pages[1:] or pages
            while len(pages) < self._turns:
                pages += rest
            self._walks[id] = pages[: self._turns]
        return Pages(id, self._walks[id])


@dataclass(frozen=True)
class Place:
    """What is played, by whom."""

    policy: HuggingFacePolicy
    environment: Environment[EnvironmentSettings]
    rollout: RolloutSettings


def place(name: str, **rollout: Any) -> Place:
    """An environment with its embedded model, limits as in its default preset unless given."""
    run = Run.build(load_preset(name, "default"))
    world = plugins.find("astarpo.environments", name, Environment)(run.environment)
    limits = {**run.rollout.model_dump(include={"reply_tokens", "episode_tokens"}), **rollout}
    return Place(load_policy(run.policy, name), world, RolloutSettings.parse(limits))


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    """Process time of `work`, and what it returned."""
    began = time.process_time()
    made = work()
    return time.process_time() - began, made


# ---------------------------------------------------------------------------------------------- three sides


def ours(at: Place, plays: Sequence[Play], temperature: float = 0.0) -> list[Episode]:
    """As a run plays."""
    return collect(at.policy, at.environment, plays, rollout=at.rollout, temperature=temperature, reward=score)


@torch.inference_mode()
def generated(at: Place, plays: Sequence[Play], batch: int) -> list[list[tuple[int, ...]]]:
    """With transformers' `generate`, `batch` episodes at once; each turn encodes the whole history again.

    Returns:
        Replies of each episode, turn by turn.
    """
    policy, stop = at.policy, sorted(at.policy.chat.stop)
    pad = int(policy.tokenizer.pad_token_id)
    said: list[list[tuple[int, ...]]] = []
    for begin in range(0, len(plays), batch):
        tasks = [at.environment.task(play.task) for play in plays[begin : begin + batch]]
        told = [policy.chat.first(task.start()) for task in tasks]
        replies: list[list[tuple[int, ...]]] = [[] for _ in tasks]
        going = list(range(len(tasks)))
        while going:
            longest = max(len(told[i]) for i in going)
            ids = torch.full((len(going), longest), pad)
            mask = torch.zeros_like(ids)
            for k, i in enumerate(going):
                ids[k, longest - len(told[i]) :] = torch.tensor(told[i])
                mask[k, longest - len(told[i]) :] = 1
            out = policy.model.generate(
                input_ids=ids,
                attention_mask=mask,
                do_sample=False,
                max_new_tokens=at.rollout.reply_tokens,
                eos_token_id=stop,
                pad_token_id=pad,
            )[:, longest:].tolist()
            still = []
            for i, row in zip(going, out, strict=True):
                end = next((k + 1 for k, token in enumerate(row) if token in policy.chat.stop), len(row))
                replies[i].append(tuple(row[:end]))
                told[i] += row[:end]
                step = tasks[i].step(policy.chat.decode(row[:end]))
                if step.ended is None and row[end - 1] in policy.chat.stop:
                    told[i] += policy.chat.next(step.text)
                    still.append(i)
            going = still
        said += replies
    return said


class Short(Walk):
    """Walks whose pages end after `LETTERS` letters: episodes of about 130 tokens."""

    def task(self, id: str) -> Task:
        """A fresh walk."""
        walk = super().task(id)
        assert isinstance(walk, Pages)
        return Pages(id, [page[:LETTERS] for page in walk.pages])


LETTERS = 72


def sides(repetitions: int, batch: int) -> dict[str, Any]:
    """The three side by side on WebShop's own pages; `batch` as in `compared`."""
    shop = place("webshop")
    return compared(Place(shop.policy, Walk(shop.environment, TURNS), shop.rollout), repetitions, batch)


def short(repetitions: int, batch: int) -> dict[str, Any]:
    """The three side by side on pages of a few words; `batch` as in `compared`."""
    shop = place("webshop", episode_tokens=160)
    return compared(Place(shop.policy, Short(shop.environment, TURNS), shop.rollout), repetitions, batch)


def compared(at: Place, repetitions: int, batch: int) -> dict[str, Any]:
    """The three side by side; `batch` is that of `generate`, 0 for its fastest of 32, 64 and 128."""
    plays = [Play(task, 0, (0,)) for task in at.environment.ids("dev")[:128]]
    few = plays[:16]
    tried = (batch,) if batch else (32, 64, 128)
    ours(at, few)
    generated(at, few, 1)
    fastest = tried[0]
    if len(tried) > 1:
        fastest = min(tried, key=lambda size: seconds(lambda: generated(at, plays, size))[0])
    rows: dict[str, list[float]] = {"ours": [], "generate, batched": [], "generate, one at a time": []}
    differ = 0
    for _ in range(repetitions):
        spent, episodes = seconds(lambda: ours(at, plays))
        rows["ours"].append(spent / len(plays))
        spent, batched = seconds(lambda: generated(at, plays, fastest))
        rows["generate, batched"].append(spent / len(plays))
        spent, single = seconds(lambda: generated(at, few, 1))
        rows["generate, one at a time"].append(spent / len(few))
        mine = [[turn.reply.ids for turn in episode.turns] for episode in episodes]
        differ += sum(a != b for a, b in zip(mine, batched, strict=True))
        differ += sum(a != b for a, b in zip(mine[: len(few)], single, strict=True))
    read = sum(len(turn.observation_ids) for episode in episodes for turn in episode.turns) / len(plays)
    spoken = sum(len(turn.reply.ids) for episode in episodes for turn in episode.turns) / len(plays)
    table = []
    for name, each in rows.items():
        ratios = [other / own for own, other in zip(rows["ours"], each, strict=True)]
        table.append(
            {
                "side": name,
                "ms an episode": 1e3 * statistics.median(each),
                "episodes per CPU-second": 1 / statistics.median(each),
                "ours is faster by": statistics.median(ratios),
                "least": min(ratios),
                "most": max(ratios),
            }
        )
    return {
        "repetitions": repetitions,
        "episodes": len(plays),
        "episodes, one at a time": len(few),
        "turns": TURNS,
        "tokens read an episode": read,
        "tokens said an episode": spoken,
        "slots": at.rollout.in_flight(position_bytes(at.policy.model)),
        "batch of generate": fastest,
        "episodes whose greedy tokens differ": differ,
        "episodes compared": repetitions * (len(plays) + len(few)),
        "rows": table,
        "floor": floor(at, episodes),
    }


# ---------------------------------------------------------------------------------------------- the floor


def rate_of_products(width: int = 96, rows: int = 1024) -> float:
    """Multiply-adds per second, times two, of the model's own largest product, PyTorch's or ours as is faster."""
    x, weight = torch.randn(rows, width), torch.randn(512, width)
    out = torch.empty(rows, 512)
    ways: list[Callable[[], Any]] = [lambda: torch.mm(x, weight.t(), out=out)]
    if not native.why_not():
        ways.append(lambda: native.linear(x, weight, None))
    least = min(seconds(way)[0] for _ in range(20) for way in ways)
    return 2 * rows * width * 512 / least


def rate_of_copying() -> float:
    """Bytes read and written per second, 64 MiB at a time."""
    source = torch.randn(16 << 20)
    target = torch.empty_like(source)
    target.copy_(source)
    return 2 * source.numel() * 4 / min(seconds(lambda: target.copy_(source))[0] for _ in range(5))


def floor(at: Place, episodes: Sequence[Episode]) -> dict[str, float]:
    """The least that these episodes cost here: every token computed once, every key read once a token that is said.

    Returns:
        Counts an episode, rates of this machine, and milliseconds an episode.
    """
    config = at.policy.model.config.get_text_config()
    hidden, layers = config.hidden_size, config.num_hidden_layers
    heads, width = config.num_attention_heads, hidden // config.num_attention_heads
    groups = config.num_key_value_heads
    matrix = layers * (hidden * (2 * heads + 2 * groups) * width + 3 * hidden * config.intermediate_size)
    flops, read_bytes = 0.0, 0.0
    for episode in episodes:
        length = 0
        for turn in episode.turns:
            read, said = len(turn.observation_ids), len(turn.reply.ids)
            # The last token of the last reply is never computed.
            new = read + said - (turn is episode.turns[-1])
            reach = new * length + new * (new + 1) / 2
            flops += 2 * matrix * new + 4 * layers * heads * width * reach + 2 * hidden * config.vocab_size * said
            read_bytes += sum(2 * layers * groups * width * 4 * (length + read + k) for k in range(said))
            length += read + said
    flops, read_bytes = flops / len(episodes), read_bytes / len(episodes)
    product, copy = rate_of_products(), rate_of_copying()
    return {
        "MFLOP an episode": flops / 1e6,
        "MB of keys and values read while speaking, an episode": read_bytes / 1e6,
        "GFLOP/s": product / 1e9,
        "GB/s": copy / 1e9,
        "ms of products": 1e3 * flops / product,
        "ms of reading": 1e3 * read_bytes / copy,
        "ms": 1e3 * (flops / product + read_bytes / copy),
    }


# ---------------------------------------------------------------------------------------------- company


def company(episodes: int) -> dict[str, Any]:
    """The same episodes in batches of 1 to 256: how many have other tokens, and what lies at the first difference."""
    found = {}
    for name in PLAYED:
        at = place(name)
        ids = at.environment.ids("train")
        plays = [Play(ids[i % len(ids)], i // len(ids), (5,)) for i in range(episodes)]
        played = {}
        for slots in COMPANY:
            here = Place(at.policy, at.environment, at.rollout.model_copy(update={"slots": slots}))
            played[slots] = ours(here, plays, 1.0)
            print(f"{name}, {slots} slots: played", file=sys.stderr, flush=True)
        alone = played[COMPANY[0]]
        others = [
            tied(at, play, one, other)
            for slots in COMPANY[1:]
            for play, one, other in zip(plays, alone, played[slots], strict=True)
            if [t.reply.ids for t in one.turns] != [t.reply.ids for t in other.turns]
        ]
        compared = episodes * (len(COMPANY) - 1)
        nats = max(
            abs(a - b)
            for slots in COMPANY[1:]
            for one, other in zip(alone, played[slots], strict=True)
            if [t.reply.ids for t in one.turns] == [t.reply.ids for t in other.turns]
            for left, right in zip(one.turns, other.turns, strict=True)
            for a, b in zip(left.reply.log_probs, right.reply.log_probs, strict=True)
        )
        found[name] = {
            "batches": list(COMPANY),
            "episodes": episodes,
            "compared with those played alone": compared,
            "equal": compared - len(others),
            "share equal": 1 - len(others) / compared,
            "first differences: distance of the draw from a boundary": [round(d, 12) for d in others],
            "all near-ties": all(distance < NEAR_TIE for distance in others),
            "largest difference of a log-prob, nats": nats,
        }
    return found


@torch.inference_mode()
def tied(at: Place, play: Play, one: Episode, other: Episode) -> float:
    """How far the draw of the first token that differs lies from a boundary between the two, in double precision.

    The boundaries are those of the cumulative distribution, and the draw is what the conversation's generator gave.
    """
    ids: list[int] = []
    draws = _generator(play.seed())
    exact = at.policy.model.double()
    try:
        for left, right in zip(one.turns, other.turns, strict=False):
            ids += left.observation_ids
            numbers = draws.random(at.rollout.reply_tokens)
            for k, (a, b) in enumerate(zip(left.reply.ids, right.reply.ids, strict=False)):
                if a == b:
                    ids.append(a)
                    continue
                logits = exact(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
                reach = logits.softmax(-1).cumsum(-1).numpy()
                low, high = sorted((a, b))
                return float(np.abs(reach[low:high] - numbers[k]).max())
    finally:
        at.policy.model.float()
    raise ValueError(f"the episodes of {play.task} do not differ in a token")


# ---------------------------------------------------------------------------------------------- growth


def growth(repetitions: int) -> list[dict[str, Any]]:
    """Tokens per CPU-second against slots, turns and tokens of context, with the floor."""
    shop = place("webshop")
    points: list[dict[str, Any]] = []

    def point(what: str, value: int, slots: int, turns: int, page: int = 0) -> None:
        world: Environment[EnvironmentSettings] = Walk(shop.environment, turns)
        if page:
            world = Longer(shop.environment, turns, page)
        rollout = shop.rollout.model_copy(update={"slots": slots, "episode_tokens": 1500})
        at = Place(shop.policy, world, rollout)
        plays = [Play(task, 0, (0,)) for task in world.ids("dev")[: max(16, min(2 * slots, 128))]]
        spent, episodes = zip(*(seconds(lambda: ours(at, plays)) for _ in range(repetitions)), strict=True)
        said = sum(len(turn.reply.ids) for episode in episodes[0] for turn in episode.turns)
        read = sum(len(turn.observation_ids) for episode in episodes[0] for turn in episode.turns)
        least = floor(at, episodes[0])
        took = statistics.median(spent)
        points.append(
            {
                "what": what,
                "value": value,
                "tokens read an episode": read / len(plays),
                "tokens said an episode": said / len(plays),
                "ms an episode": 1e3 * took / len(plays),
                "tokens per CPU-second": (read + said) / took,
                "floor, ms an episode": least["ms"],
                "floor, tokens per CPU-second": (read + said) / len(plays) / least["ms"] * 1e3,
            }
        )
        print(f"{what} {value}: {points[-1]['tokens per CPU-second']:.0f} tokens/s", file=sys.stderr, flush=True)

    for slots in (1, 4, 16, 64, 256):
        point("slots", slots, slots, TURNS)
    for turns in (1, 2, 5, 10):
        point("turns", turns, 64, turns)
    for page in (64, 128, 256, 512, 1024):
        point("tokens of the first page", page, 64, 1, page)
    return points


def sized(like: HuggingFacePolicy, architecture: Architecture) -> HuggingFacePolicy:
    """A model with random weights and the tokenizer of `like`. One word in six ends a reply, as none was learned to."""
    model: Any = build_model(architecture, like.tokenizer, seed=0)
    model.generation_config.eos_token_id = list(range(5, like.vocabulary, 6))
    return HuggingFacePolicy(model.eval(), like.tokenizer, rules=False, name=f"random, {architecture.width} wide")


def blocks(policy: HuggingFacePolicy) -> int:
    """Parameters inside the blocks: those that every token goes through."""
    return sum(p.numel() for name, p in policy.model.named_parameters() if ".layers." in name)


def by_size(repetitions: int) -> list[dict[str, Any]]:
    """Tokens per CPU-second against the size of the model, with the floor; sampled walks."""
    shop, points = place("webshop"), list[dict[str, Any]]()
    world = Walk(shop.environment, TURNS)
    for name, architecture in SIZES.items():
        at = Place(sized(shop.policy, architecture), world, shop.rollout.model_copy(update={"episode_tokens": 1500}))
        plays = [Play(task, 0, (0,)) for task in world.ids("dev")[: 64 if architecture.width < 300 else 16]]
        ours(at, plays[:4], 1.0)
        tries = [seconds(partial(ours, at, plays, 1.0)) for _ in range(repetitions)]
        tokens, least = tokens_of(tries[0][1]), floor(at, tries[0][1])
        rates = [tokens / spent for spent, _ in tries]
        points.append(
            {
                "what": "parameters in blocks",
                "value": blocks(at.policy),
                "episodes": len(plays),
                "ms an episode": 1e3 * statistics.median(spent for spent, _ in tries) / len(plays),
                "tokens per CPU-second": statistics.median(rates),
                "least and most": [min(rates), max(rates)],
                "floor, tokens per CPU-second": tokens / len(plays) / least["ms"] * 1e3,
            }
        )
        print(f"{name}: {points[-1]['tokens per CPU-second']:.0f} tokens/s", file=sys.stderr, flush=True)
    return points


def by_cores(repetitions: int) -> list[dict[str, Any]]:
    """Tokens per second of wall time on one core and on two, in turns, and the CPU-seconds beside them."""
    shop, points = place("webshop"), list[dict[str, Any]]()
    world = Walk(shop.environment, TURNS)
    for name in ("0.4 M", "26 M"):
        at = Place(sized(shop.policy, SIZES[name]), world, shop.rollout.model_copy(update={"episode_tokens": 1500}))
        plays = [Play(task, 0, (0,)) for task in world.ids("dev")[: 64 if name == "0.4 M" else 16]]
        ours(at, plays[:4], 1.0)
        took: dict[int, list[tuple[float, float, float]]] = {1: [], 2: []}
        tokens = 0
        for _ in range(repetitions):
            for cores in took:
                torch.set_num_threads(cores)
                began = time.perf_counter()
                spent, episodes = seconds(partial(ours, at, plays, 1.0))
                wall, tokens = time.perf_counter() - began, tokens_of(episodes)
                took[cores].append((wall, spent, product_on_the_wall()))
        torch.set_num_threads(1)
        pairs = [one[0] / two[0] for one, two in zip(took[1], took[2], strict=True)]
        for cores, tries in took.items():
            wall, spent, product = (statistics.median(column) for column in zip(*tries, strict=True))
            points.append(
                {
                    "what": f"cores, {name}",
                    "value": cores,
                    "tokens per second": tokens / wall,
                    "tokens per CPU-second": tokens / spent,
                    "GFLOP/s of a product on the wall": product / 1e9,
                    "faster than on one core, wall": statistics.median(pairs) if cores == 2 else 1.0,
                    "least and most": [min(pairs), max(pairs)] if cores == 2 else [1.0, 1.0],
                }
            )
            print(points[-1], file=sys.stderr, flush=True)
    return points


def product_on_the_wall() -> float:
    """Floating-point operations a second of wall time of a 2048³ product, on as many cores as are set."""
    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    began = time.perf_counter()
    torch.mm(a, b)
    return 2 * 2048**3 / (time.perf_counter() - began)


def tokens_of(episodes: Sequence[Episode]) -> int:
    """Tokens read and said."""
    return sum(len(turn.observation_ids) + len(turn.reply.ids) for one in episodes for turn in one.turns)


class Longer(Walk):
    """Walks whose first page is repeated until it has `tokens` bytes or more: contexts of a chosen length."""

    def __init__(self, shop: Environment[EnvironmentSettings], turns: int, tokens: int) -> None:
        super().__init__(shop, turns)
        self._tokens = tokens

    def task(self, id: str) -> Task:
        """A fresh walk."""
        walk = super().task(id)
        assert isinstance(walk, Pages)
        first = walk.pages[0]
        # About four bytes a token.
        return Pages(id, [(first + " ") * max(1, round(4 * self._tokens / (len(first) + 1))), *walk.pages[1:]])


GROWTH: dict[str, Callable[[int], list[dict[str, Any]]]] = {"growth": growth, "sizes": by_size, "cores": by_cores}
"""What `main` calls each."""


# ---------------------------------------------------------------------------------------------- the page


def picture(points: Sequence[dict[str, Any]], cores: Sequence[dict[str, Any]], path: Path) -> None:
    """Tokens per second against slots, turns, context and size, the floor drawn in; of wall time against threads."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    kinds = list(dict.fromkeys(point["what"] for point in points))
    count = len(kinds) + bool(cores)
    figure, axes = plt.subplots(1, count, figsize=(2.5 + 2.5 * count, 3.2), sharey=True, layout="constrained")
    for axis, kind in zip(axes[: len(kinds)], kinds, strict=True):
        some = [point for point in points if point["what"] == kind]
        values = [point["value"] for point in some]
        axis.plot(values, [point["tokens per CPU-second"] for point in some], "o-", label="measured")
        axis.plot(values, [point["floor, tokens per CPU-second"] for point in some], "--", color="grey", label="floor")
        axis.set_xscale("log", base=2)
        axis.set_xticks(values, [f"{value / 1e6:.1f} M" if value > 1e5 else str(value) for value in values])
        axis.set_xlabel(kind)
        axis.set_yscale("log")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("tokens read and said per CPU-second")
    axes[0].legend(frameon=False)
    for name in dict.fromkeys(point["what"] for point in cores):
        some = [point for point in cores if point["what"] == name]
        label = name.removeprefix("cores, ")
        axes[-1].plot([p["value"] for p in some], [p["tokens per second"] for p in some], "o-", label=label)
    if cores:
        axes[-1].set_xticks(sorted({point["value"] for point in cores}))
        axes[-1].set_xlabel("threads (per second of wall time)")
        axes[-1].grid(alpha=0.3)
        axes[-1].legend(frameon=False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def show(found: dict[str, Any]) -> None:
    """Tables, as docs/performance.md has them."""
    for name in found.keys() & {"sides", "short"}:
        print(
            f"\n{name}\n\n| side | ms an episode | episodes per CPU-second | ours is faster by (least to most) |"
            "\n|---|---|---|---|"
        )
        for row in found[name]["rows"]:
            print(
                f"| {row['side']} | {row['ms an episode']:.2f} | {row['episodes per CPU-second']:.0f} "
                f"| {row['ours is faster by']:.1f} ({row['least']:.1f} to {row['most']:.1f}) |"
            )
        print(json.dumps({key: value for key, value in found[name].items() if key != "rows"}, indent=1))
    if "company" in found:
        print(json.dumps(found["company"], indent=1))
    if points := [*found.get("growth", ()), *found.get("sizes", ())]:
        print(
            "\n| | | ms an episode | tokens per CPU-second | floor | share of the floor's speed |"
            "\n|---|---|---|---|---|---|"
        )
        for point in points:
            least = point["floor, tokens per CPU-second"]
            share = point["tokens per CPU-second"] / least
            print(
                f"| {point['what']} | {point['value']} | {point['ms an episode']:.2f} "
                f"| {point['tokens per CPU-second']:,.0f} | {least:,.0f} | {share:.0%} |"
            )
    if cores := found.get("cores"):
        print(
            "\n| model, threads | tokens per second of wall time | tokens per CPU-second "
            "| a 2048³ product, GFLOP/s of wall time | times as fast as one thread |"
            "\n|---|---|---|---|---|"
        )
        for point in cores:
            low, high = point["least and most"]
            print(
                f"| {point['what'].removeprefix('cores, ')}, {point['value']} | {point['tokens per second']:,.0f} "
                f"| {point['tokens per CPU-second']:,.0f} | {point['GFLOP/s of a product on the wall']:.0f} "
                f"| {point['faster than on one core, wall']:.2f} ({low:.2f} to {high:.2f}) |"
            )


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", default="sides", choices=["sides", "short", "company", *GROWTH, "all"])
    parser.add_argument("--repetitions", type=int, default=5, help="paired repetitions")
    parser.add_argument("--batch", type=int, default=0, help="batch of generate; 0 for its fastest of 32, 64, 128")
    parser.add_argument("--episodes", type=int, default=1024, help="episodes that are played in company")
    parser.add_argument("--save", action="store_true", help="write rollouts.json and the plot of growth")
    given = parser.parse_args()
    torch.set_num_threads(1)
    path = REPO / "benchmarks" / "rollouts.json"
    found: dict[str, Any] = {}
    if given.what in ("sides", "all"):
        found["sides"] = sides(given.repetitions, given.batch)
    if given.what in ("short", "all"):
        found["short"] = short(given.repetitions, given.batch)
    if given.what in ("company", "all"):
        found["company"] = company(given.episodes)
    for name, measure in GROWTH.items():
        if given.what in (name, "all"):
            found[name] = measure(given.repetitions)
    show(found)
    if given.save:
        about = {"machine": f"{platform.machine()}, one thread", "torch": torch.__version__}
        before = json.loads(path.read_text("utf-8")) if path.exists() else {}
        stored = {**before, **found, "about": about}
        path.write_text(json.dumps(stored, indent=1) + "\n", "utf-8")
        if found.keys() & GROWTH.keys():
            points = [*stored.get("growth", ()), *stored.get("sizes", ())]
            picture(points, stored.get("cores", ()), REPO / "docs" / "performance_growth.png")
    for one in (found[name] for name in ("sides", "short") if name in found):
        if one["episodes whose greedy tokens differ"] > 0.01 * one["episodes compared"]:
            raise SystemExit("the sides did not say the same: the table compares different work.")


if __name__ == "__main__":
    main()
