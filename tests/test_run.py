"""Presets, files and overrides end as one validated run."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from astarpo.errors import SettingsError
from astarpo.policy import tiny
from astarpo.run import Run, environment, load_file, load_preset, merge, override, preset_names

SHELVES = sorted(shelf.name for shelf in (files("astarpo") / "presets").iterdir() if shelf.is_dir())
PRESETS = [(shelf, name) for shelf in SHELVES for name in preset_names(shelf)]

LARGE = {"webshop_protocol"}
"""Environments for models of a billion parameters and more; no embedded one is shipped for them."""


def embedded(shelf: str, name: str) -> bool:
    """Whether the preset is for the embedded model."""
    return bool(load_preset(shelf, name).get("policy", {}).get("model", "tiny") == "tiny")


def build(**over: Any) -> Run:
    return Run.build({"environment": "arithmetic", "algorithm": "reinforce", **over})


@pytest.mark.parametrize(("shelf", "name"), PRESETS)
def test_every_preset_is_a_run_that_survives_being_written_down(shelf: str, name: str) -> None:
    home = "arithmetic" if shelf == "any" else shelf
    run = Run.build(merge({"environment": {"name": home}}, load_preset(shelf, name)))
    assert Run.build(run.dump()) == run


@pytest.mark.parametrize(("shelf", "name"), [one for one in PRESETS if one[0] not in LARGE and embedded(*one)])
def test_the_embedded_model_reads_the_episodes_of_every_preset(shelf: str, name: str) -> None:
    run = Run.build(
        merge({"environment": {"name": "arithmetic" if shelf == "any" else shelf}}, load_preset(shelf, name))
    )
    folder = tiny.folder(run.environment.name)
    assert folder is not None
    assert run.rollout.longest <= json.loads((folder / "config.json").read_text())["max_position_embeddings"]


@pytest.mark.parametrize(("shelf", "name"), PRESETS)
def test_every_preset_says_on_its_first_line_what_it_is(shelf: str, name: str) -> None:
    first = (files("astarpo") / "presets" / shelf / f"{name}.yaml").read_text("utf-8").splitlines()[0]
    assert first.startswith("# ")
    assert len(first) > 20


def test_values_on_the_command_line_are_read_as_yaml_and_numbers_as_people_write_them() -> None:
    assert override("a.b", "3") == {"a": {"b": 3}}
    assert override("a", "1e-4") == {"a": 1e-4}
    assert override("a", "[1.5, 1.0]") == {"a": [1.5, 1.0]}
    assert override("a", "true") == {"a": True}
    assert override("a", "tasks.jsonl") == {"a": "tasks.jsonl"}


def test_a_value_that_is_not_yaml_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"--a\.b=\[1 cannot be read"):
        override("a.b", "[1")


def test_naming_another_part_drops_the_settings_of_the_first() -> None:
    base = {"algorithm": {"name": "grpo", "clip_low": 0.1}}
    assert merge(base, {"algorithm": {"name": "reinforce"}}) == {"algorithm": {"name": "reinforce"}}
    assert merge(base, {"algorithm": {"kl_coef": 1}}) == {"algorithm": {"name": "grpo", "clip_low": 0.1, "kl_coef": 1}}


def test_merging_changes_neither_side() -> None:
    base: dict[str, Any] = {"a": {"b": 1}}
    merge(base, {"a": {"c": 2}})
    assert base == {"a": {"b": 1}}


PROMPTS = {"name": "prompts", "data": "tasks.jsonl", "reward": "my_rewards.exact"}


@pytest.mark.parametrize(
    ("over", "sentence"),
    [
        ({"updatess": 3}, "run has no setting 'updatess': did you mean 'updates'?"),
        ({"updates": -1}, "updates must be 0 or more, got -1"),
        ({"environment": "aritmetic"}, "there is no environment 'aritmetic': did you mean 'arithmetic'?"),
        ({"environment": {"levels": 1}}, "environment.name is required"),
        ({"curriculum": "unifrm"}, "there is no curriculum 'unifrm': did you mean 'uniform'?"),
        ({"algorithm": {"name": "grpo", "group_size": 1}}, "algorithm.group_size must be 2 or more, got 1"),
        (
            {"algorithm": {"name": "reinforce", "baseline": "group_mean", "group_size": 1}},
            "group_mean needs a group_size of 2 or more, got 1",
        ),
        ({"rollout": {"temperature": 0}}, "rollout.temperature must be above 0, got 0: sampling temperatures"),
        ({"rollout": {"temperature": [1, 11]}}, "rollout.temperature must be 10 or less, got 11"),
        ({"rollout": {"temperature": []}}, "rollout.temperature must"),
        ({"optimizer": {"betas": [0.9, 1]}}, "optimizer.betas must be below 1, got 1: decay of AdamW's two running"),
        ({"optimizer": {"betas": [-0.1, 0.9]}}, "optimizer.betas must be 0 or more, got -0.1"),
        (
            {"environment": {"name": "arithmetic", "reward": "kindness"}},
            "environment.reward: arithmetic has no reward mode 'kindness': known: partial, score, success.",
        ),
        (
            {"values": {"reward": "kindness"}},
            "values.reward: arithmetic has no reward mode 'kindness': known: partial, score, success.",
        ),
        (
            {"environment": PROMPTS, "values": {"reward": "my_rewards.other"}},
            "values.reward: prompts has no reward mode 'my_rewards.other': known: my_rewards.exact, partial",
        ),
        (
            {"curriculum": {"name": "promotion", "ladder": "career"}},
            "curriculum.ladder 'career' is not one of arithmetic's ladders: known: difficulty, target.",
        ),
        ({"curriculum": "schedule"}, "curriculum 'schedule' climbs a ladder and none is set"),
        (
            {"curriculum": {"ladder": "target"}},
            "curriculum 'uniform' draws from the target distribution and would ignore the ladder 'target': leave "
            "curriculum.ladder out, or set curriculum.name to one that climbs, such as promotion.",
        ),
        ({"policy": 3}, "policy must hold settings by name, got 3"),
        (
            {"optimizer": {"minibatches": 9}},
            "optimizer.minibatches must be 8 or less, got 9: attempts at one task are learned from together",
        ),
        (
            {"algorithm": {"name": "reinforce", "group_size": 1}, "rollout": {"extra_rounds": 1}},
            "rollout.extra_rounds needs an algorithm.group_size of 2 or more, got 1",
        ),
        (
            {"rollout": {"overlong_penalty": 1}},
            "rollout.overlong_penalty does not reach V*, which stage 1 estimates from rewards without it",
        ),
        (
            {"algorithm": "grpo", "rollout": {"overlong_penalty": 1, "overlong_tokens": 300}},
            "overlong_penalty acts from 268 tokens on (overlong_tokens 300 less overlong_cache 32) and an",
        ),
        (
            {"algorithm": {"name": "reinforce_pp", "baseline": "group_mean", "group_size": 1}},
            "group_mean needs a group_size of 2 or more, got 1",
        ),
        (
            {"environment": {"name": "arithmetic", "max_turns": 3}},
            "environment.max_turns must be 1, got 3: one reply ends an episode.",
        ),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_is_played(over: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SettingsError) as refused:
        build(**over)
    assert sentence in str(refused.value)


WEIGHTED = {"name": "weighted_sft", "group_size": 4}


@pytest.mark.parametrize(
    ("section", "given", "name", "unless"),
    [
        ("algorithm", WEIGHTED | {"beta": 1}, "beta", "scheme is exp"),
        ("algorithm", WEIGHTED | {"scheme": "exp", "normalise": "none"}, "normalise", "scheme is shifted or normal"),
        ("algorithm", WEIGHTED | {"scheme": "exp", "normalise_eps": 1}, "normalise_eps", "scheme is shifted or"),
        ("algorithm", WEIGHTED | {"normalise": "none", "normalise_eps": 1}, "normalise_eps", "scheme is shifted or"),
        ("algorithm", WEIGHTED | {"scheme": "exp", "z_clamp": 1}, "z_clamp", "scheme is shifted or normalized"),
        ("algorithm", WEIGHTED | {"scheme": "shifted", "shift": 2}, "shift", "scheme is normalized"),
        ("algorithm", WEIGHTED | {"scheme": "exp", "floor": 0}, "floor", "scheme is normalized"),
        ("algorithm", WEIGHTED | {"scheme": "exp", "ceiling": 2}, "ceiling", "scheme is normalized"),
        ("algorithm", WEIGHTED | {"aggregation": "sum", "denominator": 9}, "denominator", "aggregation is constant"),
        ("algorithm", WEIGHTED | {"kl_coef": 0, "kl_placement": "inside"}, "kl_placement", "kl_coef is above 0"),
        ("algorithm", WEIGHTED | {"kl_coef": 0, "kl_estimator": "k3"}, "kl_estimator", "kl_coef is above 0"),
        ("algorithm", {"name": "reinforce", "baseline_decay": 0.5}, "baseline_decay", "baseline is moving_average"),
        ("algorithm", {"name": "reinforce", "normalise_eps": 0.1}, "normalise_eps", "normalise is batch"),
        ("algorithm", {"name": "reinforce", "clip": "adaptive", "clip_at": 2}, "clip_at", "clip is fixed"),
        ("algorithm", {"name": "reinforce", "clip": "fixed", "clip_scale": 2}, "clip_scale", "clip is adaptive"),
        ("algorithm", {"name": "reinforce", "clip_window": 2}, "clip_window", "clip is adaptive"),
        (
            "algorithm",
            {"name": "reinforce", "skip_without_signal": True},
            "skip_without_signal",
            "kl_coef or entropy_coef is above 0",
        ),
        ("algorithm", {"name": "grpo", "kl_estimator": "exact"}, "kl_estimator", "kl_coef is above 0"),
        (
            "algorithm",
            {"name": "grpo", "scale_by_std": False, "std_eps": 1},
            "std_eps",
            "scale_by_std is group or batch",
        ),
        (
            "algorithm",
            {"name": "grpo", "old_log_probs": "detached", "clip_low": 0.1},
            "clip_low",
            "old_log_probs is behaviour",
        ),
        (
            "algorithm",
            {"name": "grpo", "old_log_probs": "detached", "clip_high": 0.1},
            "clip_high",
            "old_log_probs is behaviour",
        ),
        ("algorithm", {"name": "grpo", "denominator": 9}, "denominator", "aggregation is constant"),
        ("algorithm", {"name": "grpo", "old_log_probs": "detached", "ratio": "sequence"}, "ratio", "old_log_probs is"),
        ("algorithm", {"name": "grpo", "old_log_probs": "detached", "surrogate": "cispo"}, "surrogate", "old_log_prob"),
        ("algorithm", {"name": "rloo", "clip_low": 0.1}, "clip_low", "surrogate is clip"),
        ("algorithm", {"name": "reinforce_pp", "kl_placement": "loss"}, "kl_placement", "kl_coef is above 0"),
        (
            "algorithm",
            {"name": "reinforce_pp", "kl_coef": 1, "kl_estimator": "k3"},
            "kl_estimator",
            "kl_coef is above 0 and kl_placement is loss",
        ),
        ("rollout", {"overlong_tokens": 9}, "overlong_tokens", "overlong_penalty is above 0"),
        ("rollout", {"overlong_cache": 9}, "overlong_cache", "overlong_penalty is above 0"),
        ("curriculum", {"name": "learnable", "floor": 1, "keep": 0.5}, "keep", "floor is below 1"),
        ("curriculum", {"name": "learnable", "floor": 1, "prior": 5}, "prior", "floor is below 1"),
        ("evaluation", {"samples": 0, "temperature": 2}, "temperature", "samples is above 0"),
        ("evaluation", {"every": 0, "dev_tasks": 9}, "dev_tasks", "every is above 0"),
        ("values", {"schedule": "steps", "tasks": 9}, "tasks", "schedule is fixed or sequential"),
        (
            "environment",
            {"name": "prompts", "data": "tasks.jsonl", "subset": "main"},
            "subset",
            "data names a Hugging Face dataset",
        ),
        (
            "environment",
            {"name": "prompts", "data": "tasks.jsonl", "reward": "my_rewards.exact", "answer_field": "a"},
            "answer_field",
            "reward is a mode over exact match",
        ),
    ],
)
def test_what_would_do_nothing_is_refused(section: str, given: dict[str, Any], name: str, unless: str) -> None:
    with pytest.raises(SettingsError) as refused:
        build(**{section: given})
    assert str(refused.value).startswith(f"{section}.{name} does nothing unless {unless}")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "given", [{"tasks": 9}, {"samples": 9}, {"reward": "success"}, {"schedule": "sequential"}, {"batch": 9}]
)
def test_settings_of_v_star_are_refused_where_nothing_reads_it(given: dict[str, Any]) -> None:
    (name,) = given
    assert build(values=given).dump()["values"][name] == given[name]
    for algorithm in ("grpo", {"name": "reinforce", "baseline": "batch_mean"}):
        with pytest.raises(SettingsError) as refused:
            build(algorithm=algorithm, values=given)
        assert str(refused.value).startswith(
            f"values.{name} does nothing unless the algorithm or its baseline reads V*, got {given[name]}: see to"
        )


def test_a_reward_function_serves_for_v_star_too() -> None:
    for reward in ("my_rewards.exact", "success"):
        assert build(environment=PROMPTS, values={"reward": reward}).values.reward == reward


@pytest.mark.parametrize(
    ("algorithm", "what"),
    [
        ({"name": "astar_po"}, "V* of each task, from plays of the reference"),
        ({"name": "reinforce"}, "V* of each task, from plays of the reference"),
        ({"name": "grpo", "kl_coef": 0.04}, "the KL to the reference"),
        ({"name": "grpo", "kl_coef": 0.04, "kl_estimator": "exact"}, "the KL to the reference"),
        ({"name": "weighted_sft"}, "the KL to the reference"),
    ],
)
def test_v_star_or_a_kl_without_a_reference_is_a_contradiction(algorithm: dict[str, Any], what: str) -> None:
    build(algorithm=algorithm)
    with pytest.raises(SettingsError) as refused:
        build(algorithm=algorithm, policy={"reference": "none"})
    assert str(refused.value) == (
        f"policy.reference is none and {algorithm['name']} with its settings needs {what}: set it to start, or choose "
        "an algorithm, baseline and KL without it."
    )


def test_what_needs_no_reference_runs_without_one() -> None:
    assert build(algorithm="grpo", policy={"reference": "none"}).policy.reference == "none"


def test_a_dataset_by_name_has_subsets() -> None:
    run = build(environment={"name": "prompts", "data": "openai/gsm8k", "subset": "main"})
    assert run.dump()["environment"]["subset"] == "main"


def test_temperature_phases_are_equally_long() -> None:
    run = build(rollout={"temperature": [1.5, 1.0, 0.8]})
    assert [run.rollout.temperature_at(update, 9) for update in range(9)] == [1.5] * 3 + [1.0] * 3 + [0.8] * 3


def test_one_temperature_needs_no_list() -> None:
    assert build(rollout={"temperature": 0.7}).rollout.temperature == (0.7,)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"cannot read the settings file .*none\.yaml: No such file"):
        load_file(tmp_path / "none.yaml")


def test_a_broken_file_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text("updates: 3\nalgorithm: [1, 2\nseed: 1\n")
    with pytest.raises(SettingsError, match=r"broken\.yaml is not YAML \(line 3\)"):
        load_file(path)


def test_a_file_that_holds_no_settings_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "list.yaml"
    path.write_text("- 1\n- 2\n")
    with pytest.raises(SettingsError, match=r"list\.yaml must hold settings by name, got list"):
        load_file(path)


def test_settings_files_read_1e_4_as_a_number(tmp_path: Path) -> None:
    path = tmp_path / "one.yaml"
    path.write_text("optimizer:\n  learning_rate: 1e-4\n")
    assert load_file(path) == {"optimizer": {"learning_rate": 1e-4}}


def test_rules_that_do_not_exist_cannot_be_told() -> None:
    silent = build(environment={"name": "countdown", "observation": "compact"}, policy={"rules": True})
    with pytest.raises(SettingsError, match=r"policy\.rules is true and countdown as set up here has no rules"):
        environment(silent)
    assert environment(
        build(environment={"name": "countdown", "observation": "words"}, policy={"rules": True})
    ).prompt()


@pytest.mark.parametrize(("given", "read"), [(True, "group"), (False, "none"), ("batch", "batch")])
def test_scale_by_std_once_was_yes_or_no_and_still_may_be(given: object, read: str) -> None:
    assert build(algorithm={"name": "grpo", "scale_by_std": given}).dump()["algorithm"]["scale_by_std"] == read


@pytest.mark.parametrize(
    ("cache", "penalties"),
    [
        (4, {0: 0.0, 16: 0.0, 17: 0.5, 18: 1.0, 20: 2.0, 21: 2.0}),
        (0, {19: 0.0, 20: 2.0}),
        (20, {0: 0.0, 10: 1.0, 20: 2.0}),
    ],
)
def test_the_penalty_for_length_grows_over_the_cache_and_then_stays(cache: int, penalties: dict[int, float]) -> None:
    settings = {"overlong_penalty": 2.0, "overlong_tokens": 20, "overlong_cache": cache}
    run = build(algorithm="grpo", rollout=settings)
    assert {said: run.rollout.overlong(said) for said in penalties} == penalties
