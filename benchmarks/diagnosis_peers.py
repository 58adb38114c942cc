"""What rldoctor and rlwatch say of the runs of diagnosis.py and diagnosis_trl.py, for the tables of docs/diagnosis.md.

    python -m venv /tmp/peers && /tmp/peers/bin/pip install rldoctor==0.2.0 rlwatch==0.5.1
    /tmp/peers/bin/python benchmarks/diagnosis_peers.py /tmp/diagnosis/faults /tmp/diagnosis/healthy /tmp/trl --half odd

It needs nothing of astarpo. Both tools are given everything that they read, under the names that they know best, TRL's:
reward and its spread, the share of tasks without spread, entropy, KL where it is logged, the gradient's norm, loss, the
spread of advantages, clipping, lengths, the share of cut replies, held-out success, the settings, and to rlwatch the
reward of every episode. Thresholds are their defaults; what is listed is of severity warning or above.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NAMES = {
    "reward/mean": "reward",
    "reward/std": "reward_std",
    "signal/zero_std_frac": "frac_reward_zero_std",
    "entropy": "entropy",
    "kl/reference": "kl",
    "grad_norm": "grad_norm",
    "loss": "loss",
    "learning_rate": "learning_rate",
    "clip_frac": "clip_ratio/region_mean",
    "advantage/std": "advantage/std",
    "reply_tokens": "completions/mean_length",
    "train/success": "rewards/success/mean",
}
"""Ours, and what TRL calls it."""


def rows_of(folder: Path) -> list[dict[str, Any]]:
    """One row an update, under TRL's names, with the held-out score where there is one."""
    state = folder / "trainer_state.json"
    if state.exists():
        history = json.loads(state.read_text("utf-8"))["log_history"]
        return [row for row in history if "train_runtime" not in row]
    rows: dict[int, dict[str, Any]] = {}
    for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines():
        read = json.loads(line)
        row = rows.setdefault(read["update"], {"step": read["update"]})
        if "evaluation" in read:
            row["eval_score"] = read["evaluation"]["success"]
            continue
        row |= {name: read[ours] for ours, name in NAMES.items() if ours in read}
        # Our journal leaves out a reason for which no episode ended.
        row["completions/clipped_ratio"] = read.get("ended/token_limit", 0.0)
    return list(rows.values())


def settings_of(folder: Path) -> dict[str, Any]:
    """What rldoctor reads of the settings. YAML of one level is all that is needed."""
    known = {"group_size": "num_generations", "kl_coef": "beta", "learning_rate": "learning_rate", "name": "algorithm"}
    found: dict[str, Any] = {}
    file, section = folder / "settings.yaml", ""
    for line in file.read_text("utf-8").splitlines() if file.exists() else ():
        name, _, value = line.strip().partition(":")
        section = name if not line.startswith(" ") else section
        if line.startswith(" ") and section in ("algorithm", "optimizer") and name in known and value.strip():
            found[known[name]] = value.strip() if name == "name" else float(value)
    return found


def rewards_of(folder: Path) -> dict[int, list[float]]:
    """The reward of every stored episode, by update."""
    found = {}
    for file in (folder / "episodes").glob("*.jsonl.gz"):
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            found[int(file.name.split(".")[0])] = [float(json.loads(line)["reward"]) for line in lines]
    return found


def rldoctor(folder: Path) -> list[str]:
    """Its findings of severity warning or above, worst first."""
    from rl_doctor.detectors.base import Severity
    from rl_doctor.diagnosis import diagnose
    from rl_doctor.ingest.base import run_from_records

    run = run_from_records(rows_of(folder), config=settings_of(folder), name=folder.name)
    return [one.detector for one in diagnose(run).problems if one.severity >= Severity.WARNING]


def rlwatch(folder: Path) -> list[str]:
    """Its alerts, in the order in which they came."""
    import numpy as np
    from rlwatch.config import RLWatchConfig
    from rlwatch.detectors import DetectorSuite

    suite, rewards = DetectorSuite(RLWatchConfig()), rewards_of(folder)
    said: dict[str, None] = {}
    for row in rows_of(folder):
        if "reward" not in row:
            continue
        step = int(row["step"])
        own = rewards.get(step)
        for alert in suite.check_step(
            step,
            entropy=row.get("entropy"),
            kl_divergence=row.get("kl"),
            reward_mean=row.get("reward"),
            reward_std=row.get("reward_std"),
            rewards=None if own is None else np.array(own),
            advantage_std=row.get("advantage/std"),
            loss=row.get("loss"),
            grad_norm=row.get("grad_norm"),
        ):
            said[alert.detector] = None
    return list(said)


def runs(folders: list[Path], odd: int | None) -> Iterator[Path]:
    """Runs in `folders`, of one half of the seeds."""
    for folder in folders:
        for run in sorted(folder.iterdir()):
            seed = run.suffix[1:]
            if run.is_dir() and seed.isdecimal() and (odd is None or int(seed) % 2 == odd):
                yield run


def main() -> int:
    """Markdown: what each of the two said first, by kind of run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--half", choices=("even", "odd", "all"), default="odd")
    given = parser.parse_args()
    said: dict[str, tuple[list[str], list[str]]] = {}
    for run in runs(given.folders, {"even": 0, "odd": 1, "all": None}[given.half]):
        name = f"healthy {run.stem}" if run.parent.name == "healthy" else run.stem
        one, other = said.setdefault(name, ([], []))
        one.append(", ".join(rldoctor(run)) or "nothing")
        other.append(", ".join(rlwatch(run)) or "nothing")
    print("| run | rldoctor | rlwatch |\n|---|---|---|")
    for name, both in said.items():
        cells = ("; ".join(f"{what}" + (f" ×{n}" if n > 1 else "") for what, n in Counter(one).items()) for one in both)
        print(f"| {name} | {' | '.join(cells)} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
