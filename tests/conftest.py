"""What many tests share."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser

# Tests run one to a core; small matrices gain nothing from threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")

REPO = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def webshop_small() -> Path:
    """The real 1000-product catalogue: the folder named by ASTARPO_WEBSHOP_SMALL, or `../shared/webshop-small`."""
    folder = Path(os.environ.get("ASTARPO_WEBSHOP_SMALL", REPO.parent / "shared" / "webshop-small"))
    if not (folder / "items_shuffle_1000.json.gz").exists():
        reason = f"no catalogue at {folder}: set ASTARPO_WEBSHOP_SMALL to a folder with items_shuffle_1000.json.gz"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return folder


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder of 8,000 parameters that answers easy arithmetic with a number, seldom the right one."""
    from astarpo.warm_start import Recipe, warm_start

    folder = tmp_path_factory.mktemp("models") / "small"
    recipe = {
        "environment": {"name": "arithmetic", "level": "easy"},
        "tasks": 500,
        "architecture": {"width": 16, "layers": 2, "heads": 2, "feed_forward": 32, "context": 256, "vocabulary": 280},
        "phases": [
            {
                "styles": {"direct": 1},
                "steps": 60,
                "batch": 16,
                "pool": 128,
                "optimizer": "adamw",
                "learning_rate": 1e-2,
            }
        ],
        "evaluation_tasks": 4,
        "rollout": {"reply_tokens": 6},
    }
    warm_start(Recipe.parse(recipe), folder)
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Headless Chromium; skips where there is none, but not in continuous integration."""
    from playwright.sync_api import sync_playwright

    path = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if path is None:
        reason = "there is no chromium on the PATH: install one, or name it in CHROMIUM"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    # Root has no sandbox; small containers have little shared memory.
    arguments = ["--disable-dev-shm-usage", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=path, args=arguments)
        yield running
        running.close()


@pytest.fixture(params=["own kernels", "PyTorch's"])
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to run a small model on a processor, one after the other."""
    from astarpo import native

    if request.param == "PyTorch's":
        monkeypatch.setattr(native, "why_not", lambda: "a test asks for PyTorch's")
    elif reason := native.why_not():
        pytest.skip(f"own kernels: {reason}")
    return str(request.param)
