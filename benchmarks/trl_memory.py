"""One point of the memory curve of benchmarks/against_trl.py: the peak of one update, in a process of its own.

    python benchmarks/trl_memory.py SIDE TOKENS

SIDE is ours, trl (the batch in one pass) or trl-accumulated (the same in passes of `PASS` tokens, which its user has to
set by hand). The episodes are given, half of each read and half sampled, so that nothing is generated: what is measured
is scoring, backward and optimiser step. Prints JSON: bytes above what the process held with model and episodes ready.
"""

from __future__ import annotations

import json
import os
import random
import resource
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

LENGTH = 512
"""Tokens of every episode."""

PASS = 16384
"""Tokens of one pass of trl-accumulated: our default for `optimizer.microbatch_tokens`."""

MOST = 14 * 2**30
"""Bytes of address space; a point that needs more ends instead of the machine."""


def held(what: str) -> int:
    """Bytes from the kernel: VmRSS is what is resident now, VmHWM its peak since the last `forget`."""
    for line in Path("/proc/self/status").read_text("ascii").splitlines():
        if line.startswith(f"{what}:"):
            return int(line.split()[1]) * 1024
    raise SystemExit(f"/proc/self/status has no {what}: this benchmark needs Linux.")


def forget() -> None:
    """Let the peak start again from what is resident now."""
    Path("/proc/self/clear_refs").write_text("5", "ascii")


def main(side: str, tokens: int) -> dict[str, Any]:
    """See the top of this file."""
    import torch
    import trl_sides as sides

    from astarpo.collate import collate
    from astarpo.types import Ended, Episode, Reply, Step, Turn
    from astarpo.update import learn

    torch.set_num_threads(1)
    count, draw = tokens // LENGTH, random.Random(0)
    run = sides.grpo_run("webshop", count, updates=1)
    ours = sides.Ours(run)
    vocabulary, stop = ours.trainer.policy.vocabulary, min(ours.trainer.policy.chat.stop)
    world = ours.trainer.environment
    tasks = list(dict.fromkeys(world.ids("train")))[: count // sides.GROUP]
    episodes = []
    for number in range(count):
        ids = [draw.randrange(8, vocabulary) for _ in range(LENGTH - 1)]
        seen, said = tuple(ids[: LENGTH // 2]), (*ids[LENGTH // 2 :], stop)
        turn = Turn("", seen, Reply(said, (0.0,) * len(said), "", True), Step(), reward=float(number % 2))
        episodes.append(Episode(tasks[number // sides.GROUP], number, (turn,), Ended.ANSWERED, False, 0.0, 1.0, 0))
    theirs = None
    if side != "ours":
        passes = 1 if side == "trl" else max(1, tokens // PASS)
        theirs = sides.TrlGrpo(run, 1, world, tasks, passes=passes)
        theirs.replay(episodes)
    resource.setrlimit(resource.RLIMIT_AS, (MOST, MOST))
    forget()
    before, began = held("VmRSS"), time.process_time()
    if theirs is not None:
        theirs.trainer.train()
    else:
        trainer = ours.trainer
        batch = collate(episodes, device=trainer.policy.device)
        learn(
            trainer.policy,
            batch,
            trainer.algorithm,
            trainer.optimizer,
            run.optimizer,
            reference=None,
            update=0,
            updates=1,
            seed=0,
        )
    return {"side": side, "tokens": tokens, "bytes": held("VmHWM") - before, "cpu": time.process_time() - began}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], int(sys.argv[2]))))
