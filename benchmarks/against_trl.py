"""Whole updates, generation and training together, against TRL 1.16: the same model, tokens, batch, limits and machine.

    python benchmarks/against_trl.py                        every part, a quarter of an hour on an idle core
    python benchmarks/against_trl.py --parts webshop --save
    python benchmarks/against_trl.py --render               docs/performance.md from what is stored
    python benchmarks/against_trl.py --smoke                every part in seconds, to see that it runs

Parts: arithmetic (GRPO, one turn, 32, 128 and 256 episodes), a2po (A*-PO, both stages), webshop (GRPO, several turns)
and memory (peak of one update against its tokens, a process for each point). Figures are CPU-seconds of one thread,
which a busy machine lengthens little; the two sides take turns update by update, so that what else runs meets both.
Before anything is timed, TRL's own code is given episodes that we rolled out, and must find our gradient in them.
`--save` keeps the figures in benchmarks/against_trl.json and rebuilds their section of docs/performance.md.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

# One thread, as small matrices are fastest and as CPU-seconds mean something.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

REPO = Path(__file__).resolve().parent.parent
STORED = REPO / "benchmarks" / "against_trl.json"
PAGE = REPO / "docs" / "performance.md"
PLOT = REPO / "docs" / "performance_memory.png"
BEGIN, END = "<!-- benchmarks/against_trl.py -->", "<!-- /benchmarks/against_trl.py -->"
PARTS = ("arithmetic", "a2po", "webshop", "memory")
WARM = 2
"""Updates of each side before those that count: allocations, first-call set-up."""

CLOSE = 1e-3
"""Largest difference of the two gradients, over the largest entry: float32 in two orders of summation."""

ALIKE = 0.05
"""Largest difference in sampled tokens an update, as a share: the two draw different numbers."""


@dataclass(frozen=True)
class Size:
    """How much work a part does.

    Attributes:
        batches: arithmetic: episodes an update → updates of each side that count.
        tasks, batch, updates, repeats: a2po.
        webshop: episodes an update, and updates that count.
        memory: tokens of the update at each point.
    """

    batches: Mapping[int, int]
    tasks: int
    batch: int
    updates: int
    repeats: int
    webshop: tuple[int, int]
    memory: Sequence[int]


FULL = Size({32: 40, 128: 24, 256: 16}, 512, 64, 20, 7, (64, 8), (4096, 8192, 16384, 32768, 65536, 131072))
SMOKE = Size({16: 2}, 16, 8, 2, 1, (8, 1), (4096,))


# ---------------------------------------------------------------------------------------------- the parts


def arithmetic(size: Size) -> dict[str, Any]:
    """GRPO on one turn, at several batches."""
    found = {str(batch): grpo("arithmetic", batch, updates) for batch, updates in size.batches.items()}
    # Groups that all earned the same are not scored on our side, and at this model's start most did. Under partial
    # credit few do.
    batch, updates = list(size.batches.items())[len(size.batches) // 2]
    return found | {f"{batch}, partial credit": grpo("arithmetic", batch, updates, "partial")}


def webshop(size: Size) -> dict[str, Any]:
    """GRPO on WebShop's generated world of a thousand products."""
    batch, updates = size.webshop
    return {str(batch): grpo("webshop", batch, updates)}


def grpo(world: str, batch: int, updates: int, reward: str = "score") -> dict[str, Any]:
    """Both sides' CPU-seconds an update, update by update in turns."""
    import trl_sides as sides
    from transformers import TrainerCallback

    from astarpo.pools import Pools

    run = sides.grpo_run(world, batch, reward, updates=updates + WARM)
    ours = sides.Ours(run)
    drawn = Pools(run, ours.trainer.environment).curriculum
    each = run.rollout.tasks_per_update
    tasks = [task for update in range(updates + WARM) for task in drawn.choose(update, each)]
    theirs = sides.TrlGrpo(run, updates + WARM, ours.trainer.environment, tasks)
    gap = same_gradient(ours, theirs, tasks[:each])
    spent: dict[str, list[float]] = {"ours": [], "trl": []}

    class InTurns(TrainerCallback):  # type: ignore[misc]
        """After each of TRL's updates, one of ours."""

        began = 0.0

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.began = time.process_time()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            spent["trl"].append(time.process_time() - self.began)
            gc.collect()
            spent["ours"].append(timed(ours.update))
            gc.collect()
            self.began = time.process_time()

    theirs.trainer.add_callback(InTurns())
    theirs.trainer.train()
    found = ratio(spent["ours"][WARM:], spent["trl"][WARM:])
    print(world, batch, reward, found, file=sys.stderr, flush=True)
    said = {"ours": statistics.fmean(ours.work.said), "trl": statistics.fmean(theirs.work.said)}
    alike(said, loosely=updates < 8)
    found |= {
        "gradient_gap": gap,
        "sampled_tokens": said,
        "read_tokens": statistics.fmean(ours.work.read),
        "silent_groups": ours.silent(),
        "flops": ours.flops(),
        "share_of_sgemm": ours.flops() / found["ours"] / sgemm(),
        "clock": {name: seconds / len(spent["ours"]) for name, seconds in ours.trainer.clock.spent.items()},
    }
    ours.close()
    theirs.close()
    return found


