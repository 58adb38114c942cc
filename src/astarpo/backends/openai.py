"""A chat endpoint as the player: messages instead of ids, no weights, no log-probs; for evaluation only."""

from __future__ import annotations

import hashlib
import json
import math
import os
import threading
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from astarpo.backends.tokens import ListedConversations
from astarpo.backends.wire import Pool, Wire
from astarpo.chat import Chat
from astarpo.errors import BackendError, SettingsError
from astarpo.generation import EndpointSettings
from astarpo.types import Reply

PREFIX = "openai:"
"""What a policy's name begins with where an endpoint plays; its model's name follows."""

USER, ASSISTANT = -1, -2
"""Where a message of each side begins among the pieces of a conversation."""

PIECE = 4
"""Bytes of text in one piece. A token of English is about as long, so limits in tokens stay meaningful."""


class Pieces(Chat):
    """Text as numbers that give it back: an endpoint does not tell how it cuts text into tokens."""

    @classmethod
    def plain(cls) -> Pieces:
        """For any endpoint."""
        return cls((USER,), (ASSISTANT,), (USER,), (ASSISTANT,), frozenset(), None)

    def encode(self, text: str) -> list[int]:
        """The pieces of `text`: its bytes four by four, and how many there are."""
        # A lone surrogate has no bytes of its own.
        said = text.encode("utf-8", "replace")
        cut = [said[at : at + PIECE] for at in range(0, len(said), PIECE)]
        return [int.from_bytes(piece, "little") << 3 | len(piece) for piece in cut]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of pieces."""
        return b"".join((piece >> 3).to_bytes(piece & 7, "little") for piece in ids).decode("utf-8")

    def messages(self, ids: Sequence[int]) -> list[dict[str, str]]:
        """A conversation as an endpoint takes it; a last message of the assistant's that is empty is yet to come."""
        said: list[tuple[str, list[int]]] = []
        for piece in ids:
            if piece in (USER, ASSISTANT):
                said.append(("user" if piece == USER else "assistant", []))
            else:
                said[-1][1].append(piece)
        if said and said[-1][0] == "assistant" and not said[-1][1]:
            said.pop()
        return [{"role": role, "content": self.decode(pieces)} for role, pieces in said]


@dataclass
class Bill:
    """What the endpoint counted.

    Attributes:
        requests: answered by it, not by the kept answers.
        kept: answered from the kept answers.
        read, said: tokens, by its own count.
    """

    requests: int = 0
    kept: int = 0
    read: int = 0
    said: int = 0


class EndpointPlayer:
    """Plays through an endpoint; see `Player`.

    Args:
        model: its name there.
        settings: where it is and how it is asked.
        rules: whether an environment's rules are told.

    Raises:
        SettingsError: the key cannot be sent.
        BackendError: the address cannot be read, or the file of kept answers.
    """

    version = 0
    model = None

    def __init__(self, model: str, settings: EndpointSettings, *, rules: bool) -> None:
        self.name, self.rules, self._settings = f"{PREFIX}{model}", rules, settings
        self._model = model
        self.chat = Pieces.plain()
        key = os.environ.get(settings.key_variable, "").strip()
        if not (key.isascii() and key.isprintable()):
            raise SettingsError(
                f"the key in the environment variable {settings.key_variable} has characters that no header can carry, "
                "such as a line break or a letter with an accent: set it anew."
            )
        unset = "" if key else f", where no key was sent because {settings.key_variable} is not set"
        self._wire = Wire(
            settings.base_url,
            name=f"the endpoint {settings.base_url}",
            timeout=settings.timeout,
            retries=settings.retries,
            wait=settings.longest_wait,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            advice=f"see to it{unset}; "
            + (
                f"what it answered is in {settings.answers}, so the same command goes on from there."
                if settings.answers
                else "rollout.openai.answers=FILE keeps what it answers for the next try."
            ),
        )
        self._pool = Pool(settings.concurrency, "endpoint")
        self._kept = Answers(Path(settings.answers)) if settings.answers else None
        self.bill, self._lock = Bill(), threading.Lock()

    def open(self, keys: Sequence[tuple[int, ...]]) -> EndpointConversations:
        """Start `len(keys)` empty conversations."""
        return EndpointConversations(self, keys, self._pool)

    def report(self) -> dict[str, float]:
        """What it took: requests, tokens by the endpoint's count, and the cost where prices are given."""
        bill, own = self.bill, self._settings
        told: dict[str, float] = {
            "requests": bill.requests,
            "answers_kept": bill.kept,
            "retries": self._wire.retried,
            "tokens_read": bill.read,
            "tokens_said": bill.said,
        }
        if own.price_read or own.price_said:
            told["cost"] = (bill.read * own.price_read + bill.said * own.price_said) / 1e6
        return told

    def say(self, ids: Sequence[int], seed: int, max_tokens: int, temperature: float) -> Reply:
        """One reply to a conversation; safe to call from several threads.

        Raises:
            BackendError: the endpoint refused, failed, did not answer or answered nonsense.
        """
        question = {
            "model": self._model,
            "messages": self.chat.messages(ids),
            "temperature": temperature,
            self._settings.limit_name: max_tokens,
            "seed": seed,
        }
        text, complete = self._answer(question)
        pieces = tuple(self.chat.encode(text))
        # Nobody knows them, and whoever took one for a number would see.
        return Reply(pieces, (math.nan,) * len(pieces), text, complete)

    def close(self) -> None:
        """Hang up."""
        self._pool.close()
        self._wire.close()

    def _answer(self, question: dict[str, Any]) -> tuple[str, bool]:
        asked = {"base_url": self._wire.base, **question}
        if self._kept is not None and (found := self._kept.find(asked)) is not None:
            with self._lock:
                self.bill.kept += 1
            return found
        answer = self._wire.ask("/chat/completions", question)
        text, complete, read, said = self._wire.read(answer, _said)
        with self._lock:
            self.bill.requests += 1
            self.bill.read += read
            self.bill.said += said
        if self._kept is not None:
            self._kept.keep(asked, text, complete)
        return text, complete


