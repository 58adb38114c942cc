"""`astarpo check`: does an environment keep its promises, and can its tasks be solved through its own text."""

from __future__ import annotations

from astarpo.cli.common import EnvironmentArgument


def check(environment: EnvironmentArgument) -> None:
    """Check."""
