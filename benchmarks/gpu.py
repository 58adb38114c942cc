"""Rollouts and updates of Qwen2.5-0.5B and 3B shapes on a CUDA GPU: tokens per second, share of the floor, peak memory.

python benchmarks/gpu.py                       # under 10 minutes on one GPU of 80 GB
python benchmarks/gpu.py --device cpu --tiny   # the same code on a model of 0.1 M parameters, to see that it runs

Weights are random: no download, no network, and no file outside the repository is read. Of packages it needs torch,
transformers and numpy; liger-kernel is used where it is installed, by our side alone. Each side does the same work:
equal prompts, equal numbers of tokens said, equal tokens learned. Times are medians of several runs after one that
does not count.

The goals: an update at 45 % of the GPU's operations (bfloat16, 3B); rollouts at 40 % of what memory bandwidth allows
(3B, 64 episodes); 0.5B is reported.
"""

from __future__ import annotations

import argparse
import gc
import importlib.metadata
import importlib.util
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from astarpo import memory
from astarpo.batch import Batch
from astarpo.memory import FLOAT, HALF, KNOWN, Shape
from astarpo.optimizers import build_optimizer
from astarpo.policy import head, liger, scoring
from astarpo.policy.huggingface import HuggingFacePolicy

PEAKS = {
    "H200": (989e12, 4.8e12),
    "H100 80GB HBM3": (989e12, 3.35e12),
    "H100 NVL": (835e12, 3.9e12),
    "H100 PCIe": (756e12, 2.0e12),
    "A100-SXM4-80GB": (312e12, 2.039e12),
    "A100-SXM4-40GB": (312e12, 1.555e12),
    "A100 80GB PCIe": (312e12, 1.935e12),
    "L40S": (362e12, 0.864e12),
    "RTX 4090": (165e12, 1.008e12),
    "L4": (121e12, 0.3e12),
}
"""Dense bfloat16 operations and bytes of memory per second, as the makers' data sheets state them."""

