"""Every format becomes the same evidence; bad input is a sentence or a note, never a stack trace."""

from __future__ import annotations

import csv
import gzip
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from astarpo.diagnosis.evidence import Evidence
from astarpo.diagnosis.plain import plain, quoted
from astarpo.diagnosis.readers import read
from astarpo.diagnosis.verdict import diagnose
from astarpo.errors import DataError

SAMPLES = Path(__file__).parent / "samples"

VERL = (
    "\x1b[36m(TaskRunner pid=261799)\x1b[0m step:{n} - actor/entropy:np.float64({entropy}) - actor/kl_loss:0.001 - "
    "actor/grad_norm:0.5 - critic/score/mean:{reward} - critic/rewards/mean:0.1 - response_length/clip_ratio:0.02\n"
)


def values(evidence: Evidence, name: str) -> list[tuple[int, float]]:
    """Steps and values of one series."""
    series = evidence.series[name]
    return list(zip(series.steps.tolist(), series.values.tolist(), strict=True))


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, "utf-8")
    return path


ROWS: list[dict[str, Any]] = [
    {"step": n, "reward": n / 10, "loss": 0.0, "frac_reward_zero_std": 0.5, "completions/clipped_ratio": 0.1}
    for n in (1, 2, 3)
]


def as_text(folder: Path) -> Path:
    return write(folder, "run.log", "".join(f"INFO step {r['step']}: reward={r['reward']}, loss: 0.0\n" for r in ROWS))


def as_trainer_state(folder: Path) -> Path:
    (folder / "checkpoint-3").mkdir()
    totals = {"step": 3, "train_runtime": 9.0, "train_loss": 7.0}
    state = {"max_steps": 3, "global_step": 3, "log_history": [*ROWS, totals]}
    write(folder / "checkpoint-3", "trainer_state.json", json.dumps(state, indent=2))
    return folder


def as_verl_lines(folder: Path) -> Path:
    lines = [{"step": r["step"], "data": {"critic/score/mean": r["reward"], "actor/pg_loss": 0.0}} for r in ROWS]
    return write(folder, "verl.jsonl", "".join(json.dumps(line) + "\n" for line in lines))


def as_history(folder: Path) -> Path:
    return write(folder, "history.json", json.dumps([{"_step": r["step"], **r} for r in ROWS]))


def as_columns(folder: Path) -> Path:
    names = ["step", "reward", "loss"]
    return write(folder, "df.json", json.dumps({n: {str(i): r[n] for i, r in enumerate(ROWS)} for n in names}))


def as_csv(folder: Path) -> Path:
    path = folder / "export.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["Step", "run-7 - train/reward", "run-7 - train/reward__MIN", "run-7 - train/loss"])
        table.writerows([r["step"], r["reward"], -9, r["loss"]] for r in ROWS)
    return path


@pytest.mark.parametrize(
    "written", [as_text, as_trainer_state, as_verl_lines, as_history, as_columns, as_csv], ids=lambda f: f.__name__
)
def test_every_format_gives_the_same_series(written: Any, tmp_path: Path) -> None:
    found = read(written(tmp_path))
    assert values(found, "reward") == [(1, 0.1), (2, 0.2), (3, 0.3)]
    assert values(found, "loss") == [(1, 0.0), (2, 0.0), (3, 0.0)]


def test_the_original_log_is_read_to_the_last_number() -> None:
    found = read(Path(__file__).parent / "golden" / "original.log")
    assert values(found, "reward") == [(1, -1.1), (5, -1.05), (20, -1.12)]
    assert values(found, "v_star") == [(1, -1.1), (5, -1.1), (20, -1.1)]
    assert values(found, "advantage") == [(1, 0.0), (5, 0.05), (20, -0.02)]
    assert values(found, "loss") == [(5, -0.234)]
    assert values(found, "success") == [(20, 0.0)]