def same_gradient(ours: Any, theirs: Any, tasks: Sequence[str]) -> float:
    """How far the two gradients are apart on episodes that we rolled out. Raises where it is more than `CLOSE`."""
    import trl_sides as sides

    from astarpo.collate import collate
    from astarpo.update import backward

    trainer = ours.trainer
    groups = trainer._collect(tasks, 0)
    episodes = [episode for group in groups for episode in group]
    batch = collate(episodes, device=trainer.policy.device)
    tokens = trainer.run.optimizer.microbatch_tokens
    metrics = backward(trainer.policy, batch, trainer.algorithm, reference=None, tokens=tokens)
    own = sides.gradient(trainer.policy.model)
    loss, other = theirs.gradient_of(episodes)
    theirs.work = sides.Work()
    if metrics["signal/skipped"]:
        raise SystemExit("every group of the episodes compared earned the same: no gradient to compare; play more.")
    return near(sides.furthest(own, other), metrics["loss"], loss)


def near(gap: float, loss: float, other: float) -> float:
    """`gap`. Raises SystemExit where it, or that of the losses, is too large."""
    if not (gap < CLOSE and abs(loss - other) < CLOSE):
        raise SystemExit(f"the two sides compute other things: gradients differ by {gap:.2e}, losses {loss}, {other}.")
    return gap


def a2po(size: Size) -> dict[str, Any]:
    """A*-PO: stage 1 and `updates` updates, the two sides in turns."""
    import trl_sides as sides

    spent: dict[str, dict[str, list[float]]] = {"stage 1": {}, "stage 2": {}, "both": {}}
    said: dict[str, float] = {}
    gap = 0.0
    for repeat in range(size.repeats):
        run = sides.a2po_run(size.tasks, size.batch, size.updates)
        ours = sides.Ours(run)
        tasks = ours.trainer.pools.stage_one()
        theirs = sides.TrlA2po(run, ours.trainer.environment, tasks)
        own = (timed(ours.trainer.stage_one.measure), timed(partial(ours.updates, size.updates)))
        other = (timed(theirs.trainer._estimate_optimal_values), timed(theirs.trainer.train))
        for name, seconds in (("ours", own), ("trl", other)):
            for stage, one in zip(("stage 1", "stage 2", "both"), (*seconds, sum(seconds)), strict=True):
                spent[stage].setdefault(name, []).append(one)
        plays = ours.trainer.stage_one.table.used()[0]
        said = {"ours": plays.said + sum(ours.work.said), "trl": theirs.said}
        alike(said, loosely=size.tasks < 100)
        if repeat == 0:
            gap = same_regression(ours, theirs, tasks[: size.batch])
        ours.close()
        theirs.close()
    return {stage: ratio(**seconds) for stage, seconds in spent.items()} | {"gradient_gap": gap, "sampled_tokens": said}


def same_regression(ours: Any, theirs: Any, tasks: Sequence[str]) -> float:
    """As `same_gradient`, for A*-PO's stage 2, both sides from the model as it is shipped."""
    import trl_sides as sides

    from astarpo.collate import collate
    from astarpo.update import backward

    trainer = ours.trainer
    # Both have been trained: only from the same weights are the two comparable.
    theirs.trainer.model.load_state_dict(trainer.policy.model.state_dict())
    episodes = [episode for group in trainer._collect(tasks, 0) for episode in group]
    values = trainer._values_of(tasks, 0)
    batch = trainer._with_reference(collate(episodes, values=values, device=trainer.policy.device))
    metrics = backward(
        trainer.policy, batch, trainer.algorithm, reference=None, tokens=trainer.run.optimizer.microbatch_tokens
    )
    own = sides.gradient(trainer.policy.model)
    loss, other = theirs.loss_of(episodes, values)
    return near(sides.furthest(own, other), metrics["loss"], loss)


