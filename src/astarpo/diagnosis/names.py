"""What a metric is called by whom: every name that a log may use, and the one name that detectors ask for.

Units: log-probs, entropy and KL in nats per token unless said; shares from 0 to 1; lengths in tokens.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType

ALIASES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        # What is earned. verl's critic/score is the reward before the KL penalty, critic/rewards after it.
        "reward": (
            "reward/mean",
            "critic/score/mean",
            "critic/rewards/mean",
            "mean_reward",
            "avg_reward",
            "rewards/mean",
            "train/reward",
            "train/reward/mean",
            "train/reward_mean",
            "objective/scores",
            "episode_reward",
            "rollout/ep_rew_mean",
            "ep_rew_mean",
            "return",
            "train/mean_reward",
            "average_reward",
        ),
        "reward/std": ("reward_std", "train/reward_std", "rewards/std", "reward/std"),
        "reward/max": ("critic/score/max", "critic/rewards/max", "reward_max", "reward/max"),
        "reward/min": ("critic/score/min", "critic/rewards/min", "reward_min", "reward/min"),
        "group_std": ("rollout/in_group_reward_std", "train/in_group_reward_std"),
        "zero_std": ("signal/zero_std_frac", "frac_reward_zero_std", "zero_std_frac"),
        "success": ("train/success", "success_rate", "accuracy", "train/success_rate", "train/accuracy", "acc"),
        "score": ("train/score",),
        # What the learner makes of it.
        "advantage": ("advantage/mean", "critic/advantages/mean", "advantages", "advantages/mean", "mean_advantage"),
        "advantage/std": ("advantage/std", "advantages/std"),
        "advantage/max": ("critic/advantages/max", "advantage/max"),
        "advantage/min": ("critic/advantages/min", "advantage/min"),
        "v_star": ("v_star/mean", "v*", "vstar", "v_star", "values/v_star"),
        "loss": ("train/loss", "policy_loss", "actor/pg_loss", "loss/policy_avg", "train/policy_loss", "actor/loss"),
        "weights/std": ("weights/std",),
        "weights/failure_share": ("weights/failure_share",),
        "skipped": ("signal/skipped",),
        # How the policy moves.
        "kl": ("kl/reference", "actor/kl_loss", "mean_kl", "train/kl", "kl_divergence", "kl_mean", "kl_to_ref"),
        "entropy": ("actor/entropy", "actor/entropy_loss", "train/entropy", "policy/entropy_avg", "mean_entropy"),
        "grad_norm": ("actor/grad_norm", "train/grad_norm", "gradient_norm", "grad/norm"),
        "learning_rate": ("actor/lr", "lr", "train/learning_rate", "train/lr"),
        "clip_frac": ("clip_ratio/region_mean", "clip_ratio", "actor/pg_clipfrac", "policy/clipfrac_avg", "clipfrac"),
        "kl/old": ("actor/ppo_kl", "approx_kl", "policy/approxkl_avg"),
        # Whether the sampler and the trainer agree.
        "mismatch/log_prob": ("mismatch/mean", "sampling/sampling_logp_difference/mean"),
        "mismatch/prob": ("training/rollout_probs_diff_mean",),
        "mismatch/correlation": ("training/rollout_actor_probs_pearson_corr",),
        # What it says.
        "length": (
            "reply_tokens",
            "completions/mean_length",
            "completion_length",
            "response_length/mean",
            "train/response_length",
        ),
        "truncated": ("ended/token_limit", "completions/clipped_ratio", "response_length/clip_ratio"),
        "turns": ("num_turns/mean", "turns"),
        "turn_limit": ("ended/turn_limit",),
        "prompts_cut": ("prompt_length/clip_ratio",),
        "invalid": ("invalid", "invalid_rate", "invalid_action_rate", "tools/failure_frequency"),
        # RAGEN says in the name which turns were sampled.
        "retrieval": (
            "collapse/retrieval_accuracy",
            "collapse/retrieval_accuracy@1",
            "collapse_first_turn_sample/retrieval_accuracy",
            "collapse_trajectory_sample/retrieval_accuracy",
        ),
        "retrieval/chance": (
            "collapse/retrieval_chance_level",
            "collapse/retrieval_chance_level@1",
            "collapse_first_turn_sample/retrieval_chance_level",
            "collapse_trajectory_sample/retrieval_chance_level",
        ),
        # Held out.
        "eval/success": ("val/success", "val/success_rate", "eval_success", "eval_accuracy", "eval/accuracy"),
        "eval/reward": ("eval_reward", "eval/reward", "val/reward", "eval_rewards/mean", "val/reward/mean"),
        # Counters, asked for by nobody.
        "step": ("_step", "global_step", "training/global_step", "train/global_step", "iteration", "update"),
    }
)
"""Canonical name to what others call it. The first that a log holds wins, and the others keep their own names."""

PATTERNS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"val(?:-env)?/.+/success(?:_rate)?"), "eval/success"),
    (re.compile(r"val-core/.+/(?:reward|acc|score)/mean@\d+"), "eval/reward"),
    (re.compile(r"train/.+/success(?:_rate)?"), "success"),
)
"""Names with the environment's or the data's name in them: RAGEN's and verl's."""

COMPONENT = re.compile(r"rewards/(.+)/mean")
"""One reward function of several, as TRL logs them."""

RIGHT = re.compile(r"(?!.*format).*(?:accura|correct|success|solve|exact).*")
"""What a reward function is called that says whether the task was done."""

VALID = re.compile(r"(?:train/.+/)?(?:action_is_valid|valid_action_rate|is_action_valid)")
"""Names of the share of valid actions: `invalid` is 1 less it."""

SUCCESS_IN_PERCENT = frozenset({"success", "eval/success"})

_CANONICAL = {alias: name for name, aliases in ALIASES.items() for alias in (name, *aliases)}


TRAIN = ("train/", "training/")
"""What trackers put before the names of a Hugging Face trainer."""


@cache
def canonical(raw: str) -> str:
    """The name that detectors ask for; `raw` in lower case where nobody asks for it.

    >>> canonical("frac_reward_zero_std"), canonical("V*"), canonical("Success rate"), canonical("rewards/f/mean")
    ('zero_std', 'v_star', 'success', 'rewards/f/mean')
    >>> canonical("train/completions/clipped_ratio"), canonical("train/rewards/f/mean")
    ('truncated', 'rewards/f/mean')
    """
    name = re.sub(r"\s+", "_", raw.strip().lower())
    if name in _CANONICAL:
        return _CANONICAL[name]
    for prefix in TRAIN:
        inside = name.removeprefix(prefix)
        if inside != name and (inside in _CANONICAL or COMPONENT.fullmatch(inside)):
            return _CANONICAL.get(inside, inside)
    return next((to for pattern, to in PATTERNS if pattern.fullmatch(name)), name)


def rank(raw: str) -> int:
    """How much `raw` is preferred among the names of one canonical metric; 0 is best."""
    name = re.sub(r"\s+", "_", raw.strip().lower())
    aliases = ALIASES.get(canonical(raw), ())
    return 0 if name == canonical(raw) else 1 + aliases.index(name) if name in aliases else 1 + len(aliases)