def test_verls_console_is_read_through_its_colours_and_its_numpy(tmp_path: Path) -> None:
    lines = [VERL.format(n=n, entropy=2.5, reward=0.25 * n) for n in (1, 2)]
    found = read(write(tmp_path, "console.log", "starting ray\n" + "".join(lines)))
    assert found.format == "verl's console log"
    assert values(found, "entropy") == [(1, 2.5), (2, 2.5)]
    # The reward before the KL penalty is the one that detectors mean; the other keeps its own name.
    assert values(found, "reward") == [(1, 0.25), (2, 0.5)]
    assert values(found, "critic/rewards/mean") == [(1, 0.1), (2, 0.1)]
    assert values(found, "truncated") == [(1, 0.02), (2, 0.02)]


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("verl_grader_always_says_no.log", "zero_variance"),
        ("verl_learning_rate_large.log", "steps_too_large"),
        ("verl_learning_rate_large.jsonl", "steps_too_large"),
    ],
)
def test_what_verls_own_writers_write_is_read_and_judged(name: str, cause: str, tmp_path: Path) -> None:
    # Two seeded faults of benchmarks/diagnosis.py under verl's names, written by the loggers of verl 0.9.1; the console
    # log begins with printed settings, such as 'clip_ratio': 0.2, which are no metrics.
    path = tmp_path / name
    path.write_bytes(gzip.decompress((SAMPLES / f"{name}.gz").read_bytes()))
    found = read(path)
    assert len(found.series["reward"]) == 40
    assert len(found.series["eval/reward"]) == 3
    assert found.series["clip_frac"].values.max() == 0.0
    judged = diagnose(found)
    assert judged.root_cause is not None
    assert judged.root_cause.name == cause


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("ragen_a_form_that_no_prompt_names.log", "mostly_invalid"),
        ("ragen_learning_rate_large.log", "steps_too_large"),
        ("ragen_healthy_grpo.jsonl", None),
    ],
)
def test_what_ragen_logs_is_read_and_judged(name: str, cause: str | None, tmp_path: Path) -> None:
    # Runs of benchmarks/diagnosis.py, seed 0, as benchmarks/diagnosis_ragen.py writes them.
    path = tmp_path / name
    path.write_bytes(gzip.decompress((SAMPLES / f"{name}.gz").read_bytes()))
    found = read(path)
    updates = len(found.series["success"])
    assert [len(found.series[metric]) for metric in ("reward", "invalid", "length", "entropy")] == [updates] * 4
    assert found.held_out[0].step == 0
    assert "clip_ratio" not in found.series
    judged = diagnose(found)
    if cause is None:
        assert (judged.verdict, updates) == ("healthy", 100)
        assert len(found.series["group_std"]) == 100
    else:
        assert judged.root_cause is not None
        assert judged.root_cause.name == cause
    if cause == "steps_too_large":
        # The trainer stopped by itself, and says so in words.
        assert updates == 20
        assert any("variance collapsed" in text for _, text in found.events)


def test_ragens_retrieval_names_its_sample(tmp_path: Path) -> None:
    row = {
        "collapse_first_turn_sample/retrieval_accuracy": 0.5,
        "collapse_first_turn_sample/retrieval_chance_level": 0.1,
    }
    found = read(write(tmp_path, "r.jsonl", json.dumps({"step": 4, "data": row}) + "\n"))
    assert values(found, "retrieval") == [(4, 0.5)]
    assert values(found, "retrieval/chance") == [(4, 0.1)]


def test_trls_console_has_its_numbers_in_quotes(tmp_path: Path) -> None:
    lines = [f"{{'loss': '-0.0{n}', 'reward': '0.{n}', 'epoch': '0.1'}}" for n in (1, 2, 3)]
    evaluation, totals = "{'eval_reward': '0.5', 'epoch': '0.1'}", "{'train_runtime': '9.1', 'train_loss': '7.0'}"
    found = read(write(tmp_path, "out.log", "\n".join([lines[0], lines[1], evaluation, lines[2], totals])))
    assert values(found, "reward") == [(1, 0.1), (2, 0.2), (3, 0.3)]
    assert values(found, "eval/reward") == [(2, 0.5)]
    assert "train_loss" not in found.series


def test_printed_dictionaries_are_counted(tmp_path: Path) -> None:
    found = read(write(tmp_path, "out.log", "{'loss': 0.5, 'reward': 0.1}\n{'loss': 0.4, 'reward': 0.2}\n"))
    assert values(found, "reward") == [(1, 0.1), (2, 0.2)]
    assert "counted from 1" in found.notes[0]


KEPT = [(1, 0.125, 0.5), (2, 0.25, 0.4), (3, 0.5, 0.3)]
"""Step, success and entropy."""


def framed(step: int, success: float, entropy: float) -> str:
    rows = (
        ("rollout/", ""),
        ("   success_rate", success),
        ("time/", ""),
        ("   iterations", step),
        ("   entropy", entropy),
    )
    return "-" * 30 + "\n" + "".join(f"| {name:<18} | {value:<5} |\n" for name, value in rows)


