"""Train on the shop with its faults, past the check that would refuse it, or on the mended one; then say why.

    python train.py --algorithm grpo            fails
    python train.py --algorithm astar_po        fails as well, and so does every other preset of webshop
    python train.py --mended --updates 40       learns

`astarpo diagnose runs/failed-grpo --environment failed_shop.FailedShop`, from this folder, reads a run again.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import yaml

from astarpo.checkpoint import mark_run
from astarpo.cli.display import watching
from astarpo.journal import write_atomically
from astarpo.policy import tiny
from astarpo.progress import Watch
from astarpo.result import Result
from astarpo.run import Run, algorithm, load_preset, merge
from astarpo.trainer import Trainer, train

HERE = Path(__file__).parent
ENVIRONMENT = "failed_shop.FailedShop"


def settings(preset: str, updates: int, tasks: int, held_out: int = 200, *, mended: bool) -> Run:
    """A preset of webshop on this shop, small enough to watch."""
    world = {"name": ENVIRONMENT} | ({"faults": [], "reward": "score"} if mended else {})
    ours = {
        "environment": world,
        # This environment has another name than the one that the embedded model is known by.
        "policy": {"model": str(tiny.folder("webshop")), "device": "cpu"},
        "rollout": {"tasks_per_update": tasks},
        "evaluation": {"tasks": held_out, "samples": 0, "every": 0},
        "updates": updates,
    }
    run = Run.build(merge(load_preset("webshop", preset), ours))
    # Of the reference's plays, a few: stage 1 plays only where the method reads V*.
    plays = algorithm(run).needs.values and run.values.schedule in ("fixed", "sequential")
    return Run.build(merge(run.dump(), {"values": {"tasks": 64}})) if plays else run


def train_unchecked(run: Run, out: Path, watch: Watch) -> Result:
    """What `train` does without the check before it, which this environment fails."""
    out.mkdir(parents=True)
    write_atomically(out / "settings.yaml", yaml.safe_dump(run.dump(), sort_keys=False).encode())
    mark_run(out)
    with closing(Trainer(run, out, watch)) as trainer:
        return trainer.start()


def main() -> int:
    """Train, print what came of it, and diagnose."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--algorithm", default="grpo", metavar="PRESET", help="a preset of webshop")
    parser.add_argument("--updates", type=int, default=12)
    parser.add_argument("--tasks", type=int, default=8, help="tasks in one update")
    parser.add_argument("--held-out", type=int, default=200, help="test tasks played before and after")
    parser.add_argument("--mended", action="store_true", help="without the faults, on WebShop's own score")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    out = given.out or Path("runs") / f"{'mended' if given.mended else 'failed'}-{given.algorithm}"
    run = settings(given.algorithm, given.updates, given.tasks, given.held_out, mended=given.mended)
    with watching() as watch:
        result = (train if given.mended else train_unchecked)(run, out, watch=watch)
    print(f"{out}: held-out success {result.before.success:.1%} before, {result.after.success:.1%} after")
    told = [sys.executable, "-m", "astarpo", "diagnose", str(out.resolve()), "--environment", ENVIRONMENT]
    return subprocess.run(told, cwd=HERE, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
