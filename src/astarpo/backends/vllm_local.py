"""vLLM in this process: weights are handed over as tensors."""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from astarpo.backends.tokens import Request, Said
from astarpo.backends.vllm import whole
from astarpo.errors import BackendError, SettingsError
from astarpo.policy.huggingface import HuggingFacePolicy
from astarpo.run import Run


def require_vllm() -> None:
    """Raises SettingsError where vLLM is not installed."""
    if importlib.util.find_spec("vllm") is None:
        raise SettingsError(
            "rollout.backend is vllm and no vllm is installed here: install it beside astarpo (docs/backends.md), name "
            "a server with rollout.vllm.url, or leave rollout.backend at huggingface."
        )


class Local:
    """A `vllm.LLM` without weights of its own: a dummy of the policy's shape, filled by `push`.

    Raises:
        BackendError: vLLM cannot run this model here.
    """

    name = "vLLM"

    def __init__(self, run: Run, policy: HuggingFacePolicy) -> None:
        settings = run.rollout.vllm
        # One process: weights are then handed over as they are. Read by vLLM when it is imported.
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        self._asked = set[int]()
        shape = Path(tempfile.mkdtemp(prefix="astarpo-vllm-"))
        try:
            self._vllm: Any = importlib.import_module("vllm")
            policy.model.config.save_pretrained(shape)
            self._llm: Any = self._vllm.LLM(
                model=str(shape),
                skip_tokenizer_init=True,
                load_format="dummy",
                dtype=run.policy.dtype if settings.dtype == "auto" else settings.dtype,
                max_model_len=run.rollout.longest,
                max_num_seqs=settings.requests,
                kv_cache_memory_bytes=int(settings.kv_cache_gib * 2**30),
                enforce_eager=settings.eager,
                enable_prefix_caching=True,
                # A prompt read in parts makes vLLM rewind its request's generator, which raises on a processor.
                enable_chunked_prefill=torch.cuda.is_available(),
                # Those at the sampling temperature; vLLM's default are those before it.
                logprobs_mode="processed_logprobs",
                generation_config="vllm",
                seed=run.seed,
                disable_log_stats=True,
            )
        except Exception as error:
            raise BackendError(
                f"vLLM cannot run {policy.name or 'this model'} here ({_first_line(error)}): choose rollout.backend "
                "huggingface, or mend what it names."
            ) from error
        finally:
            shutil.rmtree(shape, ignore_errors=True)

    def push(self, policy: HuggingFacePolicy) -> None:
        """Take the policy's weights and forget every cached key."""
        try:
            self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": weights(policy)})
        except Exception as error:
            raise BackendError(
                f"vLLM did not take the policy's weights ({_first_line(error)}): the run stands at its last "
                "checkpoint; go on with `train --resume`, or choose rollout.backend huggingface."
            ) from error
        if not self._llm.reset_prefix_cache():
            raise BackendError(
                "vLLM kept keys of older weights in its prefix cache: go on with `train --resume`, or choose "
                "rollout.backend huggingface."
            )

    def submit(self, number: int, request: Request) -> None:
        """Begin a reply."""
        sampling = self._vllm.SamplingParams(
            temperature=request.temperature,
            seed=request.seed,
            max_tokens=request.max_tokens,
            stop_token_ids=sorted(request.stop),
            ignore_eos=True,
            logprobs=0,
            detokenize=False,
        )
        self._llm.llm_engine.add_request(str(number), {"prompt_token_ids": list(request.ids)}, sampling)
        self._asked.add(number)

    def finished(self) -> list[tuple[int, Said]]:
        """Wait until one reply at least is there; all that are."""
        try:
            while self._llm.llm_engine.has_unfinished_requests():
                ended = [output for output in self._llm.llm_engine.step() if output.finished]
                if ended:
                    self._asked -= {int(output.request_id) for output in ended}
                    return [(int(output.request_id), _said(output.outputs[0])) for output in ended]
        except Exception as error:
            raise BackendError(
                f"vLLM stopped while it generated ({_first_line(error)}): the run stands at its last checkpoint; go on "
                "with `train --resume`."
            ) from error
        raise BackendError("vLLM was asked for a reply and has none under way: go on with `train --resume`.")

    def abandon(self) -> None:
        """Drop the replies under way."""
        if self._asked:
            self._llm.llm_engine.abort_request([str(number) for number in sorted(self._asked)])
            self._asked.clear()

    def close(self) -> None:
        """Stop it."""
        self._llm.llm_engine.engine_core.shutdown()


def weights(policy: HuggingFacePolicy) -> Iterator[tuple[str, Tensor]]:
    """The policy's weights by the names that a saved model gives them."""
    yield from whole(policy).state_dict().items()


def _said(output: Any) -> Said:
    ids = tuple(int(token) for token in output.token_ids)
    return Said(ids, tuple(float(at[token].logprob) for at, token in zip(output.logprobs, ids, strict=True)))


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
