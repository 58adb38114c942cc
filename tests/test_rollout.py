"""What is sampled is what is trained; every episode says why it ended; a broken environment is named."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from astarpo.collate import collate
from astarpo.environments.rewards import RewardMode, score
from astarpo.errors import EnvironmentContractError, SettingsError
from astarpo.policy.huggingface import HuggingFacePolicy
from astarpo.rollout import Play, collect, shortened
from astarpo.run import RolloutSettings
from astarpo.types import Ended, Episode
from small import Talk, small_policy, talk

STOPS = 120
"""So many ids end a reply that most do."""


def play(
    tasks: list[str],
    *,
    policy: HuggingFacePolicy | None = None,
    world: Talk | None = None,
    temperature: float = 1.0,
    reward: RewardMode = score,
    key: tuple[int, ...] = (0, 0),
    **limits: Any,
) -> list[Episode]:
    return collect(
        policy or small_policy(stops=STOPS),
        world or talk(max_turns=4),
        [Play(task, attempt, key) for attempt, task in enumerate(tasks)],
        rollout=RolloutSettings.parse({"reply_tokens": 12, "episode_tokens": 300, **limits}),
        temperature=temperature,
        reward=reward,
    )


def ended(episodes: list[Episode]) -> list[Ended]:
    return [episode.ended for episode in episodes]


MIXED = ["answered/1", "chatty/9", "bought/3", "finished/2", "long/2", "answered/4", "chatty/2", "answered/2"]


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.5])
def test_what_is_sampled_is_what_is_trained(temperature: float) -> None:
    policy = small_policy(stops=STOPS)
    episodes = play(MIXED * 3, policy=policy, temperature=temperature)
    batch = collate(episodes)
    for row, episode in enumerate(episodes):
        ids: list[int] = []
        for number, turn in enumerate(episode.turns):
            ids += turn.observation_ids
            place = slice(len(ids), len(ids) + len(turn.reply.ids))
            ids += turn.reply.ids
            assert batch.acted[row, place].all()
            assert (batch.turn[row, place] == number).all()
            assert batch.behaviour_logp[row, place].tolist() == pytest.approx(turn.reply.log_probs)
        assert batch.tokens[row, : len(ids)].tolist() == ids
        assert int(batch.acted[row].sum()) == sum(len(turn.reply.ids) for turn in episode.turns)
        assert int(batch.lengths[row]) == len(ids)
    with torch.no_grad():
        trained = policy.log_probs(batch).logp
    assert float((trained - batch.behaviour_logp).abs().max()) < 1e-4
    assert max(len(episode.turns) for episode in episodes) == 4


def test_log_probs_at_another_temperature_would_differ() -> None:
    policy = small_policy(stops=STOPS)
    batch = collate(play(MIXED, policy=policy, temperature=1.5))
    from dataclasses import replace

    with torch.no_grad():
        untempered = policy.log_probs(replace(batch, temperature=1.0)).logp
    assert float((untempered - batch.behaviour_logp).abs().max()) > 0.1


def test_every_turn_shows_what_the_environment_said_and_how_it_answered() -> None:
    (episode,) = play(["finished/3"])
    texts = [turn.observation for turn in episode.turns]
    assert texts[0] == "talk about finished/3"
    for before, after in zip(episode.turns, episode.turns[1:], strict=False):
        assert after.observation == before.step.text == f"you said {len(before.reply.text)} letters"
    policy = small_policy(stops=STOPS)
    assert episode.turns[1].observation_ids == tuple(policy.chat.next(texts[1]))


@pytest.mark.parametrize(
    ("task", "reason", "turns"),
    [
        ("answered/1", Ended.ANSWERED, 1),
        ("bought/2", Ended.BOUGHT, 2),
        ("finished/3", Ended.FINISHED, 3),
        ("chatty/1", Ended.TURN_LIMIT, 4),
        ("answered/4", Ended.ANSWERED, 4),
        # The long observation would leave no room for a reply.
        ("long/2", Ended.TOKEN_LIMIT, 2),
    ],
)
def test_every_reason_to_end_is_reached_and_said(task: str, reason: Ended, turns: int) -> None:
    # Nearly every id ends a reply, so no reply is cut.
    (episode,) = play([task], policy=small_policy(stops=250))
    assert (episode.ended, len(episode.turns)) == (reason, turns)


def test_a_reply_without_a_stop_token_is_cut_counted_as_invalid_and_ends_the_episode() -> None:
    (episode,) = play(["answered/1"], policy=small_policy(), reply_tokens=5)
    (turn,) = episode.turns
    assert (episode.ended, turn.reply.complete, turn.step.valid) == (Ended.TOKEN_LIMIT, False, False)
    assert turn.step.info == {"kind": "cut"}
    assert len(turn.reply.ids) == 5
    assert not episode.success


def test_episodes_come_back_in_the_order_of_the_plays_with_score_reward_and_level() -> None:
    episodes = play(MIXED)
    assert [episode.task for episode in episodes] == MIXED
    assert [episode.attempt for episode in episodes] == list(range(8))
    for episode in episodes:
        assert episode.score == sum(turn.step.reward for turn in episode.turns)
        assert (
            episode.success == (episode.ended is Ended(episode.task.split("/")[0]) and episode.score >= 1)
            if (episode.task.split("/")[0] in set(Ended))
            else not episode.success
        )
    assert play([]) == []


def told(episodes: list[Episode]) -> list[Any]:
    """Everything but log-probs, which a batch of another shape rounds otherwise in the last bit."""
    return [
        (e.task, e.attempt, e.ended, e.score, [(t.observation_ids, t.reply.ids, t.reply.text, t.step) for t in e.turns])
        for e in episodes
    ]


@pytest.mark.parametrize("slots", [1, 3, 256])
def test_an_episode_does_not_depend_on_what_is_played_beside_it(slots: int) -> None:
    together = play(MIXED)
    assert told(play(MIXED, slots=slots)) == told(together)
    policy = small_policy(stops=STOPS)
    alone = collect(
        policy,
        talk(max_turns=4),
        [Play(MIXED[5], 5, (0, 0))],
        rollout=RolloutSettings.parse({"reply_tokens": 12, "episode_tokens": 300}),
        temperature=1.0,
        reward=score,
    )
    assert told(alone) == told(together[5:6])


@pytest.mark.parametrize(
    ("position", "slots"),
    # 100 tokens at most, so room for 150: 256 MiB are 1,789,569 bytes a token, by slots 13,981 of 128 and 6,990 of 256.
    [(0, 64), (1_000_000, 64), (13_982, 64), (13_981, 128), (6_991, 128), (6_990, 256), (1, 256)],
)
def test_more_episodes_are_in_flight_where_their_keys_are_small(position: int, slots: int) -> None:
    limits = RolloutSettings.parse({"reply_tokens": 20, "episode_tokens": 81})
    assert limits.in_flight(position) == slots
    assert RolloutSettings.parse({**limits.model_dump(), "slots": 5}).in_flight(position) == 5


class Counted(HuggingFacePolicy):
    """Notes how many conversations are opened at once."""

    opened = 0

    def open(self, keys: Any) -> Any:
        self.opened = len(keys)
        return super().open(keys)


@pytest.mark.parametrize(("limits", "opened"), [({}, 150), ({"slots": 7}, 7), ({"episode_tokens": 40_000}, 64)])
def test_a_rollout_opens_as_many_conversations_as_are_in_flight(limits: dict[str, Any], opened: int) -> None:
    base = small_policy(stops=STOPS)
    base.model.config.max_position_embeddings = 100_000
    policy = Counted(base.model, base.tokenizer, rules=False, name="counted")
    play(["answered/1"] * 150, policy=policy, **limits)
    assert policy.opened == opened


def test_attempts_updates_and_seeds_draw_differently() -> None:
    def said(episodes: list[Episode]) -> set[tuple[int, ...]]:
        return {episode.turns[0].reply.ids for episode in episodes}

    assert len(said(play(["chatty/1"] * 8))) == 8
    assert (
        len(said([*play(["chatty/1"], key=(0, 0)), *play(["chatty/1"], key=(0, 1)), *play(["chatty/1"], key=(1, 0))]))
        == 3
    )


def test_seconds_are_told_apart() -> None:
    spent: dict[str, float] = {}
    collect(
        small_policy(stops=STOPS),
        talk(),
        [Play("answered/1", 0, (0,))],
        rollout=RolloutSettings.parse({}),
        temperature=1.0,
        reward=score,
        spent=spent,
    )
    assert set(spent) == {"generation", "environment"}
    assert min(spent.values()) >= 0


@pytest.mark.parametrize(
    ("task", "sentence"),
    [
        ("raise/2", r"task 'raise/2' raised RuntimeError: the blackboard fell down on the reply '.*'"),
        ("raise_at_start/1", r"task 'raise_at_start/1' raised RuntimeError: no chalk when started"),
        ("nan/1", r"task 'nan/1' answered the reply '.*' with reward nan"),
        ("nothing/1", r"task 'nothing/1' answered the reply '.*' with None: an answer is a Step"),
        ("no_turns", r"small\.Talk raised ValueError: .* when it was asked for task 'no_turns'"),
    ],
)
def test_an_environment_that_breaks_its_contract_is_named_with_task_and_reply(task: str, sentence: str) -> None:
    with pytest.raises(EnvironmentContractError, match=sentence):
        play(["answered/1", task], policy=small_policy(stops=250))


@pytest.mark.parametrize(
    ("mode", "sentence"),
    [
        ("nothing_finite", r"reward of task 'answered/1' must be one finite number a turn, got \[nan\] for 1 turns"),
        ("one_too_few", r"must be one finite number a turn, got \[\] for 1 turns"),
        ("raising", r"the reward mode of small\.Talk raised ZeroDivisionError: division by zero on an episode of task"),
    ],
)
def test_a_reward_mode_that_raises_or_returns_no_number_is_refused(mode: str, sentence: str) -> None:
    with pytest.raises(EnvironmentContractError, match=sentence):
        play(["answered/1"], reward=talk().reward_mode(mode))


def test_a_prompt_that_leaves_no_room_for_a_reply_is_refused() -> None:
    with pytest.raises(EnvironmentContractError, match=r"the prompt of task 'answered/1' has \d+ tokens and .* is 8"):
        play(["answered/1"], episode_tokens=8)


def test_episodes_that_may_outgrow_the_model_are_refused() -> None:
    """The small model reads 512 tokens; a last reply of 12 begins at 501 at the latest."""
    assert play(["answered/1"], episode_tokens=501)
    with pytest.raises(
        SettingsError,
        match=r"rollout\.episode_tokens 502 with a last reply of 12 makes 513 tokens and small reads 512 at most:",
    ):
        play(["answered/1"], episode_tokens=502)


def test_rules_are_told_only_to_a_policy_that_wants_them() -> None:
    class Strict(Talk):
        def prompt(self) -> str:
            return "be brief"

    told, untold = small_policy(stops=STOPS), small_policy(stops=STOPS)
    told.rules = True
    world = Strict(talk().settings)
    with_rules = play(["answered/1"], policy=told, world=world)[0].turns[0].observation_ids
    without = play(["answered/1"], policy=untold, world=world)[0].turns[0].observation_ids
    assert told.tokenizer.decode(with_rules) == "<|observation|>be brief\n\ntalk about answered/1<|action|>"
    assert untold.tokenizer.decode(without) == "<|observation|>talk about answered/1<|action|>"


def test_a_long_episode_pays_in_its_last_turn_by_what_the_policy_said_in_all_turns() -> None:
    plays = [Play("answered/3/train", attempt, (0,)) for attempt in range(4)]
    rollout = RolloutSettings.parse({"reply_tokens": 6, "episode_tokens": 200})
    episodes = collect(small_policy(0, stops=120), talk(), plays, rollout=rollout, temperature=1.0, reward=score)
    said = [sum(len(turn.reply.ids) for turn in episode.turns) for episode in episodes]
    most = max(said)
    assert min(said) < most
    strict = RolloutSettings.parse(
        {"episode_tokens": 200, "overlong_penalty": 0.5, "overlong_tokens": most, "overlong_cache": most}
    )
    for episode, tokens in zip(episodes, said, strict=True):
        paid = shortened(episode, strict)
        assert paid.reward == pytest.approx(episode.reward - 0.5 * tokens / most)
        assert [turn.reward for turn in paid.turns[:-1]] == [turn.reward for turn in episode.turns[:-1]]
        assert (paid.score, paid.success) == (episode.score, episode.success)
        assert shortened(episode, rollout) is episode
