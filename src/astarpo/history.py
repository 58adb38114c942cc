"""How much of an episode a policy reads before it replies: all of it, a window of turns, or a window and a summary."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from astarpo import plugins
from astarpo.chat import Chat
from astarpo.errors import EnvironmentContractError, SettingsError
from astarpo.run import RolloutSettings
from astarpo.types import Turn

Summary = Callable[[Sequence[Turn]], str]
"""What `rollout.summary` names: the turns that are left out, oldest first, to text that stands in their place."""


class History:
    """Cuts the past of episodes.

    The first observation, which tells the task, is always read, and so are the rules. Under a window of w turns the
    reply of turn k reads the turns from k − w + 1 on; what is left out before them is summed up where a summary is
    asked for. Replies are read as the ids that were sampled.

    Args:
        rollout: which history, how wide a window, which summary.
        chat: writes the prompt.
        rules: told first; empty for none.

    Raises:
        SettingsError: `rollout.summary` names no function.
    """

    def __init__(self, rollout: RolloutSettings, chat: Chat, rules: str) -> None:
        self._window = None if rollout.history == "full" else rollout.window
        self._chat, self._rules, self._name = chat, rules, rollout.summary
        self._summary: Any = None
        if rollout.summary:
            self._summary = plugins.load(rollout.summary)
            if not callable(self._summary):
                raise SettingsError(
                    f"rollout.summary {rollout.summary!r} is no function: name one that makes text of turns."
                )

    def cut(self, turns: Sequence[Turn], observation: str) -> list[int] | None:
        """All ids that are read before the next reply, where some of the past is left out; None where all is read.

        Args:
            turns: so far.
            observation: the newest one.

        Raises:
            EnvironmentContractError: the summary raised, or is no text.
        """
        if self._window is None or len(turns) < self._window:
            return None
        left_out = len(turns) - self._window + 1
        kept = turns[left_out:]
        shown = [*(turn.observation for turn in kept), observation]
        opening = [turns[0].observation, self._summed_up(turns[:left_out]), shown[0]]
        ids = self._chat.first("\n\n".join(text for text in opening if text), self._rules)
        for turn, following in zip(kept, shown[1:], strict=True):
            ids += [*turn.reply.ids, *self._chat.next(following)]
        return ids

    def _summed_up(self, turns: Sequence[Turn]) -> str:
        if self._summary is None:
            return ""
        try:
            text = self._summary(turns)
        except Exception as error:
            raise EnvironmentContractError(
                f"the summary {self._name} raised {type(error).__name__}: {error} on {len(turns)} turns; it must take "
                "any turns."
            ) from error
        if not isinstance(text, str):
            raise EnvironmentContractError(
                f"the summary {self._name} must be text, got {type(text).__name__} for {len(turns)} turns."
            )
        return text
