"""What an episode is. Frozen data, no behaviour beyond sums; standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, NamedTuple

Split = Literal["train", "dev", "test"]
SPLITS: tuple[Split, ...] = ("train", "dev", "test")


class Ended(StrEnum):
    """Why an episode ended. The first three come from the environment, the rest from the limits of the rollout."""

    ANSWERED = "answered"
    BOUGHT = "bought"
    FINISHED = "finished"
    TURN_LIMIT = "turn_limit"
    TOKEN_LIMIT = "token_limit"


@dataclass(frozen=True, slots=True)
class Step:
    """What the environment answers to one action.

    Attributes:
        text: the next observation; empty when the task has ended and has no more to say.
        reward: the environment's own reward for this action. Their sum over an episode is its score. Other reward
            modes are computed from finished steps (`environments/rewards.py`) and never stored here.
        ended: why the task is over, or None while it goes on.
        success: whether the task is now solved. None leaves it to the rule "a score of 1 or more when it ends".
        valid: False where the action could not be read or is not possible here. It was answered in words.
        info: facts for reward modes, logs and diagnosis; JSON values only. Known keys: `kind` (what sort of action:
            "search", "click", "buy", "answer", "invalid"), `partial` (partial credit in [0, 1]), `potential`.

    >>> Step("Is it 4?", reward=0.0).ended is None
    True
    """

    text: str = ""
    reward: float = 0.0
    ended: Ended | None = None
    success: bool | None = None
    valid: bool = True
    info: Mapping[str, Any] = field(default_factory=dict)


class Reply(NamedTuple):
    """What a policy said in one turn.

    Attributes:
        ids: sampled token ids, the stop token included where one was sampled.
        log_probs: nats, one per id, under the distribution that sampled them (temperature included).
        text: the ids decoded for the environment, without the stop token.
        complete: False where the token limit cut the reply before a stop token.
    """

    ids: tuple[int, ...]
    log_probs: tuple[float, ...]
    text: str
    complete: bool


@dataclass(frozen=True, slots=True)
class Turn:
    """One exchange: what the policy read, what it replied, what that earned.

    Attributes:
        observation: text shown before the reply.
        observation_ids: the token ids appended for it (for the first turn: the whole prompt).
        reply: the sampled reply and its log-probs.
        step: the environment's answer, as it gave it.
        reward: training reward of this turn, under the run's reward mode.
        context: all ids read before the reply, where part of the past was left out; None where all of it was read,
            which is then what the turns so far hold.
    """

    observation: str
    observation_ids: tuple[int, ...]
    reply: Reply
    step: Step
    reward: float
    context: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Episode:
    """One play of one task.

    Attributes:
        task: the task's id, the key of the value table.
        attempt: which of the group's attempts at the task this is, from 0.
        turns: at least one.
        ended: why it ended.
        success: whether the task was solved.
        score: the environment's own score, sum of `Step.reward`.
        temperature: the one that sampled it; scoring must use the same.
        policy_version: number of optimiser updates behind the policy that played.
        level: the curriculum level the task belongs to.
    """

    task: str
    attempt: int
    turns: tuple[Turn, ...]
    ended: Ended
    success: bool
    score: float
    temperature: float
    policy_version: int
    level: str = ""

    @property
    def reward(self) -> float:
        """Return of the episode: the undiscounted sum of training rewards."""
        return sum(turn.reward for turn in self.turns)
