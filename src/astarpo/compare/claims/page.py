"""docs/claims.md from the committed records: figures and verdicts by code, the words around them from the claims."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from statistics import fmean
from typing import Any

from astarpo.compare.claims.definitions import HOME, Book, Check
from astarpo.compare.claims.evidence import Evidence, Finding, Judged
from astarpo.compare.claims.records import read_records, write_line
from astarpo.compare.claims.words import effect, filled, number, percent, points
from astarpo.compare.claims.work import chosen_rate, read_folder, sweep_jobs
from astarpo.journal import write_atomically

WIDTH = 120

DATA, PAGE = "claims.jsonl", "claims.md"


def judged(book: Book, records: Mapping[str, Mapping[str, Any]]) -> tuple[Evidence, list[Judged]]:
    """Every claim of `book` with its verdict."""
    evidence = Evidence(book, records)
    return evidence, [evidence.judge(claim) for claim in book.claims]


def read_data(path: Path) -> dict[str, dict[str, Any]]:
    """Key → record of a data file; empty where there is none yet. Raises RunError where it cannot be read."""
    return {one["key"]: one for one in read_records(path)} if path.exists() else {}


def write_data(evidence: Evidence, path: Path) -> None:
    """The records that the claims use, one a line, sorted, so that a change shows as one."""
    order = sorted(evidence.used.values(), key=lambda one: (one["arm"], one["kind"], one["number"], one["key"]))
    write_atomically(path, "".join(map(write_line, order)).encode())


def plain(one: Judged) -> dict[str, Any]:
    """A claim with its verdict and findings, as JSON values."""
    return {
        "number": one.claim.number,
        "title": one.claim.title,
        "verdict": one.verdict,
        "counts": _counts(one),
        "findings": [
            {
                "what": f.check.what,
                "decides": f.check.decides,
                "outcome": f.outcome,
                "effect": None
                if f.interval is None
                else {"mean": f.interval.mean, "low": f.interval.low, "high": f.interval.high},
                "runs": list(f.seeds),
            }
            for f in one.findings
        ],
    }


def rebuild(book: Book, folder: Path, docs: Path) -> None:
    """Add the records of `folder` to the committed ones and write the page again.

    Args:
        book: all claims.
        folder: of runs; need not be there.
        docs: where claims.md and claims/claims.jsonl are.

    Raises:
        RunError: a file cannot be read or written.
    """
    path = docs / "claims" / DATA
    records = {**read_data(path), **read_folder(folder)}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_data(Evidence(book, records), path)
    write_atomically(docs / PAGE, page(book, read_data(path)).encode())


def page(book: Book, records: Mapping[str, Mapping[str, Any]]) -> str:
    """docs/claims.md."""
    evidence, every = judged(book, records)
    parts = [
        (files(HOME) / "head.md").read_text("utf-8").strip(),
    ]
    if all(_read(one, evidence) for one in every):
        parts.append(_filled_out((files(HOME) / "answer.md").read_text("utf-8"), evidence, every))
    parts += [
        _summary(every),
        (files(HOME) / "method.md").read_text("utf-8").strip(),
    ]
    parts += ["\n\n".join(_claim(one, evidence, every)) for one in every]
    parts += ["## The runs", _arms(evidence), "## The sweep", _sweep(evidence)]
    if evidence.draws:
        parts += ["## Signal-to-noise", _ratios(evidence)]
    return "\n\n".join(parts) + "\n"


def _summary(every: Sequence[Judged]) -> str:
    rows = [
        [str(one.claim.number), f"[{one.claim.title}](#{_anchor(one)})", f"**{one.verdict}**", _counts(one)]
        for one in every
    ]
    return _table(["", "claim", "verdict", "predictions that decide"], rows, "rlll")


def _counts(one: Judged) -> str:
    deciding = [finding for finding in one.findings if finding.check.decides]
    words = {"holds": "hold", "fails": "fail", "open": "open"}
    numbers = {outcome: sum(f.outcome == outcome for f in deciding) for outcome in words}
    return ", ".join(f"{number} {words[outcome]}" for outcome, number in numbers.items() if number)


def _heading(one: Judged) -> str:
    return f"{one.claim.number}. {one.claim.title}"


def _anchor(one: Judged) -> str:
    kept = "".join(c for c in _heading(one).lower() if c.isalnum() or c in " -")
    return kept.replace(" ", "-")


def _read(one: Judged, evidence: Evidence) -> bool:
    """Whether the words on a claim hold: they were written for its verdict, and all of its runs are in."""
    claim, arms, ratios = one.claim, evidence.book.arms, evidence.book.ratios
    done = all(len(evidence.runs.get(arm, {})) == arms[arm].seeds for arm in claim.arms)
    drawn = all(len(evidence.draws.get(name, {})) == ratios[name].draws for name in claim.ratios)
    return bool(claim.reading) and claim.reading_for == one.verdict and done and drawn


def _filled_out(text: str, evidence: Evidence, every: Sequence[Judged]) -> str:
    """Paragraphs with their figures, wrapped anew since a figure is not as long as its name."""
    return "\n\n".join(_wrapped(filled(" ".join(one.split()), evidence, every)) for one in text.strip().split("\n\n"))


def _claim(one: Judged, evidence: Evidence, every: Sequence[Judged]) -> Iterator[str]:
    claim = one.claim
    yield f"## {_heading(one)}"
    yield _wrapped(f"**{one.verdict.capitalize()}.** The claim: {claim.said}")
    rows = [[f.check.what, effect(f), _seeds(f), _bounds(f.check), _outcome(f)] for f in one.findings]
    yield _table(["measured", "effect, 95 % interval", "runs", "holds if", ""], rows, "lrrll")
    if _read(one, evidence):
        yield _filled_out(claim.reading, evidence, every)
    yield "\n".join(
        [
            _wrapped(f"- Rule: {claim.rule}", "  "),
            _wrapped(f"- What would have changed it: {claim.would_change}", "  "),
            _wrapped(f"- What of ours may be to blame: {claim.blame}", "  "),
        ]
    )


def _outcome(finding: Finding) -> str:
    said, check = str(finding.outcome), finding.check
    if finding.outcome == "fails" and check.within is not None and finding.interval is not None:
        said += ", above" if finding.interval.low > check.within[1] else ", below"
    return said if check.decides else f"context: {said}"


def _seeds(finding: Finding) -> str:
    seen, wanted = finding.seeds
    return str(seen) if seen == wanted else f"{seen} of {wanted}"


def _bounds(check: Check) -> str:
    show = {"points": points, "percent": percent, "plain": number}[check.unit]
    if check.within is not None:
        return f"within {show(check.within[0])} to {show(check.within[1])}"
    said = f"above {show(check.holds_above or 0.0)}"
    if check.fails_below is not None and check.fails_below != check.holds_above:
        said += f"; fails below {show(check.fails_below)}"
    return said


def _arms(evidence: Evidence) -> str:
    rows = []
    for name, spec in evidence.book.arms.items():
        runs = [one for _, one in sorted(evidence.runs.get(name, {}).items())]
        if not runs:
            rows.append([f"`{name}`", spec.words, f"0 of {spec.seeds}", *[""] * 6])
            continue
        rate = runs[0]["rate"]
        pass_at = [one["after"].get("pass_at", {}) for one in runs]
        largest = max((int(k) for k in pass_at[0]), default=1)
        rows.append(
            [
                f"`{name}`",
                spec.words + ("" if rate == 1.0 else f"; rate × {rate:.2g}"),
                str(len(runs)) if len(runs) == spec.seeds else f"{len(runs)} of {spec.seeds}",
                f"{percent(fmean(one['before']['success'] for one in runs))} %",
                " ".join(percent(one["after"]["success"]) for one in runs),
                f"{percent(fmean(p[str(largest)] for p in pass_at))} (k = {largest})" if largest > 1 else "",
                _last(runs, "entropy"),
                f"{fmean(one['after']['turns'] for one in runs):.1f}",
                f"{fmean(one['cpu_seconds'] for one in runs):.0f}"
                if all(one.get("cpu_seconds") for one in runs)
                else "",
            ]
        )
    heads = ["arm", "what it is", "seeds", "start", "end, each seed, %", "pass@k, %", "entropy", "turns", "CPU s"]
    return _table(heads, rows, "llrrlrrrr")


def _last(runs: Sequence[Mapping[str, Any]], name: str) -> str:
    values = [one["metrics"][name][-1] for one in runs if name in one["metrics"]]
    return f"{fmean(values):.3f}" if values else ""


def _sweep(evidence: Evidence) -> str:
    rows = []
    for name, spec in evidence.book.arms.items():
        swept = [(job.plain["rate"], evidence.used.get(job.key)) for job in sweep_jobs(spec)]
        if any(one is not None for _, one in swept):
            rate = chosen_rate(evidence.book, spec, evidence.used)
            cells = [f"× {r:.2g}: {'–' if one is None else percent(one['curve'][-1][1])}" for r, one in sorted(swept)]
            rows.append([f"`{name}`", *cells, "" if rate is None else f"× {rate:.2g}"])
    return _table(["arm", "dev success, %", "", "", "chosen"], rows, "lllll") if rows else "None was run yet."


def _ratios(evidence: Evidence) -> str:
    rows = []
    for name, draws in evidence.draws.items():
        for arm in evidence.book.ratios[name].arms:
            values = [one["ratios"][arm]["snr"] for _, one in sorted(draws.items()) if one["ratios"].get(arm)]
            rows.append([f"`{name}`", f"`{arm}`", f"{fmean(values):.2f}", " ".join(f"{v:.2f}" for v in values)])
    return _table(["policy", "loss", "mean SNR", "each draw"], rows, "llrl")


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], align: str) -> str:
    rules = {"l": "---", "r": "---:"}
    lines = ["| " + " | ".join(heads) + " |", "|" + "|".join(rules[side] for side in align) + "|"]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def _wrapped(text: str, indent: str = "") -> str:
    return textwrap.fill(text, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
