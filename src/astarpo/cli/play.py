"""`astarpo play`: a person plays an environment, or watches an agent do it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from astarpo.cli.common import (
    ACTING,
    EnvironmentArgument,
    EnvironmentCommand,
    FilesOption,
    JsonOption,
    PresetOption,
    SettingsCommand,
    emit,
    own_settings,
    resolve,
    takes,
    was_given,
)
from astarpo.errors import SettingsError
from astarpo.types import Split

if TYPE_CHECKING:
    from rich.console import Console

    from astarpo.environments.base import Environment, EnvironmentSettings
    from astarpo.run import Run
    from astarpo.types import Episode, Step


class PlayCommand(SettingsCommand):
    """Takes what decides how an environment is and how an agent plays; which agent is named by itself."""

    sections = ACTING


def play(
    ctx: typer.Context,
    environment: EnvironmentArgument,
    task: Annotated[
        str | None, typer.Option(metavar="ID", help="Which task. [default: the first of the split]")
    ] = None,
    policy: Annotated[
        str | None, typer.Option(metavar="RUN|MODEL", help="Watch this agent instead of playing yourself.")
    ] = None,
    split: Annotated[str, typer.Option(metavar="SPLIT", help="train, dev or test, where no task is named.")] = "dev",
    temperature: Annotated[
        float, typer.Option(min=0, max=10, help="Sampling temperature of the agent; 0 is greedy.")
    ] = 0.0,
    preset: PresetOption = "default",
    settings: FilesOption = None,
    json: JsonOption = False,
) -> None:
    """Play one task of ENV yourself, or watch an agent play it."""
    if split not in get_args(Split):
        raise typer.BadParameter(f"{split!r} is not a split: choose one of {', '.join(get_args(Split))}.")
    if json and policy is None:
        raise SettingsError("--json shows an agent's episode and nobody plays: add --policy RUN.")
    of_agents = [dotted for dotted, _ in ctx.meta["overrides"] if not takes(EnvironmentCommand.sections, dotted)]
    of_agents += ["temperature"] if was_given(ctx, "temperature") else []
    if of_agents and policy is None:
        raise SettingsError(f"--{of_agents[0]} says how an agent plays and a person does: add --policy RUN.")
    if task is not None and was_given(ctx, "split"):
        raise SettingsError(f"--split {split} chooses a task and --task {task} names one: leave one of them out.")
    run_folder = Path(policy) if policy and (Path(policy) / "settings.yaml").is_file() else None
    if run_folder:
        from astarpo.checkpoint import check_version

        # Before its settings are read: those of another version may have other names.
        check_version(run_folder)
    own = own_settings(ctx, run_folder, environment, preset)
    run = resolve(environment, preset, [*own, *(settings or [])], ctx.meta["overrides"])
    from astarpo.run import environment as built

    world = built(run)
    ids = world.ids(split)  # type: ignore[arg-type]
    if task is None and not ids:
        raise SettingsError(f"the {split} split of {environment} has no task: choose another with --split.")
    id = task or ids[0]
    from rich.console import Console

    console = Console(highlight=False, markup=False)
    if policy is None:
        _by_hand(world, id, console)
        return
    episode = _by_agent(world, id, run, policy, run_folder, temperature)
    if json:
        from astarpo.journal import episode_line

        emit({"environment": environment, "policy": policy, **episode_line(episode)})
        return
    _show(episode, world, console)


def _by_hand(world: Environment[EnvironmentSettings], id: str, console: Console) -> None:
    """Show pages, take replies, end with the score."""
    from astarpo.environments.base import solved

    task = world.task(id)
    console.print(f"task {id}. Type a reply and press Enter; Ctrl-D gives up.", style="dim")
    if world.prompt():
        console.print(world.prompt() + "\n", style="dim")
    page = task.start()
    steps: list[Step] = []
    for turn in range(1, world.settings.max_turns + 1):
        console.print(page)
        try:
            reply = input(f"\n[{turn}/{world.settings.max_turns}] > ")
        except EOFError:
            console.print("\ngiven up.")
            break
        step = task.step(reply)
        steps.append(step)
        page = step.text
        if step.ended is not None:
            if page:
                console.print(page)
            break
    else:
        console.print("The turns are used up.")
    score = sum(step.reward for step in steps)
    console.print(f"score {score:.3f}, {'solved' if steps and solved(steps) else 'not solved'}.", style="bold")


def _by_agent(
    world: Environment[EnvironmentSettings],
    id: str,
    run: Run,
    policy: str,
    folder: Path | None,
    temperature: float,
) -> Episode:
    """One episode of task `id` by the policy of a run, or by a model."""
    from contextlib import closing

    from astarpo.backends.base import open_backend
    from astarpo.checkpoint import model_folder
    from astarpo.policy.load import load_policy
    from astarpo.rollout import Play, collect

    model = str(model_folder(folder)) if folder else policy
    loaded = load_policy(run.policy.model_copy(update={"model": model}), run.environment.name)
    reward = world.reward_mode(run.environment.reward)
    plays = [Play(id, 0, (run.seed,))]
    with closing(open_backend(run)) as backend:
        player = backend.player(loaded)
        return collect(player, world, plays, rollout=run.rollout, temperature=temperature, reward=reward)[0]


def _show(episode: Episode, world: Environment[EnvironmentSettings], console: Console) -> None:
    console.print(f"task {episode.task}", style="dim")
    for number, turn in enumerate(episode.turns, start=1):
        console.print(turn.observation)
        cut = "" if turn.reply.complete else "  (cut off: out of tokens)"
        console.print(f"\n[{number}/{world.settings.max_turns}] > {turn.reply.text}{cut}\n", style="cyan")
    last = episode.turns[-1].step
    if last.text:
        console.print(last.text)
    console.print(
        f"score {episode.score:.3f}, {'solved' if episode.success else 'not solved'}, ended: {episode.ended.value}.",
        style="bold",
    )
