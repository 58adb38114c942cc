"""What commands share: settings on the command line, layered into one run; JSON on stdout."""

from __future__ import annotations

import difflib
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer
from typer.core import TyperCommand

from astarpo.errors import SettingsError

if TYPE_CHECKING:
    from astarpo.run import Run

SECTIONS = (
    "environment",
    "algorithm",
    "policy",
    "values",
    "curriculum",
    "rollout",
    "filter",
    "optimizer",
    "evaluation",
    "budget",
    "collapse",
)
"""Sections of a run. Written here again because importing `astarpo.run` takes seconds; a test compares the two."""

ACTING = (
    "environment",
    "policy.rules",
    "policy.device",
    "policy.dtype",
    "rollout.reply_tokens",
    "rollout.episode_tokens",
    "rollout.history",
    "rollout.window",
    "rollout.summary",
    "rollout.backend",
    "rollout.vllm",
)
"""Settings that matter where a named model plays and nobody trains."""

Overrides = list[tuple[str, str]]

EnvironmentArgument = Annotated[
    str, typer.Argument(metavar="ENV", help="An environment (astarpo list), or a dotted path to your own class.")
]
PresetOption = Annotated[str, typer.Option("--preset", metavar="NAME", help="Settings to begin from (astarpo list).")]
FilesOption = Annotated[
    list[Path] | None,
    typer.Option("--settings", metavar="FILE", help="A YAML file of settings, laid over the preset; may be repeated."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout; progress goes to stderr.")]


class SettingsCommand(TyperCommand):
    """A command that takes settings as `--a.b=value` or `--a.b value` beside its options; its help explains them."""

    sections: ClassVar[tuple[str, ...]] = SECTIONS
    """Settings it takes: a section stands for all in it, `section.name` for one."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put overrides aside in `ctx.meta` and let typer read the rest.

        Raises:
            SettingsError: an option is neither one of the command nor a setting that it reads, or a setting has no
                value.
        """
        own = {name for parameter in self.params for name in (*parameter.opts, *parameter.secondary_opts)}
        options = own | set(ctx.help_option_names)
        kept, overrides = split_overrides(args, options, self.sections, f"astarpo {ctx.info_name}")
        ctx.meta["overrides"] = overrides
        ctx.meta["kept"] = list(kept)
        return list(super().parse_args(ctx, kept))

    def get_help(self, ctx: Any) -> str:
        """The command's help, and every setting of the environment where one is named."""
        told = super().get_help(ctx)
        given, _, _ = self.make_parser(ctx).parse_args(args=list(ctx.meta.get("kept", [])))
        name = given.get("environment")
        if not isinstance(name, str):
            return told + (
                f"\n\nSettings are given as --section.name=value; it takes {', '.join(self.sections)}.\n"
                f"`astarpo {ctx.info_name} ENV --help` explains each of them."
            )
        files = [Path(file) for file in given.get("settings") or ()]
        preset = str(given.get("preset") or "default")
        return told + "\n\n" + self.explain(name, preset, files, ctx.meta["overrides"])

    def explain(self, environment: str, preset: str, files: Sequence[Path], overrides: Overrides) -> str:
        """Every setting the command takes, as text for a terminal."""
        from astarpo.cli.settings_help import explain_settings

        return explain_settings(environment, preset, files, overrides, self.sections)


class EnvironmentCommand(SettingsCommand):
    """Takes the environment's settings alone."""

    sections = ("environment",)


def takes(sections: Sequence[str], dotted: str) -> bool:
    """Whether the setting `dotted` is one of `sections` or in one of them.

    >>> takes(["policy.rules", "environment"], "environment.level"), takes(["policy.rules"], "policy")
    (True, False)
    """
    return any(dotted == section or dotted.startswith(f"{section}.") for section in sections)


def was_given(ctx: Any, option: str) -> bool:
    """Whether `option` stands on the command line."""
    source = ctx.get_parameter_source(option)
    return source is not None and source.name == "COMMANDLINE"


def split_overrides(
    args: Sequence[str], options: set[str], sections: Sequence[str], command: str
) -> tuple[list[str], Overrides]:
    """Settings among command-line arguments, told from the command's own options.

    Args:
        args: arguments as typed.
        options: the command's own options, dashes included.
        sections: settings it takes, see `SettingsCommand.sections`.
        command: what messages call it.

    Raises:
        SettingsError: an option is neither one of `options` nor a setting of `sections`, or a setting has no value.

    >>> split_overrides(["arithmetic", "--optimizer.clip", "2", "--json"], {"--json"}, ["optimizer"], "train")
    (['arithmetic', '--json'], [('optimizer.clip', '2')])
    """
    kept: list[str] = []
    overrides: Overrides = []
    rest = list(args)
    while rest:
        argument = rest.pop(0)
        if argument == "--":
            return [*kept, argument, *rest], overrides
        written, equals, value = argument.partition("=")
        if not written.startswith("--") or written in options:
            kept.append(argument)
            continue
        dotted = written[2:].replace("-", "_")
        if not takes(sections, dotted):
            near = difflib.get_close_matches(dotted, sections, n=1, cutoff=0.85)
            if near:
                raise SettingsError(f"{command} has no option {written!r}: did you mean {f'--{near[0]}'!r}?")
            first = dotted.split(".")[0]
            if first in SECTIONS or any(section.startswith(f"{first}.") for section in sections):
                raise SettingsError(
                    f"{command} would ignore {written!r}: of settings it reads {', '.join(sections)} only; leave it "
                    "out."
                )
            known = [*options, *(f"--{section}" for section in sections)]
            near = difflib.get_close_matches(written.split(".")[0], known, n=1, cutoff=0.5)
            tail = written[len(written.split(".")[0]) :] if near and near[0][2:] in sections else ""
            hint = f"did you mean {near[0] + tail!r}?" if near else f"`{command} --help` lists them."
            raise SettingsError(f"{command} has no option {written!r}: {hint}")
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise SettingsError(f"{written} needs a value: write {written}=VALUE.")
            value = rest.pop(0)
        overrides.append((dotted, value))
    return kept, overrides


def layers(
    environment: str, preset: str, files: Sequence[Path], overrides: Overrides, *, playing: bool = True
) -> dict[str, Any]:
    """Preset, then files, then overrides, merged but not yet validated.

    Args:
        environment, preset, files, overrides: as given.
        playing: False leaves out what the preset says of choosing and playing tasks.

    Raises:
        SettingsError: there is no such environment, preset or file, or the layers name another environment.
    """
    from astarpo import plugins
    from astarpo.environments.base import Environment

    plugins.find("astarpo.environments", environment, Environment)

    from astarpo.run import PARTS, load_file, load_preset, merge, override, preset_names, without_playing

    shelf = environment if preset_names(environment) else "any"
    if preset not in preset_names(shelf):
        raise SettingsError(f"{environment} has no preset {preset!r}: known: {', '.join(preset_names(shelf))}.")
    shipped = load_preset(shelf, preset)
    given = merge({"environment": {"name": environment}}, shipped if playing else without_playing(shipped))
    given["preset"] = preset
    for file in files:
        given = merge(given, load_file(file))
    if (engine := dict(overrides).get("rollout.backend")) is not None and isinstance(given.get("rollout"), Mapping):
        # As with another part: what was said of the engine before, for example in a run's own settings, goes with it.
        said = given["rollout"].items()
        given["rollout"] = {name: value for name, value in said if name == engine or name not in ("vllm", "openai")}
    spelled = [(f"{dotted}.name" if dotted in PARTS else dotted, value) for dotted, value in overrides]
    # Naming another part starts its section afresh, so names come before what is set in them, in whatever order typed.
    for dotted, value in sorted(spelled, key=lambda one: one[0] not in {f"{part}.name" for part in PARTS}):
        given = merge(given, override(dotted, value))
    section = given["environment"]
    named = section.get("name") if isinstance(section, Mapping) else section
    if named != environment:
        raise SettingsError(
            f"the settings are for {named!r} and the command names {environment!r}: name the same environment."
        )
    return given


def resolve(
    environment: str, preset: str, files: Sequence[Path], overrides: Overrides, **named: int | str | None
) -> Run:
    """The run that a command line asks for. `named` are options that stand for settings at the top; None leaves them.

    Raises:
        SettingsError: one sentence per problem.
    """
    given = layers(environment, preset, files, overrides, playing=named.get("episodes") is None)
    from astarpo.run import Run

    return Run.build(given | {name: value for name, value in named.items() if value is not None})


def environment_of(folder: Path) -> str:
    """The environment that the run in `folder` was of. Raises SettingsError where it holds no run."""
    from astarpo.run import load_file

    section = load_file(folder / "settings.yaml").get("environment", {})
    return str(section.get("name") if isinstance(section, Mapping) else section)


def own_settings(ctx: Any, folder: Path | None, environment: str, preset: str) -> list[Path]:
    """The settings file of the run in `folder`, where there is one and it was of `environment`; else none.

    Raises:
        SettingsError: a preset was asked for beside it, of which nothing would be left.
    """
    if folder is None or environment_of(folder) != environment:
        return []
    if was_given(ctx, "preset"):
        raise SettingsError(
            f"--preset {preset} would change nothing: {folder} has all its settings for {environment}; leave it out."
        )
    return [folder / "settings.yaml"]


def emit(document: Mapping[str, Any]) -> None:
    """Print `document` as the one JSON document on stdout. Numbers that JSON lacks become null."""
    json.dump(_finite(document), sys.stdout, indent=2, ensure_ascii=False, allow_nan=False, default=str)
    sys.stdout.write("\n")
    sys.stdout.flush()


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