SHAPES = {"0.5B": KNOWN["Qwen/Qwen2.5-0.5B-Instruct"], "3B": KNOWN["Qwen/Qwen2.5-3B-Instruct"]}
TINY = Shape(hidden=64, layers=2, heads=4, kv_heads=2, head_width=16, feed_forward=128, vocabulary=512, context=2048)
GOALS = {"update": 0.45, "rollout": 0.40}
"""Shares of the floor that are aimed at, for 3B in bfloat16."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print a table, write JSON where asked."""
    asked = _arguments(arguments)
    device = torch.device(asked.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("no CUDA GPU is visible to torch: run this on one, or with --device cpu --tiny", file=sys.stderr)
        return 2
    torch.manual_seed(0)
    machine = about(device)
    shapes = {"tiny": TINY} if asked.tiny else {name: SHAPES[name] for name in asked.models}
    found: dict[str, Any] = {"machine": machine, "work": _work(asked), "models": {}}
    print(json.dumps(machine, indent=2), flush=True)
    for name, shape in shapes.items():
        found["models"][name] = one_model(name, shape, asked, machine)
    if asked.out is not None:
        asked.out.write_text(json.dumps(found, indent=2) + "\n")
    return 0


def _arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N or cpu")
    parser.add_argument("--tiny", action="store_true", help="a model of 0.1 M parameters and little work")
    parser.add_argument("--models", nargs="+", choices=sorted(SHAPES), default=sorted(SHAPES))
    parser.add_argument("--episodes", type=int, default=64, help="episodes side by side in a rollout")
    parser.add_argument("--prompt", type=int, default=512, help="tokens of the first prompt")
    parser.add_argument("--page", type=int, default=384, help="tokens of every later observation")
    parser.add_argument("--said", type=int, default=64, help="tokens of a reply")
    parser.add_argument("--turns", type=int, default=3, help="replies of an episode")
    parser.add_argument("--learned", type=int, default=16384, help="tokens of the batch that is learned from")
    parser.add_argument("--length", type=int, default=1024, help="tokens of an episode that is learned from")
    parser.add_argument("--repeats", type=int, default=3, help="timed runs; their median is told")
    parser.add_argument("--without-trl", action="store_true", help="leave TRL out, where it is installed")
    parser.add_argument("--out", type=Path, help="write everything as JSON here")
    asked = parser.parse_args(given)
    if asked.tiny:
        little = {"episodes": 4, "prompt": 24, "page": 16, "said": 6, "turns": 2, "learned": 256, "length": 64}
        for name, value in little.items():
            setattr(asked, name, min(getattr(asked, name), value))
    return asked


def _work(asked: argparse.Namespace) -> dict[str, Any]:
    return {key: value for key, value in vars(asked).items() if key not in ("out", "models")}


def about(device: torch.device) -> dict[str, Any]:
    """The device, what its maker says of it, and what a product and a copy were measured to reach."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    stated = next((peak for part, peak in PEAKS.items() if part in name), None)
    side = 8192 if device.type == "cuda" else 256
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    product = 2 * side**3 / timed(lambda: a @ b, device, 5)
    source = torch.empty(2**28 if device.type == "cuda" else 2**20, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copied = 2 * source.numel() / timed(lambda: target.copy_(source), device, 5)
    versions = {name: importlib.metadata.version(name) for name in ("torch", "transformers", "numpy")}
    return {
        "device": name,
        "python": sys.version.split()[0],
        **versions,
        "stated_flops": stated[0] if stated else None,
        "stated_bytes_per_second": stated[1] if stated else None,
        "measured_flops": product,
        "measured_bytes_per_second": copied,
    }


def timed(work: Callable[[], Any], device: torch.device, repeats: int) -> float:
    """Median seconds of `work`, after one run that does not count."""
    seconds = []
    for run in range(repeats + 1):
        _wait(device)
        began = time.perf_counter()
        work()
        _wait(device)
        if run:
            seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_of(work: Callable[[], Any], device: torch.device) -> int | None:
    """Most bytes that were allocated while `work` ran; None on a CPU, where nobody counts."""
    if device.type != "cuda":
        work()
        return None
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    work()
    return int(torch.cuda.max_memory_allocated(device))


def policy_of(shape: Shape, device: torch.device) -> HuggingFacePolicy:
    """A Qwen2 of this shape with random weights: bfloat16 on a GPU, float32 on a CPU."""
    sizes: dict[str, Any] = {"head_dim": shape.head_width}
    config = Qwen2Config(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.feed_forward,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        tie_word_embeddings=shape.tied,
        max_position_embeddings=shape.context,
        eos_token_id=0,
        pad_token_id=1,
        bos_token_id=None,
        **sizes,
    )
    half = device.type == "cuda"
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16 if half else torch.float32)
    try:
        with device:
            model: Any = Qwen2ForCausalLM(config)
    finally:
        torch.set_default_dtype(before)
    # Nothing is read or written as text: two words are a tokenizer.
    words = Tokenizer(WordLevel({"<end>": 0, "<pad>": 1, "word": 2}, unk_token="word"))
    words.pre_tokenizer = Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>", pad_token="<pad>")
    return HuggingFacePolicy(model.eval(), tokenizer, rules=False, name="random")


def one_model(name: str, shape: Shape, asked: argparse.Namespace, machine: dict[str, Any]) -> dict[str, Any]:
    """Rollouts and updates of one model, ours and transformers' own, printed as they come."""
    device = torch.device(asked.device)
    policy = policy_of(shape, device)
    width = HALF if device.type == "cuda" else FLOAT
    parameters = sum(p.numel() for p in policy.model.parameters())
    assert parameters == shape.parameters, (parameters, shape.parameters)
    print(f"\n{name}: {parameters:,} parameters, {width} bytes each", flush=True)
    found: dict[str, Any] = {"parameters": parameters, "rollout": rollouts(policy, shape, asked, machine, width)}
    tell("rollout", found["rollout"])
    found["update"] = updates(policy, shape, asked, machine, width)
    tell("update", found["update"])
    if name == "3B":
        share = {"update": found["update"]["mfu"], "rollout": found["rollout"]["share_of_floor"]}
        for what, goal in GOALS.items():
            met = "met" if share[what] is not None and share[what] >= goal else "not met"
            print(f"goal {what}: {goal:.0%} {met}", flush=True)
    del policy
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    if name != "3B":
        found["whole"] = whole(shape, asked)
        tell("whole", found["whole"])
    return found


def tell(what: str, figures: dict[str, Any]) -> None:
    """One line a figure."""
    for key, value in figures.items():
        if isinstance(value, dict):
            continue
        shown = (
            "-"
            if value is None
            else f"{value:,.4g}"
            if isinstance(value, float)
            else f"{value:,}"
            if isinstance(value, int)
            else value
        )
        print(f"  {what:8} {key:40} {shown}", flush=True)


def rollouts(
    policy: HuggingFacePolicy, shape: Shape, asked: argparse.Namespace, machine: dict[str, Any], width: int
) -> dict[str, Any]:
    """Episodes of several turns: our engine, which keeps the cache, and `generate`, which reads the history again."""
    device, rows, slots = policy.device, asked.episodes, list(range(asked.episodes))
    random = np.random.default_rng(0)
    pages = [
        random.integers(2, shape.vocabulary, (rows, asked.prompt if turn == 0 else asked.page)).tolist()
        for turn in range(asked.turns)
    ]
    # An end token would make one side say less: no stop, so every reply has its whole length.
    stops, said = policy.chat.stop, dict[str, float]()
    object.__setattr__(policy.chat, "stop", frozenset())

    def ours() -> None:
        conversations = policy.open([(row,) for row in slots])
        count, saying = 0, 0.0
        for page in pages:
            conversations.extend(slots, page)
            _wait(device)
            began = time.perf_counter()
            count += sum(len(reply.ids) for reply in conversations.reply(slots, asked.said, 1.0))
            _wait(device)
            saying += time.perf_counter() - began
        assert count == rows * asked.turns * asked.said
        said["seconds"] = saying

    def generate() -> None:
        history = torch.empty((rows, 0), dtype=torch.int64, device=device)
        for page in pages:
            history = torch.cat((history, torch.tensor(page, device=device)), 1)
            told = history.shape[1]
            history = policy.model.generate(
                input_ids=history,
                attention_mask=torch.ones_like(history),
                do_sample=True,
                top_k=0,
                max_new_tokens=asked.said,
                min_new_tokens=asked.said,
                eos_token_id=None,
            )
            assert history.shape == (rows, told + asked.said)

    seconds = timed(ours, device, asked.repeats)
    saying = said["seconds"]
    peak = peak_of(ours, device)
    theirs = timed(generate, device, asked.repeats)
    object.__setattr__(policy.chat, "stop", stops)
    tokens = rows * asked.turns * asked.said
    # Positions that a said token sees, on average over turns.
    seen = asked.prompt + (asked.turns - 1) * (asked.page + asked.said) / 2 + asked.said / 2
    bandwidth = machine["stated_bytes_per_second"] or machine["measured_bytes_per_second"]
    floor = asked.turns * asked.said * memory.decode_bytes(shape, rows, seen, width) / bandwidth
    return {
        "said_tokens": tokens,
        "seconds": seconds,
        "said_tokens_per_second": tokens / seconds,
        "said_tokens_per_second_without_reading": tokens / saying,
        "floor_seconds_without_reading": floor,
        "share_of_floor": floor / saying,
        "generate_seconds": theirs,
        "times_faster_than_generate": theirs / seconds,
        "peak_bytes": peak,
    }


def updates(
    policy: HuggingFacePolicy, shape: Shape, asked: argparse.Namespace, machine: dict[str, Any], width: int
) -> dict[str, Any]:
    """One pass over a batch and one step of AdamW: our scoring, and all logits at once as plain transformers has it.

    Ours is tried as `optimizer.microbatch_tokens` and `policy.gradient_checkpointing` allow: the whole batch at once
    and in quarters, with every layer's activations kept, and the whole with layers that forget theirs; the fastest is
    told.
    """
    device, rows = policy.device, max(asked.learned // asked.length, 1)
    batch = batch_of(shape, rows, asked.length, device)
    advantage = torch.linspace(-1, 1, rows, device=device)[:, None]
    acted = int(batch.acted.sum())
    optimizer = build_optimizer(policy.model, "adamw", learning_rate=1e-6, betas=(0.9, 0.99), weight_decay=0.0)

    moved = [parameter for group in optimizer.param_groups for parameter in group["params"]]

    def step(losses: Callable[[], Iterator[torch.Tensor]]) -> None:
        for parameter in moved:
            parameter.grad = None
        for loss in losses():
            loss.backward()
        torch.nn.utils.clip_grad_norm_(moved, 1.0)
        optimizer.step()

    def ours(pieces: int) -> None:
        def losses() -> Iterator[torch.Tensor]:
            for some in torch.arange(rows, device=device).tensor_split(min(pieces, rows)):
                logp = policy.log_probs(batch.take(some), tokens=asked.learned).logp
                yield -(advantage[some] * logp).sum() / acted

        step(losses)

    def plain() -> None:
        def losses() -> Iterator[torch.Tensor]:
            logits = policy.model(input_ids=batch.tokens, use_cache=False).logits[:, :-1].float()
            chosen = torch.log_softmax(logits, -1).gather(-1, batch.tokens[:, 1:, None])[..., 0]
            yield -(advantage * torch.nn.functional.pad(chosen, (1, 0)) * batch.acted).sum() / acted

        step(losses)

    tokens = rows * asked.length
    work = memory.flops(shape, tokens, acted=acted, seen=asked.length / 2, backward=True)
    peak_flops = machine["stated_flops"] or machine["measured_flops"]
    # Weights, gradients and two running means; in bfloat16 float32 copies beside them, as the optimiser keeps them.
    each = 4 * FLOAT if width == FLOAT else HALF + 4 * FLOAT
    kernels = "PyTorch's" if liger.why_not(policy.model) else "Liger's"
    tries: dict[str, dict[str, Any]] = {}

    def attempt(name: str, pieces: int, *, forgetting: bool, fused: bool) -> None:
        try:
            seconds = timed(lambda: ours(pieces), device, asked.repeats)
            peak = peak_of(lambda: ours(pieces), device)
        except torch.OutOfMemoryError:
            tries[name] = {"seconds": None}
            return
        gradients, kept = (
            FLOAT * shape.parameters,
            memory.activations(shape, tokens // pieces, width, checkpointing=forgetting, fused=fused),
        )
        # In one piece gradients come as activations go; a later piece finds them there.
        held = (each - FLOAT) * shape.parameters + (max(gradients, kept) if pieces == 1 else gradients + kept)
        # A chunk of logits with what stands beside it, and the head's gradient in float32 and handed on.
        logits = 16 * min(acted * shape.vocabulary, max(head.chunk_on(device), shape.vocabulary))
        logits += shape.vocabulary * shape.hidden * (FLOAT + (width if width != FLOAT else 0))
        tries[name] = {"seconds": seconds, "peak_bytes": peak, "predicted_bytes": held + logits}

    # The peer first, before its layers are given other kernels. transformers asks the layers whether they train before
    # it forgets their activations; there is no dropout.
    scoring.forget_activations(policy.model)
    policy.model.train()
    try:
        theirs: float | None = timed(plain, device, asked.repeats)
        their_peak = peak_of(plain, device)
    except torch.OutOfMemoryError:
        theirs, their_peak = None, None
    policy.model.eval()
    attempt("whole, layers forget, PyTorch's kernels", 1, forgetting=True, fused=False)
    fused = not liger.why_not(policy.model)
    if fused:
        assert liger.attach(policy.model) == ""
        attempt("whole, layers forget", 1, forgetting=True, fused=True)
    for layer in policy.model.modules():
        if getattr(layer, "gradient_checkpointing", False):
            layer.gradient_checkpointing = False
    attempt("quarters, all kept", 4, forgetting=False, fused=fused)
    attempt("whole, all kept", 1, forgetting=False, fused=fused)
    for name, figures in tries.items():
        tell(name, figures)
    how = min((name for name in tries if tries[name]["seconds"]), key=lambda name: tries[name]["seconds"])
    seconds, peak = tries[how]["seconds"], tries[how]["peak_bytes"]
    return {
        "how": how,
        "kernels": kernels,
        "tries": tries,
        "tokens": tokens,
        "acted_tokens": acted,
        "seconds": seconds,
        "tokens_per_second": tokens / seconds,
        "mfu": work / seconds / peak_flops,
        "mfu_of_the_measured_product": work / seconds / machine["measured_flops"],
        "peak_bytes": peak,
        "predicted_bytes": tries[how]["predicted_bytes"],
        "plain_seconds": theirs,
        "plain_peak_bytes": their_peak,
        "times_faster_than_plain": None if theirs is None else theirs / seconds,
    }


def whole(shape: Shape, asked: argparse.Namespace) -> dict[str, Any]:
    """Whole updates of one-turn episodes, eight attempts at each prompt: ours, and TRL's GRPOTrainer where it is there.

    Both read, say and learn from the same numbers of tokens, without a reference, by AdamW with float32 states.
    """
    device, rows = torch.device(asked.device), max(asked.episodes // 8, 1) * 8
    policy = policy_of(shape, device)
    if not liger.why_not(policy.model):
        assert liger.attach(policy.model) == ""
    optimizer = build_optimizer(policy.model, "adamw", learning_rate=1e-6, betas=(0.9, 0.999), weight_decay=0.0)
    moved = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    prompts = [[2] * asked.prompt for _ in range(rows)]
    advantage = torch.where(torch.arange(rows, device=device) % 2 == 0, 1.0, -1.0)[:, None]
    object.__setattr__(policy.chat, "stop", frozenset())

    def ours() -> None:
        conversations = policy.open([(row,) for row in range(rows)])
        conversations.extend(range(rows), prompts)
        said = [reply.ids for reply in conversations.reply(range(rows), asked.said, 1.0)]
        assert all(len(ids) == asked.said for ids in said)
        ids = [[*prompt, *reply] for prompt, reply in zip(prompts, said, strict=True)]
        batch = batch_of(shape, rows, asked.prompt + asked.said, device, (ids, asked.prompt))
        for parameter in moved:
            parameter.grad = None
        (-(advantage * policy.log_probs(batch, tokens=asked.learned).logp).sum() / rows / asked.said).backward()
        torch.nn.utils.clip_grad_norm_(moved, 1.0)
        optimizer.step()

    seconds = timed(ours, device, asked.repeats)
    theirs = trl_seconds(shape, asked, rows)
    return {
        "episodes": rows,
        "seconds": seconds,
        "trl_seconds": theirs,
        "times_faster_than_trl": None if theirs is None else theirs / seconds,
    }


def trl_seconds(shape: Shape, asked: argparse.Namespace, rows: int) -> float | None:
    """Median seconds of one update of TRL's GRPOTrainer; None where TRL is not installed or not wanted."""
    if asked.without_trl or importlib.util.find_spec("trl") is None or importlib.util.find_spec("datasets") is None:
        return None
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    device, ends = torch.device(asked.device), list[float]()
    policy = policy_of(shape, device)
    # Its trainer keeps float32 weights and computes in bfloat16.
    policy.model.float()

    class Clock(TrainerCallback):
        """Notes when a step ends."""

        def on_step_end(self, *_: Any, **__: Any) -> None:
            """After each step."""
            _wait(device)
            ends.append(time.perf_counter())

    def reward(completions: list[str], **_: Any) -> list[float]:
        return [float(number % 2) for number in range(len(completions))]

    with tempfile.TemporaryDirectory() as folder:
        config = GRPOConfig(
            output_dir=folder,
            per_device_train_batch_size=rows,
            num_generations=8,
            max_completion_length=asked.said,
            max_steps=asked.repeats + 1,
            learning_rate=1e-6,
            beta=0.0,
            bf16=device.type == "cuda",
            use_cpu=device.type == "cpu",
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            generation_kwargs={"min_new_tokens": asked.said},
        )
        text = " ".join(["word"] * asked.prompt)
        data = Dataset.from_dict({"prompt": [text] * (rows // 8 * (asked.repeats + 1))})
        trainer = GRPOTrainer(
            policy.model,
            reward_funcs=reward,
            args=config,
            train_dataset=data,
            processing_class=policy.tokenizer,
            callbacks=[Clock()],
        )
        trainer.train()
    return statistics.median(after - before for before, after in itertools.pairwise(ends))


def batch_of(
    shape: Shape,
    rows: int,
    length: int,
    device: torch.device,
    given: tuple[list[list[int]], int] | None = None,
) -> Batch:
    """`rows` episodes of `length` tokens.

    Args:
        shape: of the model.
        rows, length: of the batch.
        device: where it goes.
        given: their ids, and how many of each were read before the rest was said; None for random ones, of which the
            last quarter of every quarter was said, as in a dialogue.
    """
    stretch = max(length // 4, 1)
    said = (torch.arange(length) % stretch >= 3 * stretch // 4).expand(rows, -1).clone()
    tokens = torch.randint(2, shape.vocabulary, (rows, length), generator=torch.Generator().manual_seed(0))
    if given is not None:
        tokens = torch.tensor(given[0])
        said = (torch.arange(length) >= given[1]).expand(rows, -1).clone()
    return Batch(
        tokens=tokens.to(device),
        lengths=torch.full((rows,), length),
        acted=said.to(device),
        turn=torch.where(said, 0, -1).to(device),
        behaviour_logp=torch.where(said, -1.0, 0.0).to(device),
        reward=torch.zeros(rows, device=device),
        success=torch.zeros(rows, dtype=torch.bool, device=device),
        task=torch.zeros(rows, dtype=torch.int64, device=device),
        temperature=1.0,
    )


if __name__ == "__main__":
    sys.exit(main())
