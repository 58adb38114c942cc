"""Errors that a user can cause. Each message is one sentence: what, given, why, what to do."""

from __future__ import annotations


class AstarpoError(Exception):
    """Base of every error that the command line prints as one line instead of a stack trace."""


class SettingsError(AstarpoError):
    """A setting is unknown, out of bounds, or contradicts another."""


class DataError(AstarpoError):
    """A file that the user named is missing, unreadable, or holds a malformed record."""


class EnvironmentContractError(AstarpoError):
    """An environment or reward function broke its contract: it raised, or returned NaN, or no such task exists."""


class AlgorithmContractError(AstarpoError):
    """An algorithm's loss returned something else than a scalar with a gradient and numbers to log."""


class RunError(AstarpoError):
    """A run folder cannot be read, written, or resumed."""


class BackendError(AstarpoError):
    """The engine that generates replies died, hung, answered nonsense, or holds other weights than the policy."""


class ShapeError(AstarpoError, ValueError):
    """Tensors that must share a shape do not. Broadcasting would turn that into a plausible number."""


class MissingColumnError(AstarpoError, LookupError):
    """A batch was asked for a column that nobody provided, for example V* that the algorithm never declared."""