class EndpointConversations(ListedConversations):
    """Open conversations with an endpoint, as pieces of text; see `Conversations`."""

    def __init__(self, player: EndpointPlayer, keys: Sequence[tuple[int, ...]], pool: Pool) -> None:
        super().__init__(keys)
        self._player, self._pool = player, pool
        self._under_way: dict[Future[Reply], int] = {}

    def ask(self, slots: Sequence[int], max_tokens: int, temperature: float) -> None:
        """Ask for a reply in each of `slots`; `step` says it."""
        for slot in slots:
            asked = (tuple(self._ids[slot]), self._next_seed(slot), max_tokens, temperature)
            self._under_way[self._pool.submit(self._player.say, *asked)] = slot

    def step(self) -> list[tuple[int, Reply]]:
        """Wait for replies under way; those that have come, by slot. Raises BackendError where one will not."""
        done, _ = wait(self._under_way, return_when=FIRST_COMPLETED)
        ended = []
        for future in done:
            slot = self._under_way.pop(future)
            try:
                said = future.result()
            except BackendError:
                for other in self._under_way:
                    other.cancel()
                # Answers under way are paid for: they are waited for, and kept.
                wait(self._under_way)
                raise
            self._ids[slot] += said.ids
            ended.append((slot, said))
        return ended


class Answers:
    """Every answer of an endpoint, one line each, by a digest of the whole question.

    Raises:
        BackendError: the file cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.Lock()
        self._found: dict[str, tuple[str, bool]] = {}
        lines: list[str] = []
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists():
                whole = path.read_bytes()
                lines = whole.decode("utf-8").splitlines()
                if lines and not whole.endswith(b"\n"):
                    # A kill cut the last line short; what is written next must not be glued to it.
                    os.truncate(path, whole.rfind(b"\n") + 1)
                    lines.pop()
            for line in lines:
                kept = json.loads(line)
                self._found[str(kept["question"])] = (str(kept["text"]), bool(kept["complete"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BackendError(
                f"{path}, the kept answers of an endpoint, cannot be read ({error}): mend it, or name another file in "
                "rollout.openai.answers."
            ) from error

    def find(self, question: dict[str, Any]) -> tuple[str, bool] | None:
        """Text and whether it is complete; None where it was never answered."""
        return self._found.get(_digest(question))

    def keep(self, question: dict[str, Any], text: str, complete: bool) -> None:
        """Write an answer down. Raises BackendError where it cannot be written."""
        name = _digest(question)
        line = json.dumps({"question": name, "text": text, "complete": complete})
        with self._lock:
            self._found[name] = (text, complete)
            try:
                with self._path.open("a", encoding="utf-8") as file:
                    file.write(line + "\n")
            except OSError as error:
                raise BackendError(
                    f"cannot write {self._path}: {error.strerror or error}; make room, or name another file in "
                    "rollout.openai.answers."
                ) from error


def _digest(question: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(question, sort_keys=True).encode()).hexdigest()[:32]


def _said(answer: Any) -> tuple[str, bool, int, int]:
    """Text, whether it is complete, tokens read and said; 0 where the endpoint does not count."""
    choice = answer["choices"][0]
    text = choice["message"]["content"]
    if text is not None and not isinstance(text, str):
        raise TypeError("content must be text")
    usage = answer.get("usage") or {}
    complete = choice.get("finish_reason") != "length"
    return text or "", complete, int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
