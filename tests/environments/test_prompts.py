"""Prompts: one's own data and reward function, and a sentence for everything that can be wrong with them."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from astarpo.environments.prompts import Prompts, PromptsSettings
from astarpo.errors import DataError, EnvironmentContractError, SettingsError
from astarpo.types import SPLITS, Ended

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes records as JSONL and returns the file."""

    def written(*records: Mapping[str, Any] | str, name: str = "tasks.jsonl") -> Path:
        path = tmp_path / name
        lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return path

    return written


@pytest.fixture
def grader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Writes a reward function with the given body and returns its dotted path."""

    def written(body: str) -> str:
        (tmp_path / "graders_of_a_test.py").write_text(f"def grade(reply, example):\n    {body}\n", encoding="utf-8")
        monkeypatch.syspath_prepend(str(tmp_path))
        sys.modules.pop("graders_of_a_test", None)
        importlib.invalidate_caches()
        return "graders_of_a_test.grade"

    return written


def many(count: int = 200) -> list[dict[str, str]]:
    return [{"prompt": f"Say {n}.", "answer": str(n)} for n in range(count)]


def prompts(path: Path, **given: Any) -> Prompts:
    return Prompts(PromptsSettings.parse({"data": str(path), **given}, where="environment"))


def test_exact_match_with_the_answer_is_the_default(write: Write) -> None:
    environment = prompts(write(*many()))
    task = environment.task(environment.ids("train")[0])
    answer = task.start().removeprefix("Say ").removesuffix(".")
    assert task.solution() == [answer]
    right, wrong = task.step(f" {answer}\n"), task.step(f"{answer}0")
    assert (right.reward, right.success, right.ended, right.info["partial"]) == (1.0, True, Ended.ANSWERED, 1.0)
    assert (wrong.reward, wrong.success) == (0.0, False)


def test_a_function_gets_the_reply_and_the_whole_record(write: Write, grader: Callable[[str], str]) -> None:
    path = write({"question": "Q", "gold": [1, 2], "split": "train"})
    reward = grader("return len(set(map(int, reply.split())) & set(example['gold'])) / 2")
    environment = prompts(path, reward=reward, prompt_field="question")
    task = environment.task(environment.ids("train")[0])
    half, whole = task.step("2 7"), task.step("1 2")
    assert (half.reward, half.success, half.info["partial"]) == (0.5, False, 0.5)
    assert (whole.reward, whole.success) == (1.0, True)
    assert task.solution() is None


@pytest.mark.parametrize("value", ["True", "1", "Fraction(1)", "np.float32(1)"])
def test_any_real_number_is_a_reward(write: Write, grader: Callable[[str], str], value: str) -> None:
    names = {"Fraction": Fraction, "np": np}
    path, reward = write({"prompt": "p", "split": "train"}), grader(f"return {value}")
    importlib.import_module("graders_of_a_test").__dict__.update(names)
    environment = prompts(path, reward=reward)
    assert environment.task(environment.ids("train")[0]).step("x").reward == 1.0


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ("raise KeyError('gold')", "raised KeyError: 'gold'"),
        ("return float('nan')", "returned nan"),
        ("return None", "returned None"),
        ("return '1'", "returned '1'"),
        ("return 1.5", "returned 1.5"),
        ("return -0.1", "returned -0.1"),
        ("return 10 ** 400", "returned 1000"),
        ("return 1 + 0j", r"returned \(1\+0j\)"),
    ],
)
def test_a_function_that_breaks_its_contract_is_named_with_the_task(
    write: Write, grader: Callable[[str], str], body: str, complaint: str
) -> None:
    environment = prompts(write({"prompt": "p", "split": "train", "id": "first"}), reward=grader(body), id_field="id")
    with pytest.raises(EnvironmentContractError, match=complaint) as error:
        environment.task("prompts/first").step("x")
    assert "graders_of_a_test.grade on task prompts/first" in str(error.value)


def test_the_functions_path_names_the_score_and_modes_keep_their_names(
    write: Write, grader: Callable[[str], str]
) -> None:
    path, reward = write({"prompt": "p", "split": "train"}), grader("return 0.5")
    environment = prompts(path, reward=reward)
    steps = [environment.task(environment.ids("train")[0]).step("x")]
    graded = {name: environment.reward_mode(name)(steps, False) for name in (reward, "score", "success", "partial")}
    assert graded == {reward: [0.5], "score": [0.5], "success": [0.0], "partial": [0.5]}
    assert prompts(write({"prompt": "p", "answer": "a"}), reward="success").function is None
    with pytest.raises(SettingsError, match="known: partial, score, success"):
        environment.reward_mode("gold")


@pytest.mark.parametrize(
    ("reward", "complaint"),
    [
        ("exactly", r"dotted path such as my_rewards.exact or one of score, success, partial, got 'exactly'"),
        ("no_such_module_here.exact", "no module named 'no_such_module_here'"),
        ("json.exact", "module 'json' has no 'exact'"),
        ("json.decoder", "not a function"),
    ],
)
def test_a_reward_that_cannot_be_found_is_refused(write: Write, reward: str, complaint: str) -> None:
    with pytest.raises(SettingsError, match=complaint):
        prompts(write(*many(10)), reward=reward)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ('{"prompt": "a", "answer": }', "line 2 is not JSON: Expecting value at column 27"),
        ("[1, 2]", r"line 2 is a list, not an object"),
        ('{"answer": "a"}', "line 2 has no field 'prompt': it has answer"),
        ('{"promt": "a", "answer": "a"}', "line 2 has no field 'prompt': did you mean 'promt'"),
        ('{"prompt": 3, "answer": "a"}', "line 2: field 'prompt' must be text, got 3"),
        ('{"prompt": " ", "answer": "a"}', "line 2: field 'prompt' must be text, got ' '"),
        ('{"prompt": "a"}', "line 2 has no field 'answer'"),
        ('{"prompt": "a", "answer": null}', "line 2 has no field 'answer'"),
        ('{"prompt": "a", "answer": "a", "split": "holdout"}', "line 2: field 'split' must be one of .*got 'holdout'"),
        ('{"prompt": "a", "answer": ' + "9" * 5000 + "}", "line 2 cannot be read: Exceeds the limit"),
        ("[" * 100_000, "line 2 cannot be read"),
    ],
)
def test_a_malformed_record_is_named_by_file_and_line(write: Write, line: str, complaint: str) -> None:
    with pytest.raises(DataError, match=complaint) as error:
        prompts(write({"prompt": "fine", "answer": "x"}, line))
    assert "tasks.jsonl line 2" in str(error.value)
    assert "\n" not in str(error.value)


def test_files_that_are_missing_empty_or_not_text_are_named(tmp_path: Path, write: Write) -> None:
    with pytest.raises(DataError, match=r"there is no file .*gone.jsonl"):
        prompts(tmp_path / "gone.jsonl")
    with pytest.raises(DataError, match="holds no records"):
        prompts(write("", "", name="empty.jsonl"))
    (tmp_path / "latin.jsonl").write_bytes('{"prompt": "é", "answer": "a"}'.encode("latin-1"))
    with pytest.raises(DataError, match=r"latin.jsonl line 1 is not UTF-8"):
        prompts(tmp_path / "latin.jsonl")
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(DataError, match=r"cannot read .*folder.jsonl"):
        prompts(tmp_path / "folder.jsonl")
    with pytest.raises(SettingsError, match=r"environment\.data is required"):
        PromptsSettings.parse({}, where="environment")


def test_splits_are_disjoint_stable_and_have_their_shares(write: Write) -> None:
    records = many(1000)
    environment, reordered = prompts(write(*records)), prompts(write(*records[::-1], name="back.jsonl"))
    ids = {split: environment.ids(split) for split in SPLITS}
    assert ids == {split: reordered.ids(split) for split in SPLITS}
    assert sum(map(len, ids.values())) == len(set().union(*ids.values())) == 1000
    # 3 standard errors of 1000 draws: 3.4 and 2.8 points.
    assert len(ids["test"]) / 1000 == pytest.approx(0.15, abs=0.034)
    assert len(ids["dev"]) / 1000 == pytest.approx(0.10, abs=0.028)


def test_records_of_one_prompt_share_a_split_and_the_same_record_twice_is_one_task(write: Write) -> None:
    records = [{"prompt": f"p{n}", "answer": answer} for n in range(100) for answer in ("a", "b", "b")]
    environment = prompts(write(*records))
    split_of: dict[str, str] = {}
    for split in SPLITS:
        for id in environment.ids(split):
            prompt = environment.task(id).start()
            assert split_of.setdefault(prompt, split) == split
    assert len(environment.records) == 200


def test_a_split_field_decides_and_dev_is_carved_from_train_where_it_is_missing(write: Write) -> None:
    records = [{**record, "split": "test" if n < 50 else "train"} for n, record in enumerate(many(1000))]
    environment = prompts(write(*records))
    assert {environment.task(id).start() for id in environment.ids("test")} == {f"Say {n}." for n in range(50)}
    assert len(environment.ids("dev")) / 950 == pytest.approx(0.10, abs=0.03)
    named = [{**record, "split": "validation" if n < 10 else "train"} for n, record in enumerate(many(100))]
    assert len(prompts(write(*named)).ids("dev")) == 10


def test_contradictions_between_records_are_refused(write: Write) -> None:
    with pytest.raises(DataError, match=r"line 2 says split test and .* line 1 says train of the same prompt"):
        prompts(
            write(
                {"prompt": "a", "answer": "1", "split": "train"},
                {"prompt": "a", "answer": "2", "split": "test"},
            )
        )
    with pytest.raises(DataError, match=r"line 2 has the same 'id' as .* line 1"):
        prompts(write({"prompt": "a", "answer": "1", "id": 7}, {"prompt": "b", "answer": "2", "id": 7}), id_field="id")


def test_an_empty_split_an_unknown_task_and_a_level_are_refused_in_a_sentence(write: Write) -> None:
    environment = prompts(write({"prompt": "a", "answer": "1", "split": "train"}))
    with pytest.raises(DataError, match=r"has no test records among its 1: add more, or a field 'split'"):
        environment.ids("test")
    with pytest.raises(EnvironmentContractError, match="has no task 'prompts/nothing'"):
        environment.task("prompts/nothing")
    with pytest.raises(EnvironmentContractError, match="no levels"):
        environment.ids("train", "easy")


def test_the_fingerprint_follows_content_and_not_place(write: Write, grader: Callable[[str], str]) -> None:
    first = prompts(write(*many(20))).fingerprint()
    assert prompts(write(*many(20), name="moved.jsonl")).fingerprint() == first
    assert prompts(write(*many(21), name="more.jsonl")).fingerprint() != first
    assert prompts(write(*many(20)), instructions="Be brief.").fingerprint() != first
    graded = [prompts(write(*many(20)), reward=grader(f"return {value}")).fingerprint() for value in (0.0, 1.0)]
    assert len({first, *graded}) == 3


def test_instructions_and_a_solution_field_are_used(write: Write, grader: Callable[[str], str]) -> None:
    path, reward = write({"prompt": "a", "best": "xyz", "split": "train"}), grader("return reply == 'xyz'")
    environment = prompts(path, reward=reward, solution_field="best", instructions="Be brief.")
    assert environment.prompt() == "Be brief."
    assert environment.task(environment.ids("train")[0]).solution() == ["xyz"]
    with pytest.raises(DataError, match="has no field 'worst'"):
        prompts(path, reward=reward, solution_field="worst")


def test_hugging_face_datasets_are_read_from_disk_with_their_own_splits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    made = {
        name: datasets.Dataset.from_list(many(40)[start : start + 20]) for name, start in (("train", 0), ("test", 20))
    }
    datasets.DatasetDict(made).save_to_disk(str(tmp_path / "saved"))
    environment = prompts(tmp_path / "saved")
    assert {environment.task(id).start() for id in environment.ids("test")} == {f"Say {n}." for n in range(20, 40)}
    assert len(environment.records) == 40
    (tmp_path / "rows.csv").write_text("prompt,answer,split\nSay a.,a,train\nSay b.,b,test\n", encoding="utf-8")
    one = prompts(tmp_path / "rows.csv").ids("test")
    assert prompts(tmp_path / "rows.csv").task(one[0]).step("b").success


def test_a_dataset_that_cannot_be_loaded_is_one_sentence(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    with pytest.raises(DataError, match="cannot load the dataset"):
        prompts(tmp_path / "no_such_folder")


def test_without_the_datasets_package_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(SettingsError, match=r"pip install 'astarpo\[data\]'"):
        prompts(tmp_path / "rows.csv")
