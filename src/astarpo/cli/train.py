"""`astarpo train`: one run from settings to table, or an interrupted one taken up again."""

from __future__ import annotations

import gc
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from astarpo.cli.common import FilesOption, JsonOption, Overrides, emit, environment_of, resolve
from astarpo.errors import SettingsError

if TYPE_CHECKING:
    from rich.console import Console

    from astarpo.result import Result
    from astarpo.run import Run

STOPPED = 130


def train(
    ctx: typer.Context,
    environment: Annotated[
        str | None,
        typer.Argument(metavar="ENV", help="An environment (astarpo list), or a dotted path to your own class."),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Settings to begin from (astarpo list presets). [default: default]"),
    ] = None,
    settings: FilesOption = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="The run's folder; it may hold the table of `astarpo values`. [default: runs/ENV-PRESET-TIME]",
        ),
    ] = None,
    updates: Annotated[int | None, typer.Option(metavar="N", help="Optimiser updates.")] = None,
    seed: Annotated[int | None, typer.Option(metavar="N", help="Seeds task choice and sampling.")] = None,
    episodes: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="Learn from the saved episodes of this run, or of a folder of such files, instead of playing.",
        ),
    ] = None,
    control: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="shuffled_rewards or constant_reward: what is learned without any signal?"),
    ] = None,
    checkpoint_every: Annotated[int | None, typer.Option(metavar="N", help="Updates between checkpoints.")] = None,
    keep_checkpoints: Annotated[int | None, typer.Option(metavar="N", help="Latest checkpoints kept.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the settings and what an update would do and cost; train nothing.")
    ] = False,
    resume: Annotated[Path | None, typer.Option(metavar="DIR", help="Go on with the run in this folder.")] = None,
    stop_on: Annotated[
        str,
        typer.Option(
            metavar="SEVERITY",
            help="Stop once `diagnose` would find a warning or critical thing wrong: never, warning or critical.",
        ),
    ] = "never",
    log_to: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Metrics also go to tensorboard, wandb, mlflow or trackio; may be repeated."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Train an agent on ENV and show what it learned.

    Settings are laid over each other: the preset, then --settings FILE, then --section.name=value, then the options.
    """
    overrides: Overrides = ctx.meta["overrides"]
    if resume is not None:
        fixed = {
            "--preset": preset,
            "--settings": settings or None,
            "--out": out,
            "--seed": seed,
            "--episodes": episodes,
            "--control": control,
            "--checkpoint-every": checkpoint_every,
            "--keep-checkpoints": keep_checkpoints,
            "--dry-run": dry_run or None,
            "--log-to": log_to or None,
            **{f"--{name}": value for name, value in overrides},
        }
        _refuse_with_resume([name for name, value in fixed.items() if value is not None], environment, resume)
        _finish(resume, None, updates, json, stop_on)
        return
    if environment is None:
        raise SettingsError(
            "train needs an environment, for example `astarpo train arithmetic`: `astarpo list` names them."
        )
    run = resolve(
        environment,
        preset or "default",
        settings or [],
        [*overrides, *([("sinks", str(log_to))] if log_to else [])],
        updates=updates,
        seed=seed,
        # Whole, so that the run can be resumed from another folder.
        episodes=None if episodes is None else str(episodes.absolute()),
        control=control,
        checkpoint_every=checkpoint_every,
        keep_checkpoints=keep_checkpoints,
    )
    if dry_run:
        _show_plan(run, json) if run.episodes is None else _show_saved(run, json)
        return
    _finish(out or new_folder(run), run, None, json, stop_on)


def new_folder(run: Run, root: Path = Path("runs")) -> Path:
    """Where a run goes that was not told where: runs/ENV-PRESET-YYYYMMDD-HHMMSS, with a number where that is taken."""
    name = re.sub(r"[^\w.-]+", "-", run.environment.name)
    wanted = root / f"{name}-{run.preset or 'settings'}-{time.strftime('%Y%m%d-%H%M%S')}"
    folder, number = wanted, 2
    while folder.exists():
        folder, number = wanted.with_name(f"{wanted.name}-{number}"), number + 1
    return folder


def _refuse_with_resume(given: list[str], environment: str | None, folder: Path) -> None:
    if given:
        raise SettingsError(
            f"{given[0]} cannot go with --resume: a run keeps the settings it began with, only --updates may be raised."
        )
    if environment is not None and environment_of(folder) != environment:
        raise SettingsError(
            f"the run in {folder} is one of {environment_of(folder)!r}, not of {environment!r}: leave ENV out."
        )


def _finish(folder: Path, run: Run | None, updates: int | None, json: bool, stop_on: str) -> None:
    """Train or resume, then say what came of it."""
    from astarpo import trainer
    from astarpo.cli.display import watching
    from astarpo.diagnosis.live import RuleStopError, sentinel
    from astarpo.report.page import write_report

    # Nothing of what was imported is garbage, and Python would look through all of it again and again.
    gc.freeze()
    try:
        with watching(quiet_stdout=json) as shown:
            watch = sentinel(shown, folder, stop_on)
            if run is None:
                result = trainer.resume(folder, updates=updates, watch=watch)
            else:
                result = trainer.train(run, folder, watch=watch)
    except KeyboardInterrupt:
        typer.echo(stopped(folder), err=True)
        raise typer.Exit(STOPPED) from None
    except RuleStopError as error:
        raise RuleStopError(f"{error} The report of what there is: {write_report([folder])}.") from None
    from astarpo.report.curve import draw

    picture, page = draw(folder), write_report([folder])
    if json:
        emit({**result.as_dict(), "folder": str(folder), "curve": str(picture), "report": str(page)})
        return
    from rich.console import Console

    show(result, picture, Console())


def stopped(folder: Path) -> str:
    """What is left of a run that was stopped, and how to go on."""
    if any((folder / "checkpoints").glob("[0-9]*")):
        return f"stopped. Go on with: astarpo train --resume {folder}"
    if (folder / "version.json").exists():
        return (
            "stopped before the first checkpoint. Start over, reference plays kept, with: "
            f"astarpo train --resume {folder}"
        )
    return "stopped before anything was kept."


def show(result: Result, picture: Path, console: Console) -> None:
    """The one table of a finished run, what it means, and where everything is."""
    from astarpo.cli.display import LOUD, duration, evaluations_table, verdict

    title = f"{result.environment} · {result.algorithm} · {result.updates} updates · {duration(result.seconds)}"
    console.print()
    console.print(evaluations_table(title, [("before", result.before), ("after", result.after)]))
    console.print(verdict(result.before, result.after), highlight=False)
    for warning in result.warnings:
        console.print(f"WARNING: {warning}", style=LOUD, highlight=False, markup=False)
    console.print(f"run    {result.folder}", highlight=False, soft_wrap=True)
    console.print(f"curve  {picture}", highlight=False, soft_wrap=True)
    console.print(f"report {picture.with_name('report.html')}", highlight=False, soft_wrap=True)


def _show_saved(run: Run, json: bool) -> None:
    """What would be learned from, where episodes are saved ones."""
    import yaml

    from astarpo.policy.load import load_policy
    from astarpo.run import environment
    from astarpo.saved import Saved

    world = environment(run)
    policy = load_policy(run.policy, run.environment.name)
    saved = Saved(run, environment=world, policy=policy, reward=world.reward_mode(run.environment.reward))
    if json:
        emit({"settings": run.dump(), "plan": {"lines": [saved.report()]}})
        return
    typer.echo(yaml.safe_dump(run.dump(), sort_keys=False, allow_unicode=True))
    typer.echo(saved.report())


def _show_plan(run: Run, json: bool) -> None:
    from astarpo.plan import plan as plan_of

    plan = plan_of(run)
    if json:
        emit({"settings": run.dump(), "plan": plan.as_dict()})
        return
    import yaml

    typer.echo(yaml.safe_dump(run.dump(), sort_keys=False, allow_unicode=True))
    for line in plan.lines:
        typer.echo(line)
    for warning in plan.warnings:
        typer.secho(f"WARNING: {warning}", fg="red", bold=True)
