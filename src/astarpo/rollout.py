"""Play many episodes at once: policy ⇄ environment, token in, token out. Every episode says why it ended."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from astarpo.engine.slots import position_bytes
from astarpo.environments.base import Environment, EnvironmentSettings, Task, solved
from astarpo.environments.rewards import RewardMode
from astarpo.errors import AstarpoError, EnvironmentContractError, SettingsError
from astarpo.history import History
from astarpo.policy.base import Player
from astarpo.run import RolloutSettings
from astarpo.types import Ended, Episode, Reply, Step, Turn


@dataclass(frozen=True)
class Play:
    """One episode to be played.

    Attributes:
        task: the task's id.
        attempt: which attempt at it, from 0.
        key: seeds the episode's randomness, together with task and attempt.
    """

    task: str
    attempt: int
    key: tuple[int, ...]

    def seed(self) -> tuple[int, ...]:
        """The numbers that seed this episode's sampling: equal in every process and every batch."""
        digest = hashlib.sha256(self.task.encode()).digest()
        return (*self.key, int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:8], "little"), self.attempt)


@dataclass
class _Open:
    """An episode under way."""

    number: int
    play: Play
    task: Task
    observation: str
    observation_ids: list[int]
    turns: list[Turn] = field(default_factory=list)
    context: list[int] | None = None

    @property
    def begins_anew(self) -> tuple[int, ...] | None:
        """The key of a conversation that starts again because part of the past is left out; None where it goes on."""
        return None if self.context is None else (*self.play.seed(), len(self.turns))


def collect(
    policy: Player,
    environment: Environment[EnvironmentSettings],
    plays: Sequence[Play],
    *,
    rollout: RolloutSettings,
    temperature: float,
    reward: RewardMode,
    spent: dict[str, float] | None = None,
    tell: Callable[[int], None] | None = None,
) -> list[Episode]:
    """Play `plays` and return their episodes in the same order.

    As many as `rollout.in_flight` at once; where one ends, the next begins. An episode whose reply has ended reads on
    while others still speak.

    Args:
        policy: says what is done.
        environment: answers it.
        plays: tasks and attempts.
        rollout: slots, and limits on tokens; the limit on turns is the environment's own.
        temperature: of sampling; 0 is greedy.
        reward: mode that turns finished steps into training rewards.
        spent: seconds by purpose, added to under "generation" and "environment".
        tell: told how many episodes have ended since it was told last.

    Raises:
        EnvironmentContractError: the environment raised, or a reward is not a finite number.
        SettingsError: as `check_context`.
    """
    check_context(policy, rollout)
    if not plays:
        return []
    table = _Table(policy, environment, rollout)
    began, in_environment = time.perf_counter(), 0.0
    size = min(len(plays), rollout.in_flight(position_bytes(policy.model)))
    conversations = policy.open([play.seed() for play in plays[:size]])
    waiting = iter(enumerate(plays))
    free = list(range(size))[::-1]
    going: dict[int, _Open] = {}
    reading: list[int] = []
    speaking = 0
    done: dict[int, Episode] = {}
    used = set[int]()
    while len(done) < len(plays):
        answering = time.perf_counter()
        admitted, left = [], []
        while free:
            following = next(waiting, None)
            slot = free.pop()
            if following is None:
                left.append(slot)
                continue
            going[slot] = table.begin(*following)
            admitted.append(slot)
        in_environment += time.perf_counter() - answering
        for slot in admitted:
            if slot in used:
                conversations.restart(slot, going[slot].play.seed())
            used.add(slot)
        if left:
            conversations.close(left)
        reading += admitted
        if reading and (not speaking or len(reading) >= conversations.read_share * len(going)):
            for slot in reading:
                if (key := going[slot].begins_anew) is not None:
                    conversations.restart(slot, key)
            conversations.extend(reading, [going[slot].context or going[slot].observation_ids for slot in reading])
            conversations.ask(reading, rollout.reply_tokens, temperature)
            speaking += len(reading)
            reading = []
        replies = conversations.step()
        speaking -= len(replies)
        answering, before = time.perf_counter(), len(done)
        for slot, said in replies:
            one = going[slot]
            ended = table.answer(one, said, conversations.tokens(slot))
            if ended is None:
                reading.append(slot)
                continue
            done[one.number] = _finish(one, ended, temperature, policy.version, reward, environment)
            del going[slot]
            free.append(slot)
        in_environment += time.perf_counter() - answering
        if tell is not None and len(done) > before:
            tell(len(done) - before)
    if spent is not None:
        spent["environment"] = spent.get("environment", 0.0) + in_environment
        spent["generation"] = spent.get("generation", 0.0) + time.perf_counter() - began - in_environment
    return [done[number] for number in range(len(plays))]


