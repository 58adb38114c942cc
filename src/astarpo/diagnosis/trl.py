"""The rules of `diagnose` inside TRL's trainers: `GRPOTrainer(..., callbacks=[DiagnosisCallback()])`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from astarpo.diagnosis.evidence import Builder
from astarpo.diagnosis.findings import Finding
from astarpo.diagnosis.live import EVERY, Alarm, StopOn, sentence, stops
from astarpo.diagnosis.readers import trainer_state

logger = logging.getLogger(__name__)


class DiagnosisCallback(TrainerCallback, ExportableState):
    """Warns once for each rule that a run breaks, through the logger of this module, and may stop the run.

    What was said is kept in the trainer's checkpoints, so that a run that goes on from one does not hear it again.

    Attributes:
        findings: what was said so far.

    Args:
        stop_on: the least severity that ends the run.
        every: logged lines between two looks.
    """

    def __init__(self, stop_on: StopOn = "never", every: int = EVERY) -> None:
        self.findings: list[Finding] = []
        self._stop_on, self._every, self._alarm = stop_on, every, Alarm()

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps: the arguments, and which rules have spoken."""
        return {"args": {"stop_on": self._stop_on, "every": self._every}, "attributes": {"said": self.said}}

    @property
    def said(self) -> list[str]:
        """Names of the detectors that have spoken, before the run was resumed as well."""
        return sorted(self._alarm.said)

    @said.setter
    def said(self, names: list[str]) -> None:
        self._alarm.said = set(names)

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Take up what the checkpoint remembers that the run goes on from."""
        del args, control
        # By name; a list where there were several of the same class.
        every: Any = state.stateful_callbacks
        kept = every.get(type(self).__name__) if isinstance(every, dict) else None
        for one in kept if isinstance(kept, list) else [kept]:
            if isinstance(one, dict):
                self._alarm.said |= set(one["attributes"]["said"])

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Look at the log so far, now and then."""
        if not state.is_world_process_zero or len(state.log_history) % self._every:
            return
        builder = Builder(Path(args.output_dir or "."), "TRL's log")
        trainer_state.fill(builder, state.log_history)
        new = self._alarm.look(builder.build())
        self.findings += new
        for finding in new:
            logger.warning("%s", sentence(finding))
        if stops(new, self._stop_on) is not None:
            control.should_training_stop = True
