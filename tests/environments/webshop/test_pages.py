"""Pages read as in the original, character by character; repaired, they show what is selected."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from webshop_helpers import a_product, a_shop, recorded_session, records

from astarpo.environments.webshop.pages import observation, with_history
from astarpo.environments.webshop.reward import Fidelity
from astarpo.environments.webshop.session import Session, act

BY_CHANCE = "special_search:random_order"


def replayed(folder: Path, record: dict[str, Any]) -> Iterator[tuple[dict[str, Any], Session]]:
    """Steps of a recorded session, each as our own session stands right then. A crash of the original ends it."""
    session = recorded_session(folder, record)
    for step in record["steps"]:
        if step["action"] is not None:
            act(session, step["action"])
        if "original_raises" in step:
            return
        yield step, session


def test_every_recorded_page_reads_the_same_in_both_modes(webshop_small: Path) -> None:
    compared = 0
    for record in records(webshop_small, "sessions"):
        if record["kind"] == BY_CHANCE:
            continue
        for step, session in replayed(webshop_small, record):
            assert observation(session, "text") == step["obs_text"], (record["kind"], step["action"])
            assert observation(session, "text_rich") == step["obs_text_rich"], (record["kind"], step["action"])
            compared += 1
    assert compared > 2000


def test_recorded_histories_read_the_same(webshop_small: Path) -> None:
    compared = 0
    for record in records(webshop_small, "sessions"):
        past = {"past_observations": record["num_prev_obs"], "past_actions": record["num_prev_actions"]}
        if not any(past.values()):
            continue
        seen: list[str] = []
        for number, (step, session) in enumerate(replayed(webshop_small, record)):
            seen.append(observation(session, "text"))
            actions = [before["action"] for before in record["steps"][1 : number + 1]]
            if step["returned_obs"] is not None:
                assert with_history(seen, actions, **past) == step["returned_obs"]
                compared += 1
    assert compared > 20


def opened(fidelity: Fidelity, **fields: Any) -> Session:
    lamp = a_product(**fields)
    shop = a_shop(lamp, fidelity=fidelity)
    session = Session(shop, shop.goals[0])
    session.search("lamp")
    assert session.click(lamp.asin)
    return session


def test_repaired_text_shows_the_selected_option_and_the_original_does_not() -> None:
    for fidelity, shown in ((Fidelity.REPAIRED, True), (Fidelity.ORIGINAL, False)):
        session = opened(fidelity, options={"color": ("red", "blue")})
        before = observation(session, "text")
        assert session.click("red")
        assert (observation(session, "text") != before) is shown
        assert ("red (selected)" in observation(session, "text")) is shown


def test_text_rich_lights_up_selected_values_that_json_escapes_only_when_repaired() -> None:
    for fidelity, lit in ((Fidelity.REPAIRED, True), (Fidelity.ORIGINAL, False)):
        session = opened(fidelity, options={"color": ("café",)})
        session.click("café")
        assert ("[clicked button] café [clicked button_]" in observation(session, "text_rich")) is lit
        assert observation(session, "text_rich").startswith("You have clicked café.\n") is lit


def test_two_groups_with_the_same_value_light_up_one_by_one_when_repaired() -> None:
    session = opened(Fidelity.REPAIRED, options={"color": ("natural",), "size": ("natural",)})
    session.click("color: natural")
    assert observation(session, "text_rich").count("[clicked button]") == 1


@pytest.mark.parametrize(
    ("description", "tail"), [("", "< Prev"), (" ", "< Prev [SEP] "), (" \n ", "< Prev"), (" a ", "< Prev [SEP] a")]
)
def test_white_space_alone_vanishes_only_with_a_line_break(description: str, tail: str) -> None:
    session = opened(Fidelity.ORIGINAL, description=description)
    session.click("description")
    assert observation(session, "text").endswith(tail)


def test_the_last_page_escapes_what_html_would() -> None:
    session = opened(Fidelity.ORIGINAL, options={"color": ("a<b>'&é",)})
    session.click("a<b>'&é")
    session.click("buy now")
    assert '{"color": "a\\u003cb\\u003e\\u0027\\u0026\\u00e9"}' in observation(session, "text")
