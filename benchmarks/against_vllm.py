"""Episodes per CPU-second: our engine and vLLM with prefix caching, the same model, tasks and limits, in turns.

Run it with a Python that has vLLM beside astarpo (docs/backends.md):

    OMP_NUM_THREADS=1 .venv-vllm/bin/python benchmarks/against_vllm.py --json

Both play the same WebShop tasks with the embedded model through the same rollout. Greedy episodes are compared first,
so that both are known to do the same work; then the two take turns at sampled plays. CPU-seconds are those of the
whole process, threads included.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from contextlib import closing
from typing import Any

os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")


def main() -> None:
    """A table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--compile", action="store_true", help="let vLLM compile instead of running eagerly")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()

    from astarpo.backends.vllm import Vllm
    from astarpo.environments.rewards import score
    from astarpo.policy.load import load_policy
    from astarpo.rollout import Play, collect, tokens_of
    from astarpo.run import Run, environment, load_preset, merge

    vllm = {"eager": not given.compile, "requests": 256, "kv_cache_gib": 1.0, "tolerance": 0.01}
    run = Run.build(merge(load_preset("webshop", "default"), {"rollout": {"backend": "vllm", "vllm": vllm}}))
    world, policy = environment(run), load_policy(run.policy, "webshop")
    ids = list(world.ids("train"))[: given.episodes]

    def played(player: Any, key: int, temperature: float) -> tuple[list[Any], float]:
        plays = [Play(task, 0, (key,)) for task in ids]
        began = time.process_time()
        episodes = collect(player, world, plays, rollout=run.rollout, temperature=temperature, reward=score)
        return episodes, time.process_time() - began

    with closing(Vllm(run)) as backend:
        players: dict[str, Any] = {"astarpo": policy, "vllm": backend.player(policy)}
        greedy = {name: played(player, 0, 0.0)[0] for name, player in players.items()}
        texts = {name: [[t.reply.text for t in e.turns] for e in episodes] for name, episodes in greedy.items()}
        same = sum(a == b for a, b in zip(texts["astarpo"], texts["vllm"], strict=True))
        rates: dict[str, list[float]] = {name: [] for name in players}
        tokens: dict[str, list[float]] = {name: [] for name in players}
        for repeat in range(given.repeats):
            for name, player in players.items():
                episodes, seconds = played(player, repeat + 1, 1.0)
                rates[name].append(len(episodes) / seconds)
                tokens[name].append(sum(sum(tokens_of(episode)) for episode in episodes) / seconds)
        found = {
            "episodes": len(ids),
            "repeats": given.repeats,
            "greedy_episodes_equal": same,
            "vllm_compiles": given.compile,
            "probe_gap_nats": backend.gap,
            "episodes_per_cpu_second": {name: statistics.median(values) for name, values in rates.items()},
            "tokens_per_cpu_second": {name: statistics.median(values) for name, values in tokens.items()},
            "times_faster": statistics.median(
                own / other for own, other in zip(rates["astarpo"], rates["vllm"], strict=True)
            ),
            "times_faster_all": [own / other for own, other in zip(rates["astarpo"], rates["vllm"], strict=True)],
        }
    if given.json:
        print(json.dumps(found, indent=1))
        return
    print(f"{len(ids)} WebShop episodes, medians of {given.repeats}; greedy episodes equal: {same} of {len(ids)}")
    for name in players:
        print(
            f"{name:8} {found['episodes_per_cpu_second'][name]:8.2f} episodes and "
            f"{found['tokens_per_cpu_second'][name]:9.0f} tokens per CPU-second"
        )
    print(f"astarpo is {found['times_faster']:.2f} times as fast (median of pairs)")


if __name__ == "__main__":
    main()
