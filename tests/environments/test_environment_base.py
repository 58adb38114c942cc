"""What the base class gives every environment."""

from __future__ import annotations

import pytest
from faulty_environments import BoxesSettings, Sound, built

from astarpo.environments.base import Environment, EnvironmentSettings, solved
from astarpo.errors import EnvironmentContractError, SettingsError
from astarpo.types import Ended, Step


@pytest.mark.parametrize(
    ("steps", "is_solved"),
    [
        ([Step(reward=1.0, ended=Ended.FINISHED)], True),
        ([Step(reward=0.4), Step(reward=0.6, ended=Ended.FINISHED)], True),
        ([Step(reward=0.1)] * 9 + [Step(reward=0.1, ended=Ended.FINISHED)], True),
        ([Step(reward=0.99, ended=Ended.FINISHED)], False),
        ([Step(reward=1.0)], False),
        ([Step(reward=0.2, ended=Ended.FINISHED, success=True)], True),
        ([Step(reward=1.0, ended=Ended.FINISHED, success=False)], False),
        ([Step(success=False), Step(success=True)], True),
        ([Step(success=True), Step(reward=0.0, ended=Ended.FINISHED)], True),
    ],
)
def test_success_is_the_last_word_on_it_or_a_full_score_at_the_end(steps: list[Step], is_solved: bool) -> None:
    assert solved(steps) is is_solved


def test_the_prompt_is_written_from_the_grammar() -> None:
    environment = built(Sound)
    assert environment.grammar is not None
    assert environment.prompt() == environment.grammar.describe()


def test_an_environment_without_demonstrations_or_levels_says_so() -> None:
    environment = built(Sound)
    assert environment.level("boxes/1") == ""
    with pytest.raises(EnvironmentContractError, match="Sound has no demonstrations"):
        environment.demonstrate("boxes/1", "careful", 0)
    with pytest.raises(SettingsError, match="Sound has no reward mode 'gold': known: score"):
        environment.reward_mode("gold")


def test_the_fingerprint_changes_with_settings_and_prompt_and_nothing_else() -> None:
    class Other(Sound):
        def prompt(self) -> str:
            return "Other rules."

    Other.__qualname__ = Sound.__qualname__
    first = built(Sound).fingerprint()
    assert first == built(Sound).fingerprint()
    assert len({first, Sound(BoxesSettings(max_turns=9)).fingerprint(), built(Other).fingerprint()}) == 3


def test_an_environment_that_lacks_ids_or_task_cannot_be_built() -> None:
    class Half(Environment[EnvironmentSettings]):
        Settings = EnvironmentSettings

    with pytest.raises(TypeError, match="abstract"):
        Half(EnvironmentSettings(name="half"))  # type: ignore[abstract]


def test_turns_have_bounds_with_a_sentence() -> None:
    with pytest.raises(SettingsError, match=r"environment\.max_turns must be 1 or more, got 0"):
        EnvironmentSettings.parse({"name": "boxes", "max_turns": 0}, where="environment")
