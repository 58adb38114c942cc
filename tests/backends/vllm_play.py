"""Run by test_vllm.py under a Python that has vLLM: trains a small policy through it and prints what was seen."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import tempfile
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from transformers import AutoModelForCausalLM, AutoTokenizer

import small
from astarpo.algorithms.base import Algorithm, AlgorithmSettings, Needs
from astarpo.backends import probe
from astarpo.backends.base import open_backend
from astarpo.batch import Batch, Scored
from astarpo.errors import BackendError
from astarpo.export import export
from astarpo.journal import read_metrics
from astarpo.policy.load import load_policy
from astarpo.policy.tiny.build import Architecture
from astarpo.trainer import train
from astarpo.warm_start import save

# vLLM's attention on a processor takes heads of 32 and more.
small.ARCHITECTURE = Architecture(width=64, layers=2, heads=2, feed_forward=64, context=512, vocabulary=300)


class SurerSettings(AlgorithmSettings):
    """Settings of `Surer`."""

    name: str = Field("vllm_play.Surer", description="which algorithm")


class Surer(Algorithm[SurerSettings]):
    """Makes whatever was said likelier: weights move at every update."""

    Settings = SurerSettings

    @property
    def needs(self) -> Needs:
        """Nothing."""
        return Needs()

    def loss(self, scored: Scored, batch: Batch) -> tuple[torch.Tensor, dict[str, float]]:
        """Cross-entropy."""
        return -scored.logp[batch.acted].mean(), {}


def main() -> None:
    """One JSON line on stdout."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", default="")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--save", type=Path)
    parser.add_argument("--export", action="store_true")
    given = parser.parse_args()
    work = Path(tempfile.mkdtemp())
    if given.export:
        print(json.dumps(exported(work)))
        return
    model = given.save or given.model or work / "model"
    if given.model is None:
        save(small.small_policy(stops=100), model)
    if given.save:
        print("{}")
        return
    vllm: dict[str, Any] = {"url": given.url} if given.url else {"eager": True, "kv_cache_gib": 0.25, "requests": 32}
    rollout = {"backend": "vllm", "vllm": vllm}
    learning = {"optimizer": {"learning_rate": 3e-3}, "algorithm": {"name": "vllm_play.Surer", "group_size": 4}}
    gaps: list[float] = []
    checked = probe.check

    def check(*arguments: Any, **named: Any) -> float:
        gaps.append(checked(*arguments, **named))
        return gaps[-1]

    probe.check = check
    run = small.small_run(model, rollout=rollout, **learning)
    result = train(run, work / "run")
    lines = [line for line in read_metrics(work / "run") if "evaluation" not in line]
    found: dict[str, Any] = {
        "updates": result.updates,
        "mismatch": [line["mismatch/max"] for line in lines if "mismatch/max" in line],
        "moved": [line["grad_norm"] for line in lines if "grad_norm" in line],
        "probe": gaps,
    }
    policy = load_policy(run.policy, "arithmetic")
    with closing(open_backend(run)) as backend:
        found |= alike(backend.player(policy))
        found |= {"greedy_alike": greedy(backend.player(policy), policy)}
        found["stale"] = None if given.url else stale(backend, policy)
    print(json.dumps(found))


def said(player: Any, keys: Sequence[tuple[int, ...]], temperature: float = 1.0) -> list[tuple[int, ...]]:
    """Two turns of conversations that begin alike by twos."""
    conversations, slots = player.open(keys), list(range(len(keys)))
    conversations.extend(slots, [[20 + key[0] // 2, 30, 40] for key in keys])
    first = conversations.reply(slots, 8, temperature)
    conversations.extend(slots, [[50, 60]] * len(keys))
    second = conversations.reply(slots, 8, temperature)
    return [(*one.ids, *other.ids) for one, other in zip(first, second, strict=True)]


def alike(player: Any) -> dict[str, int]:
    """How many conversations say the same alone as among others."""
    keys = [(number, 7) for number in range(12)]
    together = said(player, keys)
    alone = [said(player, [key])[0] for key in keys]
    return {"conversations": len(keys), "alike": sum(a == b for a, b in zip(together, alone, strict=True))}


def greedy(player: Any, policy: Any) -> int:
    """How many greedy conversations are those of the policy's own engine."""
    keys = [(number, 7) for number in range(12)]
    return sum(a == b for a, b in zip(said(player, keys, 0.0), said(policy, keys, 0.0), strict=True))


def stale(backend: Any, policy: Any) -> str | None:
    """What is said where the weights move and the engine is not told."""
    with torch.no_grad():
        policy.model.model.embed_tokens.weight.mul_(1.05)
    try:
        backend.player(policy).open([(1,)])
    except BackendError as error:
        return str(error)
    return None


def exported(work: Path) -> dict[str, Any]:
    """A trained run's policy as a folder, greedily in transformers and in vLLM, each with nothing but that folder."""
    save(small.small_policy(stops=100), work / "model")
    learning = {"optimizer": {"learning_rate": 3e-3}, "algorithm": {"name": "vllm_play.Surer", "group_size": 4}}
    train(small.small_run(work / "model", **learning), work / "run")
    export(work / "run", work / "exported")
    asked = [f"{number}+{number * 7 % 10}=" for number in range(12)]
    tokenizer: Any = AutoTokenizer.from_pretrained(work / "exported")
    model: Any = AutoModelForCausalLM.from_pretrained(work / "exported")
    read, in_transformers = list[list[int]](), list[list[int]]()
    for text in asked:
        messages = [{"role": "user", "content": text}]
        ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        there = torch.ones((1, len(ids)), dtype=torch.int64)
        said = model.generate(torch.tensor([ids]), attention_mask=there, max_new_tokens=16, do_sample=False)
        read.append(ids)
        in_transformers.append(said[0, len(ids) :].tolist())
    # One process, as elsewhere here.
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    vllm: Any = importlib.import_module("vllm")
    engine = vllm.LLM(
        model=str(work / "exported"),
        dtype="float32",
        max_model_len=256,
        max_num_seqs=16,
        kv_cache_memory_bytes=2**28,
        enforce_eager=True,
        disable_log_stats=True,
    )
    chats = [[{"role": "user", "content": text}] for text in asked]
    answers = engine.chat(chats, vllm.SamplingParams(temperature=0.0, max_tokens=16), use_tqdm=False)
    in_vllm = [list(answer.outputs[0].token_ids) for answer in answers]
    return {
        "asked": len(asked),
        "read_alike": sum(list(answer.prompt_token_ids) == ids for answer, ids in zip(answers, read, strict=True)),
        "said_alike": sum(a == b for a, b in zip(in_transformers, in_vllm, strict=True)),
        "different": len({tuple(ids) for ids in in_vllm}),
    }


if __name__ == "__main__":
    main()
