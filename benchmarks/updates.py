"""How fast an update learns: forward and backward on one thread, against the rate at which the machine multiplies.

    python benchmarks/updates.py                the sides in turns on both models
    python benchmarks/updates.py --head         and peak memory of the output head at 151,936 words
    python benchmarks/updates.py --compile      and torch.compile of what lies between the attention layers
    python benchmarks/updates.py --save         writes benchmarks/updates.json

Four sides do the same work, held against each other by loss and gradient: `own` is what astarpo does, by kernels of its
own (`astarpo.native`); `packed` is the same episodes end to end by PyTorch's kernels, which is what astarpo does where
it has none; `buckets` sorts by length and pads to the longest of a pass; `plain` is a transformers forward over the
whole padded batch with logits at every position. Times are CPU-seconds of the process; each repetition also times
PyTorch's sgemm at 2048³ and our own product at the model's largest shape, so that a share of either is of the machine
as it was at that moment.
Operations are those that the episodes need, not those of padding.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM
from trl_memory import held

from astarpo import native
from astarpo.batch import Batch
from astarpo.optimizers import build_optimizer
from astarpo.policy import head, scoring
from astarpo.update import PASS_TOKENS

HERE = Path(__file__).resolve().parent
SIDES = ("own", "packed", "buckets", "plain")
MODELS: dict[str, dict[str, int]] = {
    "0.36 M": {"hidden_size": 96, "intermediate_size": 256, "num_hidden_layers": 3, "heads": 4, "vocab_size": 260},
    "27 M": {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 7, "heads": 8, "vocab_size": 8192},
}
WORK = {"0.36 M": {"shopping": (48, 60, 200), "arithmetic": (128, 20, 44)}, "27 M": {"shopping": (6, 60, 200)}}
"""Episodes of an update, and their shortest and longest."""


def model_of(shape: dict[str, int]) -> Any:
    """A Qwen2 of that shape with random weights."""
    heads = shape["heads"]
    config = AutoConfig.for_model(
        "qwen2",
        **{name: value for name, value in shape.items() if name != "heads"},
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=1536,
        tie_word_embeddings=True,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
    )
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()


def batch_of(episodes: int, shortest: int, longest: int, words: int) -> Batch:
    """Episodes of uniformly drawn lengths; two thirds are read first, then a third is said."""
    random = torch.Generator().manual_seed(0)
    lengths = torch.randint(shortest, longest + 1, (episodes,), generator=random)
    width = int(lengths.max())
    number = torch.arange(width)
    acted = (number >= (lengths * 2 // 3)[:, None]) & (number < lengths[:, None])
    tokens = torch.randint(4, words, (episodes, width), generator=random)
    return Batch(
        tokens=torch.where(number < lengths[:, None], tokens, 0),
        lengths=lengths,
        acted=acted,
        turn=torch.where(acted, 0, -1),
        behaviour_logp=torch.zeros((episodes, width)),
        reward=torch.zeros(episodes),
        success=torch.zeros(episodes, dtype=torch.bool),
        task=torch.arange(episodes) // 8,
        temperature=1.0,
    )


def operations(model: Any, batch: Batch) -> float:
    """Multiplications and additions of one forward and backward pass over the episodes, without padding."""
    c = model.config
    d, layers = c.hidden_size, c.num_hidden_layers
    read = (batch.lengths - 1).double()
    weights = layers * (4 * d * d + 3 * d * c.intermediate_size)
    attention = layers * 4 * d * float((read * (read + 1) / 2).sum())
    products = 2 * weights * float(read.sum()) + attention + 2 * d * c.vocab_size * int(batch.acted.sum())
    return 3.0 * float(products)


def scored(side: str, model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    """ln π and entropy, [B, T], by that side."""
    if side != "plain":
        own = scoring.Traits(split=True, padded="so asked" if side == "buckets" else "")
        if side == "own":
            own = scoring.traits(model)
            assert own.native is not None, native.why_not()
        found = scoring.log_probs(model, own, batch, reference=None, tokens=PASS_TOKENS)
        return found.logp, found.entropy
    mask = torch.arange(batch.tokens.shape[1]) < batch.lengths[:, None]
    logits = model(input_ids=batch.tokens, attention_mask=mask.long(), use_cache=False).logits[:, :-1]
    log_p = torch.log_softmax(logits.float(), -1)
    entropy = -(log_p.exp() * log_p).sum(-1)
    logp = log_p.gather(-1, batch.tokens[:, 1:, None])[:, :, 0]
    first = torch.zeros((batch.size, 1))
    return tuple(torch.cat([first, column], 1) * batch.acted for column in (logp, entropy))  # type: ignore[return-value]


def learn(side: str, model: Any, batch: Batch) -> float:
    """Forward and backward of a policy-gradient loss; the loss."""
    model.zero_grad(set_to_none=True)
    logp, entropy = scored(side, model, batch)
    weight = torch.linspace(-1, 1, batch.size)[:, None]
    loss = (weight * logp).sum() / 100
    loss.backward()  # type: ignore[no-untyped-call]
    return float(loss.detach()) + float(entropy.detach().sum())


def cpu(work: Callable[[], object]) -> float:
    """CPU-seconds of `work`."""
    began = time.process_time()
    work()
    return time.process_time() - began


def sgemm(m: int, k: int, n: int, *, own: bool = False) -> float:
    """Operations per CPU-second of [m, k] @ [k, n] in float32 by PyTorch's product or ours, about 4 · 10⁹ of them."""
    a, b = torch.randn(m, k), torch.randn(k, n)
    times = max(1, round(4e9 / (2 * m * k * n)))
    weight = b.t().contiguous()
    spent = cpu(lambda: [native.linear(a, weight, None) if own else torch.mm(a, b) for _ in range(times)])
    return 2 * m * k * n * times / spent


