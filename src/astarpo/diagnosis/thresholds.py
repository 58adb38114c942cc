"""Every threshold of every detector, in one place, with where it is from.

Sources: a paper or a tool where one was found; "calibrated" where benchmarks/diagnosis.py set it on seeded faults and
healthy runs (docs/diagnosis.md says which seeds); "chosen" where neither, so that nobody takes it for more.
"""

from __future__ import annotations

from typing import NamedTuple


class Threshold(NamedTuple):
    """A number, and why it is that number."""

    value: float
    source: str


RLDOCTOR = "rldoctor 0.2.0, its default"
VERL = "verl, documentation of rollout correction and its FAQ"
RAGEN = "RAGEN-2, arXiv:2604.06268, its early stop"

# ---- how much evidence --------------------------------------------------------------------------------------------
UPDATES_TO_JUDGE = Threshold(20, "chosen: below it a trend over fifths of a run rests on fewer than four points each")
EPISODES_TO_JUDGE = Threshold(1000, "chosen: with fewer, 0 successes do not exclude a success rate of 0.3 %")
POINTS_FOR_TREND = Threshold(8, "chosen: two points at each end and a noise estimate from four or more differences")
HELD_OUT_TO_JUDGE = Threshold(100, "binomial: at p = 0.5 the 95 % interval of 100 plays is ±10 points")
HELD_OUT_WIDTH = Threshold(0.5, "chosen, after a false alarm: ±25 points and 0 among them neither clear nor accuse")
RISE_IN_ERRORS = Threshold(3.0, "three standard errors")
HALVES_IN_ERRORS = Threshold(2.0, "calibrated: a run at a learning rate of 1e-9 rose by 3.3 errors from fifth to fifth")
RISE_IN_SCALE = Threshold(0.05, "chosen: a twentieth of the span of rewards seen")
FIGURES_FOR_A_FALL = Threshold(4, "arithmetic: two figures for the best level and two others for the last")
FELL_BACK = Threshold(0.10, "chosen: a tenth of the best level; what is less is a remark at most")
MASTERED = Threshold(0.90, "chosen: at a success of 0.9 little is left to learn and symptoms of it are no faults")

# ---- plumbing -----------------------------------------------------------------------------------------------------
ZERO_GRADIENT = Threshold(0.20, f"{RLDOCTOR}: warns from a fifth of the steps")
ZERO_GRADIENT_CRITICAL = Threshold(0.70, RLDOCTOR)
REPEATED_LINES = Threshold(0.50, "chosen: half of the updates log exactly the numbers of the one before")
LOG_PROB_GAP = Threshold(0.05, "chosen: beside 0.01 to 0.03 nats, usual between vLLM in bfloat16 and a trainer")
LOG_PROB_GAP_CRITICAL = Threshold(0.15, "chosen: three times the warning")
OWN_LOG_PROB_GAP = Threshold(2e-3, "calibrated: healthy float32 runs of ours stay below 1e-5 nats")
OWN_LOG_PROB_GAP_CRITICAL = Threshold(2e-2, "calibrated: sampler and trainer at temperatures 1.0 and 0.8 exceed it")
PROB_GAP = Threshold(0.01, VERL)
PROB_GAP_CRITICAL = Threshold(0.05, "chosen: five times the warning")
CORRELATION = Threshold(0.99, "chosen")
PROMPTS_CUT = Threshold(0.05, "chosen: one prompt in twenty is not seen whole")
CUT_FROM_THE_START = Threshold(0.30, "calibrated: a limit of 3 tokens on replies of 4 cuts 0.45 to 0.5 of them")
LIMIT_FILLED = Threshold(0.9, "chosen, after a seeded fault of the odd half had been missed: replies end at the limit")
SIGNAL_GAP = Threshold(0.05, "calibrated: exactly 0 in healthy runs, 0.18 with rewards in another order")

# ---- reward and environment ---------------------------------------------------------------------------------------
UNREADABLE_TAKEN = Threshold(0.05, "chosen: one reply in twenty is altered before it is done")
UNREADABLE_TAKEN_CRITICAL = Threshold(0.20, "chosen")
ATTEMPTS_AT_THE_END = Threshold(5, "chosen: fewer attempts to end an episode may all be mistakes of the policy")
ALL_CUT = Threshold(0.98, "chosen: practically every episode runs into the limit of turns")
INVALID = Threshold(0.50, "chosen: every second action is refused in the first update and at the end")
OVERPAID_FAILURE = Threshold(1.0, "arithmetic: a failed episode earns as much as the mean success")
SHAPING_VARIANCE = Threshold(0.90, f"{RLDOCTOR}: critical share of one component in the variance of the reward")
REWARD_SUCCESS_CORRELATION = Threshold(0.30, "chosen")
REFERENCE_GAP_IN_ERRORS = Threshold(4.0, "four standard errors: the same policy under the same reward, measured twice")
V_STAR_DRIFT = Threshold(0.10, "chosen: a tenth of the span of rewards seen")
OTHER_TASK = Threshold(0.02, "chosen: one task in fifty is not what its id says")