AS_PEOPLE_KEEP_THEM: dict[str, tuple[str, str]] = {
    "sentences": (
        "notes.txt",
        "".join(f"[ {n}/3] success was {100 * s} %, with an entropy of {e}\n" for n, s, e in KEPT),
    ),
    "progress_bar": (
        "err.log",
        "".join(
            f"\rEpisode [1/1]: {33 * n}%|{'#' * n}{' ' * (3 - n)}| {n}/3 [00:0{n}<00:09, success={s}, entropy={e}]"
            for n, s, e in KEPT
        ),
    ),
    "dictionaries_and_bars": (
        "out.txt",
        "".join(
            f"{{'success': '{s}', 'entropy': '{e}', 'epoch': '0.{n}'}}\n {33 * n}%|##   | {n + 1}/3 [00:10<00:30]\n"
            for n, s, e in KEPT
        ),
    ),
    "a_function_called_step": (
        "app.log",
        "".join(
            f"2026-03-04 12:00:0{n}.123 | INFO | trainer:step:412 - update={n} | accuracy={100 * s}% | entropy={e}\n"
            for n, s, e in KEPT
        ),
    ),
    "nested_json": (
        "metrics.jsonl",
        "".join(
            json.dumps({"iteration": n, "train": {"success": s, "policy": {"entropy_avg": e}}, "entropy": e}) + "\n"
            for n, s, e in KEPT
        ),
    ),
    "decimal_commas": (
        "export.csv",
        "step;success;entropy\n" + "".join(f"{n};{s};{e}\n".replace(".", ",") for n, s, e in KEPT),
    ),
    "frames": ("sb3.log", "".join(framed(*row) for row in KEPT)),
    "markdown": (
        "readme.md",
        "| step | success | entropy |\n|---|---|---|\n" + "".join(f"| {n} | {s} | {e} |\n" for n, s, e in KEPT),
    ),
    "columns": ("table.txt", "Step  Success  Entropy\n" + "".join(f"{n:4d}  {s:7.3f}  {e:.3f}\n" for n, s, e in KEPT)),
    "rows_of_pandas": (
        "frame.txt",
        "   step  success  entropy\n" + "".join(f"{n - 1}  {n:4d}  {s:7.3f}  {e:7.3f}\n" for n, s, e in KEPT),
    ),
    "steps_in_brackets": (
        "train.log",
        "".join(f"Epoch [1/3] Step [{n}/3] success: {s} entropy: {e}\n" for n, s, e in KEPT),
    ),
}


@pytest.mark.parametrize("kind", AS_PEOPLE_KEEP_THEM)
def test_logs_are_read_as_people_keep_them(kind: str, tmp_path: Path) -> None:
    name, text = AS_PEOPLE_KEEP_THEM[kind]
    seen = read(write(tmp_path, name, text))
    assert seen.series["success"].values == pytest.approx([s for _, s, _ in KEPT])
    assert seen.series["entropy"].values == pytest.approx([e for _, _, e in KEPT])
    assert list(seen.series["success"].steps) == [n for n, _, _ in KEPT]


def test_digits_in_a_name_are_no_number_that_may_change(tmp_path: Path) -> None:
    text = "".join(
        f"12:00:0{n} step={n} reward_1={n} loss={n}\n12:00:0{n} step={n} reward_2=-{n} loss={n}\n" for n in (1, 2, 3)
    )
    seen = read(write(tmp_path, "a.log", text))
    assert list(seen.series["reward_1"].values) == [1, 2, 3]
    assert list(seen.series["reward_2"].values) == [-1, -2, -3]


def test_listed_percentages_belong_to_the_last_steps(tmp_path: Path) -> None:
    found = read(write(tmp_path, "a.log", "Step 25: Loss=2\nStep 50: Loss=1.5\nAccuracy: 45% → 68%\n"))
    assert values(found, "success") == [(25, 0.45), (50, 0.68)]


def test_ragens_valid_actions_become_invalid_ones(tmp_path: Path) -> None:
    row = {"train/WebShop/action_is_valid": 0.9, "val-env/WebShop/success": 0.25, "train/WebShop/success": 0.5}
    found = read(write(tmp_path, "r.jsonl", json.dumps({"step": 4, **row}) + "\n" + json.dumps({"step": 5, **row})))
    assert found.series["invalid"].values == pytest.approx([0.1, 0.1])
    assert [seen.success for seen in found.held_out] == [0.25, 0.25]
    assert values(found, "success") == [(4, 0.5), (5, 0.5)]


