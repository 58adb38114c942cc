"""What did the policy turn into?"""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np

from astarpo.diagnosis import thresholds as at
from astarpo.diagnosis.detectors.plumbing import share_ended
from astarpo.diagnosis.detectors.reward import common_kinds
from astarpo.diagnosis.evidence import Evidence, Played
from astarpo.diagnosis.findings import Answer, Clear, Unable, detector, found
from astarpo.diagnosis.plain import quoted
from astarpo.diagnosis.trends import ends, learned, trend


@detector(
    "behaviour",
    "entropy is gone before the task is learned",
    rule=f"entropy falls below {at.ENTROPY_LEFT.value:.0%} of what it was and the run does not learn, or below "
    f"{at.ENTROPY_LEFT_IN_A_FALL.value:.0%} and success falls, or held-out figures exclude that it was spent on a gain",
    source="The entropy mechanism of RL for reasoning, arXiv:2505.22617: R = −a exp(H) + b; threshold of rldoctor",
)
def entropy_collapse(evidence: Evidence) -> Answer:
    entropy = evidence.get("entropy")
    if entropy is None or len(entropy) < at.POINTS_FOR_TREND.value:
        return Unable(f"whether entropy collapses: entropy over {at.POINTS_FOR_TREND.value:g} updates")
    start = float(entropy.values[:3].mean())
    _, late = ends(entropy.values)
    state = learned(evidence)
    # Entropy is what a gain is bought with: where one is excluded, less of it need be gone. On saved episodes it is
    # that of tokens which another policy sampled.
    wasted = state.lost or (state.held_out == "flat" and evidence.setting("episodes") is None)
    left = at.ENTROPY_LEFT_IN_A_FALL.value if wasted else at.ENTROPY_LEFT.value
    if start <= 0 or late.mean() > left * start or state.excuse:
        return Clear(f"{start:.3g} to {late.mean():.3g} nats per token")
    below = int(entropy.steps[int(np.argmax(entropy.values <= left * start))])
    return found(
        "critical",
        f"Entropy falls from {start:.3f} to {late.mean():.3f} nats per token, below {left:.0%} from update {below} on; "
        f"{state.words}.",
        numbers={"first": start, "last": float(late.mean()), "from": below},
        where=(below, evidence.last_step),
        ruled_out=("a task that is mastered: success is low",) if not state.mastered else (),
        remedy="Lower the learning rate, sample at a temperature of 1, clip higher above than below, or pay for "
        "entropy; "
        "start again from before it fell.",
        setting="--algorithm.entropy_coef=0.003 --rollout.temperature=1.0",
    )


@detector(
    "behaviour",
    "the policy dissolves into noise",
    rule=f"entropy grows to {at.ENTROPY_GROWN.value:g} times what it was or more, and success, reward or the share of "
    "valid actions falls or the run does not learn",
    source="an entropy bonus that outweighs the advantages",
)
def entropy_explosion(evidence: Evidence) -> Answer:
    entropy = evidence.get("entropy")
    if entropy is None or len(entropy) < at.POINTS_FOR_TREND.value:
        return Unable(f"whether entropy grows: entropy over {at.POINTS_FOR_TREND.value:g} updates")
    start = float(entropy.values[:3].mean())
    _, late = ends(entropy.values)
    if late.mean() < at.ENTROPY_GROWN.value * start or late.mean() - start < 0.05 or learned(evidence).excuse:
        return Clear(f"{start:.3g} to {late.mean():.3g} nats per token")
    bonus = evidence.setting("algorithm.entropy_coef", 0.0) or 0.0
    return found(
        "critical",
        f"Entropy grows from {start:.3f} to {late.mean():.3f} nats per token; {learned(evidence).words}."
        + (f" The entropy bonus is {bonus:g}." if bonus else ""),
        numbers={"first": start, "last": float(late.mean()), "entropy_coef": bonus},
        remedy="Drop the entropy bonus, lower the sampling temperature, lower the learning rate.",
        setting="--algorithm.entropy_coef=0" if bonus else "--rollout.temperature=0.8",
    )