class _Table:
    """Where episodes are played: begins them and answers replies."""

    def __init__(
        self,
        policy: Player,
        environment: Environment[EnvironmentSettings],
        rollout: RolloutSettings,
    ) -> None:
        self._chat, self._environment, self._rollout = policy.chat, environment, rollout
        self._rules = environment.prompt() if policy.rules else ""
        self._history = History(rollout, policy.chat, self._rules)
        # Attempts at one task read the same first page, and often the same later ones.
        self._first: dict[str, list[int]] = {}
        self._next: dict[str, list[int]] = {}

    def begin(self, number: int, play: Play) -> _Open:
        """Start an episode. Raises EnvironmentContractError where its prompt leaves no room for a reply."""
        task = _task(self._environment, play.task)
        observation = _start(task)
        ids = self._first.get(observation)
        if ids is None:
            ids = self._first[observation] = self._chat.first(observation, self._rules)
        if len(ids) >= self._rollout.episode_tokens:
            raise EnvironmentContractError(
                f"the prompt of task {play.task!r} has {len(ids)} tokens and rollout.episode_tokens is "
                f"{self._rollout.episode_tokens}: no reply would fit; raise it."
            )
        return _Open(number, play, task, observation, ids)

    def answer(self, one: _Open, said: Reply, tokens: int) -> Ended | None:
        """Take a reply; why the episode is over, or None and `one` holds what is read next.

        Args:
            one: the episode.
            said: the reply.
            tokens: that the conversation holds, the reply included.
        """
        if said.complete:
            step = _step(one.task, said.text)
        else:
            step = Step(valid=False, info={"kind": "cut"})
        context = None if one.context is None else tuple(one.context)
        one.turns.append(Turn(one.observation, tuple(one.observation_ids), said, step, 0.0, context))
        if step.ended is not None:
            return step.ended
        if not said.complete:
            return Ended.TOKEN_LIMIT
        if len(one.turns) >= self._environment.settings.max_turns:
            return Ended.TURN_LIMIT
        ids = self._next.get(step.text)
        if ids is None:
            ids = self._next[step.text] = self._chat.next(step.text)
        one.observation, one.observation_ids = step.text, ids
        one.context = self._history.cut(one.turns, step.text)
        read = tokens + len(ids) if one.context is None else len(one.context)
        return Ended.TOKEN_LIMIT if read >= self._rollout.episode_tokens else None


def check_context(policy: Player, rollout: RolloutSettings) -> None:
    """Refuse episodes that may grow longer than the policy's model can read. Raises SettingsError."""
    if policy.model is None:
        return
    context = getattr(policy.model.config.get_text_config(), "max_position_embeddings", None)
    if context is not None and rollout.longest > context:
        raise SettingsError(
            f"rollout.episode_tokens {rollout.episode_tokens} with a last reply of {rollout.reply_tokens} makes "
            f"{rollout.longest} tokens and {policy.name or 'the model'} reads {context} at most: lower them, or "
            "choose a model with a longer context."
        )


