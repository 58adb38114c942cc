"""What the starting policy says of saved episodes: asked once, before anything is learned, and kept in the run folder.

Saved episodes come again every epoch and their log-probs under the reference never change. The policy itself is the
reference then, so no second copy of its weights is made, and a resumed run reads the very numbers.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from astarpo.batch import Batch
from astarpo.collate import collate
from astarpo.errors import RunError
from astarpo.journal import write_atomically
from astarpo.policy.huggingface import HuggingFacePolicy
from astarpo.progress import Watch
from astarpo.saved import Part, Saved

FILE = "reference.safetensors"
"""In the folder of a run: `numbers` [P] of the parts, `counts` [P] tokens said in each, `logp` of all these, nats."""


class KeptLogProbs:
    """Log-probs of saved episodes under the reference: read from the run, or found out now and written there.

    Args:
        folder: of the run.
        saved: what it learns from.
        policy: as it was before the first update.
        updates: of the whole run; what they draw is scored and nothing else.
        watch: told of progress.

    Raises:
        RunError: the file is damaged, of other episodes, or cannot be written.
    """

    def __init__(self, folder: Path, saved: Saved, policy: HuggingFacePolicy, *, updates: int, watch: Watch) -> None:
        self._saved, self._parts = saved, saved.parts
        self._found = self._read(folder / FILE) if (folder / FILE).exists() else {}
        wanted = {number for update in range(updates) for number in saved.numbers(update)} - self._found.keys()
        if wanted:
            watch.stage("reference: saved episodes", len(wanted))
            for some in self._batches(wanted):
                self._score(some, policy)
                watch.advance(len(some))
            self._write(folder / FILE)

    def column(self, update: int, batch: Batch) -> Tensor:
        """`Batch.ref_logp`, [B, T], of the batch that `update` (from 0) learns from, its episodes in their order."""
        said = torch.cat([self._found[number] for number in self._saved.numbers(update)])
        whole = torch.zeros_like(batch.behaviour_logp)
        whole[batch.acted] = said.to(whole.device)
        return whole

    def _batches(self, wanted: Collection[int]) -> Iterator[list[int]]:
        """Parts of one temperature, as many at once as an update has; an order that knows nothing of the draw."""
        size = len(self._saved.numbers(0))
        by_temperature: dict[float, list[int]] = {}
        for number in sorted(wanted):
            by_temperature.setdefault(self._parts[number].temperature, []).append(number)
        for numbers in by_temperature.values():
            for first in range(0, len(numbers), size):
                yield numbers[first : first + size]

    @torch.no_grad()
    def _score(self, numbers: list[int], policy: HuggingFacePolicy) -> None:
        parts = [self._parts[number] for number in numbers]
        batch = collate([episode for part in parts for episode in part.episodes], device=policy.device)
        logp = policy.log_probs(batch).logp[batch.acted].cpu()
        self._found |= zip(numbers, torch.split(logp, list(map(_said, parts))), strict=True)

    def _read(self, path: Path) -> dict[int, Tensor]:
        try:
            there = load(path.read_bytes())
            numbers, counts = there["numbers"].tolist(), there["counts"].tolist()
            found = dict(zip(numbers, torch.split(there["logp"], counts), strict=True))
        except (OSError, SafetensorError, KeyError, ValueError, RuntimeError) as error:
            raise RunError(_damaged(path)) from error
        if not self._fit(found.items()):
            raise RunError(_damaged(path))
        return found

    def _fit(self, found: Iterable[tuple[int, Tensor]]) -> bool:
        """Whether there is a finite number for each token that these parts say."""
        return all(
            0 <= number < len(self._parts) and len(logp) == _said(self._parts[number]) and bool(logp.isfinite().all())
            for number, logp in found
        )

    def _write(self, path: Path) -> None:
        plain = {
            "numbers": torch.tensor(list(self._found)),
            "counts": torch.tensor([len(logp) for logp in self._found.values()]),
            "logp": torch.cat(list(self._found.values())),
        }
        write_atomically(path, save(plain))


def _said(part: Part) -> int:
    return sum(len(turn.reply.ids) for episode in part.episodes for turn in episode.turns)


def _damaged(path: Path) -> str:
    return (
        f"{path}, what the reference says of the saved episodes, is damaged or of other episodes: remove it, and they "
        "are scored again."
    )