def test_nan_counts_where_the_rest_of_the_line_is_finite_and_nowhere_else(tmp_path: Path) -> None:
    # An evaluation's line in a table of training metrics is empty, and pandas writes that as nan.
    text = "step,reward,loss,eval_reward\n1,0.5,0.1,nan\n2,0.5,nan,nan\n3,nan,nan,0.7\n"
    found = read(write(tmp_path, "t.csv", text))
    assert found.series["loss"].broken == (2,)
    assert found.series["reward"].broken == ()
    assert found.series["eval/reward"].broken == ()
    assert read(write(tmp_path, "n.log", "Step 1: loss=nan, reward=0.5\n")).series["loss"].broken == (1,)


def test_missing_columns_and_torn_rows_are_noted(tmp_path: Path) -> None:
    found = read(write(tmp_path, "t.csv", "step,reward\n1,0.1\n2\n,0.3\nx,0.3\n3,0.4,9\n"))
    assert values(found, "reward") == [(1, 0.1), (3, 0.4)]
    assert any("rows have no step" in note for note in found.notes)


def test_a_truncated_trainer_state_gives_what_is_complete(tmp_path: Path) -> None:
    whole = json.dumps({"best_metric": None, "log_history": ROWS}, indent=1)
    found = read(write(tmp_path, "trainer_state.json", whole[: whole.rindex('"reward"')]))
    assert values(found, "reward") == [(1, 0.1), (2, 0.2)]
    assert "cut short" in found.notes[0]


def test_a_truncated_last_line_and_damaged_lines_are_noted(tmp_path: Path) -> None:
    lines = [json.dumps(row) for row in ROWS]
    found = read(write(tmp_path, "m.jsonl", "\n".join([lines[0], "{broken", lines[1], lines[2][:10]])))
    assert values(found, "reward") == [(1, 0.1), (2, 0.2)]
    assert "2 lines" in found.notes[0]


def test_mixed_up_lines_are_put_in_order_and_said(tmp_path: Path) -> None:
    found = read(write(tmp_path, "m.log", "Step 3: reward=3\nStep 1: reward=1\nStep 2: reward=2\nStep 1: reward=9\n"))
    assert values(found, "reward") == [(1, 9.0), (2, 2.0), (3, 3.0)]
    assert "go backwards" in found.notes[0]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("empty.log", ""),
        ("empty.json", ""),
        ("empty.csv", ""),
        ("words.log", "nothing to see here\n"),
        ("list.json", "[1, 2, 3]"),
        ("null.json", "null"),
        ("torn.json", '{"log_history": [{'),
        ("deep.json", "[" * 50_000),
        ("trainer_state.json", '{"log_history": "none"}'),
        ("bytes.log", "\ufffd\x00\x01" * 50),
    ],
)
def test_what_holds_no_metric_is_one_sentence(name: str, content: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=name) as raised:
        read(write(tmp_path, name, content))
    assert "\n" not in str(raised.value)


def test_nothing_there_and_an_empty_folder_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing at"):
        read(tmp_path / "missing")
    with pytest.raises(DataError, match="folder without a run"):
        read(tmp_path)


def test_tensorboard_events_are_series(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path / "events")) as writer:
        for step, reward in ((1, 0.25), (2, 0.5)):
            writer.add_scalar("train/reward", reward, step)
            writer.add_scalar("train/loss", -reward, step)
    for path in (tmp_path, tmp_path / "events"):
        found = read(path)
        assert values(found, "reward") == [(1, 0.25), (2, 0.5)]
        assert values(found, "loss") == [(1, -0.25), (2, -0.5)]


def test_tensorboard_that_is_absent_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard.backend.event_processing.event_accumulator", None)
    with pytest.raises(DataError, match=r"pip install 'astarpo\[tensorboard\]'"):
        read(write(tmp_path, "events.out.tfevents.1.host", "x"))


def offline(folder: Path, cut: int | None = None) -> Path:
    """The file that wandb 0.31 wrote offline: 70 updates, an evaluation after every tenth, one loss of NaN."""
    path = folder / "run-sample.wandb"
    path.write_bytes(gzip.decompress((SAMPLES / "offline.wandb.gz").read_bytes())[:cut])
    return path