def compiled(model: Any) -> None:
    """torch.compile of norms and feed-forward parts, whose only moving shape is the number of tokens."""
    for layer in model.model.layers:
        for part in (layer.input_layernorm, layer.post_attention_layernorm, layer.mlp):
            part.compile(dynamic=True)


def measure(name: str, kind: str, repetitions: int, compile_too: bool) -> dict[str, Any]:
    """One model on one kind of work: every side in turns, medians."""
    model = model_of(MODELS[name])
    batch = batch_of(*WORK[name][kind], MODELS[name]["vocab_size"])
    work = operations(model, batch)
    losses, gradients = {}, {}
    for side in SIDES:
        losses[side] = learn(side, model, batch)
        gradients[side] = torch.cat([p.grad.flatten() for p in model.parameters()])
    for side in SIDES[1:]:
        apart = float((gradients[side] - gradients["own"]).norm() / gradients["own"].norm())
        assert apart < 1e-4, (side, apart)
        assert abs(losses[side] - losses["own"]) < 1e-4 * abs(losses["own"]), losses
    other = model_of(MODELS[name])
    sides = [*SIDES, *(["compiled"] if compile_too else [])]
    if compile_too:
        compiled(other)
        learn("packed", other, batch)
    spent: dict[str, list[float]] = {side: [] for side in sides}
    floor: list[float] = []
    d, ff = MODELS[name]["hidden_size"], MODELS[name]["intermediate_size"]
    ours: list[float] = []
    for _ in range(repetitions):
        for side in sides:
            which = other if side == "compiled" else model
            spent[side].append(cpu(lambda s=side, m=which: learn("packed" if s == "compiled" else s, m, batch)))  # type: ignore[misc]
        floor.append(sgemm(2048, 2048, 2048))
        ours.append(sgemm(PASS_TOKENS, d, ff, own=True))
    tokens = int(batch.lengths.sum())
    return {
        "model": name,
        "parameters": sum(p.numel() for p in model.parameters()),
        "work": kind,
        "episodes": batch.size,
        "tokens": tokens,
        "padded_tokens": batch.size * int(batch.lengths.max()),
        "gflop": work / 1e9,
        "repetitions": repetitions,
        "sgemm_2048": statistics.median(floor) / 1e9,
        "own_product": statistics.median(ours) / 1e9,
        "sgemm_own_shapes": {f"{PASS_TOKENS}x{d}x{n}": sgemm(PASS_TOKENS, d, n) / 1e9 for n in (d, ff)},
        "own_product_own_shapes": {f"{PASS_TOKENS}x{d}x{n}": sgemm(PASS_TOKENS, d, n, own=True) / 1e9 for n in (d, ff)},
        "sides": {
            side: {
                "cpu_seconds": statistics.median(spent[side]),
                "tokens_per_second": tokens / statistics.median(spent[side]),
                "share_of_sgemm": statistics.median(
                    [work / took / most for took, most in zip(spent[side], floor, strict=True)]
                ),
                "share_of_own_product": statistics.median(
                    [work / took / most for took, most in zip(spent[side], ours, strict=True)]
                ),
            }
            for side in sides
        },
    }


