"""What many tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

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