@detector(
    "behaviour",
    "attempts have become alike",
    rule=f"the spread of rewards stays below {at.SPREAD_LEFT.value:.0%} of its mean over the first "
    f"{at.SPREAD_FOR.value:g} updates for {at.SPREAD_FOR.value:g} updates in a row, and the run does not learn",
    source="RAGEN, arXiv:2504.20073, the echo trap; RAGEN-2's early stop",
)
def echo_trap(evidence: Evidence) -> Answer:
    spread = evidence.get("group_std", "reward/std")
    n = int(at.SPREAD_FOR.value)
    if spread is None or len(spread) < 2 * n:
        return Unable(f"whether attempts become alike: the spread of rewards over {2 * n} updates")
    base = float(spread.values[:n].mean())
    low = spread.values < at.SPREAD_LEFT.value * base
    run = longest = end = 0
    for index, one in enumerate(low):
        run = run + 1 if one else 0
        if run > longest:
            longest, end = run, index
    if base <= 0 or longest < n or learned(evidence).excuse:
        return Clear()
    first = int(spread.steps[end - longest + 1])
    return found(
        "critical",
        f"The spread of rewards is {base:.3f} over the first {n} updates and below a tenth of it for {longest} "
        "updates from "
        f"{first} on; {learned(evidence).words}.",
        numbers={"base": base, "updates": longest, "from": first},
        where=(first, int(spread.steps[end])),
        remedy="Go back to a checkpoint before it; learn from the tasks with the largest spread, clip higher above.",
        setting="--filter.name=top_p",
    )