def memory(size: Size) -> dict[str, Any]:
    """Bytes of one update's peak, a process for each point."""
    found: dict[str, Any] = {}
    for side in ("ours", "trl", "trl-accumulated"):
        for tokens in size.memory:
            command = [sys.executable, "-W", "ignore", str(REPO / "benchmarks" / "trl_memory.py"), side, str(tokens)]
            said = subprocess.run(command, capture_output=True, text=True, check=False)
            if said.returncode:
                raise SystemExit(f"{side} at {tokens} tokens: {said.stderr.strip().splitlines()[-1]}")
            found.setdefault(side, []).append(json.loads(said.stdout.splitlines()[-1]))
            print(found[side][-1], file=sys.stderr, flush=True)
    return found


# ---------------------------------------------------------------------------------------------- figures


@cache
def sgemm() -> float:
    """Floating-point operations a CPU-second of a 2048³ float32 product, the best of five."""
    import torch

    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    return 2 * 2048**3 / min(timed(partial(torch.mm, a, b)) for _ in range(5))


def timed(work: Callable[[], Any]) -> float:
    """CPU-seconds of `work`, without what Python collects of what was made before."""
    gc.collect()
    began = time.process_time()
    work()
    return time.process_time() - began


def ratio(ours: Sequence[float], trl: Sequence[float]) -> dict[str, Any]:
    """Medians, and how many times faster ours is, with a 95 % interval by resampling pairs."""
    import numpy as np

    pairs = np.array([ours, trl])
    drawn = np.random.default_rng(0).integers(0, pairs.shape[1], (2000, pairs.shape[1]))
    medians = np.median(pairs[:, drawn], axis=-1)
    low, high = np.quantile(medians[1] / medians[0], (0.025, 0.975))
    middle = np.median(pairs, axis=1)
    return {
        "ours": float(middle[0]),
        "trl": float(middle[1]),
        "faster": float(middle[1] / middle[0]),
        "interval": [float(low), float(high)],
        "n": int(pairs.shape[1]),
    }


def alike(said: Mapping[str, float], *, loosely: bool) -> None:
    """Raise SystemExit where the two sides sampled more unlike amounts than chance explains."""
    if abs(said["ours"] / said["trl"] - 1.0) > (0.5 if loosely else ALIKE):
        raise SystemExit(f"the two sides did not do the same work: tokens sampled {dict(said)}.")


# ---------------------------------------------------------------------------------------------- keeping and telling


def setting() -> dict[str, Any]:
    """What the figures were measured on."""
    head = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=REPO, capture_output=True, text=True, check=False
    )
    names = ("torch", "transformers", "trl")
    return {
        "date": date.today().isoformat(),
        "commit": head.stdout.strip(),
        "python": platform.python_version(),
        **{name: version(name) for name in names},
    }


def keep(found: Mapping[str, Any], stored: Mapping[str, Any]) -> dict[str, Any]:
    """`stored` with the parts of `found` in place of its own; of those it had, the commit and the ratios stay."""
    kept = dict(stored)
    for part, figures in found.items():
        before = kept.get(part)
        earlier = list(before.get("earlier", ())) if before else []
        if before:
            earlier.append({"commit": before["setting"]["commit"], "faster": ratios(before["figures"])})
        kept[part] = {"setting": setting(), "figures": figures, "earlier": earlier}
    return kept


def ratios(figures: Mapping[str, Any]) -> dict[str, float]:
    """How many times faster, by row."""
    rows = {name: row["faster"] for name, row in figures.items() if isinstance(row, dict) and "faster" in row}
    return {name: round(value, 3) for name, value in rows.items()}


NAMES = {
    "arithmetic": "arithmetic, GRPO",
    "webshop": "WebShop, GRPO",
    "a2po": "arithmetic, A*-PO",
}
GOALS = {
    ("arithmetic", "32"): 2.0,
    ("arithmetic", "128"): 2.5,
    ("arithmetic", "256"): 2.5,
    ("a2po", "both"): 2.5,
    ("webshop", "64"): 4.0,
}


SIDES = {"ours": "ours", "trl": "TRL, one pass", "trl-accumulated": "TRL, passes of 16,384"}
"""Of the memory's table, by their names in benchmarks/trl_memory.py."""


