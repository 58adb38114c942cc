"""Figures in the words of the page: written as names in braces, put in from the records, so that none can grow stale.

Names are

    {2.1}             mean of the first prediction of claim 2, as its table has it
    {2.1 interval}    that with its interval
    {2.1 seeds}       how many seeds, or draws, would decide it (see `closes`)
    {2 verdict}       of claim 2
    {a/b}             success at the end of an arm, %, mean over seeds
    {a/b each}        the same, seed by seed
    {a/b start}       success at the start of an arm, %
    {refuted}         how many claims are; and {refuted claims}, which
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from statistics import fmean

from scipy.stats import t as student

from astarpo.compare.claims.evidence import Evidence, Finding, Judged
from astarpo.compare.intervals import LEVEL
from astarpo.errors import SettingsError

VERDICTS = ("supported", "refuted", "undecided")

MANY = 100
"""Seeds above which no number is told: the interval is then about as wide as its tasks make it."""

_NAME = re.compile(r"\{([^{}]+)\}")
_CHECK = re.compile(r"(\d+)\.(\d+)")


def filled(text: str, evidence: Evidence, every: Sequence[Judged]) -> str:
    """`text` with its figures.

    Raises:
        SettingsError: a name in braces stands for nothing that was measured.
    """

    def figure(match: re.Match[str]) -> str:
        found = _figure(match[1], evidence, every)
        if found is None:
            raise SettingsError(
                f"{match[0]} stands for no figure of the claims: {{2.1}} is one of a prediction, {{webshop/sft}} of an "
                "arm; see astarpo/compare/claims/words.py."
            )
        return found

    return _NAME.sub(figure, text)


def closes(finding: Finding) -> int | None:
    """Seeds from which on an open prediction would be decided, were mean and spread to stay as they are.

    The interval's half-width is taken to go as t(n − 1) / √n. That of the tasks does not shrink with seeds, so this is
    on the hopeful side. None where it is not open, was not measured, or would take more than `MANY`.
    """
    found, check, seen = finding.interval, finding.check, finding.seeds[0]
    if finding.outcome != "open" or found is None:
        return None
    half = (found.high - found.low) / 2 / _width(seen)
    for n in range(seen + 1, MANY + 1):
        if check.judge(found.mean - half * _width(n), found.mean + half * _width(n)) != "open":
            return n
    return None


def effect(finding: Finding, *, interval: bool = True) -> str:
    """The effect of a prediction in its units, with its interval or without."""
    found = finding.interval
    if found is None:
        return "not measured"
    show = {"points": points, "percent": percent, "plain": number}[finding.check.unit]
    unit = " %" if finding.check.unit == "percent" else ""
    said = f"{show(found.mean)}{unit}"
    return f"{said} ({show(found.low)} to {show(found.high)}{unit})" if interval else said


def points(share: float) -> str:
    """A difference of shares: signed, in points."""
    return f"{100 * share:+.1f}".replace("-", "−")


def percent(share: float) -> str:
    """A share, without its sign of percent."""
    return f"{100 * share:.1f}"


def number(value: float) -> str:
    """Any other number, to three digits."""
    return f"{value:.3g}".replace("-", "−")


def _figure(name: str, evidence: Evidence, every: Sequence[Judged]) -> str | None:
    head, _, rest = name.partition(" ")
    if head in VERDICTS and rest in ("", "claims"):
        numbers = [one.claim.number for one in every if one.verdict == head]
        return _listed(numbers) if rest else str(len(numbers) or "none")
    if head.isdigit() and rest == "verdict":
        return next((one.verdict for one in every if one.claim.number == int(head)), None)
    if (match := _CHECK.fullmatch(head)) is not None:
        findings = [one.findings for one in every if one.claim.number == int(match[1])]
        place = int(match[2]) - 1
        if not findings or not 0 <= place < len(findings[0]):
            return None
        return _of_finding(findings[0][place], rest)
    if runs := evidence.runs.get(head):
        starts, ends = ([one[when]["success"] for _, one in sorted(runs.items())] for when in ("before", "after"))
        said = {"": percent(fmean(ends)), "each": _listed([percent(end) for end in ends])}
        return (said | {"start": percent(fmean(starts))}).get(rest)
    return "not measured" if head in evidence.book.arms and rest in ("", "each", "start") else None


def _of_finding(finding: Finding, rest: str) -> str | None:
    if rest == "seeds":
        n = closes(finding)
        return f"more than {MANY}" if n is None and finding.outcome == "open" else None if n is None else str(n)
    return effect(finding, interval=rest == "interval") if rest in ("", "interval") else None


def _listed(several: Sequence[object]) -> str:
    said = [str(one) for one in several]
    return " and ".join([", ".join(said[:-1]), said[-1]] if len(said) > 1 else said) or "none"


def _width(n: int) -> float:
    return float(student.ppf((1 + LEVEL) / 2, n - 1)) / math.sqrt(n)
