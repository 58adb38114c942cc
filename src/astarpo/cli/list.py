"""`astarpo list`: environments, algorithms, presets and curricula that can be named, with what they are."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from importlib.resources import files
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from astarpo.cli.common import JsonOption, emit

Kind = Literal["environments", "algorithms", "presets", "curricula"]
KINDS: tuple[Kind, ...] = ("environments", "algorithms", "presets", "curricula")
PACKAGES = {"algorithms": "astarpo.algorithms", "curricula": "astarpo.curriculum"}


def list_parts(
    kind: Annotated[
        str | None, typer.Argument(metavar="[environments|algorithms|presets|curricula]", help="What to list.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """List environments, algorithms, presets and curricula."""
    if kind is not None and kind not in KINDS:
        raise typer.BadParameter(f"{kind!r} cannot be listed: choose one of {', '.join(KINDS)}.")
    listed: dict[str, list[dict[str, Any]]] = {each: _entries(each) for each in KINDS if kind in (None, each)}
    if json:
        emit(listed)
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    for each, entries in listed.items():
        console.print(Text(each, style="bold"))
        table = Table.grid(padding=(0, 2), pad_edge=True)
        table.add_column(no_wrap=True)
        table.add_column()
        for entry in entries:
            facts = [f"{key.replace('_', ' ')}: {', '.join(map(str, entry[key]))}" for key in _FACTS if entry.get(key)]
            told = Text(str(entry["summary"]))
            for fact in facts:
                told.append("\n" + fact, style="dim")
            table.add_row(Text(str(entry["name"]), style="cyan"), told)
        console.print(table)
        console.print()


_FACTS = ("reward_modes", "ladders")


def _entries(kind: Kind) -> list[dict[str, Any]]:
    if kind == "environments":
        return list(_environments())
    if kind == "presets":
        return list(_presets())
    from astarpo import plugins

    package = PACKAGES[kind]
    return [{"name": name, "summary": _first_line(package, name)} for name in plugins.names(package)]


def _environments() -> Iterator[dict[str, Any]]:
    from astarpo import plugins
    from astarpo.environments.base import Environment

    for name in plugins.names("astarpo.environments"):
        found = plugins.find("astarpo.environments", name, Environment)
        yield {
            "name": name,
            "summary": _first_line("astarpo.environments", name),
            "reward_modes": sorted(found.rewards),
            "ladders": sorted(found.ladders),
        }


def _presets() -> Iterator[dict[str, Any]]:
    """Every preset that `train` takes, with the comment it begins with. Warm starts are recipes, not runs."""
    shelves = files("astarpo") / "presets"
    for shelf in sorted((s for s in shelves.iterdir() if s.is_dir()), key=lambda s: s.name):
        for file in sorted(shelf.iterdir(), key=lambda f: f.name):
            if file.name.endswith(".yaml") and not file.name.startswith("warm_start"):
                name = file.name.removesuffix(".yaml")
                lines = takewhile(lambda line: line.startswith("#"), file.read_text("utf-8").splitlines())
                yield {
                    "name": f"{shelf.name}/{name}",
                    "environment": shelf.name,
                    "preset": name,
                    "summary": " ".join(line.removeprefix("#").strip() for line in lines),
                }


def _first_line(package: str, name: str) -> str:
    """The first line of a part's docstring, read without importing it: algorithms would load torch."""
    spec = importlib.util.find_spec(f"{package}.{name}")
    if spec is None or spec.origin is None:
        return "from another package"
    doc = ast.get_docstring(ast.parse(Path(spec.origin).read_text("utf-8"))) or ""
    return doc.partition("\n")[0]
