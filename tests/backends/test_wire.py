"""Whoever hangs up on a server that keeps silent is not held up by it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path

import pytest

from astarpo.backends.wire import Pool
from small import small_policy

ASKING = """
import sys
from concurrent.futures import wait
from contextlib import closing
from astarpo.backends.wire import Pool, Wire

wire, pool = Wire(sys.argv[1], name="it", timeout=300.0, advice="wait."), Pool(4, "asking")
with closing(wire), closing(pool):
    wait([pool.submit(wire.ask, "/x", {}) for _ in range(6)])
"""
PATIENCE = 60
"""Seconds after which a process is held up, on a busy machine too; requests are given 300."""


class Silent:
    """A server that reads and never answers, but for which models it serves.

    Attributes:
        url: its address.
        asked: set once it was asked for something else.
    """

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url, self.asked = f"http://127.0.0.1:{self._socket.getsockname()[1]}", threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Take no more."""
        self._socket.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=self._read, args=self._socket.accept()[:1], daemon=True).start()

    def _read(self, there: socket.socket) -> None:
        models = b'{"data": [{"id": "small"}]}'
        with there, suppress(OSError):
            while said := there.recv(65536):
                if said.startswith(b"GET /v1/models "):
                    there.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(models) + models)
                else:
                    self.asked.set()


@pytest.fixture
def silent() -> Iterator[Silent]:
    """A server that is there as long as the test."""
    with closing(Silent()) as server:
        yield server


def interrupted(command: Sequence[str], server: Silent) -> tuple[int, str, float]:
    """Ctrl-C once the server was asked: exit code, stderr, and seconds until the process was gone."""
    running = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"},
        # A process that was started in the background ignores Ctrl-C, and would hand that on.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        assert server.asked.wait(300)
        time.sleep(0.1)
        began = time.monotonic()
        running.send_signal(signal.SIGINT)
        told = running.communicate(timeout=PATIENCE)[1]
        return running.returncode, told, time.monotonic() - began
    finally:
        running.kill()
        running.communicate()


def test_ctrl_c_does_not_wait_for_a_server_that_hangs(silent: Silent) -> None:
    code, told, seconds = interrupted([sys.executable, "-c", ASKING, silent.url], silent)
    assert code == -signal.SIGINT
    assert told.rstrip().endswith("KeyboardInterrupt")
    # A hundredth of it on an idle core; most of what there is to wait for is Python itself.
    assert seconds < PATIENCE


@pytest.mark.slow
def test_ctrl_c_ends_an_evaluation_and_a_training_that_wait_for_a_server(silent: Silent, tmp_path: Path) -> None:
    from astarpo.warm_start import save

    save(small_policy(), tmp_path / "model")
    for arguments in (
        ["evaluate", "openai:small", "arithmetic", f"--rollout.openai.base_url={silent.url}"],
        [
            "train",
            "arithmetic",
            f"--policy.model={tmp_path / 'model'}",
            f"--out={tmp_path / 'run'}",
            "--rollout.backend=vllm",
            f"--rollout.vllm.url={silent.url}",
        ],
    ):
        silent.asked.clear()
        code, told, _ = interrupted([sys.executable, "-m", "astarpo", *arguments], silent)
        assert code == 130, told
        assert "stopped" in told
        assert "Traceback" not in told


def test_calls_have_their_turn_and_what_they_raise_is_raised() -> None:
    def fail() -> None:
        raise ValueError("no")

    with closing(Pool(2, "calling")) as pool:
        assert [pool.submit(pow, 2, n).result(10) for n in range(5)] == [1, 2, 4, 8, 16]
        with pytest.raises(ValueError, match="no"):
            pool.submit(fail).result(10)
        assert sum(thread.name == "calling" for thread in threading.enumerate()) == 2
    until = time.monotonic() + 10
    while any(thread.name == "calling" for thread in threading.enumerate()):
        assert time.monotonic() < until
        time.sleep(0.01)


def test_a_call_whose_turn_has_not_come_is_dropped_when_the_pool_is_closed() -> None:
    let_go = threading.Event()
    pool = Pool(1, "waiting")
    under_way, later = pool.submit(let_go.wait, 10), pool.submit(pow, 2, 2)
    while not under_way.running():
        time.sleep(0.01)
    pool.close()
    assert later.cancelled()
    let_go.set()
    assert under_way.result(10)