def section(stored: Mapping[str, Any]) -> str:
    """The section of docs/performance.md, from what is stored."""
    lines = [
        "| work | ours, CPU-s | TRL, CPU-s | times faster (95 %) | before | goal | n | ours, share of sgemm |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for part in ("arithmetic", "webshop", "a2po"):
        for name, row in stored.get(part, {}).get("figures", {}).items():
            if not (isinstance(row, dict) and "faster" in row):
                continue
            earlier = [one["faster"][name] for one in stored[part]["earlier"] if name in one["faster"]]
            share, goal = row.get("share_of_sgemm"), GOALS.get((part, name))
            what = name if part == "a2po" else name.replace(",", " episodes,") if "," in name else f"{name} episodes"
            cells = (
                f"{NAMES[part]}, {what}",
                f"{row['ours']:.3f}",
                f"{row['trl']:.3f}",
                f"{row['faster']:.2f} ({row['interval'][0]:.2f} to {row['interval'][1]:.2f})",
                ", ".join(f"{value:.2f}" for value in earlier),
                "" if goal is None else f"{goal:.1f}",
                f"{row['n']}",
                "" if share is None else f"{100 * share:.0f} %",
            )
            lines.append(f"| {' | '.join(cells)} |")
    measured = [
        f"{part} on {one['setting']['date']} at {one['setting']['commit']}"
        for part, one in stored.items()
        if "setting" in one
    ]
    lines += ["", f"Measured: {', '.join(measured)}.", *_memory(stored)]
    return "\n".join(lines)


def _memory(stored: Mapping[str, Any]) -> list[str]:
    if "memory" not in stored:
        return []
    points = stored["memory"]["figures"]
    head = " | ".join(SIDES[side] for side in points)
    lines = ["", f"| tokens of the update | {head} |", "|---" * (1 + len(points)) + "|"]
    sizes = dict.fromkeys(point["tokens"] for some in points.values() for point in some)
    for tokens in sorted(sizes):
        taken = ({point["tokens"]: point["bytes"] for point in some}.get(tokens) for some in points.values())
        cells = ("" if size is None else f"{size / 2**20:,.0f} MiB" for size in taken)
        lines.append(f"| {tokens:,} | {' | '.join(cells)} |")
    *_, before, last = points["trl"]
    slope = (last["bytes"] - before["bytes"]) / (last["tokens"] - before["tokens"])
    full = last["tokens"] + (20e9 - last["bytes"]) / slope
    lines += [
        "",
        f"Between its last two points TRL takes {slope / 1024:.0f} KiB a token in one pass; at that rate 20 GB are "
        f"full at {full:,.0f} tokens.",
        "",
        f"![Memory of one update against its tokens, ours and TRL's]({PLOT.name})",
    ]
    return lines


def picture(points: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Memory of one update against its tokens, every side, with the 20 GB that are asked about."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(6, 3.6), layout="constrained")
    for side, some in points.items():
        axis.plot([p["tokens"] for p in some], [p["bytes"] / 2**30 for p in some], "o-", label=SIDES[side])
    axis.axhline(20e9 / 2**30, color="grey", linestyle="--")
    ticks = [point["tokens"] for point in max(points.values(), key=len)]
    axis.set(xscale="log", yscale="log", xlabel="tokens of the update", ylabel="GiB above model and episodes")
    axis.set_xticks(ticks, [f"{tick // 1024} Ki" for tick in ticks])
    axis.minorticks_off()
    axis.grid(alpha=0.3)
    axis.legend(frameon=False)
    figure.savefig(PLOT, dpi=110)
    plt.close(figure)


def render(stored: Mapping[str, Any]) -> None:
    """Put the section into the page, between its marks, and draw its plot."""
    page = PAGE.read_text("utf-8")
    before, rest = page.split(BEGIN, 1)
    _, after = rest.split(END, 1)
    if "memory" in stored:
        picture(stored["memory"]["figures"])
    PAGE.write_text(f"{before}{BEGIN}\n{section(stored)}\n{END}{after}", "utf-8")


def main() -> None:
    """See the top of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--save", action="store_true", help="keep the figures, and rebuild the page")
    parser.add_argument("--out", type=Path, help="write the figures here as JSON")
    parser.add_argument("--render", action="store_true", help="rebuild the page and measure nothing")
    parser.add_argument("--smoke", action="store_true", help="seconds of everything; its figures say nothing")
    asked = parser.parse_args()
    stored = json.loads(STORED.read_text("utf-8")) if STORED.exists() else {}
    if asked.render:
        render(stored)
        return
    import torch

    torch.set_num_threads(1)
    size, found = SMOKE if asked.smoke else FULL, {}
    for part in asked.parts:
        found[part] = globals()[part](size)
        print(part, json.dumps(found[part], indent=1), flush=True)
    if asked.out is not None:
        asked.out.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    if asked.save:
        stored = keep(found, stored)
        STORED.write_text(json.dumps(stored, indent=1) + "\n", "utf-8")
        render(stored)


if __name__ == "__main__":
    main()
