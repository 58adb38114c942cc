"""A recipe that was interrupted goes on and ends where it would have ended; another recipe's phases are not taken."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from astarpo.chat import Chat
from astarpo.environments.webshop.environment import Webshop, WebshopSettings
from astarpo.errors import SettingsError
from astarpo.exchange import Exchange
from astarpo.policy.tiny.build import build_tokenizer
from astarpo.progress import Watch
from astarpo.warm_start import Phase, Recipe, demonstrations, warm_start

PHASE = {"styles": {"direct": 1}, "steps": 4, "batch": 4, "pool": 32}


def recipe(*phases: dict[str, Any], **changes: Any) -> Recipe:
    return Recipe.parse(
        {
            "environment": {"name": "arithmetic", "level": "easy"},
            "tasks": 100,
            "architecture": {
                "width": 16,
                "layers": 1,
                "heads": 1,
                "feed_forward": 16,
                "context": 64,
                "vocabulary": 280,
            },
            "phases": list(phases),
            "evaluation_tasks": 2,
            "rollout": {"reply_tokens": 3, "episode_tokens": 48},
            **changes,
        }
    )


class Interrupt(Watch):
    """Ctrl-C in the second phase."""

    def stage(self, name: str, total: int | None = None) -> None:  # noqa: ARG002
        if name.startswith("phase 2"):
            raise KeyboardInterrupt


def test_an_interrupted_recipe_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    whole = recipe(PHASE, PHASE | {"optimizer": "adamw"})
    warm_start(whole, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        warm_start(whole, tmp_path / "parts", watch=Interrupt())
    first = (tmp_path / "parts" / "phase-1" / "model.safetensors").stat().st_mtime_ns
    done = warm_start(whole, tmp_path / "parts")
    assert (tmp_path / "parts" / "phase-1" / "model.safetensors").stat().st_mtime_ns == first
    assert len(done.phases) == 2
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts"))
    assert one.keys() == two.keys()
    assert all(torch.equal(tensor, two[name]) for name, tensor in one.items())


def test_a_phase_more_is_added_to_the_ones_that_are_there(tmp_path: Path) -> None:
    warm_start(recipe(PHASE, PHASE), tmp_path / "two")
    kept = (tmp_path / "two" / "phase-1" / "model.safetensors").stat().st_mtime_ns
    warm_start(recipe(PHASE, PHASE, PHASE), tmp_path / "two")
    assert (tmp_path / "two" / "phase-1" / "model.safetensors").stat().st_mtime_ns == kept
    assert (tmp_path / "two" / "phase-2" / "phase.json").exists()


def test_phases_of_another_recipe_are_refused(tmp_path: Path) -> None:
    warm_start(recipe(PHASE, PHASE), tmp_path / "one")
    with pytest.raises(SettingsError, match="another recipe"):
        warm_start(recipe(PHASE | {"steps": 5}, PHASE), tmp_path / "one")


def test_a_phase_that_was_being_written_is_made_again(tmp_path: Path) -> None:
    two = recipe(PHASE, PHASE)
    warm_start(two, tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "torn")
    (tmp_path / "torn" / "phase-1" / "phase.json").unlink()
    (tmp_path / "torn" / "phase-1" / "model.safetensors").write_bytes(b"half")
    warm_start(two, tmp_path / "torn")
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "torn"))
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_exchanged_demonstrations_copy_words_that_no_page_has() -> None:
    shop = Webshop(WebshopSettings(products=50))
    chat = Chat.of(build_tokenizer(iter(["search[words]"]), 300, "single"))
    phase = Phase.parse({"styles": {"hasty": 1}, "steps": 1, "pool": 20, "batch": 20, "exchanged": 0.5})
    whole = recipe(phase.model_dump())
    game = "search words find me with and price lower than dollars"
    others = [
        a + b for a in ("ka", "lo", "mi", "nu", "po", "ra", "su", "te") for b in ("bix", "dov", "fam", "gul", "zen")
    ]
    here = Exchange([game, game, f"{game} {' '.join(others)}"])
    told = [chat.decode(ids) for ids, _ in next(demonstrations([shop], chat, phase, whole, 0, here))]
    words = {word for id in shop.ids("train") for word in shop.task(id).start().split()}
    foreign = [text for text in told if not set(text.split("search[")[2].split("]")[0].split()) & words]
    assert 3 <= len(foreign) <= 17
    for text in told:
        asked, query = text.split("search[words]")[0], text.split("search[")[2].split("]")[0]
        assert all(word in asked for word in query.split())


def test_no_word_is_exchanged_where_a_phase_does_not_ask_for_it() -> None:
    shop = Webshop(WebshopSettings(products=50))
    chat = Chat.of(build_tokenizer(iter(["search[words]"]), 300, "single"))
    phase = Phase.parse({"styles": {"hasty": 1}, "steps": 1, "pool": 8, "batch": 8})
    plain, given = (
        next(demonstrations([shop], chat, phase, recipe(PHASE), 0, exchange))
        for exchange in (None, Exchange(["lamp sofa", "vase chair"]))
    )
    assert plain == given


def test_demonstrations_without_words_cannot_be_exchanged(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no words to exchange"):
        warm_start(recipe(PHASE | {"exchanged": 1}), tmp_path / "none")


def test_a_phase_may_have_worlds_of_its_own(tmp_path: Path) -> None:
    phase = Phase.parse(PHASE | {"worlds": {"level": "hard", "seed": {"first": 3, "last": 5}}})
    assert phase.worlds == ({"level": "hard", "seed": 3}, {"level": "hard", "seed": 4}, {"level": "hard", "seed": 5})
    same = recipe(PHASE, worlds=[{"level": "easy"}])
    other = recipe(PHASE | {"worlds": [{"level": "hard"}]}, worlds=[{"level": "easy"}])
    one, two = (
        load_file(warm_start(r, tmp_path / str(i)).folder / "model.safetensors") for i, r in enumerate((same, other))
    )
    assert any(not torch.equal(tensor, two[name]) for name, tensor in one.items())


def test_two_ranges_of_worlds_are_refused() -> None:
    with pytest.raises(SettingsError, match="varies one setting, and 2 were given ranges"):
        Phase.parse(PHASE | {"worlds": {"a": {"first": 1, "last": 2}, "b": {"first": 1, "last": 2}}})
