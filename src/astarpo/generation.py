"""Which engine generates replies, and its settings: ours, vLLM beside the trainer or as a server, or an endpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field

from astarpo.settings import Settings, When

BackendName = Literal["huggingface", "vllm", "openai"]


class EndpointSettings(Settings):
    """A chat endpoint as OpenAI's is: it plays, and is never trained."""

    base_url: str = Field(
        "https://api.openai.com/v1", description="of the endpoint, up to /chat/completions, which is added"
    )
    key_variable: str = Field(
        "OPENAI_API_KEY",
        description="environment variable that holds the key; the key itself is never written down. Where it is not "
        "set, none is sent",
    )
    concurrency: int = Field(16, ge=1, le=1024, description="requests under way at once")
    timeout: float = Field(120.0, gt=0, le=86400, description="seconds without an answer after which one has failed")
    retries: int = Field(
        6, ge=0, le=100, description="times a request is made again where the endpoint is busy, fails or is away"
    )
    longest_wait: float = Field(
        60.0, ge=0, le=3600, description="longest pause before asking again, seconds, whatever the endpoint asks for"
    )
    limit_name: Literal["max_tokens", "max_completion_tokens"] = Field(
        "max_tokens", description="what the endpoint calls the limit on a reply's tokens"
    )
    price_read: float = Field(0.0, ge=0, le=1e6, description="price of a million tokens read; 0 counts no cost")
    price_said: float = Field(0.0, ge=0, le=1e6, description="price of a million tokens said; 0 counts no cost")
    answers: str = Field(
        "",
        description="file that keeps every answer, so that no question is paid twice when an evaluation was stopped or "
        "is made again; empty: none are kept",
    )


class VllmSettings(Settings):
    """vLLM generates: in this process, or behind a server that someone started."""

    url: str = Field(
        "",
        description="of a server that serves this model, for example http://127.0.0.1:8000; empty: vLLM runs in this "
        "process",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="precision that vLLM computes in, in this process; auto: that of policy.dtype"
    )
    tolerance: float | None = Field(
        None,
        gt=0,
        le=100,
        description="nats that log-probs of the probe may differ between vLLM and the trainer, more stops the run; "
        "unset: 0.001 in float32, 0.2 otherwise",
    )
    kv_cache_gib: float = Field(
        1.0, gt=0, le=10_000, description="memory for keys and values where vLLM runs in this process, GiB"
    )
    requests: int = Field(256, ge=1, le=65536, description="replies that vLLM works on at once")
    eager: bool = Field(
        False, description="run the model as it is, without compiling or CUDA graphs, where vLLM runs in this process"
    )
    timeout: float = Field(
        300.0, gt=0, le=86400, description="seconds without any answer after which a server counts as hung"
    )
    shared: str = Field(
        "",
        description="folder that this process and the server both see, through which weights are handed over; empty: "
        "the system's folder for temporary files",
    )

    def allowed(self, dtype: str) -> float:
        """The tolerance in force where the policy's weights are `dtype`, nats."""
        if self.tolerance is not None:
            return self.tolerance
        return 0.001 if (dtype if self.dtype == "auto" else self.dtype) == "float32" else 0.2

    effects: ClassVar[Mapping[str, When]] = {
        **dict.fromkeys(("dtype", "kv_cache_gib", "eager"), When("url is empty", lambda settings: not settings.url)),
        **dict.fromkeys(("timeout", "shared"), When("url names a server", lambda settings: bool(settings.url))),
    }
