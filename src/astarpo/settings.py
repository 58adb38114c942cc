"""One base for every settings class: bounds live in the field, unknown names are refused with the nearest known one."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from astarpo.errors import SettingsError


class Settings(BaseModel):
    """Frozen, validated, complete: `model_dump()` written into a run reproduces it.

    Subclasses give every field a bound and a `description`; both end up in `--help` and in the error sentence.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True)

    @classmethod
    def parse(cls, given: Mapping[str, Any], *, where: str = "") -> Self:
        """Validate `given`.

        Args:
            given: names and values as they come from YAML, a file or the command line.
            where: dotted prefix for messages, for example "environment".

        Raises:
            SettingsError: one sentence per problem.
        """
        try:
            return cls.model_validate(dict(given))
        except ValidationError as error:
            raise SettingsError(explain(error, cls, where)) from None


def explain(error: ValidationError, settings: type[BaseModel], where: str = "") -> str:
    """The problems of `error` as sentences, one a line: what must hold, what was given, what the setting means."""
    return "\n".join(_sentence(dict(problem), settings, where) for problem in error.errors(include_url=False))


def _sentence(problem: dict[str, Any], settings: type[BaseModel], where: str) -> str:
    path = [str(part) for part in problem["loc"]]
    owner, field_name = _owner(settings, path)
    dotted = ".".join(([where] if where else []) + path) or where or settings.__name__
    if problem["type"] == "extra_forbidden":
        near = difflib.get_close_matches(path[-1], list(owner.model_fields), n=1)
        hint = f"did you mean {near[0]!r}?" if near else "known: " + ", ".join(sorted(owner.model_fields)) + "."
        place = ".".join(dotted.split(".")[:-1]) or settings.__name__
        return f"{place} has no setting {path[-1]!r}: {hint}"
    meaning = ""
    if field_name is not None and owner.model_fields[field_name].description:
        meaning = f": {owner.model_fields[field_name].description}"
    given = "" if problem["type"] == "missing" else f", got {problem['input']!r}"
    must = str(problem["msg"]).removeprefix("Value error, ").removeprefix("Input ").removeprefix("should ")
    if problem["type"] == "value_error":
        return f"{dotted}: {must}" if path else must
    return f"{dotted} must {must}{given}{meaning}" if problem["type"] != "missing" else f"{dotted} is required{meaning}"


def _owner(settings: type[BaseModel], path: list[str]) -> tuple[type[BaseModel], str | None]:
    """The settings class that holds the last name of `path`, and that name if it is one of its fields."""
    owner = settings
    for name in path[:-1]:
        field = owner.model_fields.get(name)
        if field is None or not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
            return owner, name if field is not None else None
        owner = field.annotation
    last = path[-1] if path else None
    return owner, last if last in owner.model_fields else None
