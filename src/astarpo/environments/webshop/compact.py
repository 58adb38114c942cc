"""The same pages in few words, for small models: plain lower-case text, and every link has a short name.

Products and option values are numbered from 1 on every page, so the third line of results is always link 3. Links that
many pages share have one word each (back, prev, next, buy, ...): always the same word, so that it can be learned
once, and never a number that could be mistaken for a product. They stand last on every page.
"""

from __future__ import annotations

from astarpo.environments.webshop.catalogue import Product
from astarpo.environments.webshop.session import Page, Session

WORDS = {
    "back": "back to search",
    "prev": "< prev",
    "next": "next >",
    "description": "description",
    "features": "features",
    "reviews": "reviews",
    "buy": "buy now",
}
"""Link name to the page's own label, for links that are neither products nor option values; in the order shown."""
TITLE_WORDS = 16
"""Longest title on a results page, words. The real catalogue has titles of 60 words; the item page shows all of it."""


def links(session: Session) -> dict[str, str]:
    """Link name to the label that the session knows it by, for everything that can be clicked on the current page."""
    named: dict[str, str] = {}
    if session.page is Page.search_results:
        named = {str(number): product.asin.lower() for number, product in enumerate(session.results(), 1)}
    elif session.page is Page.item_page and session.product is not None:
        named = {str(number): label for number, label in enumerate(session.shop.options(session.product), 1)}
    possible = set(session.clickables())
    return named | {name: label for name, label in WORDS.items() if label in possible}


def resolve(session: Session, written: str) -> str | None:
    """The label that `click[written]` means: a link name first, else a label of the page itself; None for neither."""
    written = written.strip().lower()
    named = links(session)
    if written in named:
        return named[written]
    return written if written in session.clickables() else None


def view(session: Session) -> str:
    """The current page in words. Lines: what the page shows, then the named links that it has."""
    lines: list[str] = [session.notice]
    if session.page is Page.index:
        return "search[words]"
    if session.page is Page.search_results:
        lines.append(f"page {session.page_number}, {session.total_results} results")
        lines += [_line(number, product) for number, product in enumerate(session.results(), 1)]
    elif session.page is Page.item_page and session.product is not None:
        lines.append(f"{_plain(session.product.title)} {_price(session.product)}")
        lines += _groups(session)
    elif session.page is Page.item_sub_page and session.product is not None:
        lines += _sub_page(session.product, (session.sub_page or "").lower())
    lines.append(" ".join(name for name in links(session) if not name.isdigit()))
    return "\n".join(line for line in lines if line)


def _line(number: int, product: Product) -> str:
    title = " ".join(_plain(product.title).split(" ")[:TITLE_WORDS])
    return f"{number} {title} {_price(product)}"


def _groups(session: Session) -> list[str]:
    assert session.product is not None
    groups: dict[str, list[str]] = {}
    for number, option in enumerate(session.shop.options(session.product).values(), 1):
        chosen = " *" if session.selected.get(option.group) == option.value else ""
        groups.setdefault(option.group, []).append(f"{number} {option.value}{chosen}")
    return [f"{group}: {', '.join(values)}" for group, values in groups.items()]


def _sub_page(product: Product, name: str) -> list[str]:
    if name == "description":
        return [_plain(product.description) or "no description"]
    if name == "features":
        return [_plain(bullet) for bullet in product.bullets]
    return ["no reviews"]


def _price(product: Product) -> str:
    return "$" + "-".join(f"{price:.2f}" if price % 1 else f"{price:.0f}" for price in product.prices)


def _plain(text: str) -> str:
    return " ".join(text.lower().split())
