"""The compact view: short, numbered, and every link it names can be clicked."""

from __future__ import annotations

from dataclasses import replace

import pytest

from astarpo.environments.webshop import Webshop, WebshopSettings, compact
from astarpo.environments.webshop.session import Page, Session
from astarpo.environments.webshop.task import WebshopTask


@pytest.fixture(scope="module")
def shop() -> Webshop:
    return Webshop(WebshopSettings(products=300))


def opened(shop: Webshop, groups: int) -> WebshopTask:
    """A task whose product has so many option groups, standing on that product's page."""
    for id in shop.ids("train"):
        if len(shop.goal(id).options) == groups:
            task = shop.task(id)
            for action in (task.solution() or [])[:2]:
                task.step(action)
            assert task.session.page is Page.item_page
            return task
    raise AssertionError("no such task")


def test_first_page_is_the_instruction_and_how_to_search(shop: Webshop) -> None:
    task = shop.task(shop.ids("train")[0])
    assert task.start() == f"{task.session.goal.instruction.lower()}\nsearch[words]"


def test_results_page_shows_number_title_and_price_and_ends_with_its_other_links(shop: Webshop) -> None:
    task = shop.task(shop.ids("train")[0])
    heading, *lines, last = task.step("search[certified]").text.splitlines()
    assert heading == f"page 1, {task.session.total_results} results"
    first = task.session.results()[0]
    assert lines[0] == f"1 {first.title.lower()} ${first.prices[0]:.0f}"
    assert [line.split()[0] for line in lines] == [str(number) for number in range(1, 11)]
    assert last == "back next"
    second = task.step("click[next]").text.splitlines()
    assert second[0].startswith("page 2, ")
    assert second[1].split()[0] == "1"
    assert second[-1].startswith("back prev")


def test_item_page_numbers_values_through_its_groups_and_stars_the_selected(shop: Webshop) -> None:
    task = opened(shop, 2)
    product = task.session.product
    assert product is not None
    (first, some), (second, more) = product.options.items()
    last = len(some) + len(more)
    text = task.step(f"click[{last}]").text
    assert text.splitlines()[1] == f"{first}: " + ", ".join(f"{n} {value}" for n, value in enumerate(some, 1))
    assert text.splitlines()[2].startswith(f"{second}: {len(some) + 1} {more[0]}")
    assert text.splitlines()[2].endswith(f"{last} {more[-1]} *")
    assert task.session.selected == {second: more[-1]}
    assert text.splitlines()[-1] == "back prev description features reviews buy"


def test_sub_pages_show_description_and_features(shop: Webshop) -> None:
    task = opened(shop, 0)
    product = task.session.product
    assert product is not None
    features = task.step("click[features]").text.splitlines()
    assert features == [*(bullet.lower() for bullet in product.bullets), "back prev"]
    assert task.step("click[prev]").text.startswith(product.title.lower())
    assert task.step("click[reviews]").text == "no reviews\nback prev"


def test_every_named_link_of_every_page_can_be_clicked(shop: Webshop) -> None:
    for id in shop.ids("train")[:20]:
        for path in (
            [],
            ["search[modern]"],
            ["search[modern]", "click[3]"],
            ["search[modern]", "click[3]", "click[features]"],
        ):
            before = shop.task(id)
            for action in path:
                before.step(action)
            for name in compact.links(before.session):
                task = shop.task(id)
                for action in [*path, f"click[{name}]"]:
                    step = task.step(action)
                    assert step.valid, (path, name)


def test_all_that_can_be_clicked_has_a_name(shop: Webshop) -> None:
    task = opened(shop, 1)
    assert set(compact.links(task.session).values()) == set(task.session.clickables())
    task.step("click[prev]")
    assert set(compact.links(task.session).values()) == set(task.session.clickables())


def test_labels_in_full_name_the_same_links(shop: Webshop) -> None:
    for label, name in (("buy now", "buy"), ("< prev", "prev"), ("Back to Search", "back")):
        assert compact.resolve(opened(shop, 0).session, label) == compact.resolve(opened(shop, 0).session, name)


def test_a_link_name_comes_before_a_label(shop: Webshop) -> None:
    task = opened(shop, 1)
    product = task.session.product
    assert product is not None
    assert compact.resolve(task.session, "1") == next(iter(product.options.values()))[0]
    assert compact.resolve(task.session, "99") is None


def test_long_titles_are_cut_on_results_and_whole_on_their_page(shop: Webshop) -> None:
    task = opened(shop, 0)
    session = Session(task.session.shop, task.session.goal)
    product = task.session.product
    assert product is not None
    long = replace(product, title="Word " * 40, prices=(12.5, 20.0))
    session.product, session.page = long, Page.item_page
    assert compact.view(session).splitlines()[0] == "word " * 40 + "$12.50-20"
    assert compact._line(3, long) == "3 " + "word " * compact.TITLE_WORDS + "$12.50-20"
