"""A report is one file that holds all it needs and does nothing that an episode says."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from bs4 import BeautifulSoup
from run_folders import HOSTILE, an_episode, rising, write_run

from astarpo.errors import RunError
from astarpo.report.page import comparison_page, report_page, write_report
from astarpo.report.reading import read_run
from astarpo.report.shown import harmless, shown_text
from astarpo.report.verdict import comparison, gain


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> BeautifulSoup:
    folder = write_run(
        tmp_path_factory.mktemp("runs") / "run",
        rising(20),
        finished=True,
        metrics={"entropy": 0.5, "critic/loss": 2.0, "critic/error": 3.0},
    )
    return BeautifulSoup(report_page(folder), "html.parser")


def test_the_verdict_comes_first_and_says_what_the_intervals_allow(page: BeautifulSoup) -> None:
    first = page.select_one("main section")
    assert first is not None
    assert "verdict" in (first.get("class") or [])
    # Its log repeats itself, which the diagnosis calls failing: no gain is green above that.
    assert "open" in (first.get("class") or [])
    assert "Diagnosis: failing" in first.get_text()
    assert "Success rose from 20.0 % to 80.0 %, +60.0 points (95 % interval +47" in first.get_text()


def test_a_gain_that_no_diagnosis_speaks_against_is_shown_as_one(tmp_path: Path) -> None:
    updates = [[an_episode(f"sum/{u}-{i}", reward=float(4 * i < 8 + 2 * u)) for i in range(16)] for u in range(20)]
    first = BeautifulSoup(report_page(write_run(tmp_path / "run", updates, finished=True)), "html.parser").section
    assert first is not None
    assert "Diagnosis: healthy" in first.get_text()
    assert "better" in (first.get("class") or [])


def test_a_report_asks_for_nothing(page: BeautifulSoup) -> None:
    assert [tag["href"] for tag in page.select("link, a") if not str(tag["href"]).startswith(("data:,", "#"))] == []
    assert page.select("[src], iframe, object, embed, base, form, [style]") == []


def test_only_our_own_scripts_and_style_can_run(page: BeautifulSoup) -> None:
    meta = page.select_one("meta[http-equiv=Content-Security-Policy]")
    assert meta is not None
    policy = dict(part.strip().split(" ", 1) for part in str(meta["content"]).split(";"))
    assert policy["default-src"] == "'none'"

    def digests(tags: list[Any]) -> set[str]:
        found = (hashlib.sha256(str(tag.string).encode()).digest() for tag in tags)
        return {f"'sha256-{base64.b64encode(one).decode()}'" for one in found}

    assert set(policy["script-src"].split()) == digests(page.select("script:not([type])"))
    assert set(policy["style-src"].split()) == digests(page.select("style"))


def test_the_library_of_the_charts_is_carried_with_its_licence(page: BeautifulSoup) -> None:
    assert any("uPlot (v1.6.32)" in str(script.string) for script in page.select("script"))
    assert "Permission is hereby granted" in page.get_text()


def test_every_chart_has_its_data_and_says_in_words_what_it_shows(page: BeautifulSoup) -> None:
    data = page.select_one("script#charts")
    assert data is not None
    charts = {chart["id"]: chart for chart in json.loads(str(data.string))}
    boxes = page.select(".plot")
    assert [str(box["data-chart"]) for box in boxes] == list(charts)
    assert {"learning", "score", "reward", "advantages", "entropy", "ended"} <= set(charts)
    # Metrics that the report does not know are shown too.
    assert [one["label"] for one in charts["other-0-0"]["series"]] == ["critic/loss", "critic/error"]
    assert all(len(str(box["aria-label"])) > 20 for box in boxes)
    for chart in charts.values():
        assert all(len(one["y"]) == len(chart["x"]) for one in chart["series"])


def test_a_dozen_episodes_are_told_token_by_token(page: BeautifulSoup) -> None:
    panels = page.select("[role=tabpanel]")
    assert 4 <= len(panels) <= 12
    said = panels[0].select(".act .tokens .t")
    # exp(-0.1), exp(-3), exp(-0.001)
    assert [token["data-p"] for token in said[:3]] == ["90", "5.0", "100"]
    assert "3 tokens, mask 0" in panels[0].get_text()
    assert "3 tokens, mask 1" in panels[0].get_text()
    assert "reward +1.000" in panels[0].get_text()


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> str:
    episode = an_episode(
        HOSTILE, observation=HOSTILE, reply=HOSTILE, level=HOSTILE, info={"query": HOSTILE, "x": HOSTILE}
    )
    folder = write_run(
        tmp_path_factory.mktemp("runs") / "<b>run", [[episode] * 2] * 3, finished=True, preset=HOSTILE[:60]
    )
    (folder / "notes.txt").write_text(HOSTILE, errors="replace")
    (folder / "result.json").write_text(
        json.dumps(json.loads((folder / "result.json").read_text()) | {"warnings": [HOSTILE], "times": {HOSTILE: 1.0}})
    )
    return report_page(folder)


def test_what_an_episode_holds_is_shown_and_never_acts(hostile: str) -> None:
    page = BeautifulSoup(hostile, "html.parser")
    assert page.select("img") == []
    assert len(page.select("script")) == 4
    assert "{{ 7 * 7 }}" in page.get_text()
    assert "<script>document.title='taken'</script>" in page.get_text()
    # Escapes of a terminal, marks that turn the direction of writing, and halves of characters are made visible.
    assert re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2028\ud800-\udfff]", hostile) is None
    assert "␛[31mred␛]0;taken␇ ⟨U+202E⟩back⟨U+2028⟩ ⟨U+D800⟩" in page.get_text()
    hostile.encode()


def test_ten_megabytes_of_text_make_a_small_page_that_says_what_it_leaves_out(tmp_path: Path) -> None:
    episode = an_episode(observation="<b>\x1b" * 2_500_000, turns=1)
    page = report_page(write_run(tmp_path / "run", [[episode]], finished=True))
    assert len(page) < 500_000
    assert "9,996,000 more characters" in page


@pytest.mark.parametrize("updates", [0, 1, 2])
def test_runs_that_have_hardly_begun_have_a_report(tmp_path: Path, updates: int) -> None:
    page = report_page(write_run(tmp_path / "run", rising(updates) if updates else ()))
    assert f"The run is not finished: {updates} of 40 updates are there." in page


def test_a_run_without_its_files_has_a_report_that_says_so(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", rising(3), finished=True)
    for name in ("settings.yaml", "before.json", "result.json", "metrics.jsonl"):
        (folder / name).write_text('{"')
    (folder / "episodes" / "000001.jsonl.gz").write_bytes(b"")
    page = BeautifulSoup(report_page(folder), "html.parser")
    told = page.select(".remarks li")
    assert len(told) == 4


def test_several_runs_are_compared_with_intervals_and_by_what_they_were_set_to(tmp_path: Path) -> None:
    folders = [
        write_run(tmp_path / "one" / "run", rising(5), finished=True),
        write_run(tmp_path / "two" / "run", rising(8), finished=True, seed=7),
    ]
    page = BeautifulSoup(comparison_page([*folders, write_run(tmp_path / "young", rising(1))]), "html.parser")
    rows = [row.get_text(" ", strip=True) for row in page.select(".ends tbody tr")]
    assert len(rows) == 3
    assert rows[0].startswith("run (1) 20.0 % 13.3 to 28.9 % 80.0 % 71.1 to 86.7 % +60.0")
    assert "not yet" in rows[2]
    assert "cannot be told from it" in page.select(".verdict")[0].get_text()
    differences = {row.select_one("th").get_text(): row for row in page.select(".differences tbody tr")}  # type: ignore[union-attr]
    assert list(differences) == ["seed"]


def test_runs_on_different_tasks_are_not_ranked(tmp_path: Path) -> None:
    one = write_run(tmp_path / "one", rising(5), finished=True)
    other = write_run(tmp_path / "other", rising(5), finished=True, environment={"name": "webshop"})
    harder = write_run(tmp_path / "harder", rising(5), finished=True, environment={"name": "webshop", "products": 50})
    said = comparison([read_run(one), read_run(other)], ["one", "other"])
    assert said.headline == "These runs were evaluated on arithmetic and webshop: none can be said to end highest."
    assert not any("Difference of the two" in sentence for sentence in said.more)
    said = comparison([read_run(other), read_run(harder)], ["other", "harder"])
    assert said.headline.startswith("other ends highest, at 80.0 %")
    assert said.more[0] == "Their environments differ in products: beware, they may not have met the same tasks."
    # What is trained on does not change what success is.
    shaped = write_run(
        tmp_path / "shaped", rising(5), finished=True, environment={"name": "webshop", "reward": "success"}
    )
    assert not any(
        "beware" in sentence for sentence in comparison([read_run(other), read_run(shaped)], ["a", "b"]).more
    )


def test_the_interval_of_a_difference_is_newcombes() -> None:
    # 56 of 70 against 48 of 80, Newcombe 1998, table II, row (a), method 10: 0.0524 to 0.3339.
    first = SimpleNamespace(success=48 / 80, success_low=0.490380, success_high=0.700398)
    second = SimpleNamespace(success=56 / 70, success_low=0.691811, success_high=0.876963)
    found = gain(cast(Any, first), cast(Any, second))
    assert found == pytest.approx((0.2, 0.0524, 0.3339), abs=1e-3)


def test_a_report_lies_where_it_is_asked_to(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", rising(2))
    assert write_report([folder]) == folder / "report.html"
    assert write_report([folder], tmp_path / "a.html").read_text().startswith("<!DOCTYPE html>")
    with pytest.raises(RunError, match="is a folder: name a file in it"):
        write_report([folder], tmp_path)
    with pytest.raises(RunError, match="does not exist: make"):
        write_report([folder], tmp_path / "no" / "a.html")


def test_buttons_of_the_shop_are_told_from_words() -> None:
    shown = shown_text("WebShop [SEP] [button] Buy <Now> [button_] [SEP] end", 1000)
    assert shown.parts == ((False, "WebShop\n"), (True, "Buy <Now>"), (False, "\nend"))
    assert shown_text("abc", 2).left_out == 1
    assert harmless("tab\tline\n") == "tab\tline\n"
