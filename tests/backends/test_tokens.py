"""What engines that read a whole prompt are asked, turn by turn."""

from __future__ import annotations

from astarpo.backends.tokens import Request, Said, TokenConversations
from small import small_policy

STOP = 60


class Echo:
    """Ends every reply at once, and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Request] = []
        self._waiting: list[int] = []

    def submit(self, number: int, request: Request) -> None:
        self.asked.append(request)
        self._waiting.append(number)

    def finished(self) -> list[tuple[int, Said]]:
        done, self._waiting = self._waiting, []
        return [(number, Said((STOP,), (-1.0,))) for number in done]


def two_turns(keys: list[tuple[int, ...]]) -> list[Request]:
    """Requests of two turns in each conversation, the first turn's first."""
    engine = Echo()
    conversations = TokenConversations(engine, small_policy(stops=STOP).chat, keys)
    slots = range(len(keys))
    for turn in range(2):
        conversations.extend(slots, [[10 + turn, 20]] * len(keys))
        conversations.reply(slots, 4, 1.0)
    return engine.asked


def test_each_turn_sends_all_that_was_read_and_said() -> None:
    first, second = two_turns([(1,)])
    assert (first.ids, second.ids) == ((10, 20), (10, 20, STOP, 11, 20))


def test_every_turn_of_every_conversation_has_a_seed_of_its_own_whatever_stands_beside_it() -> None:
    both = [request.seed for request in two_turns([(1,), (2,)])]
    assert len(set(both)) == 4
    assert [request.seed for request in two_turns([(2,)])] == [both[1], both[3]]
