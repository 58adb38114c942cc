"""How long an episode is, and nothing else: WebShop behind a door that opens after a few turns.

Whatever is said before that is answered with the first page again, and does nothing. The shop behind the door, its
tasks and its scores are WebShop's. What grows with `waits` is how much is said for one reward, and so how little of it
the reward speaks of; what must be done to earn it stays the same.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pydantic import Field

from astarpo.environments.webshop.environment import Webshop, WebshopSettings
from astarpo.environments.webshop.task import WebshopTask
from astarpo.types import Step


class WaitingSettings(WebshopSettings):
    """WebShop's settings, and how long the door stays shut."""

    name: str = Field("waiting.Waiting", description="this environment")
    waits: int = Field(8, ge=0, le=100, description="turns that are answered with the first page and do nothing")


@dataclass
class WaitingTask:
    """`shop` from turn `waits` on."""

    id: str
    shop: WebshopTask
    waits: int
    page: str = field(default="", init=False)
    waited: int = field(default=0, init=False)

    def start(self) -> str:
        """The shop's first page."""
        self.page = self.shop.start()
        return self.page

    def step(self, action: str) -> Step:
        """The first page again while the door is shut, then as WebShop."""
        if self.waited < self.waits:
            self.waited += 1
            return Step(self.page, info={"kind": "wait"})
        return self.shop.step(action)

    def solution(self) -> list[str] | None:
        """Anything while the door is shut, then the shop's."""
        found = self.shop.solution()
        return None if found is None else [found[0]] * self.waits + found


class Waiting(Webshop):
    """WebShop, later."""

    Settings = WaitingSettings

    def __init__(self, settings: WaitingSettings) -> None:
        super().__init__(settings)
        self.waits = settings.waits

    def task(self, id: str) -> WaitingTask:  # type: ignore[override]
        """A fresh play of `id`."""
        return WaitingTask(id, super().task(id), self.waits)
