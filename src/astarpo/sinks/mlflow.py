"""MLflow, at MLFLOW_TRACKING_URI; in the experiment `astarpo`, unless MLFLOW_EXPERIMENT_NAME names another."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any, ClassVar

from astarpo.sinks.base import PROJECT, Sink

MOST, A_BATCH = 500, 100
"""Characters of a parameter, and parameters of one call; MLflow refuses more."""


RETRIES = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
"""MLflow's own variable."""


class MLflow(Sink):
    """One run there for a run here; settings are its parameters."""

    package: ClassVar[str] = "mlflow"

    def open(self, update: int) -> None:  # noqa: ARG002
        """Begin, or go on where the same run was."""
        entities: Any = import_module("mlflow.entities")
        self._metric: Any = entities.Metric
        self._client: Any = import_module("mlflow.tracking").MlflowClient()
        with few_retries():
            self._begin(entities)

    def _begin(self, entities: Any) -> None:
        known = self.remembered()
        if known is not None:
            self._id = known
            self._client.update_run(known, status="RUNNING")
            return
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        experiment = self._client.get_experiment_by_name(name)
        place = experiment.experiment_id if experiment is not None else self._client.create_experiment(name)
        self._id = self._client.create_run(place, run_name=self.run_name).info.run_id
        self.remember(self._id)
        parameters = [entities.Param(name, str(value)[:MOST]) for name, value in _flat(self.settings).items()]
        for begin in range(0, len(parameters), A_BATCH):
            self._client.log_batch(self._id, params=parameters[begin : begin + A_BATCH])

    def log(self, update: int, values: Mapping[str, float]) -> None:
        """Send values."""
        now = int(1000 * time.time())
        metrics = [self._metric(name, value, now, update) for name, value in values.items()]
        self._client.log_batch(self._id, metrics=metrics)

    def close(self) -> None:
        """Say that it is over."""
        self._client.set_terminated(self._id)


@contextmanager
def few_retries() -> Iterator[None]:
    """Two retries, unless the user set a number. MLflow's own seven take minutes, in which a run would not begin, where
    nobody answers."""
    if RETRIES in os.environ:
        yield
        return
    os.environ[RETRIES] = "2"
    try:
        yield
    finally:
        del os.environ[RETRIES]


def _flat(settings: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in settings.items():
        found |= _flat(value, f"{before}{name}.") if isinstance(value, Mapping) else {f"{before}{name}": value}
    return found
