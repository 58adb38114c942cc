"""What a person sees: few lines in a log, a bar in a terminal, a verdict no bolder than its intervals."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from astarpo.cli.display import LiveWatch, PlainWatch, duration, evaluations_table, headline, verdict
from astarpo.evaluate import Evaluation

METRICS = {"reward/mean": 0.5, "train/success": 0.25, "kl/reference": 0.01, "tokens_per_second": 12345.6, "other": 1.0}


def evaluation(success: float, low: float, high: float, sampled: Evaluation | None = None) -> Evaluation:
    return Evaluation(success, low, high, success, 500, "test", "greedy", 1.0, 0.0, {"answered": 500}, {}, sampled)


def test_a_log_gets_a_line_a_stage_and_not_one_a_step(capsys: pytest.CaptureFixture[str]) -> None:
    watch = PlainWatch(between=3600)
    watch.stage("stage 1: reference plays", 5000)
    for _ in range(5000):
        watch.advance()
    watch.stage("training", 300)
    for number in range(1, 301):
        watch.update(number, METRICS)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "stage 1: reference plays"
    assert lines[1].startswith("stage 1: reference plays: 5000/5000")
    assert lines[2] == "training"
    assert lines[3].startswith("training: 300/300  reward 0.500  success 25%  kl 0.0100  tokens/s 12,346")
    assert len(lines) == 4


def test_a_resumed_run_counts_what_is_left(capsys: pytest.CaptureFixture[str]) -> None:
    watch = PlainWatch(between=0)
    watch.stage("training", 2)
    watch.update(9, METRICS)
    watch.stage("evaluation on 200 dev tasks", 1)
    watch.advance()
    watch.update(10, METRICS)
    counted = [line.partition("  ")[0] for line in capsys.readouterr().err.splitlines()]
    assert "training: 1/2" in counted
    assert counted[-1] == "training: 2/2"


def test_bars_follow_stage_advance_and_update() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    with LiveWatch(console) as watch:
        watch.stage("training", 2)
        watch.update(9, METRICS)
        watch.stage("evaluation on 200 dev tasks", 4)
        watch.advance(4, loss=0.12345)
        watch.stage("evaluation on 200 dev tasks", 4)
        watch.advance(1)
        watch.update(10, METRICS)
        watch.note("a warning [with brackets]")
        watch.warn("two rewards [here]")
    assert isinstance(console.file, io.StringIO)
    drawn = console.file.getvalue()
    assert "a warning [with brackets]" in drawn
    assert "\x1b[1;31mWARNING: two rewards [here]" in drawn
    last = drawn.rsplit("training", 1)[1]
    assert "2/2" in last
    assert "1/4" in last
    assert "reward 0.500" in last


def test_a_warning_stands_out_in_a_log_too(capsys: pytest.CaptureFixture[str]) -> None:
    PlainWatch().warn("two rewards")
    assert capsys.readouterr().err == "WARNING: two rewards\n"


def test_the_latest_success_on_dev_stands_in_the_headline() -> None:
    assert headline(METRICS | {"dev/success": 0.355}).split("  ")[:3] == ["reward 0.500", "success 25%", "dev 35.5%"]


def test_metrics_that_are_absent_are_left_out() -> None:
    assert headline({"reward/mean": 1.0}) == "reward 1.000"


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0 s"), (59.6, "1 min 0 s"), (372, "6 min 12 s"), (7260, "2 h 1 min")]
)
def test_durations_read_as_people_say_them(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def drawn(rows: list[tuple[str, Evaluation]], width: int = 80) -> list[str]:
    """The table's lines, as a terminal `width` columns wide shows them."""
    console = Console(file=io.StringIO(), width=width)
    console.print(evaluations_table("title", rows))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def test_the_table_has_a_row_for_each_decoding() -> None:
    before = evaluation(0.1, 0.08, 0.13, evaluation(0.05, 0.03, 0.07))
    after = evaluation(0.9, 0.87, 0.92, evaluation(0.8, 0.76, 0.83))
    rows = [line for line in drawn([("before", before), ("after", after)]) if "greedy" in line or "sampled" in line]
    assert len(rows) == 4
    assert "10.0 %" in rows[0]
    assert "8.0 to 13.0 %" in rows[0]
    assert "80.0 %" in rows[3]


def test_scores_stand_with_their_intervals_in_eighty_columns() -> None:
    one = replace(evaluation(1.0, 0.992, 1.0), score=0.612, score_low=0.581, score_high=0.643)
    one = replace(one, sampled=replace(one, decoding="sampled", pass_at={1: 1.0, 8: 1.0}))
    _, head, _, greedy, sampled = [line for line in drawn([("before", one)]) if line.strip()]
    assert " ".join(head.split()) == "decoding success 95 % interval score 95 % interval pass@8 n"
    assert " ".join(greedy.split()) == "before greedy 100.0 % 99.2 to 100.0 % 0.612 0.581 to 0.643 500"
    assert " ".join(sampled.split()) == "sampled 100.0 % 99.2 to 100.0 % 0.612 0.581 to 0.643 100.0 % 500"
    (old,) = [line for line in drawn([("before", evaluation(0.1, 0.08, 0.13))]) if "greedy" in line]
    assert "not kept" in old


def test_pass_at_k_is_shown_where_tasks_were_sampled_several_times() -> None:
    once = evaluation(0.1, 0.08, 0.13, replace(evaluation(0.2, 0.1, 0.3), pass_at={1: 0.2}))
    assert not [line for line in drawn([("a", once)]) if "pass@" in line]
    several = replace(once, sampled=replace(evaluation(0.2, 0.1, 0.3), pass_at={1: 0.2, 2: 0.3, 4: 0.456}))
    lines = drawn([("a", several)], width=100)
    assert [line.split()[-2:] for line in lines if "pass@" in line] == [["pass@4", "n"]]
    assert [line.split()[-3:] for line in lines if "sampled" in line] == [["45.6", "%", "500"]]
    assert [line.split()[-1:] for line in lines if "greedy" in line] == [["500"]]
    # Beside an evaluation with fewer samples, what both have.
    assert [line for line in drawn([("a", several), ("b", once)], width=100) if "pass@" in line] == []


def test_the_verdict_claims_no_more_than_the_intervals_allow() -> None:
    low, middle, high = evaluation(0.1, 0.08, 0.13), evaluation(0.12, 0.1, 0.15), evaluation(0.9, 0.87, 0.92)
    assert verdict(low, high).startswith("Success rose from 10.0 % to 90.0 %")
    assert verdict(high, low).startswith("Success fell")
    assert "no difference" in verdict(low, middle)
    # 5 against 13 of 20: the intervals overlap and that of the difference, 9.2 to 61.8 points, is above zero.
    few, many = evaluation(0.25, 0.1119, 0.4687), evaluation(0.65, 0.4329, 0.8188)
    assert verdict(few, many).startswith(
        "Success rose from 25.0 % to 65.0 %, +40.0 points (95 % interval +9.2 to +61.8)"
    )
