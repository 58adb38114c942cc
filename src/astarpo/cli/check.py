"""`astarpo check`: does an environment keep its promises, and can its tasks be solved through its own text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from astarpo.cli.common import EnvironmentArgument, FilesOption, JsonOption, PresetOption, emit, resolve

if TYPE_CHECKING:
    from rich.console import Console

    from astarpo.environments.checks import Report

BROKEN = 1
"""Exit code where a promise is broken under which training would be refused."""

STYLES = {"ok": "green", "warning": "yellow", "error": "bold red"}
LISTED = 20
"""Unreachable tasks that are named on the screen; --json names all."""


def check(
    ctx: typer.Context,
    environment: EnvironmentArgument,
    tasks: Annotated[int, typer.Option(min=1, metavar="N", help="Train tasks whose known solutions are played.")] = 50,
    seed: Annotated[int, typer.Option(metavar="N", help="Decides which tasks and which hostile replies.")] = 0,
    quick: Annotated[bool, typer.Option("--quick", help="The short form that `train` runs first.")] = False,
    preset: PresetOption = "default",
    settings: FilesOption = None,
    json: JsonOption = False,
) -> None:
    """Play ENV's known solutions and hostile replies through its text, and say which promises it keeps.

    Exits with 1 where training would be refused.
    """
    run = resolve(environment, preset, settings or [], ctx.meta["overrides"])
    from astarpo.environments.checks import check_environment
    from astarpo.run import environment as built

    report = check_environment(built(run), tasks=tasks, seed=seed, quick=quick)
    if json:
        emit(report.as_dict())
    else:
        from rich.console import Console

        show(report, Console(highlight=False))
    if report.refuse:
        raise typer.Exit(BROKEN)


def show(report: Report, console: Console) -> None:
    """One line a promise, the tasks that cannot be solved, and what follows from it."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=f"{report.environment} · promises", title_justify="left", title_style="bold")
    table.add_column("")
    table.add_column("promise", no_wrap=True)
    table.add_column("found")
    for finding in report.findings:
        table.add_row(Text(finding.severity, style=STYLES[finding.severity]), finding.name, Text(finding.detail))
    console.print(table)
    if report.unreachable:
        more = len(report.unreachable) - LISTED
        named = ", ".join(report.unreachable[:LISTED]) + (f" and {more} more" if more > 0 else "")
        console.print(f"left out of training, unreachable: {named}", markup=False)
    console.print("Training would be refused." if report.refuse else "Fit to train on.", style="bold")
