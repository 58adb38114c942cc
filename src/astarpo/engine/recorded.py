"""Steps recorded once as a CUDA graph and replayed: one launch for the thousand kernels of a step.

Saying one token takes a GPU some milliseconds, of which it would wait for the host to name kernel after kernel. A
recording holds addresses and sizes, so it is good for one cache, for as long as its keys stay where they are, and for a
number of positions that attention spans; that number is rounded up, and what is beyond a row's own is masked.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from astarpo.engine.slots import SlotCache

SPAN = 256
"""Positions that a recording spans are a multiple of this: fewer recordings against longer rows of attention."""

LEAST_FREE = 1 / 16
"""Share of the GPU's memory that must be free for a recording; where it is not, the allocator gives back what it keeps.

While it records, the allocator takes new memory alone: what an update left with it would be out of reach.
"""

Step = Callable[[SlotCache, Tensor, Tensor, int], Tensor]
"""(cache, ids [rows], positions [rows], positions spanned) → logits [rows, V]."""


class RecordedSteps:
    """Runs steps of all rows of a cache, each shape of them recorded when it first comes.

    Args:
        step: what is recorded; it must not ask the device for anything.
    """

    def __init__(self, step: Step) -> None:
        self._step = step
        self._cache: weakref.ref[SlotCache] | None = None
        self._moved = -1
        self._ids = self._position = torch.empty(0)
        self._logits: Tensor | None = None
        self._recordings: dict[int, torch.cuda.CUDAGraph] = {}
        self._pool: Any = None

    def forget(self) -> None:
        """Drop all recordings: weights or keys are elsewhere now."""
        self._cache, self._recordings, self._pool, self._logits = None, {}, None, None

    def _gone(self, _: weakref.ref[SlotCache]) -> None:
        self.forget()

    def step(self, cache: SlotCache, ids: Tensor, seen: int) -> Tensor:
        """Append `ids` [rows] at the rows' ends; see `Forward.step`.

        Returns:
            Logits [rows, V], in a place that the next step writes to.
        """
        if self._cache is None or self._cache() is not cache or self._moved != cache.moved:
            self.forget()
            # What recordings hold, learning can use once the rollout is over.
            self._cache, self._moved = weakref.ref(cache, self._gone), cache.moved
            self._ids = torch.zeros(cache.rows, dtype=torch.int64, device=cache.device)
            self._position = torch.zeros_like(self._ids)
            self._pool = torch.cuda.graph_pool_handle()
        self._ids.copy_(ids)
        self._position.copy_(torch.from_numpy(cache.lengths))
        span = min(-(-seen // SPAN) * SPAN, cache.capacity)
        recording = self._recordings.get(span)
        if recording is None:
            recording = self._recordings[span] = self._record(cache, span)
        recording.replay()
        assert self._logits is not None
        return self._logits

    def _record(self, cache: SlotCache, span: int) -> torch.cuda.CUDAGraph:
        # A first run outside the recording lets libraries set themselves up. It writes what the replay writes again.
        aside: Any = torch.cuda.Stream(cache.device)  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream(cache.device))
        with torch.cuda.stream(aside):
            found = self._step(cache, self._ids, self._position, span)
        torch.cuda.synchronize(cache.device)
        if self._logits is None:
            # One for all recordings: each holding its own could come to gigabytes.
            self._logits = torch.empty_like(found)
        del found
        # `torch.cuda.graph` would always empty the allocator's cache, which costs more than the recording.
        free, whole = torch.cuda.mem_get_info(cache.device)
        if free < LEAST_FREE * whole:
            torch.cuda.empty_cache()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.stream(aside):
            graph.capture_begin(pool=self._pool)
            try:
                self._logits.copy_(self._step(cache, self._ids, self._position, span))
            finally:
                graph.capture_end()
        torch.cuda.current_stream(cache.device).wait_stream(aside)
        return graph
