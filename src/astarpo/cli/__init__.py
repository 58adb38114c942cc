"""The command line, one file a command. Importing it loads neither torch nor transformers; running a command may."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from astarpo import __version__
from astarpo.cli import (
    check,
    claims,
    compare,
    diagnose,
    evaluate,
    export,
    plan,
    play,
    report,
    train,
    values,
    view,
    warm_start,
    webshop,
)
from astarpo.cli import list as list_
from astarpo.cli.common import EnvironmentCommand, SettingsCommand
from astarpo.errors import AstarpoError

REFUSED, STOPPED = 2, 130
"""Exit codes: the user asked for something that cannot be; the user pressed Ctrl-C. A check that fails exits 1."""


class _Commands(TyperGroup):
    """Lists commands in the order they are registered and ends on Ctrl-C without a stack trace."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            typer.echo("stopped.", err=True)
            raise typer.Exit(STOPPED) from None


app = typer.Typer(
    name="astarpo",
    cls=_Commands,
    help="Reinforcement learning of language-model agents. Start with: astarpo train arithmetic",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"astarpo {__version__}")
        raise typer.Exit()


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


app.command("train", cls=SettingsCommand)(train.train)
app.command("compare", cls=compare.CompareCommand)(compare.compare)
app.command("claims")(claims.claims)
app.command("evaluate", cls=evaluate.EvaluateCommand)(evaluate.evaluate)
app.command("export")(export.export)
app.command("values", cls=values.ValuesCommand)(values.values)
app.command("plan", cls=plan.PlanCommand)(plan.plan)
app.command("report")(report.report)
app.command("view")(view.view)
app.command("check", cls=EnvironmentCommand)(check.check)
app.command("diagnose", cls=diagnose.DiagnoseCommand)(diagnose.diagnose)
app.command("play", cls=play.PlayCommand)(play.play)
app.command("list")(list_.list_parts)
app.command("warm-start", cls=warm_start.RecipeCommand)(warm_start.warm_start)
app.add_typer(webshop.app, name="webshop")


def main() -> None:
    """Run the command line: errors a user can cause become one sentence on stderr and exit code 2."""
    # A console script does not see the current folder, where a user's own rewards and environments lie. Last, so that
    # no stray file in it hides a library.
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        app(prog_name="astarpo")
    except AstarpoError as error:
        typer.echo(f"astarpo: {error}", err=True)
        sys.exit(REFUSED)
