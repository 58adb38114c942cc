"""Play many episodes at once: policy ⇄ environment, token in, token out. Every episode says why it ended."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from astarpo.environments.base import Environment, EnvironmentSettings, Task, solved
from astarpo.environments.rewards import RewardMode
from astarpo.errors import AstarpoError, EnvironmentContractError, SettingsError
from astarpo.policy.base import Player
from astarpo.run import RolloutSettings
from astarpo.types import Ended, Episode, Step, Turn


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

    play: Play
    task: Task
    observation: str
    observation_ids: list[int]
    turns: list[Turn] = field(default_factory=list)


def collect(
    policy: Player,
    environment: Environment[EnvironmentSettings],
    plays: Sequence[Play],
    *,
    rollout: RolloutSettings,
    temperature: float,
    reward: RewardMode,
    width: int = 256,
    spent: dict[str, float] | None = None,
) -> list[Episode]:
    """Play `plays` and return their episodes in the same order.

    Args:
        policy: says what is done.
        environment: answers it.
        plays: tasks and attempts.
        rollout: limits on tokens; the limit on turns is the environment's own.
        temperature: of sampling; 0 is greedy.
        reward: mode that turns finished steps into training rewards.
        width: episodes in flight at once.
        spent: seconds by purpose, added to under "generation" and "environment".

    Raises:
        EnvironmentContractError: the environment raised, or a reward is not a finite number.
        SettingsError: as `check_context`.
    """
    check_context(policy, rollout)
    episodes: list[Episode] = []
    for begin in range(0, len(plays), width):
        episodes += _together(policy, environment, plays[begin : begin + width], rollout, temperature, reward, spent)
    return episodes


def check_context(policy: Player, rollout: RolloutSettings) -> None:
    """Refuse episodes that may grow longer than the policy's model can read. Raises SettingsError."""
    context = getattr(policy.model.config.get_text_config(), "max_position_embeddings", None)
    if context is not None and rollout.longest > context:
        raise SettingsError(
            f"rollout.episode_tokens {rollout.episode_tokens} with a last reply of {rollout.reply_tokens} makes "
            f"{rollout.longest} tokens and {policy.name or 'the model'} reads {context} at most: lower them, or "
            "choose a model with a longer context."
        )


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


def _together(
    policy: Player,
    environment: Environment[EnvironmentSettings],
    plays: Sequence[Play],
    rollout: RolloutSettings,
    temperature: float,
    reward: RewardMode,
    spent: dict[str, float] | None,
) -> list[Episode]:
    rules = environment.prompt() if policy.rules else ""
    began, in_environment = time.perf_counter(), 0.0
    conversations = policy.open([play.seed() for play in plays])
    going: dict[int, _Open] = {}
    done: dict[int, Episode] = {}
    for slot, play in enumerate(plays):
        task = _task(environment, play.task)
        observation = _start(task)
        going[slot] = _Open(play, task, observation, policy.chat.first(observation, rules))
    too_long = [slot for slot, one in going.items() if len(one.observation_ids) >= rollout.episode_tokens]
    if too_long:
        one = going[too_long[0]]
        raise EnvironmentContractError(
            f"the prompt of task {one.play.task!r} has {len(one.observation_ids)} tokens and rollout.episode_tokens is "
            f"{rollout.episode_tokens}: no reply would fit; raise it."
        )
    while going:
        slots = list(going)
        conversations.extend(slots, [going[slot].observation_ids for slot in slots])
        replies = conversations.reply(slots, rollout.reply_tokens, temperature)
        answering = time.perf_counter()
        for slot, said in zip(slots, replies, strict=True):
            one = going[slot]
            if said.complete:
                step = _step(one.task, said.text)
            else:
                step = Step(valid=False, info={"kind": "cut"})
            one.turns.append(Turn(one.observation, tuple(one.observation_ids), said, step, reward=0.0))
            ended = step.ended
            if ended is None and not said.complete:
                ended = Ended.TOKEN_LIMIT
            if ended is None and len(one.turns) >= environment.settings.max_turns:
                ended = Ended.TURN_LIMIT
            if ended is None:
                one.observation, one.observation_ids = step.text, policy.chat.next(step.text)
                if conversations.tokens(slot) + len(one.observation_ids) >= rollout.episode_tokens:
                    ended = Ended.TOKEN_LIMIT
            if ended is not None:
                done[slot] = _finish(one, ended, temperature, policy.version, reward, environment)
                del going[slot]
        in_environment += time.perf_counter() - answering
        conversations.close([slot for slot in slots if slot not in going])
    if spent is not None:
        spent["environment"] = spent.get("environment", 0.0) + in_environment
        spent["generation"] = spent.get("generation", 0.0) + time.perf_counter() - began - in_environment
    return [done[slot] for slot in range(len(plays))]


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
    try:
        rewards = reward(steps, success)
    except Exception as error:
        raise EnvironmentContractError(
            f"the reward mode of {environment.settings.name} raised {type(error).__name__}: {error} on an episode of "
            f"task {one.play.task!r}: it must take any finished episode."
        ) from error
    if len(rewards) != len(steps) or not all(math.isfinite(value) for value in rewards):
        raise EnvironmentContractError(
            f"reward of task {one.play.task!r} must be one finite number a turn, got {rewards} for {len(steps)} turns."
        )
    turns = tuple(
        Turn(turn.observation, turn.observation_ids, turn.reply, turn.step, value)
        for turn, value in zip(one.turns, rewards, strict=True)
    )
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