# ---- signal -------------------------------------------------------------------------------------------------------
SMALL_ADVANTAGE = Threshold(0.05, "chosen: advantages below 5 % of the size of the return itself")
ZERO_STD = Threshold(0.80, "calibrated: runs with 0.5 to 0.7 learn; rldoctor warns from 0.5")
ZERO_STD_CRITICAL = Threshold(0.95, "calibrated: one task in twenty has signal; rldoctor: 0.75")
ZERO_STD_AT_ONCE = Threshold(0.60, "calibrated: in the first update, before anything can have been unlearned")
UNLEARNED = Threshold(
    0.03, "chosen: two successes in an update of 64; at a rate that leaves the rest at 0 that is rare"
)
NOISE = Threshold(1e-3, "chosen: spread of rewards within a task against the span that a success is worth")
V_STAR_AT_AN_END = Threshold(0.80, "chosen: share of tasks whose reference plays all fail, or all succeed")
ONE_SIDED = Threshold(0.95, "chosen: share of advantages of one sign")
SUCCESSES_AN_UPDATE = Threshold(1.0, "arithmetic: with fewer, most updates see no success at all")
FAILURE_SHARE = Threshold(
    0.50, "calibrated: below 0.2 at the end of runs that learn, 0.63 and more in those that do not"
)

# ---- optimiser ----------------------------------------------------------------------------------------------------
STILL_KL = Threshold(1e-4, "chosen: nats per token from the reference after the run")
STILL_ENTROPY = Threshold(0.05, "calibrated: relative change of entropy, first fifth to last")
STILL_STEPS = Threshold(
    1e-6, "arithmetic: Adam moves a weight by about the learning rate an update; weights are near 0.02"
)
SPIKE_SIGMAS = Threshold(8.0, RLDOCTOR)
SPIKE_MEDIANS = Threshold(3.0, RLDOCTOR)
KL = Threshold(0.50, f"{RLDOCTOR}; taken per token")
KL_CRITICAL = Threshold(2.0, RLDOCTOR)
CLIPPED = Threshold(0.20, RLDOCTOR)
CLIPPED_CRITICAL = Threshold(0.40, RLDOCTOR)
KL_WEIGHT = Threshold(1.0, "chosen: one nat of KL costs as much as the best reward differs from the worst")
KL_GRADIENT = Threshold(50.0, "calibrated: 534 and more under a weight of 100 and 1000, below 13 in 106 other runs")
LOSS_GROWN = Threshold(2.0, "chosen: a loss of imitation begins at its worst and falls")
ENTROPY_BONUS = Threshold(
    0.1, "chosen: a nat of entropy then weighs a tenth of an advantage of 1, and moves it by itself"
)
FALL = Threshold(0.50, "calibrated: share of the best level that is lost and does not come back")

# ---- behaviour ----------------------------------------------------------------------------------------------------
ENTROPY_LEFT = Threshold(0.10, f"{RLDOCTOR}: a tenth of what it was")
ENTROPY_LEFT_IN_A_FALL = Threshold(0.25, "chosen, after a seeded fault of the odd half had been missed at a tenth")
ENTROPY_GROWN = Threshold(1.75, "calibrated: between 1.5 and 2 times what it was")
SPREAD_LEFT = Threshold(0.10, RAGEN)
SPREAD_FOR = Threshold(10, RAGEN)
SAME_REPLY = Threshold(0.80, "chosen: share of tasks that get one and the same first reply")
RETRIEVAL = Threshold(2.0, "RAGEN-2, arXiv:2604.06268, for the metric; twice the chance level is chosen")
CUT = Threshold(0.15, RLDOCTOR)
CUT_CRITICAL = Threshold(0.50, "chosen")
SHORTER = Threshold(0.50, "chosen: half of the length at the start")
TURN_LIMIT = Threshold(0.50, "chosen: every second episode")
INVALID_RISE = Threshold(0.20, "chosen: twenty points above the start")
EVEN_WEIGHTS = Threshold(0.10, "chosen: standard deviation of weights whose mean is 1")

# ---- hacking and evaluation ---------------------------------------------------------------------------------------
TRAIN_HELD_OUT_GAP = Threshold(0.15, RLDOCTOR)
TRAIN_HELD_OUT_GAP_CRITICAL = Threshold(0.30, RLDOCTOR)
