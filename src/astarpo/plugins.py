"""How parts are found: a module's file name is its key; a dotted path and installed entry points work too.

A part's module defines exactly one public subclass of the part's base class. Nothing is registered by hand, so adding
`algorithms/rloo.py` is all it takes for the command line, the presets and the contract tests to find it.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import pkgutil
from importlib.metadata import entry_points
from typing import TypeVar

from astarpo.errors import SettingsError

T = TypeVar("T")

NOT_PARTS = frozenset({"base", "rewards", "checks", "grammar", "regularisers", "scripts", "surrogates"})
"""Module names inside a package of parts that hold shared code."""


def names(package: str) -> list[str]:
    """Keys of every part of `package` (for example "astarpo.algorithms"), sorted; imports none of them."""
    path = importlib.import_module(package).__path__
    own = [m.name for m in pkgutil.iter_modules(path) if m.name not in NOT_PARTS and not m.name.startswith("_")]
    return sorted(own + [entry.name for entry in entry_points(group=package)])


def find(package: str, key: str, base: type[T]) -> type[T]:
    """The subclass of `base` called `key`.

    Args:
        package: where our own parts live; also the entry-point group that other packages install into.
        key: a module name in `package`, an entry point's name, or a dotted path such as "my_shop.MyShop".
        base: what the class must derive from.

    Raises:
        SettingsError: nothing is called so (the nearest name is given), or it is not a `base`.
    """
    if "." in key or ":" in key:
        return _by_path(key, base)
    known = names(package)
    if key not in known:
        near = difflib.get_close_matches(key, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}."
        if key.isidentifier() and importlib.util.find_spec(key) is not None:
            hint += f" Of the module {key}, name the class too: {key}.ClassName."
        raise SettingsError(f"there is no {base.__name__.lower()} {key!r}: {hint}")
    for entry in entry_points(group=package):
        if entry.name == key:
            return _checked(entry.load(), base, key)
    return _only_part(importlib.import_module(f"{package}.{key}"), base)


def load(path: str) -> object:
    """The object behind a dotted path such as "my_rewards.exact" or "my_rewards:exact".

    Raises:
        SettingsError: the module cannot be imported or lacks the name.
    """
    module_name, _, attribute = path.replace(":", ".").rpartition(".")
    if not all(part.isidentifier() for part in (*module_name.split("."), attribute)):
        raise SettingsError(f"{path!r} is not a dotted path: write module.name, for example my_rewards.exact.")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"cannot import {module_name!r} for {path!r}: no module named {error.name!r}; run from its folder "
            "or install it."
        ) from error
    except Exception as error:
        raise SettingsError(
            f"cannot import {module_name!r} for {path!r}: it raised {type(error).__name__}: {error}; mend that module."
        ) from error
    if not hasattr(module, attribute):
        near = difflib.get_close_matches(attribute, dir(module), n=1)
        hint = f"did you mean {near[0]!r}?" if near else "check the name."
        raise SettingsError(f"module {module_name!r} has no {attribute!r}: {hint}")
    found: object = getattr(module, attribute)
    return found


def _by_path(key: str, base: type[T]) -> type[T]:
    return _checked(load(key), base, key)


def _checked(found: object, base: type[T], key: str) -> type[T]:
    if not (inspect.isclass(found) and issubclass(found, base)):
        raise SettingsError(f"{key!r} is not a subclass of {base.__module__}.{base.__qualname__}: derive from it.")
    if inspect.isabstract(found):
        lacking = ", ".join(sorted(getattr(found, "__abstractmethods__")))  # noqa: B009
        raise SettingsError(f"{key!r} does not define {lacking}, which every {base.__name__} must: add it.")
    if "Settings" in base.__annotations__ and not hasattr(found, "Settings"):
        raise SettingsError(f"{key!r} does not say which settings it has: write Settings = ... in its class.")
    return found


def _only_part(module: object, base: type[T]) -> type[T]:
    name = getattr(module, "__name__", "?")
    found = [
        value
        for _, value in inspect.getmembers(module, inspect.isclass)
        if issubclass(value, base)
        and value is not base
        and value.__module__.startswith(name)
        and not value.__name__.startswith("_")
    ]
    whole = [value for value in found if not inspect.isabstract(value)] or found
    if len(whole) != 1:
        raise SettingsError(f"module {name!r} must define exactly one public {base.__name__}, it defines {len(whole)}.")
    return _checked(whole[0], base, f"{name}.{whole[0].__name__}")