@detector(
    "behaviour",
    "every task gets the same reply",
    rule=f"late in the run {at.SAME_REPLY.value:.0%} of the tasks or more get one and the same first reply, more "
    "than at the "
    "start, and the run does not learn; or a reply's task can be told from it no better than "
    f"{at.RETRIEVAL.value:g} times by chance",
    source="RAGEN-2, arXiv:2604.06268, template collapse",
)
def same_reply(evidence: Evidence) -> Answer:
    retrieval, chance = evidence.get("retrieval"), evidence.get("retrieval/chance")
    state = learned(evidence)
    if retrieval is not None and chance is not None and not state.excuse:
        late, by_chance = float(ends(retrieval.values)[1].mean()), float(chance.values[-1])
        if late <= at.RETRIEVAL.value * by_chance and float(ends(retrieval.values)[0].mean()) > late:
            return found(
                "critical",
                f"The task of a reply is told from it in {late:.1%} of the cases, by chance in {by_chance:.1%}.",
                numbers={"retrieval": late, "chance": by_chance},
                remedy="Learn from the tasks with the largest spread of rewards, and from more different tasks.",
                setting="--filter.name=top_p",
            )
    if len(evidence.played) < 2:
        return Unable("whether replies depend on the task: episodes of two updates or more")
    quarter = max(len(evidence.played) // 4, 1)
    early, late_episodes = evidence.played[:quarter], evidence.played[-quarter:]
    (before, _, _), (after, reply, tasks) = _commonest(early), _commonest(late_episodes)
    if tasks < 8:
        return Unable("whether replies depend on the task: 8 tasks late in the run")
    if after < at.SAME_REPLY.value or after <= before + 0.05 or state.excuse:
        return Clear(f"{after:.0%} of the tasks share a first reply")
    return found(
        "critical",
        f"{after:.0%} of {tasks} tasks get the first reply {quoted(reply)!r} late in the run; the commonest one was "
        "given to "
        f"{before:.0%} at the start.",
        numbers={"early": before, "late": after, "tasks": tasks},
        where=(late_episodes[0].step, late_episodes[-1].step),
        remedy="Go back to before it; learn from the tasks with the largest spread of rewards, hold the policy by a "
        "KL.",
        setting="--filter.name=top_p --algorithm.kl_coef=0.01",
    )


@detector(
    "behaviour",
    "more and more replies are cut",
    rule=f"{at.CUT.value:.0%} of the replies or more (critical {at.CUT_CRITICAL.value:.0%}) run into the token limit "
    "at the end, "
    "more than at the start, and the run does not learn",
    source="DAPO, arXiv:2503.14476, overlong samples; threshold of rldoctor",
)
def more_cut(evidence: Evidence) -> Answer:
    cut, length = share_ended(evidence, "truncated"), evidence.get("length")
    if cut is None:
        return Unable("how many replies the token limit cuts: log it")
    if len(cut) < at.POINTS_FOR_TREND.value:
        return Unable(f"whether more replies are cut: {at.POINTS_FOR_TREND.value:g} updates")
    early, late = ends(cut.values)
    grew = late.mean() >= at.CUT.value and late.mean() > early.mean() + 0.05
    if not grew or learned(evidence).excuse:
        return Clear(f"{late.mean():.0%} at the end")
    longer = (
        f" Replies grow from {trend(length).first:.0f} to {trend(length).last:.0f} tokens."
        if length is not None
        else ""
    )
    return found(
        "critical" if late.mean() >= at.CUT_CRITICAL.value else "warning",
        f"{early.mean():.0%} of the replies are cut at the start and {late.mean():.0%} at the end.{longer}",
        numbers={"first": float(early.mean()), "last": float(late.mean())},
        not_ruled_out=("working that is useful and needs the room: look whether success rises with length",),
        remedy="Raise the limit, or put a price on length that begins before it.",
        setting="--rollout.overlong_penalty=0.5 --algorithm.aggregation=token_mean",
    )


@detector(
    "behaviour",
    "replies shrink to nothing",
    rule=f"replies are less than {at.SHORTER.value:.0%} as long at the end as at the start, and the run does not learn",
    source="a loss averaged over each reply's own tokens ascends 1/length where weights are even",
)
def shrinking(evidence: Evidence) -> Answer:
    length = evidence.get("length")
    if length is None or len(length) < at.POINTS_FOR_TREND.value:
        return Unable(f"whether replies shrink: their length over {at.POINTS_FOR_TREND.value:g} updates")
    seen = trend(length)
    if seen.last >= at.SHORTER.value * seen.first or seen.change() != "fell" or learned(evidence).excuse:
        return Clear(f"{seen.first:.1f} to {seen.last:.1f} tokens")
    return found(
        "critical",
        f"Replies shrink from {seen.first:.1f} to {seen.last:.1f} tokens; {learned(evidence).words}.",
        numbers={"first": seen.first, "last": seen.last},
        remedy="Sum over tokens or divide by a constant, not by each reply's own length; see whether the reward pays "
        "for "
        "short replies.",
        setting="--algorithm.aggregation=token_sum",
    )


@detector(
    "behaviour",
    "more and more actions are refused",
    rule=f"the share of invalid actions is {at.INVALID_RISE.value:.0%} points or more above the start at the end, "
    "and the run "
    "does not learn",
    source="verl-agent and RAGEN penalise invalid actions",
)
def more_invalid(evidence: Evidence) -> Answer:
    bad = evidence.get("invalid")
    if bad is None or len(bad) < at.POINTS_FOR_TREND.value:
        return Unable(f"whether more actions are refused: their share over {at.POINTS_FOR_TREND.value:g} updates")
    seen = trend(bad)
    if seen.difference < at.INVALID_RISE.value or learned(evidence).excuse:
        return Clear(f"{seen.first:.0%} to {seen.last:.0%}")
    return found(
        "critical",
        f"{seen.first:.0%} of the actions are refused at the start and {seen.last:.0%} at the end.",
        numbers={"first": seen.first, "last": seen.last},
        remedy="Go back to before it rose; a price on invalid actions and a lower learning rate keep the grammar.",
        setting="--algorithm.kl_coef=0.01",
    )


@detector(
    "behaviour",
    "episodes run into the limit of turns",
    rule=f"{at.TURN_LIMIT.value:.0%} of the episodes or more, to the end, and the run does not learn",
    source="WebShop baselines: a policy that never buys scores 0",
)
def turn_limit(evidence: Evidence) -> Answer:
    cut = share_ended(evidence, "turn_limit")
    if cut is None or (evidence.turns_limit or 2) < 2:
        return (
            Unable("how many episodes the limit of turns cuts: log it") if cut is None else Clear("one turn an episode")
        )
    _, late = ends(cut.values)
    if late.mean() < at.TURN_LIMIT.value or learned(evidence).excuse:
        return Clear(f"{late.mean():.0%} at the end")
    repeated = total = 0
    for episode in evidence.episodes:
        pairs = Counter((turn.observation, turn.reply.text) for turn in episode.turns)
        total += len(episode.turns)
        repeated += sum(count - 1 for count in pairs.values())
    kinds = common_kinds(evidence.episodes)
    words = f"; {repeated / total:.0%} of the turns repeat an action at the same observation" if total else ""
    most = kinds.most_common(1)
    if most and most[0][0]:
        words += f"; {most[0][1] / kinds.total():.0%} of the actions are of the kind {most[0][0]!r}"
    return found(
        "warning",
        f"{late.mean():.0%} of the episodes end at the limit of turns{words}.",
        numbers={"last": float(late.mean()), "repeated": repeated / total if total else None},
        not_ruled_out=("a limit that is too low for the task", "an ending action that the policy never learned to say"),
        remedy="Show what ends an episode, warm-start on whole episodes, or shorten the horizon first.",
        setting=f"--environment.max_turns={2 * evidence.turns_limit}" if evidence.turns_limit else "",
    )


@detector(
    "behaviour",
    "weights are even: samples are imitated whatever they earned",
    rule=f"the standard deviation of the episodes' weights is below {at.EVEN_WEIGHTS.value:g} while loss or entropy "
    "falls, and "
    "the run does not learn",
    source="on-policy a constant weight teaches nothing; sharpened samples then teach themselves",
)
def even_weights(evidence: Evidence) -> Answer:
    weights, entropy = evidence.get("weights/std"), evidence.get("entropy")
    if weights is None:
        return Unable("how episodes are weighted: log the spread of weights, where there are weights")
    typical = float(np.median(weights.values))
    if typical >= at.EVEN_WEIGHTS.value or learned(evidence).excuse or entropy is None:
        return Clear(f"{typical:.2f} in the median")
    if len(entropy) < at.POINTS_FOR_TREND.value or trend(entropy).change() != "fell":
        return Clear("entropy stays")
    return found(
        "warning",
        f"The standard deviation of weights is {typical:.3f} in the median while entropy falls from "
        f"{trend(entropy).first:.3f} "
        f"to {trend(entropy).last:.3f}.",
        numbers={"median": typical},
        remedy="Leave out updates without spread, and compare with shuffled rewards: what still changes there, no "
        "reward "
        "taught.",
        setting="--control shuffled_rewards",
    )


def _commonest(played: tuple[Played, ...]) -> tuple[float, str, int]:
    """Share of tasks that get the commonest first reply, the reply, and how many tasks there are."""
    by_task: dict[str, Counter[str]] = defaultdict(Counter)
    for one in played:
        for episode in one.episodes:
            by_task[episode.task][episode.turns[0].reply.text[:2000]] += 1
    firsts = Counter(counts.most_common(1)[0][0] for counts in by_task.values())
    if not firsts:
        return 0.0, "", 0
    reply, count = firsts.most_common(1)[0]
    return count / len(by_task), reply, len(by_task)
