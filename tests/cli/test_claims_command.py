"""`astarpo claims`: what it refuses, what it says without data, and the page that it writes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import run_command


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--only", "15"], "there is no claim 15: known: 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14."),
        (["--only", "one"], "--only takes numbers of claims, such as 1,5, got 'one'."),
        (["--workers", "0"], "--workers must be 1 or more, got 0."),
        (["--seeds", "0"], "--seeds must be 1 or more, got 0"),
        (["--arms", "webshp/"], "--arms: no arm's name begins with 'webshp/': known: arithmetic/sft, "),
        (["--rebuild", "--only", "1"], "--rebuild writes the page of all claims: leave --only out."),
        (["--adopt", "nowhere"], "--adopt must be a folder of runs, got nowhere, which is none."),
    ],
)
def test_claims_refuses_with_a_sentence(
    arguments: list[str],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    said = run_command(["claims", *arguments], monkeypatch, capsys)
    assert (said.code, said.out) == (2, "")
    assert sentence in said.err
    assert said.err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_without_data_every_claim_is_undecided_and_the_page_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    said = run_command(["claims", "--rebuild", "--json"], monkeypatch, capsys)
    assert said.code == 0
    found = json.loads(said.out)["claims"]
    assert [(one["number"], one["verdict"]) for one in found] == [(number, "undecided") for number in range(1, 15)]
    written = (tmp_path / "docs" / "claims.md").read_text("utf-8")
    assert written.count("**Undecided.**") == 14
    assert all(len(line) <= 120 for line in written.splitlines() if not line.startswith("|"))
