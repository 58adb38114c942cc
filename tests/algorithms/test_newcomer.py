"""What docs/algorithms.md tells somebody who adds an algorithm is enough: its two files, as they stand on the page."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import test_algorithm_contract as contract

import astarpo.algorithms
from astarpo import plugins

PAGE = Path(__file__).parents[2] / "docs" / "algorithms.md"


@pytest.fixture
def blocks() -> list[str]:
    """The page's Python: the algorithm, and its test."""
    return [block.split("```")[0] for block in PAGE.read_text("utf-8").split("```python\n")[1:]]


@pytest.fixture
def dropped_in(blocks: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The first of them, as a file among the algorithms; its name."""
    (tmp_path / "imitate.py").write_text(blocks[0])
    monkeypatch.setattr(astarpo.algorithms, "__path__", [*astarpo.algorithms.__path__, str(tmp_path)])
    yield "imitate"
    sys.modules.pop("astarpo.algorithms.imitate", None)
    vars(astarpo.algorithms).pop("imitate", None)
    contract.kind_of.cache_clear()


def test_the_file_keeps_every_promise(dropped_in: str) -> None:
    assert dropped_in in plugins.names("astarpo.algorithms")
    checks = [
        (check, list(inspect.signature(check).parameters))
        for name, check in vars(contract).items()
        if name.startswith("test_")
    ]
    kept = 0
    for check, wants in checks:
        if wants == ["name", "settings"]:
            check(dropped_in, {})
        elif wants == ["name"] and check is not contract.test_no_setting_does_nothing:
            check(dropped_in)
        else:
            continue
        kept += 1
    assert kept >= 11


def test_its_test_passes_and_can_fail(dropped_in: str, blocks: list[str]) -> None:
    module = ModuleType("test_imitate")
    exec(blocks[1], vars(module))
    check = module.test_on_fresh_samples_the_gradient_is_that_of_the_success_rate
    check()
    kind = contract.kind_of(dropped_in)
    right = kind.loss
    try:
        kind.loss = lambda *given: (-right(*given)[0], {})  # type: ignore[method-assign]
        with pytest.raises(AssertionError):
            check()
    finally:
        kind.loss = right  # type: ignore[method-assign]
