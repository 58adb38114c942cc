"""The code is held to the tree in docs/architecture.md: the order is read from the page, so the two cannot part."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent
SOURCE = REPO / "src" / "astarpo"
LINE = re.compile(r"^  (?P<name>[a-z_]+) {2,}(?P<words>.+)$")


def tree() -> dict[str, set[str] | None]:
    """Modules in the page's order, each with what its line allows it to see; None where the line does not say."""
    page = (REPO / "docs" / "architecture.md").read_text("utf-8")
    block = page.split("## The tree", 1)[1].split("```", 2)[1]
    found: dict[str, set[str] | None] = {}
    for line in block.splitlines():
        match = LINE.match(line)
        if match and not match["words"].startswith("──"):
            _, said, sees = match["words"].partition("· sees ")
            names = set() if sees == "nothing" else {name.strip() for name in sees.split(",")}
            found[match["name"]] = names if said else None
    return found


def unit(module: str) -> str:
    """The line of the tree that `astarpo.x.y` belongs to."""
    return module.split(".")[1] if "." in module else module


def imports() -> dict[str, set[tuple[str, str]]]:
    """Line of the tree → (file, line it imports), imports inside functions and for types included."""
    found: dict[str, set[tuple[str, str]]] = {}
    for path in SOURCE.rglob("*.py"):
        inside = path.relative_to(SOURCE).with_suffix("").parts
        owner = inside[0] if inside != ("__init__",) else "astarpo"
        seen = found.setdefault(owner, set())
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            targets: list[str] = []
            if isinstance(node, ast.Import):
                targets = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                whole = node.module == "astarpo"
                targets = [f"astarpo.{alias.name}" for alias in node.names] if whole else [node.module]
            seen |= {(str(path.relative_to(SOURCE)), unit(t)) for t in targets if t.startswith("astarpo.")}
    return found


def test_every_module_stands_in_the_tree_and_nothing_else_does() -> None:
    there = {path.stem for path in SOURCE.glob("*.py")} | {p.parent.name for p in SOURCE.glob("*/__init__.py")}
    assert set(tree()) == there - {"__init__"}


def test_imports_point_up_the_page_only() -> None:
    order = list(tree())
    wrong = [
        f"{file} imports {seen}, which stands below it"
        for owner, found in imports().items()
        for file, seen in sorted(found)
        if owner in order and seen in order and order.index(seen) > order.index(owner)
    ]
    assert wrong == []


def test_modules_see_no_more_than_their_line_says() -> None:
    allowed = tree()
    wrong = [
        f"{file} imports {seen}"
        for owner, found in imports().items()
        for file, seen in sorted(found)
        if (sees := allowed.get(owner)) is not None and seen != owner and seen not in sees
    ]
    assert wrong == []


def test_the_tree_says_what_algorithms_and_environments_see() -> None:
    assert tree()["algorithms"] == {"errors", "numerics", "values", "batch", "settings"}
    assert tree()["environments"] == {"errors", "types", "settings", "plugins"}


def loaded_by(code: str) -> set[str]:
    """Top-level modules that are loaded after `code` has run in a fresh interpreter."""
    whole = f"import sys\n{code}\nprint(*{{name.partition('.')[0] for name in sys.modules}}, file=sys.__stderr__)"
    done = subprocess.run([sys.executable, "-c", whole], capture_output=True, text=True, check=True)
    return set(done.stderr.split())


HEAVY = {"torch", "transformers", "tokenizers", "datasets", "matplotlib"}


def test_environments_load_neither_torch_nor_a_tokenizer() -> None:
    loaded = loaded_by(
        "import pkgutil, importlib, astarpo.environments as home\n"
        "for m in pkgutil.walk_packages(home.__path__, 'astarpo.environments.'): importlib.import_module(m.name)\n"
    )
    assert "astarpo" in loaded
    assert loaded & HEAVY == set()


@pytest.mark.parametrize(
    "arguments", [["--help"], ["list", "--json"], ["trian"], ["train", "arithmetic", "--update=3"]]
)
def test_the_command_line_loads_nothing_heavy_before_a_command_needs_it(arguments: list[str]) -> None:
    loaded = loaded_by(
        f"sys.argv = ['astarpo', *{arguments!r}]\nfrom astarpo.cli import main\n"
        "import io, contextlib\n"
        "with contextlib.redirect_stderr(io.StringIO()):\n"
        "    try: main()\n"
        "    except SystemExit: pass\n"
    )
    assert "typer" in loaded
    assert loaded & HEAVY == set()
