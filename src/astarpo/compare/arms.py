"""What is compared: each arm a whole run, resolved and checked before anything is played."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from astarpo import plugins
from astarpo.errors import SettingsError
from astarpo.run import PARTS, Run, algorithm, load_file, load_preset, merge, override, preset_names, without_playing

SHARED = ("policy", "evaluation")
"""Sections that must be the same in every arm: else arms would start from other weights or be judged otherwise."""

NAME = re.compile(r"[A-Za-z0-9][\w.+-]*")


@dataclass(frozen=True)
class Arm:
    """One side of a comparison.

    Attributes:
        name: as it stands in tables and folders.
        run: its settings; seed and budget are those of the comparison.
        words: where they come from.
    """

    name: str
    run: Run
    words: str


def named_arms(environment: str, names: Sequence[str], overrides: Sequence[tuple[str, str]] = ()) -> tuple[Arm, ...]:
    """One arm for each name: a preset of the environment, or an algorithm in the environment's default preset.

    Args:
        environment: its name, or a dotted path.
        names: presets come before algorithms of the same name.
        overrides: (dotted setting, value) laid over every arm; those of `values` over arms that read V*.

    Raises:
        SettingsError: a name is neither, stands twice, or its settings are not fit; arms do not share what they must.
    """
    presets, algorithms = preset_names(_shelf(environment)), plugins.names(PARTS["algorithm"][0])
    found = []
    for name in names:
        if name in presets:
            found.append(_arm(environment, name, {"preset": name}, overrides, f"the preset {name}"))
        elif name in algorithms or "." in name:
            over = {"algorithm": {"name": name}}
            words = f"the algorithm {name} in the preset default"
            found.append(_arm(environment, name.rpartition(".")[2], over, overrides, words))
        else:
            near = difflib.get_close_matches(name, [*presets, *algorithms], n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(sorted({*presets, *algorithms}))}."
            raise SettingsError(f"{name!r} is neither a preset of {environment} nor an algorithm: {hint}")
    return checked(found)


def arms_from_file(environment: str, path: Path, overrides: Sequence[tuple[str, str]] = ()) -> tuple[Arm, ...]:
    """Arms from a YAML file: name → settings, among them `preset`, the one to begin from (default where left out).

        positive only:  {preset: weighted_sft, algorithm: {scheme: clip}}

    Raises:
        SettingsError: as `named_arms`; or the file is missing or not such a mapping.
    """
    found = []
    for name, given in load_file(path).items():
        if given is not None and not isinstance(given, Mapping):
            raise SettingsError(f"{path}: arm {name!r} must hold settings by name, got {given!r}.")
        found.append(_arm(environment, name, dict(given or {}), overrides, f"{path.name}: {name}"))
    return checked(found)


def checked(arms: Sequence[Arm]) -> tuple[Arm, ...]:
    """`arms`, if they can be compared.

    Raises:
        SettingsError: there is none, two share a name, or they differ where they must not.
    """
    if not arms:
        raise SettingsError(
            "a comparison needs an arm: name presets or algorithms, for example --algorithms grpo,rloo."
        )
    names = [arm.name for arm in arms]
    for name in names:
        if names.count(name) > 1:
            raise SettingsError(f"arm {name!r} stands twice: an arm is compared with others; leave one out.")
        if not NAME.fullmatch(name):
            raise SettingsError(
                f"arm {name!r} cannot name a folder: use letters, digits, and any of . _ + - after the first."
            )
    first = arms[0]
    for arm in arms[1:]:
        for section in SHARED:
            for setting, mine, other in differences(
                {section: first.run.dump()[section]}, {section: arm.run.dump()[section]}
            ):
                raise SettingsError(
                    f"arms must share {setting} and {first.name} has {mine!r} where {arm.name} has {other!r}: give one "
                    f"value to all of them, --{setting}=VALUE."
                )
    return tuple(arms)


def told_apart(arms: Sequence[Arm]) -> list[str]:
    """Sentences on what a reader may not expect to differ: the environment, and limits on tokens."""
    said = []
    watched = ("environment", "rollout.reply_tokens", "rollout.episode_tokens")
    plain = [arm.run.dump() for arm in arms]
    seen: dict[str, dict[str, Any]] = {}
    for arm, one in zip(arms[1:], plain[1:], strict=True):
        for setting, first, other in differences(plain[0], one):
            if any(setting == name or setting.startswith(f"{name}.") for name in watched):
                seen.setdefault(setting, {arms[0].name: first})[arm.name] = other
    for setting, values in seen.items():
        said.append(
            f"Arms differ in {setting}: " + ", ".join(f"{name} {value}" for name, value in values.items()) + "."
        )
    return said


def differences(one: Mapping[str, Any], other: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Dotted settings in which two dumps differ, with both values; None where one has no such setting."""
    for key in dict.fromkeys([*one, *other]):
        a, b = one.get(key), other.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            yield from differences(a, b, f"{above}{key}.")
        elif a != b:
            yield f"{above}{key}", a, b


def _arm(environment: str, name: str, given: dict[str, Any], overrides: Sequence[tuple[str, str]], words: str) -> Arm:
    shelf, preset = _shelf(environment), str(given.pop("preset", "default"))
    if preset not in preset_names(shelf):
        known = ", ".join(preset_names(shelf))
        raise SettingsError(f"arm {name}: {environment} has no preset {preset!r}: known: {known}.")
    shipped = load_preset(shelf, preset)
    if given.get("episodes") is not None:
        shipped = without_playing(shipped)
    whole = merge({"environment": {"name": environment}}, shipped)
    whole = merge(whole | {"preset": preset}, given)
    ordered = sorted(overrides, key=lambda one: not one[0].endswith(".name"))
    # Stage 1 is no part of an arm without V*, and would be refused there.
    first = [(dotted, value) for dotted, value in ordered if not dotted.startswith("values.")]
    try:
        run = _built(whole, first)
        if algorithm(run).needs.values:
            run = _built(whole, ordered)
    except SettingsError as error:
        raise SettingsError(f"arm {name}: {error}") from None
    if run.environment.name != environment:
        raise SettingsError(f"arm {name} is of {run.environment.name!r} and the comparison of {environment!r}.")
    if run.budget.kind is not None or run.control != "none":
        raise SettingsError(
            f"arm {name} sets {'budget' if run.budget.kind else 'control'}, which a comparison gives to all arms "
            "alike: use --budget and --controls."
        )
    return Arm(name, run, words)


def _built(whole: dict[str, Any], overrides: Sequence[tuple[str, str]]) -> Run:
    for dotted, value in overrides:
        whole = merge(whole, override(dotted, value))
    return Run.build(whole)


def _shelf(environment: str) -> str:
    return environment if preset_names(environment) else "any"
