"""`astarpo plan`: what a run needs of a GPU, from its settings and its model's shapes; nothing is loaded or played."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from astarpo.cli.common import FilesOption, JsonOption, Overrides, SettingsCommand, emit, resolve, was_given
from astarpo.errors import SettingsError

if TYPE_CHECKING:
    from rich.console import Console

    from astarpo.footprint import Change, Footprint
    from astarpo.run import Run

MISSES = 1
"""Exit code where the run does not fit on the GPU that was named."""


class PlanCommand(SettingsCommand):
    """Takes every setting; ENV may be written ENV/PRESET."""

    def explain(self, environment: str, preset: str, files: Sequence[Path], overrides: Overrides) -> str:
        """Every setting the command takes, as text for a terminal."""
        named = which(environment, None if preset == "default" else preset)
        return super().explain(*named, files, overrides)


def plan(
    ctx: typer.Context,
    environment: Annotated[
        str,
        typer.Argument(metavar="ENV[/PRESET]", help="An environment or a preset as `astarpo list presets` names them."),
    ],
    preset: Annotated[
        str, typer.Option(metavar="NAME", help="Settings to begin from (astarpo list presets).")
    ] = "default",
    settings: FilesOption = None,
    gpu: Annotated[
        float | None,
        typer.Option(min=0.1, max=100000, metavar="GB", help="Exit with 1 unless it fits on a GPU of so many GB."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Memory of a run by term, whether it fits on a GPU, and which setting to change where it does not.

    Nothing is loaded or played: `astarpo train --dry-run` plays a few episodes and says what they cost.
    """
    env, name = which(environment, preset if was_given(ctx, "preset") else None)
    run = resolve(env, name, settings or [], ctx.meta["overrides"])
    from astarpo.footprint import GPUS, footprint, shape_of_policy, to_fit

    shape = shape_of_policy(run)
    found = footprint(run, shape)
    sizes = [gpu] if gpu is not None else list(GPUS)
    fitting = {size: to_fit(run, shape, size) for size in sizes}
    if json:
        emit({"settings": run.dump(), **found.as_dict(), "gpus": [_gpu(found, s, made) for s, made in fitting.items()]})
    else:
        from rich.console import Console

        show(run, found, fitting, Console(highlight=False))
    if gpu is not None and not found.fits(gpu):
        raise typer.Exit(MISSES)


def which(named: str, preset: str | None) -> tuple[str, str]:
    """Environment and preset that `named` means: ENV, ENV/PRESET, or a preset that only one environment has.

    Raises:
        SettingsError: a preset is named twice, or one that several environments have.
    """
    environment, slash, own = named.partition("/")
    if slash:
        if preset is not None:
            raise SettingsError(f"{named} names a preset and --preset {preset} another: leave one of them out.")
        return environment, own
    from astarpo import plugins
    from astarpo.run import preset_names

    known = plugins.names("astarpo.environments")
    homes = [] if named in known or preset is not None else [name for name in known if named in preset_names(name)]
    if len(homes) > 1:
        written = " or ".join(f"{home}/{named}" for home in homes)
        raise SettingsError(f"{named} is a preset of several environments: write {written}.")
    return (homes[0], named) if homes else (named, preset or "default")


def _gpu(found: Footprint, size: float, made: list[Change] | None) -> dict[str, Any]:
    changes = None if made is None else [change.as_dict() for change in made]
    return {"gigabytes": size, "fits": found.fits(size), "changes": changes}


def show(run: Run, found: Footprint, fitting: dict[float, list[Change] | None], console: Console) -> None:
    """The terms, the peak, and what fits where."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=f"{run.environment.name} · {found.model} · memory", title_justify="left", title_style="bold")
    table.add_column("term", no_wrap=True)
    table.add_column("GB", justify="right", no_wrap=True)
    table.add_column("while", no_wrap=True)
    table.add_column("is")
    for term in found.terms:
        table.add_row(
            Text(term.name), f"{term.bytes / 1e9:.2f}", "" if term.when == "always" else term.when, Text(term.how)
        )
    console.print(table)
    for line in found.lines():
        console.print(line, markup=False)
    for size, made in fitting.items():
        console.print(f"{size:g} GB: {fit(made)}", markup=False, style="green" if made == [] else "")


def fit(made: list[Change] | None) -> str:
    """Whether it fits, or what makes it fit, in words.

    >>> fit([]), fit(None)
    ('fits', 'does not fit, whatever is changed: choose a smaller model or a larger GPU')
    """
    if made is None:
        return "does not fit, whatever is changed: choose a smaller model or a larger GPU"
    if not made:
        return "fits"
    written = " ".join(f"--{change.setting}={change.value}" for change in made)
    other = ", which learns otherwise" if any(change.learns_otherwise for change in made) else ""
    return f"fits with {written} ({made[-1].needs:.1f} GB){other}"
