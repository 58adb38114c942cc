"""vLLM itself, in an environment of its own: named by ASTARPO_VLLM_PYTHON, see docs/backends.md. Takes minutes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
PYTHON = os.environ.get("ASTARPO_VLLM_PYTHON", "")
ENVIRONMENT = {
    "PYTHONPATH": os.pathsep.join([str(HERE.parents[1] / "src"), str(HERE.parent)]),
    "OMP_NUM_THREADS": "1",
    "TORCHDYNAMO_DISABLE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
}
"""Eager throughout, on one thread."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not PYTHON, reason="ASTARPO_VLLM_PYTHON names no Python with vLLM: docs/backends.md makes one"),
]


def played(*arguments: str) -> dict[str, Any]:
    """What `vllm_play.py` found."""
    done = subprocess.run(
        [PYTHON, str(HERE / "vllm_play.py"), *arguments],
        capture_output=True,
        text=True,
        timeout=1500,
        env={**os.environ, **ENVIRONMENT},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@contextmanager
def server(model: Path) -> Iterator[str]:
    """`vllm serve` with the model of a folder."""
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # Not the `vllm` command: it asks for the version of a package `vllm`, and the build for processors is `vllm-cpu`.
    command = [PYTHON, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model), "--port", str(port)]
    command += [
        "--host",
        "127.0.0.1",
        "--enforce-eager",
        "--no-enable-chunked-prefill",
        "--dtype",
        "float32",
        "--max-model-len",
        "256",
    ]
    command += ["--logprobs-mode", "processed_logprobs", "--max-num-seqs", "32", "--served-model-name", "small"]
    log = model.parent / "server.log"
    with log.open("w") as out:
        environment = {**os.environ, **ENVIRONMENT, "VLLM_SERVER_DEV_MODE": "1"}
        process = subprocess.Popen(command, stdout=out, stderr=out, env=environment)
        try:
            url, until = f"http://127.0.0.1:{port}", time.monotonic() + 900
            while True:
                try:
                    urllib.request.urlopen(f"{url}/health", timeout=2).close()
                    break
                except OSError:
                    assert process.poll() is None, log.read_text()[-3000:]
                    assert time.monotonic() < until, log.read_text()[-3000:]
                    time.sleep(1)
            yield url
        finally:
            process.terminate()
            process.wait(60)


def check(found: dict[str, Any]) -> None:
    """What must hold of a run through vLLM, wherever it runs."""
    assert found["updates"] == 3
    assert len(found["moved"]) == 3
    assert min(found["moved"]) > 0
    # Sampled log-probs are the trainer's, after every push: never more than rounding apart.
    assert len(found["mismatch"]) == 3
    assert max(found["mismatch"]) < 1e-4
    assert max(found["probe"]) < 1e-4
    # Each reply has a seed of its own: it does not depend on what it was sampled with.
    assert found["alike"] == found["conversations"]
    assert found["greedy_alike"] == found["conversations"]


def test_a_run_through_vllm_in_this_process() -> None:
    found = played()
    check(found)
    # Weights that were never pushed, and keys of older ones, are seen.
    assert found["stale"] is not None
    assert "does not hold the policy's weights" in found["stale"]


def test_a_run_through_a_vllm_server(tmp_path: Path) -> None:
    played("--save", str(tmp_path / "model"))
    with server(tmp_path / "model") as url:
        check(played("--url", url, "--model", str(tmp_path / "model")))


def test_an_exported_policy_says_in_vllm_what_it_says_in_transformers() -> None:
    found = played("--export")
    assert found["asked"] == 12
    # Through the exported tokenizer and chat template as through those of transformers, and greedily token for token.
    assert found["read_alike"] == found["said_alike"] == found["asked"]
    assert found["different"] > 3
