"""A run folder is read for people: what is damaged becomes a sentence, and nothing is written."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from run_folders import rising, write_run

from astarpo.errors import RunError
from astarpo.report.reading import read_run
from astarpo.value_store import PlayResult, PlayStore, ValueKey


def test_a_finished_run_is_read(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run", rising(), finished=True))
    assert run.remarks == ()
    assert (run.environment, run.algorithm, run.updates) == ("arithmetic", "grpo", tuple(range(1, 11)))
    assert run.before is not None
    assert run.after is not None
    assert (run.before.success, run.after.success, run.after.n) == (0.2, 0.8, 100)
    assert run.columns["train/success"][0] == 0.5
    assert run.columns["train/success"][-1] == 1.0


def test_a_run_that_still_goes_is_read_as_far_as_it_is(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", rising(3))
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"update": 4, "reward/me')
    run = read_run(folder)
    assert not run.finished
    assert run.updates == (1, 2, 3)
    assert run.remarks == ()


def test_a_run_that_has_just_begun_is_read(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run"))
    assert run.updates == ()
    assert run.columns == {}
    assert run.planned == 40


def test_numbers_that_are_none_are_missing(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run", rising(2), metrics={"kl": math.nan, "loss": math.inf}))
    assert run.columns["kl"] == [None, None]
    assert run.columns["loss"] == [None, None]


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("result.json", "{"),
        ("result.json", "[1]"),
        ("result.json", '{"after": {"success": "much"}}'),
        ("before.json", "[" * 100_000),
        ("settings.yaml", "a: [b"),
        ("metrics.jsonl", "no\nnot this\n{}\n"),
        ("values.sqlite", "what?" * 5000),
    ],
)
def test_what_is_damaged_is_told_in_a_sentence_and_the_rest_is_read(tmp_path: Path, file: str, content: str) -> None:
    folder = write_run(tmp_path / "run", rising(), finished=True)
    (folder / file).write_text(content)
    run = read_run(folder)
    assert run.remarks
    assert all(file in remark for remark in run.remarks)
    assert run.before is not None
    assert run.updates or file == "metrics.jsonl"


def test_a_damaged_line_of_metrics_costs_that_line_alone(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", rising())
    path = folder / "metrics.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:3], b"[]\n", *lines[4:6], b'{"update": 1e999}\n', *lines[7:]]))
    run = read_run(folder)
    assert run.updates == (1, 2, 3, 5, 6, 8, 9, 10)
    assert run.remarks == (
        f"{path}: 2 lines are not those of updates and were left out, the first of them line 4: the file was damaged "
        "after it was written.",
    )


def test_a_run_of_another_version_and_what_is_no_run_are_refused(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    (folder / "version.json").write_text('{"version": 99}')
    with pytest.raises(RunError, match="is a run of version 99, this is 1: use the astarpo that wrote it"):
        read_run(folder)
    (folder / "version.json").write_text("{")
    with pytest.raises(RunError, match="cannot be read"):
        read_run(folder)
    with pytest.raises(RunError, match="is not a run"):
        read_run(tmp_path)
    with pytest.raises(RunError, match="there is no folder"):
        read_run(tmp_path / "nothing")


def files(folder: Path) -> Iterator[tuple[str, int, int]]:
    for path in sorted(folder.rglob("*")):
        yield str(path), path.stat().st_mtime_ns, path.stat().st_size


def test_v_star_is_read_off_the_plays_and_the_folder_is_left_as_it_was(tmp_path: Path) -> None:
    values = {"beta": 0.5, "tasks": 12}
    folder = write_run(tmp_path / "run", rising(), algorithm={"name": "astar_po"}, values=values)
    with closing(PlayStore(folder / "values.sqlite")) as store:
        mine, others = ValueKey("a", "b", "score", 1.0), ValueKey("other", "b", "score", 1.0)
        store.add(mine, [(("sum/1", n), PlayResult(float(n == 0), float(n == 0), n == 0, "bought")) for n in range(4)])
        store.add(others, [(("sum/9", 0), PlayResult(1.0, 1.0, True, "bought"))])
    there = list(files(folder))
    run = read_run(folder)
    assert run.values is not None
    # beta ln( (e^2 + 3) / 4 )
    assert run.values.of == {"sum/1": pytest.approx(0.5 * math.log((math.exp(2) + 3) / 4))}
    assert list(files(folder)) == there


def test_a_value_table_is_read_while_its_run_writes_to_it(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", rising(), algorithm={"name": "astar_po"})
    with closing(PlayStore(folder / "values.sqlite")) as store:
        key = ValueKey("a", "b", "score", 1.0)
        store.add(key, [(("sum/1", 0), PlayResult(1.0, 1.0, True, "bought"))])
        run = read_run(folder)
    assert run.remarks == ()
    assert run.values is not None
    assert run.values.summary.tasks == 1


def test_settings_that_are_not_there_are_told(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", rising(), finished=True)
    (folder / "settings.yaml").unlink()
    run = read_run(folder)
    assert len(run.remarks) == 1
    assert "settings.yaml" in run.remarks[0]
    assert json.dumps(run.settings) == "{}"