def test_wandbs_own_file_is_read_without_wandb(tmp_path: Path) -> None:
    offline(tmp_path)
    found = read(tmp_path)
    assert found.format == "W&B offline run"
    assert len(found.series["reward"]) == 70
    assert found.series["reward"].values[[0, 1, -1]] == pytest.approx([0.2, 0.21, 0.89])
    assert found.series["loss"].broken == (13,)
    # W&B's own step has moved on by the evaluations; the trainer's has not.
    assert found.series["eval/reward"].steps.tolist() == list(range(10, 71, 10))
    assert found.series["eval/reward"].values[:2] == pytest.approx([0.345, 0.395])
    assert not any(name.startswith("_") for name in found.series)


@pytest.mark.parametrize("cut", [20_000, 32_770, 40_000])
def test_a_wandb_file_that_is_cut_short_gives_what_came_before(cut: int, tmp_path: Path) -> None:
    found = read(offline(tmp_path, cut))
    assert 10 < len(found.series["reward"]) < 70
    assert found.series["reward"].values[:2] == pytest.approx([0.2, 0.21])
    assert "cut short" in found.notes[0]


def test_what_is_only_called_wandb_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not begin as W&B's"):
        read(write(tmp_path, "run-abc.wandb", "x"))


def a_log(n: int, reward: float) -> str:
    return f"Step {n}: Loss=2.1453, Reward={reward:.4f}\n"


def a_bar(n: int, reward: float) -> str:
    return f"\r {n % 100}%|{'#' * (n % 9)}  | {n}/100000 [00:{n % 60:02d}<01:00, 1.0s/it, accuracy={100 * reward:.2f}%]"


def a_json_line(n: int, reward: float) -> str:
    return f'{{"step": {n}, "loss": 2.1453, "reward": {reward:.4f}}}\n'


def a_row(n: int, reward: float) -> str:
    return f"{n},2.1453,{reward:.4f}\n"


@pytest.mark.parametrize(
    ("name", "head", "line", "lines"),
    [
        ("long.log", "", a_log, 1_000_000),
        ("bar.log", "", a_bar, 50_000),
        # These two are slower by the line and are measured on fewer, so that the suite stays short.
        ("long.jsonl", "", a_json_line, 100_000),
        ("long.csv", "step,loss,reward\n", a_row, 100_000),
    ],
)
def test_a_million_lines_are_read_and_judged_in_ten_seconds(
    name: str, head: str, line: Any, lines: int, tmp_path: Path
) -> None:
    reward = np.random.default_rng(0).random(lines)
    path = tmp_path / name
    path.write_text(head + "".join(line(n, r) for n, r in enumerate(reward.tolist())), "utf-8")
    began = time.process_time()
    found = diagnose(read(path))
    assert time.process_time() - began < 10.0 * lines / 1_000_000
    assert len(found.findings) == 0
    assert found.root_cause is None


def test_numbers_that_no_float_holds_are_left_out(tmp_path: Path) -> None:
    big = "1" + "0" * 400
    found = read(
        write(tmp_path, "b.jsonl", f'{{"step": 1, "reward": {big}, "loss": 1}}\n{{"step": {big}, "reward": 2}}\n')
    )
    assert values(found, "loss") == [(1, 1.0)]
    assert values(found, "reward") == [(2, 2.0)]


def test_terminal_escapes_are_stripped_from_what_others_wrote() -> None:
    hostile = "\x1b]0;owned\x07\x1b[2J\x1b[31mbuy\x1b[0m\x9b5n\u202e <script>alert(1)</script>\x1bPq\x1b\\"
    assert plain(hostile) == "buy5n <script>alert(1)</script>"
    assert plain("x" * 10_000_000, 100) == "x" * 100
    assert quoted("a\n\tb" + "\x1b[31m" * 1000) == "a b"


def test_a_damaged_run_folder_gives_what_is_whole(tmp_path: Path) -> None:
    (tmp_path / "episodes").mkdir()
    (tmp_path / "episodes" / "000001.jsonl.gz").write_bytes(gzip.compress(b"{}")[:-3])
    (tmp_path / "values.sqlite").write_bytes(b"not a database at all, not a database at all")
    write(tmp_path, "settings.yaml", "{: bad")
    write(tmp_path, "result.json", "{")
    write(tmp_path, "metrics.jsonl", '{"update": 1, "reward/mean": 0.5}\n{"update": 2, "rew')
    found = read(tmp_path)
    assert values(found, "reward") == [(1, 0.5)]
    assert len(found.notes) == 5
