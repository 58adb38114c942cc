"""Can the environment and its reward teach the task at all?"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable

import numpy as np

from astarpo.diagnosis import thresholds as at
from astarpo.diagnosis.decompose import Shaping, ways
from astarpo.diagnosis.detectors.signal import v_star
from astarpo.diagnosis.evidence import EnvironmentFact, Evidence
from astarpo.diagnosis.findings import Answer, Clear, Severity, Unable, detector, found
from astarpo.diagnosis.plain import quoted
from astarpo.diagnosis.trends import at_first, ends, learned, trend
from astarpo.types import Ended, Episode, Turn

FINAL = re.compile(r"\b(?:buy|purchase|check ?out|submit|finish|done|answer)\b", re.IGNORECASE)
"""Words by which a reply wants to end an episode."""
FINAL_KINDS = frozenset({"buy", "answer", "submit", "finish"})
CUT = frozenset({Ended.TURN_LIMIT, Ended.TOKEN_LIMIT})
WRITTEN = re.compile(r"\s*([a-z_]+)\[.*\]\s*", re.DOTALL)
HEAD = 2000
"""Characters of a reply that are looked at: an action is shorter, a hostile reply may have any length."""
LISTED = 5
LEAST_ADVANTAGES = 20
"""Episodes of the first update from which the signs of advantages are told."""


@detector(
    "reward",
    "the action that ends the task does nothing",
    rule=f"replies try to end the task {at.ATTEMPTS_AT_THE_END.value:g} times or more and {at.ALL_CUT.value:.0%} of "
    "the "
    "episodes run into a limit all the same; or the environment, played, does not end on its documented actions",
    source="the run this project began with: its prompt offered a purchase that its shop did not execute",
)
def final_action_dead(evidence: Evidence) -> Answer:
    facts = _facts(evidence, "final")
    setting = "astarpo check ENV"
    mend = (
        "Make every action that the prompt names do what it says, and test each one against the environment; score "
        "what "
        "a scripted player earns before anything is trained."
    )
    attempts = ended = 0
    example = ""
    several = [episode for episode in evidence.episodes if len(episode.turns) > 1 or episode.ended in CUT]
    for episode in several:
        ended += episode.ended not in CUT
        for turn in episode.turns:
            if turn.step.ended is None and _wants_to_end(turn):
                attempts += 1
                example = example or quoted(turn.reply.text)
    share = 1.0 - ended / len(several) if several else 0.0
    seen = attempts >= at.ATTEMPTS_AT_THE_END.value and share >= at.ALL_CUT.value
    if not seen and not facts:
        if not evidence.episodes and evidence.environment is None:
            return Unable("whether a task can be ended: episodes, or --environment ENV to play it")
        return Clear()
    said = []
    if seen:
        said.append(
            f"Replies try to end the task {attempts} times, such as {example!r}, and {len(several) - ended} of "
            f"{len(several)} episodes run into a limit all the same."
        )
    said += [fact.sentence for fact in facts]
    return found(
        "critical",
        " ".join(said),
        numbers={"attempts": attempts, "episodes": len(several), "ended_by_the_environment": ended, **_numbers(facts)},
        where=_span(evidence),
        ruled_out=("a policy that never tries to end the task",) if seen else (),
        remedy=mend,
        setting=setting,
    )


@detector(
    "reward",
    "replies that cannot be read are done as something else",
    rule=f"more than {at.UNREADABLE_TAKEN.value:.0%} of the replies (critical "
    f"{at.UNREADABLE_TAKEN_CRITICAL.value:.0%}) are "
    "executed as an action that they do not state; or the environment, played, does so",
    source="the run this project began with: any reply became a search, and searches were paid",
)
def unreadable_taken(evidence: Evidence) -> Answer:
    facts = _facts(evidence, "parser")
    turns = [turn for episode in evidence.episodes for turn in episode.turns if turn.reply.complete]
    kinds = {m[1] for turn in turns if (m := WRITTEN.fullmatch(turn.reply.text[:HEAD])) is not None} | {
        "search",
        "click",
    }
    taken = [turn for turn in turns if _taken_otherwise(turn, kinds)]
    share, paid = len(taken) / len(turns) if turns else 0.0, sum(turn.reward > 0 for turn in taken)
    seen = share > at.UNREADABLE_TAKEN.value and len(taken) >= LISTED
    if not seen and not facts:
        if not turns and evidence.environment is None:
            return Unable("whether replies are done as they were said: episodes, or --environment ENV to play it")
        return Clear()
    said = []
    if seen:
        first = taken[0]
        done = quoted(str(first.step.info.get("action", first.step.info.get("kind", "something else"))))
        said.append(
            f"{len(taken)} of {len(turns)} replies ({share:.0%}) are done as an action that they do not state, such as "
            f"{quoted(first.reply.text)!r} as {done!r}; {paid} of them are rewarded."
        )
    said += [fact.sentence for fact in facts]
    return found(
        "critical" if share > at.UNREADABLE_TAKEN_CRITICAL.value or paid or facts else "warning",
        " ".join(said),
        numbers={"taken": len(taken), "replies": len(turns), "rewarded": paid, **_numbers(facts)},
        where=_span(evidence),
        remedy="Refuse what cannot be read, say so in the observation and mark the step invalid; never rewrite it, and "
        "pay nothing for it.",
        setting="astarpo check ENV",
    )


@detector(
    "reward",
    "a task is not the one that its id or its prompt says",
    rule=f"more than {at.OTHER_TASK.value:.0%} of the episodes are scored by another goal than the one shown, or show "
    "another first observation than other plays of their task, or score otherwise on the same replies; or the "
    "environment, played twice, does",
    source="the run this project began with: V* was measured on goals other than those of its instructions",
)
def another_task(evidence: Evidence) -> Answer:
    facts = _facts(evidence, "goal")
    shown: dict[str, set[str]] = defaultdict(set)
    scores: dict[tuple[str, tuple[str, ...]], set[tuple[float, bool]]] = defaultdict(set)
    other = told = 0
    example = ""
    for episode in evidence.episodes:
        first = episode.turns[0].observation
        shown[episode.task].add(first)
        scores[episode.task, tuple(turn.reply.text for turn in episode.turns)].add((episode.score, episode.success))
        goal = next((str(turn.step.info["goal"]) for turn in episode.turns if "goal" in turn.step.info), None)
        if goal is not None:
            told += 1
            if _words(goal) not in _words(first):
                other += 1
                example = example or f"shown {quoted(first)!r}, scored {quoted(goal)!r}"
    several = sum(len(seen) > 1 for seen in shown.values())
    unequal = sum(len(seen) > 1 for seen in scores.values())
    n, tasks = len(evidence.episodes), len(shown)
    said = []
    if told and other / told > at.OTHER_TASK.value:
        said.append(f"{other} of {told} episodes are scored by another goal than the one shown: {example}.")
    if several and several / tasks > at.OTHER_TASK.value:
        said.append(f"{several} of {tasks} tasks show different first observations in different plays.")
    if unequal and unequal / max(len(scores), 1) > at.OTHER_TASK.value:
        said.append(f"{unequal} times the same replies to the same task earned different scores.")
    said += [fact.sentence for fact in facts]
    if not said:
        if not n and evidence.environment is None:
            return Unable("whether tasks are what their ids say: episodes, or --environment ENV to play it")
        return Clear()
    reference = " V* of a task is then the V* of other tasks." if evidence.values is not None else ""
    return found(
        "critical",
        " ".join(said) + reference,
        numbers={
            "scored_by_another_goal": other,
            "episodes": told or n,
            "tasks_shown_differently": several,
            **_numbers(facts),
        },
        where=_span(evidence),
        remedy="Make a task from its id alone, the same in every play and every process, and fail where an id is "
        "unknown.",
        setting="astarpo check ENV",
    )


@detector(
    "reward",
    "the environment breaks its promises",
    rule="`astarpo check` reports an error on it that no other detector names",
    source="docs/environments.md",
    live=False,
)
def broken_promise(evidence: Evidence) -> Answer:
    if evidence.environment is None:
        return Unable("the environment's promises: --environment ENV to play it")
    facts = _facts(evidence, "promise")
    if not facts:
        return Clear()
    worst = any(fact.severity == "error" for fact in facts)
    return found(
        "critical" if worst else "info",
        " ".join(fact.sentence for fact in facts),
        numbers=_numbers(facts),
        remedy="Mend what the sentence names; `astarpo check` shows every promise.",
        setting="astarpo check ENV",
    )


@detector(
    "reward",
    "the return is what failing earns",
    rule="under the shaping that was told, a logged return has a simplest decomposition in which no action ends the "
    "task",
    source="arithmetic",
)
def return_of_failing(evidence: Evidence) -> Answer:
    shaping, turns, reward = evidence.shaping, evidence.turns_limit, evidence.get("reward")
    if not isinstance(shaping, Shaping):
        return Unable("what the return is made of: --shaping and --turns")
    if turns is None or reward is None:
        return Unable("what the return is made of: --turns, and a logged reward")
    success = evidence.get("success")
    if evidence.ours or (success is not None and success.values.max() > 0.0) or len(reward) > 1000:
        return Clear("returns are means over episodes, or something succeeds")
    said: list[str] = []
    numbers: dict[str, object] = {}
    explained = 0
    for value in dict.fromkeys(round(float(v), 3) for v in reward.values):
        some = ways(value, shaping, turns)
        if not some:
            said.append(f"{value:.3f} cannot occur in an episode of {turns} steps, so that line is a mean or made up.")
            numbers[f"{value:.3f}"] = []
            continue
        explained += 1
        others = [way.words() for way in some[1:]]
        more = (
            f" (or {'; '.join(others[:LISTED])}{f'; and {len(others) - LISTED} more' if len(others) > LISTED else ''})"
        )
        said.append(f"{value:.3f} is {some[0].words()}{more if others else ''}.")
        numbers[f"{value:.3f}"] = [way.words() for way in some]
    if not explained:
        return Clear("no logged return is one of an episode that is cut at the limit")
    return found(
        "critical",
        f"With {turns} steps and no action that ends the task: " + " ".join(said),
        numbers=numbers,
        where=(int(reward.steps[0]), int(reward.steps[-1])),
        ruled_out=("episodes that end by themselves: these returns need all the steps",),
        not_ruled_out=("a policy that never tries to end the task", "an ending action that does nothing"),
        remedy="Log how often each kind of action is said and done and why episodes end, and play the tasks by a "
        "script; "
        "drop bonuses for steps, or make them potential-based.",
        setting="--environment.reward=score",
    )


@detector(
    "reward",
    "the run is a control",
    rule="its settings replace the rewards",
    source="docs/algorithms.md",
)
def control(evidence: Evidence) -> Answer:
    name = evidence.setting("control", "none")
    if name == "none":
        return Clear() if evidence.settings is not None else Unable("whether rewards were replaced: settings")
    return found(
        "warning",
        f"control is {name}: the rewards that are learned from say nothing about what was done.",
        numbers={"control": name},
        remedy="Expected of a control, which must not learn. For a run that is to learn, leave it out.",
        setting="--control none",
    )


@detector(
    "reward",
    "V* and training are measured with different rewards",
    rule="the settings name two reward modes; or the reference's plays and the first update, the same policy on the "
    "same "
    f"tasks, differ by more than {at.REFERENCE_GAP_IN_ERRORS.value:g} standard errors. Critical where r − V* then has "
    f"one sign in {at.ONE_SIDED.value:.0%} of the first update's episodes, or is no larger for those that succeed, "
    "after its mean is taken off where the algorithm does that; a warning where it cannot be told; a remark where "
    "neither is so or the run learns",
    source="the authors' code of A*-PO scores stage 1 more leniently than stage 2",
)
def reference_reward(evidence: Evidence) -> Answer:
    training, stage_one = evidence.setting("environment.reward"), evidence.setting("values.reward")
    values = evidence.values
    if values is None:
        return Unable("whether V* is of the reward that is trained on: the reference's plays")
    if stage_one is not None and training is not None and stage_one != training:
        harm, shown = _harm_of_values(evidence)
        return found(
            harm,
            f"V* is estimated under the reward {stage_one!r} and the policy is trained on {training!r}.{shown}",
            numbers={"values.reward": stage_one, "environment.reward": training},
            remedy="Use one reward for both.",
            setting="--values.reward=null",
        )
    first = next((played for played in evidence.played if played.step == 1), None)
    if first is None:
        return Unable("whether V* is of the reward that is trained on: the episodes of the first update")
    pairs = defaultdict(list)
    for episode in first.episodes:
        if episode.task in values.rewards:
            pairs[episode.task].append(episode.reward)
    missing = sum(episode.task not in values.rewards for episode in first.episodes)
    if len(pairs) < 8:
        return Unable(
            f"whether V* is of the reward that is trained on: 8 tasks with plays of both, {len(pairs)} are there"
        )
    gaps = np.array([np.mean(earned) - np.mean(values.rewards[task]) for task, earned in pairs.items()])
    error = float(gaps.std(ddof=1) / np.sqrt(len(gaps)))
    gap = float(gaps.mean())
    tiny = 1e-9 * max(evidence.scale, 1.0)
    if (
        abs(gap) <= at.REFERENCE_GAP_IN_ERRORS.value * error + tiny
        or abs(gap) < at.RISE_IN_SCALE.value * evidence.scale
    ):
        return Clear(f"{gap:+.3f} ± {error:.3f} over {len(gaps)} tasks")
    harm, shown = _harm_of_values(evidence)
    return found(
        harm,
        f"The first update earns {gap:+.3f} (± {error:.3f}) against the reference's plays of the same {len(gaps)} "
        f"tasks, though the same policy played both.{shown}",
        numbers={"gap": gap, "standard_error": error, "tasks": len(gaps), "without_plays": missing},
        where=(1, 1),
        ruled_out=("a policy that has learned: it is the first update",),
        not_ruled_out=("a temperature of stage 1 that is not that of training",),
        remedy="Use one reward, one temperature and one limit of tokens for both, and key V* by the task's id.",
        setting="--values.reward=null --values.temperature=1.0",
    )


@detector(
    "reward",
    "V*, said to be frozen, moves",
    rule="reward less advantage, which is V*, moves by more than "
    f"{at.V_STAR_DRIFT.value:g} of the span of rewards from the first logged update to the last, in one direction",
    source="A = R − V* (arXiv:2505.20686); V* of a fixed set of tasks under a fixed reference is a constant",
)
def value_drift(evidence: Evidence) -> Answer:
    reward, gap, value = evidence.get("reward"), evidence.get("advantage"), evidence.get("v_star")
    if evidence.ours or value is not None:
        return Clear("V* is logged by itself")
    if reward is None or gap is None:
        return Unable("whether V* moves: log reward and advantage, or V*")
    both = gap.at(reward.steps)
    there = ~np.isnan(both)
    implied, steps = (reward.values - both)[there], reward.steps[there]
    if len(implied) < 3:
        return Unable("whether V* moves: three updates with reward and advantage")
    # Methods that centre advantages have a mean of 0: what is left is the reward, and no V*.
    if float(np.abs(both[there]).max()) < 0.02 * max(evidence.scale, 1e-12):
        return Clear("advantages are centred: V* is not to be told from them")
    moves = np.diff(implied)
    drift = float(implied[-1] - implied[0])
    one_way = bool(np.all(moves >= 0) or np.all(moves <= 0)) if len(implied) < 8 else True
    if len(implied) >= 8:
        early, late = ends(implied)
        drift = float(late.mean() - early.mean())
        noise = float(np.std(moves)) / np.sqrt(2.0)
        one_way = abs(drift) > 3.0 * noise
    if abs(drift) <= at.V_STAR_DRIFT.value * evidence.scale or not one_way:
        return Clear()
    told = [(step, text) for step, text in evidence.events if re.search(r"curriculum|difficulty", text, re.IGNORECASE)]
    change = f" The log tells of a change: {quoted(told[0][1], 80)!r}." if told else ""
    listed = ", ".join(f"{v:.2f}" for v in implied[:6])
    return found(
        "warning",
        f"Reward less advantage is {listed}{' ...' if len(implied) > 6 else ''}: it moves by {drift:+.2f}. A frozen "
        "V* of the "
        f"same tasks cannot; either other tasks are played, or R and V* are on different scales.{change}",
        numbers={"first": float(implied[0]), "last": float(implied[-1]), "drift": drift},
        where=(int(steps[0]), int(steps[-1])),
        ruled_out=(),
        not_ruled_out=(
            "a curriculum that moved to tasks with a higher V*" + (" (the log says so)" if told else ""),
            "advantages clipped or normalised before they were logged",
            "a reward with partial credit beside a V* of right or wrong",
        ),
        remedy="Log V*, and reward by level of the curriculum; to see what the algorithm did by itself, run the same "
        "with "
        "the rewards shuffled: what still rises there, no reward has taught.",
        setting="--control shuffled_rewards",
    )


@detector(
    "reward",
    "failing pays as well as succeeding",
    rule=f"failed episodes earn {at.OVERPAID_FAILURE.value:g} times the mean success or more, or reward and success "
    f"correlate below {at.REWARD_SUCCESS_CORRELATION.value:g}, over episodes of which some succeed and some fail",
    source="Ng, Harada and Russell 1999; rldoctor on the share of one component in the variance of the reward",
)
def failure_paid(evidence: Evidence) -> Answer:
    if not evidence.episodes:
        return Unable("whether reward follows success: episodes")
    won = np.array([e.reward for e in evidence.episodes if e.success])
    lost = np.array([e.reward for e in evidence.episodes if not e.success])
    state = learned(evidence)
    if len(lost) < 20 or state.excuse:
        return Clear()
    span = float(np.ptp([e.score for e in evidence.episodes]))
    if float(np.ptp(np.concatenate([won, lost]))) < 2.0 * at.NOISE.value * span:
        return Clear("all episodes earn next to the same")
    if len(won) < 5:
        # Without successes to compare with: does anything but the score vary, and is it paid?
        extra = np.array([e.reward - e.score for e in evidence.episodes])
        varies = float(np.var(extra)) / max(float(np.var([e.reward for e in evidence.episodes])), 1e-12)
        rising = trend(evidence.series["reward"]) if evidence.get("reward") is not None else None
        paid = rising is not None and rising.change(at.RISE_IN_SCALE.value * evidence.scale) == "rose"
        if len(evidence.episodes) < 50 or varies < at.SHAPING_VARIANCE.value or not (paid or float(extra.max()) >= 1.0):
            return Unable(f"whether reward follows success: 5 successful episodes, {len(won)} were seen")
        return found(
            "critical",
            f"{varies:.0%} of the variance of the reward comes from bonuses and not from the score, "
            f"{len(won)} of {len(evidence.episodes)} episodes succeed, and a failed one earns up to {lost.max():.2f}.",
            numbers={"share_of_variance": varies, "best_failure": float(lost.max()), "successes": len(won)},
            remedy="Train on the score, or make the bonuses potential-based.",
            setting="--environment.reward=score",
        )
    both = np.concatenate([won, lost])
    right = np.concatenate([np.ones(len(won)), np.zeros(len(lost))])
    correlation = float(np.corrcoef(both, right)[0, 1]) if np.ptp(both) > 0 else 0.0
    best = float(np.quantile(lost, 0.95))
    worth = float(won.mean())
    overpaid = best >= at.OVERPAID_FAILURE.value * worth if worth > 0 else bool(best >= worth)
    if correlation >= at.REWARD_SUCCESS_CORRELATION.value or not overpaid:
        return Clear(f"correlation {correlation:.2f}")
    return found(
        "critical",
        f"Reward and success correlate at {correlation:.2f}; one failed episode in twenty earns {best:.2f} or more, a "
        f"success {worth:.2f} on average.",
        numbers={"correlation": correlation, "failure_95": best, "success_mean": worth, "episodes": len(both)},
        where=_span(evidence),
        not_ruled_out=("partial credit that is wanted: look at twenty failed episodes with the highest reward",),
        remedy="Train on the score, or make the bonuses potential-based; they may then not change which episode is "
        "best.",
        setting="--environment.reward=score",
    )


@detector(
    "reward",
    "reward rises and success does not",
    rule="training reward rises by three standard errors and a twentieth of its span while success stays or falls",
    source="reward hacking; WebShop agents with a score of 71 and a success of 27",
)
def reward_without_success(evidence: Evidence) -> Answer:
    reward, success = evidence.get("reward"), evidence.get("success")
    if reward is None or success is None or min(len(reward), len(success)) < at.POINTS_FOR_TREND.value:
        return Unable(f"whether reward and success part: both over {at.POINTS_FOR_TREND.value:g} updates")
    if evidence.scale < 2.0 * at.NOISE.value:
        return Clear("rewards differ by next to nothing")
    paid, won = trend(reward), trend(success)
    state = learned(evidence)
    rose = paid.change(at.RISE_IN_SCALE.value * evidence.scale) == "rose"
    if not rose or won.change(0.02) not in ("flat", "fell") or state.excuse:
        return Clear()
    return found(
        "critical" if won.change(0.02) == "fell" else "warning",
        f"Reward rises from {paid.first:.3f} to {paid.last:.3f} while success goes from {won.first:.1%} to "
        f"{won.last:.1%}.",
        numbers={
            "reward_first": paid.first,
            "reward_last": paid.last,
            "success_first": won.first,
            "success_last": won.last,
        },
        not_ruled_out=("partial credit that comes before success: go on and see",)
        if won.change(0.02) == "flat"
        else (),
        remedy="Read twenty episodes with the highest reward; train on what is wanted, the score or success itself.",
        setting="--environment.reward=success",
    )


@detector(
    "reward",
    "most actions are refused from the start",
    rule=f"{at.INVALID.value:.0%} of the actions or more are invalid in the first update and still at the end, and the "
    "run does not learn",
    source="verl-agent and RAGEN penalise invalid actions",
)
def mostly_invalid(evidence: Evidence) -> Answer:
    bad = evidence.get("invalid")
    if bad is None:
        return Unable("how many actions are refused: log it")
    first, (_, late) = at_first(bad), ends(bad.values)
    if min(first, late.mean()) < at.INVALID.value or learned(evidence).excuse:
        return Clear(f"{late.mean():.0%} at the end")
    example = next(
        (quoted(t.reply.text) for e in evidence.episodes for t in e.turns if not t.step.valid and t.reply.complete), ""
    )
    return found(
        "critical",
        f"{first:.0%} of the actions are refused in the first update and {late.mean():.0%} over the last fifth of "
        "the run" + (f", such as {example!r}." if example else "."),
        numbers={"first": first, "last": float(late.mean())},
        not_ruled_out=("a parser that refuses what the prompt allows: read twenty of them",),
        remedy="Show the grammar in the prompt, warm-start on valid actions, and compare twenty refused replies with "
        "it.",
        setting="--policy.rules=true",
    )


def _harm_of_values(evidence: Evidence) -> tuple[Severity, str]:
    """What a V* on another scale does to the advantages of the first update: how bad, and a sentence."""
    if learned(evidence).excuse:
        return "info", ""
    first = next((played for played in evidence.played if played.step == 1), None)
    rewards = {} if evidence.values is None else evidence.values.rewards
    known = [] if first is None else [e for e in first.episodes if e.task in rewards]
    if len(known) < LEAST_ADVANTAGES:
        return "warning", f" What it does to r − V* is not to be told from {len(known)} episodes."
    estimator = str(evidence.setting("values.estimator", "log_mean_exp"))
    beta = float(evidence.setting("values.beta", 0.5) or 0.5)
    gaps = np.array([e.reward - v_star(rewards[e.task], estimator, beta) for e in known])
    centred = evidence.setting("algorithm.normalise") == "batch"
    gaps -= gaps.mean() if centred else 0.0
    sides = max(float(np.mean(gaps <= 1e-9)), float(np.mean(gaps >= -1e-9)))
    won = np.array([e.success for e in known])
    apart = float(gaps[won].mean() - gaps[~won].mean()) if won.any() and not won.all() else None
    off = ", its mean taken off," if centred else ""
    if sides >= at.ONE_SIDED.value:
        return "critical", f" r − V*{off} has one sign in {sides:.0%} of the first {len(gaps)} episodes."
    if apart is not None and apart <= 0.0:
        return "critical", f" r − V*{off} is {-apart:.2f} smaller for what succeeds than for what fails."
    return "info", f" r − V*{off} still has both signs ({sides:.0%} on one side) and tells success from failure."


def _facts(evidence: Evidence, kind: str) -> list[EnvironmentFact]:
    return [fact for fact in evidence.environment or () if fact.kind == kind]


def _numbers(facts: Iterable[EnvironmentFact]) -> dict[str, float]:
    return {f"environment.{name}": number for fact in facts for name, number in fact.numbers.items()}


def _span(evidence: Evidence) -> tuple[int, int] | None:
    return (evidence.played[0].step, evidence.played[-1].step) if evidence.played else None


def _wants_to_end(turn: Turn) -> bool:
    if str(turn.step.info.get("kind", "")) in FINAL_KINDS:
        return True
    if not turn.step.valid or not turn.reply.complete:
        return False
    # A search for words such as these is none.
    text = turn.reply.text[:HEAD].strip()
    return len(text) <= 40 and not text.startswith("search") and FINAL.search(text) is not None


def _taken_otherwise(turn: Turn, kinds: set[str]) -> bool:
    """Whether a reply was done as something that it does not say."""
    text, info = turn.reply.text[:HEAD].strip(), turn.step.info
    if "action" in info:
        return " ".join(str(info["action"])[:HEAD].split()) != " ".join(text.split())
    kind = str(info.get("kind", ""))
    return turn.step.valid and kind in kinds and kind not in text


def _words(text: str) -> str:
    return " ".join(re.findall(r"[a-z0-9]+", text.lower()))


def common_kinds(episodes: Iterable[Episode]) -> Counter[str]:
    """How often each kind of action was done."""
    return Counter(str(turn.step.info.get("kind", "")) for episode in episodes for turn in episode.turns)