def steps() -> dict[str, float]:
    """CPU-milliseconds of one optimiser step on the small model, medians of 21."""
    found = {}
    for kind in ("fused", "one at a time", "8 bits"):
        model = model_of(MODELS["0.36 M"])
        parameters = list(model.parameters())
        if kind == "one at a time":
            optimizer: Any = torch.optim.AdamW(parameters, lr=1e-4)
        else:
            name: Any = "adamw" if kind == "fused" else "adamw_8bit"
            optimizer = build_optimizer(model, name, learning_rate=1e-4, betas=(0.9, 0.99), weight_decay=0.0)
        for parameter in parameters:
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()
        found[kind] = 1e3 * statistics.median(cpu(optimizer.step) for _ in range(21))
    return found


def head_memory(chunk: int) -> float:
    """Peak resident MiB that forward and backward of the head add, 512 acted tokens of width 64 and 151,936 words."""
    words, width, acted = 151_936, 64, 512
    layer = torch.nn.Linear(width, words, bias=False)
    hidden = torch.randn(acted, width, requires_grad=True)
    layer.weight.grad = torch.zeros_like(layer.weight)
    # Not getrusage's peak: that begins with what the process which started this one had.
    before = held("VmHWM")
    target = torch.zeros(acted, dtype=torch.int64)
    if chunk:
        logp, entropy, _ = head.acted_scores((hidden, layer), target, 1.0, chunk=chunk)
    else:
        log_p = torch.log_softmax(layer(hidden).float(), -1)
        logp, entropy = log_p.gather(-1, target[:, None])[:, 0], -(log_p.exp() * log_p).sum(-1)
    (logp.sum() + entropy.sum()).backward()  # type: ignore[no-untyped-call]
    return (held("VmHWM") - before) / 2**20


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--head", action="store_true")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--save", action="store_true")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.child is not None:
        print(head_memory(given.child))
        return
    result: dict[str, Any] = {"torch": torch.__version__, "machine": platform.processor() or platform.machine()}
    result["updates"] = []
    for name, kinds in WORK.items():
        for kind in kinds:
            large = name == "27 M"
            one = measure(name, kind, 3 if large else given.repetitions, given.compile and not large)
            result["updates"].append(one)
            print(
                f"{name} {kind}: {one['tokens']} tokens, padded {one['padded_tokens']}; sgemm {one['sgemm_2048']:.0f}, "
                f"own product {one['own_product']:.0f}"
            )
            for side, said in one["sides"].items():
                print(
                    f"  {side:9} {said['tokens_per_second']:9,.0f} tokens/s  {100 * said['share_of_sgemm']:5.1f} %"
                    f"  {100 * said['share_of_own_product']:5.1f} %"
                )
    result["step_milliseconds"] = steps()
    print("optimiser step, ms:", {name: round(ms, 2) for name, ms in result["step_milliseconds"].items()})
    if given.head:
        result["head_mib"] = {}
        for label, chunk in (("whole", 0), ("chunks", head.CHUNK)):
            child = [sys.executable, __file__, "--child", str(chunk)]
            result["head_mib"][label] = float(subprocess.run(child, check=True, capture_output=True, text=True).stdout)
        print("head, MiB added:", {name: round(mib) for name, mib in result["head_mib"].items()})
    if given.save:
        (HERE / "updates.json").write_text(json.dumps(result, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
