"""All detectors over one run, and what follows: the earliest broken link, its consequences, what cannot be said."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

from astarpo.diagnosis import thresholds as at
from astarpo.diagnosis.evidence import Evidence
from astarpo.diagnosis.findings import LAYERS, SEVERITIES, Clear, Detector, Finding, Severity, Unable, detectors
from astarpo.diagnosis.trends import Learned, learned

Verdict = Literal["healthy", "suspect", "failing", "not_enough_evidence"]

EXIT = {"info": 0, "warning": 1, "critical": 3}
"""Exit status by severity. 2 stays what it is everywhere: the command was refused."""

ALARMING = ("warning", "critical")
BEFORE_THE_OPTIMISER = ("plumbing", "reward", "signal")


@dataclass(frozen=True)
class Claim:
    """Something that is often said of such a run and that this evidence does not bear.

    Attributes:
        claim: what is said.
        why: why the evidence does not bear it.
        control: what would settle it; empty where nothing short would.
    """

    claim: str
    why: str
    control: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """The answer.

    Attributes:
        path, format: what was read, and as what.
        verdict: healthy: nothing alarming, and it learned. suspect: the worst finding is a warning. failing: it is
            critical. not_enough_evidence: nothing alarming, and nothing shows that it learned.
        severity: of the worst finding; info where there is none.
        summary: the verdict in a sentence or two.
        root_cause: the finding on the earliest failing layer; None where none is alarming.
        also: other alarming findings on its layer.
        consequences: alarming findings on later layers.
        remarks: findings that are worth knowing and explain nothing.
        not_supported: claims that the evidence does not bear.
        checked: detectors that found nothing wrong: name, what it looks for, what it saw.
        could_not_check: detectors that lack evidence: name, what it looks for, what is needed.
        log_next: what to log so that more can be told, most telling first.
        notes: what the reader had to leave out or assume.
    """

    path: str
    format: str
    verdict: Verdict
    severity: Severity
    summary: str
    root_cause: Finding | None
    also: tuple[Finding, ...]
    consequences: tuple[Finding, ...]
    remarks: tuple[Finding, ...]
    not_supported: tuple[Claim, ...]
    checked: tuple[tuple[str, str, str], ...]
    could_not_check: tuple[tuple[str, str, str], ...]
    log_next: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        """0 for info, 1 for a warning, 3 for a critical finding."""
        return EXIT[self.severity]

    @property
    def findings(self) -> tuple[Finding, ...]:
        """All of them, root cause first."""
        root = () if self.root_cause is None else (self.root_cause,)
        return (*root, *self.also, *self.consequences, *self.remarks)

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "path": self.path,
            "format": self.format,
            "verdict": self.verdict,
            "severity": self.severity,
            "exit_code": self.exit_code,
            "summary": self.summary,
            "root_cause": None if self.root_cause is None else self.root_cause.as_dict(),
            "also": [finding.as_dict() for finding in self.also],
            "consequences": [finding.as_dict() for finding in self.consequences],
            "remarks": [finding.as_dict() for finding in self.remarks],
            "not_supported": [
                {"claim": one.claim, "why": one.why, "control": one.control} for one in self.not_supported
            ],
            "checked": [{"name": n, "title": title, "detail": detail} for n, title, detail in self.checked],
            "could_not_check": [
                {"name": n, "title": title, "needs": needs} for n, title, needs in self.could_not_check
            ],
            "log_next": list(self.log_next),
            "notes": list(self.notes),
        }


def diagnose(evidence: Evidence, among: Iterable[Detector] | None = None) -> Diagnosis:
    """Run detectors over `evidence` and put what they find in causal order.

    Args:
        evidence: what a reader made of a log.
        among: the detectors; all of them if not given.
    """
    findings: list[Finding] = []
    checked: list[tuple[str, str, str]] = []
    unable: list[tuple[str, str, str]] = []
    for one in detectors() if among is None else among:
        answer = one(evidence)
        if isinstance(answer, Finding):
            known = str(evidence.setting("environment.name", "ENV"))
            findings.append(replace(answer, setting=answer.setting.replace("check ENV", f"check {known}")))
        elif isinstance(answer, Clear):
            checked.append((one.name, one.title, answer.detail))
        elif isinstance(answer, Unable):
            unable.append((one.name, one.title, answer.needs))
    alarming = [finding for finding in findings if finding.severity in ALARMING]
    root = min(alarming, key=lambda f: (LAYERS.index(f.layer), -SEVERITIES.index(f.severity)), default=None)
    rest = [finding for finding in alarming if finding is not root]
    state = learned(evidence)
    severity: Severity = max((f.severity for f in findings), key=SEVERITIES.index, default="info")
    verdict = _verdict(severity, state)
    return Diagnosis(
        path=str(evidence.path),
        format=evidence.format,
        verdict=verdict,
        severity=severity,
        summary=_summary(verdict, root, state, evidence),
        root_cause=root,
        also=tuple(f for f in rest if root is not None and f.layer == root.layer),
        consequences=tuple(f for f in rest if root is not None and f.layer != root.layer),
        remarks=tuple(f for f in findings if f.severity not in ALARMING),
        not_supported=tuple(_claims(evidence, root, findings, state)),
        checked=tuple(checked),
        could_not_check=tuple(unable),
        log_next=tuple(_log_next(evidence)) if verdict != "healthy" else (),
        notes=evidence.notes,
    )


def _verdict(severity: Severity, state: Learned) -> Verdict:
    if severity == "critical":
        return "failing"
    if severity == "warning":
        return "suspect"
    return "healthy" if state.good else "not_enough_evidence"


def _summary(verdict: Verdict, root: Finding | None, state: Learned, evidence: Evidence) -> str:
    if root is not None:
        return f"{root.title[0].upper()}{root.title[1:]}. {root.evidence}"
    if verdict == "healthy":
        return f"Nothing is wrong as far as could be checked: {state.words}."
    needed = _needed(evidence, state)
    return f"Nothing wrong was found, and nothing shows that it learned: {state.words}.{needed}"


def _needed(evidence: Evidence, state: Learned) -> str:
    """How many plays or updates would decide."""
    if state.low is not None and state.high is not None:
        gap = abs(state.low + state.high) / 2.0
        level = min(max(state.level or 0.5, 0.01), 0.99)
        if gap < 0.002:
            return (
                " The difference is next to nothing: no number of plays that can be afforded would tell it from zero."
            )
        # Two shares, 5 % two-sided, 80 % power.
        n = math.ceil(2.0 * level * (1.0 - level) * ((1.96 + 0.84) / gap) ** 2)
        return f" To tell a gain of {100 * gap:.1f} points from none takes about {n:,} plays before and after."
    if evidence.updates < at.UPDATES_TO_JUDGE.value:
        return (
            f" {evidence.updates} updates were logged; a trend needs {at.UPDATES_TO_JUDGE.value:g}, and a held-out "
            "gain of 10 "
            "points about 400 plays before and after."
        )
    return " Held-out success with its n, before and after, would: 400 plays tell a gain of 10 points."


def _claims(evidence: Evidence, root: Finding | None, findings: list[Finding], state: Learned) -> Iterable[Claim]:
    names = {finding.name for finding in findings}
    early = root is not None and root.layer in BEFORE_THE_OPTIMISER and root.name != "value_drift"
    if early:
        assert root is not None
        yield Claim(
            "It is the wrong algorithm.",
            f"The chain is broken before any algorithm acts ({root.layer}: {root.title}); every loss sees the same.",
            "Mend that first; then compare algorithms with equal budgets: astarpo compare.",
        )
        yield Claim(
            "It needs more updates, or another learning rate.",
            "Neither brings a difference in reward that is not there."
            if root.layer == "signal"
            else "Neither mends what stands before the optimiser.",
        )
    elif not state.gained and "value_drift" not in names:
        yield Claim(
            "It is the wrong algorithm.",
            "One run of one algorithm on one seed is compared with nothing here.",
            "The same budget, tasks and seeds with another algorithm: astarpo compare.",
        )
    if "value_drift" in names or (state.gained and state.held_out == "unknown"):
        yield Claim(
            "The algorithm did it.",
            "Reward rose"
            + (" while V*, and with it the tasks or the scale, changed" if "value_drift" in names else "")
            + "; without a control the rise may be the curriculum's, the sampler's or the format's.",
            "The same run with shuffled rewards: --control shuffled_rewards. What still rises there was not taught "
            "by reward.",
        )
    told = [seen for seen in evidence.held_out if seen.n is not None]
    success = evidence.get("success", "reward")
    higher = success is not None and bool(success.values[-1] > success.values[0])
    if (state.gained or ("value_drift" in names and higher)) and not told:
        yield Claim(
            "It generalises.",
            "No held-out figure with its number of plays is logged.",
            "500 held-out tasks before and after: astarpo evaluate.",
        )
    if evidence.setting("control", "none") != "none" and state.gained:
        yield Claim("Reward taught it.", "The rewards of this run say nothing, and it rose all the same.", "")


def _log_next(evidence: Evidence) -> Iterable[str]:
    if not evidence.episodes:
        yield "every reply as it was said and as it was done, with its kind: how often each kind of action is made"
    if evidence.get("turn_limit", "truncated") is None and not evidence.episodes:
        yield "why episodes end: by the environment, the limit of turns, the limit of tokens"
    if evidence.get("invalid") is None:
        yield "the share of replies that could not be read or done"
    if not any(name.startswith("rewards/") for name in evidence.series) and not evidence.episodes:
        yield "the reward by component, score and success apart from it"
    if evidence.get("zero_std", "group_std") is None:
        yield "the spread of rewards within a task, and the share of tasks without any"
    if evidence.get("grad_norm") is None:
        yield "the gradient's norm"
    if evidence.get("entropy") is None:
        yield "entropy, and KL to the reference"
    if not evidence.held_out:
        yield "success on held-out tasks with its number of plays, before training and after"
