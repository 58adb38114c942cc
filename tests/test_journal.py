"""What a run leaves behind: exact episodes, lines that survive a kill, files that are whole or not there."""

from __future__ import annotations

import gzip
import json
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from astarpo.environments.rewards import score
from astarpo.errors import EnvironmentContractError, RunError
from astarpo.journal import (
    EPISODE_SCHEMA,
    Journal,
    _episode,
    append,
    episode_line,
    read_episodes,
    read_metrics,
    write_atomically,
)
from astarpo.rollout import Play, collect
from astarpo.run import RolloutSettings
from astarpo.types import Ended, Episode, Reply, Step, Turn
from small import small_policy, talk


@contextmanager
def small_disk(size: int) -> Iterator[None]:
    """No file may grow beyond `size` bytes: writes then fail as they do on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def played() -> list[Episode]:
    return collect(
        small_policy(stops=60),
        talk(max_turns=3),
        [Play(task, 0, (0, 0)) for task in ("answered/1", "chatty/1", "finished/3", "long/1")],
        rollout=RolloutSettings.parse({"reply_tokens": 6, "episode_tokens": 300}),
        temperature=1.5,
        reward=score,
    )


def test_played_episodes_come_back_as_they_were(tmp_path: Path) -> None:
    episodes = played()
    Journal(tmp_path).episodes(7, episodes)
    assert read_episodes(tmp_path / "episodes" / "000007.jsonl.gz") == episodes


steps = st.builds(
    Step,
    text=st.text(),
    reward=st.floats(allow_nan=False),
    ended=st.sampled_from([None, *Ended]),
    success=st.sampled_from([None, True, False]),
    valid=st.booleans(),
    info=st.dictionaries(st.text(), st.one_of(st.none(), st.integers(), st.floats(allow_nan=False), st.text())),
)
replies = st.builds(
    lambda pairs, text, complete: Reply(tuple(i for i, _ in pairs), tuple(p for _, p in pairs), text, complete),
    st.lists(st.tuples(st.integers(0, 2**31), st.floats(max_value=0, allow_nan=False))),
    st.text(),
    st.booleans(),
)
turns = st.builds(
    Turn, st.text(), st.lists(st.integers(0, 2**31)).map(tuple), replies, steps, st.floats(allow_nan=False)
)
any_episode = st.builds(
    Episode,
    task=st.text(),
    attempt=st.integers(0, 1000),
    turns=st.lists(turns, min_size=1, max_size=3).map(tuple),
    ended=st.sampled_from(Ended),
    success=st.booleans(),
    score=st.floats(allow_nan=False),
    temperature=st.floats(0.1, 10),
    policy_version=st.integers(0, 10**6),
    level=st.text(),
)


@settings(max_examples=60, deadline=None)
@given(any_episode)
def test_any_episode_comes_back_as_it_was(episode: Episode) -> None:
    assert _episode(json.loads(json.dumps(episode_line(episode))), Path("x")) == episode


def test_the_same_episodes_are_the_same_bytes(tmp_path: Path) -> None:
    episodes = played()
    Journal(tmp_path / "a").episodes(1, episodes)
    Journal(tmp_path / "b").episodes(1, episodes)
    one, two = (tmp_path / name / "episodes" / "000001.jsonl.gz" for name in "ab")
    assert one.read_bytes() == two.read_bytes()
    line = json.loads(gzip.decompress(one.read_bytes()).splitlines()[0])
    assert line["schema"] == EPISODE_SCHEMA == "astarpo-episode/1"


def test_facts_that_json_cannot_hold_are_the_environment_s_fault(tmp_path: Path) -> None:
    (episode, *_) = played()
    bad = replace(episode.turns[0], step=Step(info={"page": object()}))
    with pytest.raises(EnvironmentContractError, match=r"Object of type object .*; Step\.info must hold JSON values"):
        Journal(tmp_path).episodes(1, [replace(episode, turns=(bad,))])
    assert list((tmp_path / "episodes").iterdir()) == []


@pytest.mark.parametrize("damage", ["cut", "flipped", "text", "another schema", "another shape"])
def test_damaged_episodes_are_named(tmp_path: Path, damage: str) -> None:
    Journal(tmp_path).episodes(1, played())
    path = tmp_path / "episodes" / "000001.jsonl.gz"
    data = path.read_bytes()
    if damage == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "flipped":
        path.write_bytes(data[:40] + bytes(b ^ 0xFF for b in data[40:60]) + data[60:])
    elif damage == "text":
        path.write_text("hello")
    else:
        lines = [json.loads(line) for line in gzip.decompress(data).splitlines()]
        lines[0] |= {"schema": "astarpo-episode/9"} if damage == "another schema" else {"turns": 3}
        path.write_bytes(gzip.compress("\n".join(map(json.dumps, lines)).encode()))
    with pytest.raises(RunError, match=r"000001\.jsonl\.gz"):
        read_episodes(path)


def journal(folder: Path, updates: int = 4) -> Journal:
    made = Journal(folder)
    for update in range(updates + 1):
        made.metrics({"update": update, "loss": 0.1 * update})
        if update:
            made.episodes(update, [])
    return made


def test_metrics_are_read_back(tmp_path: Path) -> None:
    journal(tmp_path)
    assert read_metrics(tmp_path) == [{"update": update, "loss": 0.1 * update} for update in range(5)]
    assert read_metrics(tmp_path / "nowhere") == []


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_a_last_line_cut_by_a_kill_is_left_out(tmp_path: Path, cut: int) -> None:
    journal(tmp_path)
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-cut])
    # Cutting the line break alone loses nothing.
    assert [line["update"] for line in read_metrics(tmp_path)] == list(range(5 if cut == 1 else 4))


@pytest.mark.parametrize(
    "damage",
    [
        b'{"update": 1, "lo\n',
        b"3\n",
        b'{"loss": 1}\n',
        b"\xff\xfe\x00\n",
        b'{"update": 1e999}\n',
        b"[" * 99_999 + b"\n",
    ],
)
def test_damage_in_an_earlier_line_is_named(tmp_path: Path, damage: bytes) -> None:
    journal(tmp_path)
    path = tmp_path / "metrics.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], damage, *lines[3:]]))
    with pytest.raises(RunError, match=r"metrics\.jsonl line 3 is not the line of an update"):
        read_metrics(tmp_path)


def test_a_file_of_metrics_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(RunError, match=r"metrics\.jsonl cannot be read \(Is a directory\)"):
        read_metrics(tmp_path)


def test_rewinding_forgets_what_came_after(tmp_path: Path) -> None:
    made = journal(tmp_path)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"update": 5, "lo')
    made.rewind(2)
    made.metrics({"update": 3, "loss": 9.0})
    assert [line["update"] for line in read_metrics(tmp_path)] == [0, 1, 2, 3]
    assert sorted(p.name for p in (tmp_path / "episodes").iterdir()) == ["000001.jsonl.gz", "000002.jsonl.gz"]


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    write_atomically(path, b"old")
    with small_disk(1000), pytest.raises(RunError, match=r"cannot write .*result\.json: File too large; make room"):
        write_atomically(path, b"x" * 5000)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_written_whole_may_be_read_by_whom_the_user_lets_read(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "report.html", b"x")
    finally:
        os.umask(before)
    assert (tmp_path / "report.html").stat().st_mode & 0o777 == 0o640


def test_a_line_that_does_not_fit_is_told_and_the_lines_before_are_kept(tmp_path: Path) -> None:
    journal(tmp_path)
    with small_disk((tmp_path / "metrics.jsonl").stat().st_size + 10), pytest.raises(RunError, match="cannot write"):
        append(tmp_path / "metrics.jsonl", json.dumps({"update": 5, "loss": 1.0}) + "\n")
    assert [line["update"] for line in read_metrics(tmp_path)] == list(range(5))


def test_a_folder_that_is_gone_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"cannot write .*gone/metrics\.jsonl: No such file or directory"):
        append(tmp_path / "gone" / "metrics.jsonl", "x")
    with pytest.raises(RunError, match=r"cannot write .*gone/result\.json: No such file or directory"):
        write_atomically(tmp_path / "gone" / "result.json", b"x")


def test_notes_are_kept_one_a_line(tmp_path: Path) -> None:
    made = Journal(tmp_path)
    made.note("one\n")
    made.note("two")
    assert (tmp_path / "notes.txt").read_text() == "one\ntwo\n"
