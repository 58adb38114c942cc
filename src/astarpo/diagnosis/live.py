"""The rules of `diagnose` while a run goes on: each warns once, and may stop it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

from astarpo.diagnosis import thresholds as at
from astarpo.diagnosis.evidence import Evidence
from astarpo.diagnosis.findings import LAYERS, SEVERITIES, Finding, Severity, detectors
from astarpo.diagnosis.readers import run_folder
from astarpo.diagnosis.verdict import diagnose
from astarpo.errors import RunError, SettingsError
from astarpo.journal import append
from astarpo.progress import Watch

StopOn = Literal["never", "warning", "critical"]

EVERY = 5
"""Updates between two looks."""

EPISODE_FILES = 8
"""Updates whose episodes a look reads."""

NOTES = "notes.txt"
"""Where in a run's folder warnings are kept."""

AT_ONCE = frozenset({"not_finite", "impossible_log_probs", "final_action_dead", "another_task"})
"""Detectors whose finding no later update takes back: they speak at the first look. The others must find it twice in a
row, and not before a run has as many updates as are judged by."""


class Alarm:
    """Remembers what was found, so that each detector speaks once.

    Attributes:
        said: names of the detectors that have spoken; those of a run that is resumed are put in.
    """

    def __init__(self) -> None:
        self.said: set[str] = set()
        self._before: set[str] = set()

    def look(self, evidence: Evidence) -> list[Finding]:
        """What is new, alarming and established, the earliest broken link first."""
        found = diagnose(evidence, [one for one in detectors() if one.live])
        alarming = [one for one in found.findings if one.severity != "info"]
        young = evidence.updates < at.UPDATES_TO_JUDGE.value
        new = [
            one
            for one in alarming
            if one.name not in self.said and (one.name in AT_ONCE or (one.name in self._before and not young))
        ]
        self._before = {one.name for one in alarming}
        self.said |= {one.name for one in new}
        return sorted(new, key=lambda one: LAYERS.index(one.layer))


def sentence(finding: Finding) -> str:
    """A finding as one warning."""
    setting = f" ({finding.setting})" if finding.setting else ""
    return f"{finding.name}: {finding.title}: {finding.evidence} {finding.remedy}{setting}"


def said_in(folder: Path) -> set[str]:
    """Names of the detectors whose warning stands in a run's notes."""
    try:
        notes = (folder / NOTES).read_text("utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return set()
    return {one.name for one in detectors() if any(note.startswith(f"{one.name}: {one.title}: ") for note in notes)}


def stops(findings: Sequence[Finding], stop_on: StopOn) -> Finding | None:
    """The finding that ends the run; None where none does."""
    if stop_on == "never":
        return None
    least: Severity = stop_on
    return next((f for f in findings if SEVERITIES.index(f.severity) >= SEVERITIES.index(least)), None)


def sentinel(watch: Watch, folder: Path, stop_on: str) -> Sentinel:
    """A `Sentinel` over `watch`. Raises SettingsError where `stop_on` is no severity that can end a run."""
    known = next((one for one in get_args(StopOn) if one == stop_on), None)
    if known is not None:
        return Sentinel(watch, folder, stop_on=known)
    raise SettingsError(f"--stop-on must be never, warning or critical, got {stop_on!r}: how bad ends the run.")


class RuleStopError(RunError):
    """A rule ended the run, as it was told to."""


class Sentinel(Watch):
    """A watch that reads the run's folder every few updates, passes everything on, and warns.

    Args:
        watch: who is told.
        folder: the run; what its notes have been told already is not said again.
        stop_on: the least severity that ends the run.
        every: updates between two looks.
    """

    def __init__(self, watch: Watch, folder: Path, *, stop_on: StopOn = "never", every: int = EVERY) -> None:
        self._watch, self._folder, self._stop_on, self._every = watch, folder, stop_on, every
        self._alarm = Alarm()
        self._alarm.said = said_in(folder)

    def stage(self, name: str, total: int) -> None:
        """Passed on."""
        self._watch.stage(name, total)

    def advance(self, steps: int = 1, **shown: float | str) -> None:
        """Passed on."""
        self._watch.advance(steps, **shown)

    def note(self, text: str) -> None:
        """Passed on."""
        self._watch.note(text)

    def warn(self, text: str) -> None:
        """Passed on."""
        self._watch.warn(text)

    def update(self, number: int, metrics: Mapping[str, float]) -> None:
        """Passed on; now and then the run is looked at.

        Raises:
            RuleStopError: something as severe as `stop_on` was found, that had not been said before.
        """
        self._watch.update(number, metrics)
        if number % self._every:
            return
        new = self._alarm.look(run_folder.read(self._folder, EPISODE_FILES))
        for finding in new:
            append(self._folder / NOTES, sentence(finding) + "\n")
            self._watch.warn(sentence(finding))
        last = stops(new, self._stop_on)
        if last is not None:
            raise RuleStopError(
                f"stopped after update {number} because {last.title} ({last.name}, {last.severity}): `astarpo diagnose "
                f"{self._folder}` tells more; `astarpo train --resume {self._folder}` goes on all the same."
            )