def rewarded(
    turns: Sequence[Turn], success: bool, reward: RewardMode, *, task: str, environment: str
) -> tuple[Turn, ...]:
    """The turns of a finished episode with what each earned under the mode `reward`.

    Args:
        turns: all of them; whatever reward they carry is replaced.
        success: whether the task was solved.
        reward: the mode.
        task, environment: names, for the message.

    Raises:
        EnvironmentContractError: the mode raised, or did not give one finite number a turn.
    """
    steps = [turn.step for turn in turns]
    try:
        rewards = reward(steps, success)
    except Exception as error:
        raise EnvironmentContractError(
            f"the reward mode of {environment} raised {type(error).__name__}: {error} on an episode of task {task!r}: "
            "it must take any finished episode."
        ) from error
    if len(rewards) != len(steps) or not all(math.isfinite(value) for value in rewards):
        raise EnvironmentContractError(
            f"reward of task {task!r} must be one finite number a turn, got {rewards} for {len(steps)} turns."
        )
    return tuple(replace(turn, reward=value) for turn, value in zip(turns, rewards, strict=True))


def shortened(episode: Episode, rollout: RolloutSettings) -> Episode:
    """`episode` with the penalty for length taken from the reward of its last turn; see `RolloutSettings.overlong`."""
    penalty = rollout.overlong(sum(len(turn.reply.ids) for turn in episode.turns))
    if not penalty:
        return episode
    *before, last = episode.turns
    return replace(episode, turns=(*before, replace(last, reward=last.reward - penalty)))


def tokens_of(episode: Episode) -> tuple[int, int]:
    """Tokens of an episode that were read, each once, and those that were said."""
    return sum(len(turn.observation_ids) for turn in episode.turns), sum(len(t.reply.ids) for t in episode.turns)


def episode_metrics(episodes: Sequence[Episode]) -> dict[str, float]:
    """What a batch of training episodes looked like, under canonical names."""
    n = len(episodes)
    turns = [turn for episode in episodes for turn in episode.turns]
    metrics = {
        "train/success": sum(episode.success for episode in episodes) / n,
        "train/score": sum(episode.score for episode in episodes) / n,
        "reward/mean": sum(episode.reward for episode in episodes) / n,
        "turns": len(turns) / n,
        "invalid": sum(not turn.step.valid for turn in turns) / len(turns),
        "reply_tokens": sum(len(turn.reply.ids) for turn in turns) / len(turns),
    }
    for episode in episodes:
        key = f"ended/{episode.ended}"
        metrics[key] = metrics.get(key, 0.0) + 1 / n
    return metrics


def _task(environment: Environment[EnvironmentSettings], id: str) -> Task:
    try:
        return environment.task(id)
    except AstarpoError:
        raise
    except Exception as error:
        raise EnvironmentContractError(
            f"{environment.settings.name} raised {type(error).__name__}: {error} when it was asked for task {id!r}: "
            "every id it lists must be playable."
        ) from error


def _start(task: Task) -> str:
    try:
        return task.start()
    except Exception as error:
        raise EnvironmentContractError(
            f"task {task.id!r} raised {type(error).__name__}: {error} when started; an environment may not raise."
        ) from error


def _step(task: Task, reply: str) -> Step:
    try:
        step = task.step(reply)
    except AstarpoError:
        raise
    except Exception as error:
        raise EnvironmentContractError(
            f"task {task.id!r} raised {type(error).__name__}: {error} on the reply {reply[:80]!r}; any reply is legal, "
            "answer a bad one in words."
        ) from error
    if not isinstance(step, Step) or not math.isfinite(step.reward):
        answered = f"reward {step.reward}" if isinstance(step, Step) else repr(step)
        raise EnvironmentContractError(
            f"task {task.id!r} answered the reply {reply[:80]!r} with {answered}: an answer is a Step with a finite "
            "reward."
        )
    return step


def _finish(
    one: _Open,
    ended: Ended,
    temperature: float,
    version: int,
    reward: RewardMode,
    environment: Environment[EnvironmentSettings],
) -> Episode:
    steps = [turn.step for turn in one.turns]
    success = solved(steps)
    turns = rewarded(one.turns, success, reward, task=one.play.task, environment=environment.settings.name)
    return Episode(
        task=one.play.task,
        attempt=one.play.attempt,
        turns=turns,
        ended=ended,
        success=success,
        score=sum(step.reward for step in steps),
        temperature=temperature,
        policy_version=version,
        level=environment.level(one.play.task),
    )
