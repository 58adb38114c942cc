"""What a detector says: found, clear, or unable for want of evidence; and how detectors are declared and found."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, Literal, TypeAlias

from astarpo.diagnosis.evidence import Evidence

LAYERS = ("evidence", "plumbing", "reward", "signal", "optimiser", "behaviour", "hacking", "evaluation")
"""From cause to consequence: what fails on an earlier layer explains what fails on a later one.

evidence: is there enough to judge. plumbing: do tokens, masks and log-probs mean what the loss believes. reward: can
the environment and its reward teach the task, and does reward mean success. signal: do differences in reward reach the
learner. optimiser: does the policy move, and not too far. behaviour: what the policy turned into. hacking: does what is
learned carry over. evaluation: do the figures show what is claimed.
"""

Severity = Literal["info", "warning", "critical"]
SEVERITIES: tuple[Severity, ...] = ("info", "warning", "critical")


@dataclass(frozen=True)
class Finding:
    """Something is wrong.

    Attributes:
        name: the detector.
        layer: one of `LAYERS`.
        title: what is wrong, in a few words.
        severity: info is worth knowing; warning may be why the run does not learn; critical is.
        evidence: what was seen, in a sentence or two, numbers in it.
        rule: when the detector says so.
        numbers: what the sentence rests on.
        where: first and last step; None where it holds of the whole run.
        ruled_out, not_ruled_out: other explanations that the evidence excludes, or does not.
        remedy: what to do.
        setting: the remedy as settings of `astarpo train`, to be pasted; empty where no setting mends it.
        source: who found that this is so.
    """

    name: str
    layer: str
    title: str
    severity: Severity
    evidence: str
    rule: str
    numbers: Mapping[str, Any] = field(default_factory=dict)
    where: tuple[int, int] | None = None
    ruled_out: tuple[str, ...] = ()
    not_ruled_out: tuple[str, ...] = ()
    remedy: str = ""
    setting: str = ""
    source: str = ""

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "name": self.name,
            "layer": self.layer,
            "title": self.title,
            "severity": self.severity,
            "evidence": self.evidence,
            "rule": self.rule,
            "numbers": dict(self.numbers),
            "where": None if self.where is None else list(self.where),
            "ruled_out": list(self.ruled_out),
            "not_ruled_out": list(self.not_ruled_out),
            "remedy": self.remedy,
            "setting": self.setting,
            "source": self.source,
        }


@dataclass(frozen=True)
class Clear:
    """Looked at and in order."""

    detail: str = ""


@dataclass(frozen=True)
class Unable:
    """Not to be told from this evidence: what is missing, and how much of it would be needed."""

    needs: str


Answer: TypeAlias = Finding | Clear | Unable
Look: TypeAlias = Callable[[Evidence], Answer]


@dataclass(frozen=True)
class Detector:
    """One rule.

    Attributes:
        name: its id, that of its function.
        layer: where in the causal order it stands.
        title: what it looks for, in a few words.
        rule: when it finds something.
        source: where the rule is from.
        look: the pure function.
        live: whether it may speak while a run goes on.
    """

    name: str
    layer: str
    title: str
    rule: str
    source: str
    look: Look
    live: bool = True

    def __call__(self, evidence: Evidence) -> Answer:
        answer = self.look(evidence)
        if isinstance(answer, Finding):
            return replace(
                answer,
                name=self.name,
                layer=self.layer,
                title=answer.title or self.title,
                rule=self.rule,
                source=self.source,
            )
        return answer


def detector(layer: str, title: str, *, rule: str, source: str, live: bool = True) -> Callable[[Look], Detector]:
    """Declare a function a detector. Its name is the detector's; thresholds in `rule` are filled in by the caller."""
    assert layer in LAYERS, layer

    def declare(look: Look) -> Detector:
        return Detector(look.__name__, layer, title, rule, source, look, live)

    return declare


def found(
    severity: Severity,
    evidence: str,
    *,
    title: str = "",
    numbers: Mapping[str, Any] | None = None,
    where: tuple[int, int] | None = None,
    ruled_out: tuple[str, ...] = (),
    not_ruled_out: tuple[str, ...] = (),
    remedy: str,
    setting: str = "",
) -> Finding:
    """A finding inside a detector, which fills in what holds of all its findings."""
    return Finding(
        name="",
        layer="",
        title=title,
        severity=severity,
        evidence=evidence,
        rule="",
        numbers=dict(numbers or {}),
        where=where,
        ruled_out=tuple(one for one in ruled_out if one),
        not_ruled_out=tuple(one for one in not_ruled_out if one),
        remedy=remedy,
        setting=setting,
    )


@cache
def detectors() -> tuple[Detector, ...]:
    """All detectors, in causal order: by layer, and within a layer as its file has them."""
    package = importlib.import_module("astarpo.diagnosis.detectors")
    known: list[Detector] = []
    for module in pkgutil.iter_modules(package.__path__):
        names = vars(importlib.import_module(f"{package.__name__}.{module.name}"))
        known += [value for value in names.values() if isinstance(value, Detector)]
    return tuple(sorted(known, key=lambda one: LAYERS.index(one.layer)))
