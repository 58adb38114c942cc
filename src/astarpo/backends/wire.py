"""JSON over HTTP to an engine elsewhere: bounded, patient where that helps, and one sentence where it does not."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, ParamSpec, TypeVar

import httpx

from astarpo.errors import BackendError

P = ParamSpec("P")
T = TypeVar("T")

BUSY = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
"""Answers after which asking again may help."""


class Wire:
    """Asks one server. Safe to use from several threads.

    Args:
        base: address that paths are added to.
        name: what messages call the server.
        timeout: seconds without an answer after which a call has failed.
        retries: times a call is made again where the server is busy, fails or is out of reach.
        wait: longest pause before asking again, seconds.
        headers: sent with every call.
        advice: ends every message: what the user can do.
    """

    def __init__(
        self,
        base: str,
        *,
        name: str,
        timeout: float,
        retries: int = 0,
        wait: float = 60.0,
        headers: Mapping[str, str] | None = None,
        advice: str,
    ) -> None:
        self.base, self.name, self._timeout, self._retries, self._wait = base.rstrip("/"), name, timeout, retries, wait
        self._advice = advice
        self.retried = 0
        self._lock, self._closed = threading.Lock(), threading.Event()
        try:
            address = httpx.URL(self.base)
        except httpx.InvalidURL:
            address = httpx.URL("")
        if address.scheme not in ("http", "https") or not address.host:
            raise BackendError(f"{name} has an address that cannot be read, {base!r}: write http://HOST:PORT.")
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=256)
        self._client = httpx.Client(headers=dict(headers or {}), timeout=timeout, limits=limits)

    def ask(self, path: str, body: Mapping[str, Any] | None = None, *, quick: bool = False) -> Any:
        """What the server answers to `body`, or to a plain look where that is None, read from JSON; None where empty.

        Args:
            path: after the base.
            body: JSON values.
            quick: whether to try once, for at most ten seconds.

        Raises:
            BackendError: it refused, failed to the end, did not answer, or answered what is no JSON.
        """
        tries = 0
        while True:
            try:
                return self._once(path, body, min(10.0, self._timeout) if quick else self._timeout)
            except _Again as problem:
                if quick or tries >= self._retries or self._closed.is_set():
                    after = f" after {tries + 1} tries" if tries else ""
                    raise BackendError(f"{self.name} {problem.what}{after}: {self._advice}") from problem
                tries += 1
                with self._lock:
                    self.retried += 1
                # Ends at once where the caller hangs up, who would else wait for whoever still waits here.
                if self._closed.wait(min(self._wait, problem.pause if problem.pause is not None else _pause(tries))):
                    raise BackendError(
                        f"{self.name} {problem.what} and was not asked again: {self._advice}"
                    ) from problem

    def read(self, answer: Any, how: Callable[[Any], Any]) -> Any:
        """What `how` finds in an answer. Raises BackendError where the answer lacks it."""
        try:
            return how(answer)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            told = json.dumps(answer)[:120]
            raise BackendError(
                f"{self.name} answered something else than was asked for ({told}): {self._advice}"
            ) from error

    def close(self) -> None:
        """Hang up; whoever waits to ask again gives up."""
        self._closed.set()
        self._client.close()

    def _once(self, path: str, body: Mapping[str, Any] | None, timeout: float) -> Any:
        url = self.base + path
        try:
            if body is None:
                answer = self._client.get(url, timeout=timeout)
            else:
                answer = self._client.post(url, json=dict(body), timeout=timeout)
        except httpx.ConnectError as error:
            raise _Again(f"cannot be reached at {self.base}") from error
        except httpx.TimeoutException as error:
            raise _Again(f"did not answer within {timeout:g} seconds") from error
        except httpx.HTTPError as error:
            raise _Again(f"broke off ({type(error).__name__})") from error
        if answer.status_code in BUSY:
            raise _Again(f"answered {answer.status_code} ({_told(answer)})", _after(answer))
        if answer.is_redirect:
            # Followed, a question could be sent elsewhere, with its key, or lose its body.
            raise BackendError(
                f"{self.name} is not at {self.base}: it answered {answer.status_code} and points to "
                f"{answer.headers.get('location')!r}; give that address, or the one to which {path} can be added."
            )
        if answer.status_code >= 400:
            raise BackendError(f"{self.name} refused with {answer.status_code} ({_told(answer)}): {self._advice}")
        if not answer.content:
            return None
        try:
            return answer.json()
        except ValueError as error:
            raise _Again(f"answered what is no JSON ({answer.text[:60]!r})") from error


class Pool:
    """Threads that ask for others, whom nobody waits for.

    Those of a `ThreadPoolExecutor` are joined when Python ends, so that one silent server would hold up Ctrl-C for as
    long as it is given to answer.

    Args:
        size: calls at once; later ones wait their turn.
        name: of the threads.
    """

    def __init__(self, size: int, name: str) -> None:
        self._size, self._name = size, name
        self._jobs: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._threads = 0

    def submit(self, what: Callable[P, T], *given: P.args, **named: P.kwargs) -> Future[T]:
        """Call `what`, when its turn comes; its result, or what it raised."""
        future: Future[T] = Future()
        self._jobs.put((future, partial(what, *given, **named)))
        if self._threads < self._size:
            self._threads += 1
            threading.Thread(target=self._work, name=self._name, daemon=True).start()
        return future

    def close(self) -> None:
        """Drop what waits for its turn. Calls under way end when they end, and their threads with them."""
        with suppress(Empty):
            while (job := self._jobs.get_nowait()) is not None:
                job[0].cancel()
        for _ in range(self._threads):
            self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            future, call = job
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(call())
            except Exception as error:  # noqa: BLE001 whoever waits for the result raises it
                future.set_exception(error)


class _Again(Exception):
    """A call that may go better next time."""

    def __init__(self, what: str, pause: float | None = None) -> None:
        super().__init__(what)
        self.what, self.pause = what, pause


def _pause(tries: int) -> float:
    # Spread, so that those who were refused together do not come back together.
    return float(0.5 * 2 ** (tries - 1) * random.uniform(0.5, 1.0))


def _after(answer: httpx.Response) -> float | None:
    """Seconds that the server asks to wait; None where it does not say, or says it as a date."""
    try:
        return max(0.0, float(answer.headers["retry-after"]))
    except (KeyError, ValueError):
        return None


def _told(answer: httpx.Response) -> str:
    """What the server says of its error, in short."""
    try:
        said = answer.json()
        found = said.get("error", said) if isinstance(said, dict) else said
        text = str(found.get("message", found)) if isinstance(found, dict) else str(found)
    except ValueError:
        text = answer.text
    return " ".join(text.split())[:160] or answer.reason_phrase
