"""vLLM as a server (`vllm serve`): ids in and out over HTTP, weights through a folder that both sides see.

The server must have been started with VLLM_SERVER_DEV_MODE=1, which opens the calls that reload weights and forget
cached keys, and with `--logprobs-mode processed_logprobs`.
"""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

from astarpo.backends.tokens import Request, Said
from astarpo.backends.vllm import whole
from astarpo.backends.wire import Pool, Wire
from astarpo.errors import BackendError
from astarpo.policy.huggingface import HuggingFacePolicy
from astarpo.run import Run

RETRIES = 2


class Server:
    """A running server.

    Raises:
        BackendError: it does not answer, or serves no model.
    """

    def __init__(self, run: Run) -> None:
        settings = run.rollout.vllm
        self.name = f"the vLLM server at {settings.url}"
        self._wire = Wire(
            settings.url,
            name=self.name,
            timeout=settings.timeout,
            retries=RETRIES,
            advice="see to the server and start again; training goes on from the last checkpoint with "
            "`train --resume`.",
        )
        models = self._wire.ask("/v1/models", quick=True)
        self._model = self._wire.read(models, lambda found: str(found["data"][0]["id"]))
        self._pool = Pool(settings.requests, "vllm")
        self._under_way: dict[Future[Said], int] = {}
        self._shared = Path(settings.shared) if settings.shared else None

    def push(self, policy: HuggingFacePolicy) -> None:
        """Hand over the policy's weights and have the server forget every cached key."""
        new = self._written(policy)
        try:
            self._wire.ask("/collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": str(new)}})
        finally:
            shutil.rmtree(new, ignore_errors=True)
        cleared = self._wire.ask("/reset_prefix_cache", {})
        if isinstance(cleared, dict) and not cleared.get("success", True):
            raise BackendError(f"{self.name} kept keys of older weights: let no one else use it, then resume the run.")

    def submit(self, number: int, request: Request) -> None:
        """Begin a reply."""
        self._under_way[self._pool.submit(self._say, request)] = number

    def finished(self) -> list[tuple[int, Said]]:
        """Wait until one reply at least is there; all that are."""
        done, _ = wait(self._under_way, return_when=FIRST_COMPLETED)
        numbers = [(self._under_way.pop(one), one) for one in done]
        try:
            return [(number, one.result()) for number, one in numbers]
        except BackendError:
            self.abandon()
            raise

    def abandon(self) -> None:
        """Drop the replies under way."""
        for one in self._under_way:
            one.cancel()
        self._under_way.clear()

    def close(self) -> None:
        """Hang up. The server goes on."""
        self._pool.close()
        self._wire.close()

    def _written(self, policy: HuggingFacePolicy) -> Path:
        """A folder with the policy's weights."""
        new: Path | None = None
        try:
            new = Path(tempfile.mkdtemp(prefix="astarpo-weights-", dir=self._shared))
            # The server may run as someone else.
            new.chmod(0o755)
            model = whole(policy)
            model.save_pretrained(new, state_dict=untied(model.state_dict()))
        except (OSError, SafetensorError) as error:
            if new is not None:
                shutil.rmtree(new, ignore_errors=True)
            why = getattr(error, "strerror", None) or error
            raise BackendError(
                f"cannot write weights for {self.name}: {why}; make room, or name another folder in "
                "rollout.vllm.shared."
            ) from error
        return new

    def _say(self, request: Request) -> Said:
        answer = self._wire.ask(
            "/v1/completions",
            {
                "model": self._model,
                "prompt": list(request.ids),
                "max_tokens": request.max_tokens,
                "temperature": request.temperature,
                "seed": request.seed,
                "stop_token_ids": sorted(request.stop),
                "ignore_eos": True,
                "logprobs": 0,
                "return_token_ids": True,
                # What a model's own generation settings would change where nothing is said.
                "top_p": 1.0,
                "top_k": -1,
                "min_p": 0.0,
                "repetition_penalty": 1.0,
                "presence_penalty": 0.0,
                "frequency_penalty": 0.0,
            },
        )
        said: Said = self._wire.read(answer, _said)
        return said


def untied(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`weights`, those that share memory copied, so that a file keeps them under each of their names.

    On a processor vLLM holds a tied head in a form of its own, which it makes anew only when it reads the head's name:
    else the head would stay that of older weights.
    """
    seen, found = set[int](), dict[str, Tensor]()
    for name, tensor in weights.items():
        found[name] = tensor.clone() if tensor.data_ptr() in seen else tensor
        seen.add(tensor.data_ptr())
    return found


def _said(answer: Any) -> Said:
    choice = answer["choices"][0]
    ids = tuple(int(token) for token in choice["token_ids"])
    log_probs = tuple(float(nat) for nat in choice["logprobs"]["token_logprobs"])
    if not ids or len(ids) != len(log_probs) or not all(map(math.isfinite, log_probs)):
        raise ValueError("as many log-probs as ids are wanted")
    return Said(ids, log_probs)
