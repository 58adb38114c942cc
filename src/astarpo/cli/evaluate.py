"""`astarpo evaluate`: success and score of a run's policy, or of any model, on held-out tasks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from astarpo.cli.common import (
    ACTING,
    EnvironmentArgument,
    FilesOption,
    JsonOption,
    PresetOption,
    SettingsCommand,
    emit,
    own_settings,
    resolve,
    was_given,
)
from astarpo.errors import SettingsError
from astarpo.types import Split

if TYPE_CHECKING:
    from astarpo.policy.base import Player


class EvaluateCommand(SettingsCommand):
    """Takes what decides how a policy plays and is judged; which policy is named by itself."""

    sections = (*ACTING, "rollout.openai", "evaluation.tasks", "evaluation.samples", "evaluation.temperature")


def evaluate(
    ctx: typer.Context,
    policy: Annotated[
        str,
        typer.Argument(
            metavar="RUN|MODEL",
            help="A run folder, tiny, a model folder, a Hugging Face hub name, or openai:MODEL for a chat endpoint.",
        ),
    ],
    environment: EnvironmentArgument,
    checkpoint: Annotated[str, typer.Option(metavar="WHICH", help="Of a run: last, or best on dev.")] = "last",
    split: Annotated[str, typer.Option(metavar="SPLIT", help="test, dev or train. Make choices on dev.")] = "test",
    preset: PresetOption = "default",
    settings: FilesOption = None,
    json: JsonOption = False,
) -> None:
    """Evaluate a run's policy or a model on held-out tasks of ENV, greedily and sampled.

    A run is evaluated under its own settings where ENV is what it was trained on, else under the preset's.
    """
    if split not in get_args(Split):
        raise typer.BadParameter(f"{split!r} is not a split: choose one of {', '.join(get_args(Split))}.")
    if checkpoint not in ("last", "best"):
        raise typer.BadParameter(f"{checkpoint!r} is not a checkpoint: choose last or best.")
    run_folder = Path(policy) if (Path(policy) / "settings.yaml").is_file() else None
    if run_folder is None and was_given(ctx, "checkpoint"):
        raise SettingsError(
            f"--checkpoint {checkpoint} chooses among those of a run and {policy} is no run folder: leave it out, or "
            "name the run."
        )
    if run_folder:
        from astarpo.checkpoint import check_version

        # Before its settings are read: those of another version may have other names.
        check_version(run_folder)
    own = own_settings(ctx, run_folder, environment, preset)
    elsewhere = [("rollout.backend", "openai")] if policy.startswith("openai:") else []
    here = ("policy.device", "policy.dtype", "rollout.backend")
    local = next((name for name, _ in ctx.meta["overrides"] if name in here), None)
    if elsewhere and local:
        raise SettingsError(f"--{local} says how a model runs here and {policy} runs elsewhere: leave it out.")
    run = resolve(environment, preset, [*own, *(settings or [])], [*ctx.meta["overrides"], *elsewhere])
    from contextlib import ExitStack, closing

    from astarpo import evaluate as evaluation
    from astarpo.backends.base import open_backend, open_endpoint
    from astarpo.checkpoint import model_folder
    from astarpo.cli.display import evaluations_table, watching
    from astarpo.policy.load import load_policy
    from astarpo.run import environment as built

    world, report = built(run), dict[str, float]()
    with ExitStack() as stack:
        endpoint = stack.enter_context(closing(open_endpoint(policy, run, world))) if elsewhere else None
        player: Player
        if endpoint is not None:
            player = endpoint
        else:
            model = str(model_folder(run_folder, checkpoint)) if run_folder else policy
            loaded = load_policy(run.policy.model_copy(update={"model": model}), environment)
            player = stack.enter_context(closing(open_backend(run))).player(loaded)
        watch = stack.enter_context(watching(quiet_stdout=json))
        found = evaluation.evaluate(
            player,
            world,
            settings=run.evaluation,
            rollout=run.rollout,
            split=split,  # type: ignore[arg-type]
            watch=watch,
        )
        if endpoint is not None:
            report = endpoint.report()
    if json:
        bill = {"endpoint": report} if report else {}
        emit({"policy": policy, "environment": environment, **world.stamp(), **found.as_dict(), **bill})
        return
    from rich.console import Console

    label = f"{checkpoint} of {run_folder}" if run_folder else policy
    console = Console()
    console.print(evaluations_table(f"{environment} · {split} · {label}", [(policy, found)]))
    if stamp := world.stamp():
        told = " · ".join(f"{name.replace('_', ' ')} {value}" for name, value in stamp.items())
        console.print(told, style="dim", markup=False, highlight=False, soft_wrap=True)
    if report:
        told = " · ".join(f"{name.replace('_', ' ')} {number:,.6g}" for name, number in report.items())
        console.print(f"endpoint: {told}", style="dim", markup=False, highlight=False, soft_wrap=True)
