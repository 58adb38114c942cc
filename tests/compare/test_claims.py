"""Claims: the rule written down first decides, arms are shared, runs are resumed, the page is what the data give."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from astarpo.compare.claims import adopted, page, words, work
from astarpo.compare.claims.definitions import SWEEP_SEED, ArmSpec, Book, Check, Claim, RatioSpec, book, run_of
from astarpo.compare.claims.evidence import KINDS, Evidence, Finding, seed_interval, share_interval
from astarpo.compare.claims.records import key_of, packed, tasks_digest
from astarpo.compare.intervals import Interval
from astarpo.errors import RunError, SettingsError

REPO = Path(__file__).resolve().parents[2]

QUICK = {
    "environment": {"name": "arithmetic", "level": "easy"},
    "algorithm": {"name": "weighted_sft", "group_size": 2, "kl_coef": 0},
    "rollout": {"tasks_per_update": 4, "reply_tokens": 8, "episode_tokens": 32},
    "optimizer": {"learning_rate": 0.001},
    "evaluation": {"tasks": 6, "samples": 0, "every": 1, "dev_tasks": 4},
    "updates": 2,
}


def claim(*checks: Check, number: int = 1) -> Claim:
    return Claim(number, "A is better", "A is better than B.", checks, "above 0", "nothing", "nothing")


def better(**over: object) -> Check:
    effect = {"kind": "difference", "first": "arithmetic/a", "second": "arithmetic/b"}
    return Check("a less b", effect, **{"holds_above": 0.0, "fails_below": 0.02, **over})  # type: ignore[arg-type]


def small(*checks: Check, seeds: int = 2, sweep: tuple[float, ...] = (1.0,)) -> Book:
    arms = {
        name: ArmSpec(name, QUICK | extra, seeds=seeds, sweep=sweep, sweep_updates=1)
        for name, extra in (("arithmetic/a", {}), ("arithmetic/b", {"control": "shuffled_rewards"}))
    }
    return Book(arms, {}, (claim(*(checks or (better(),))),))


def records(whole: Book, outcomes: dict[str, list[str]], **over: object) -> dict[str, dict[str, object]]:
    """Records of runs that solved the tasks where a digit is 1, one text of digits a seed."""
    found = {}
    for job in work.jobs(whole, {})[0]:
        digits = outcomes[job.arm][job.number]
        solved = {f"t{i:03d}": (bit == "1", 0.0) for i, bit in enumerate(digits)}
        judged = {
            "success": digits.count("1") / len(digits),
            "n": len(digits),
            "outcomes": packed(solved),
            "turns": 1.0,
        }
        found[job.key] = {
            "key": job.key,
            "kind": job.kind,
            "arm": job.arm,
            "number": job.number,
            "rate": 1.0,
            "tasks": tasks_digest(solved),
            "before": judged | {"outcomes": "0"},
            "after": judged,
            "cpu_seconds": 1,
            "curve": [[0, 0.0], [50, 0.5], [100, 1.0]],
            "metrics": {"entropy": [0.5, 0.1]},
            "checkpoints": {},
            **over,
        }
    return found


@pytest.mark.parametrize(
    ("low", "high", "outcome"),
    [(0.01, 0.3, "holds"), (0.001, 0.015, "holds"), (-0.3, 0.015, "fails"), (-0.3, -0.1, "fails"), (-0.1, 0.1, "open")],
)
def test_better_needs_an_interval_above_0_and_falls_where_no_room_is_left_for_2_points(
    low: float, high: float, outcome: str
) -> None:
    assert better().judge(low, high) == outcome


@pytest.mark.parametrize(("low", "high", "outcome"), [(0.2, 0.3, "holds"), (0.5, 0.6, "fails"), (0.3, 0.5, "open")])
def test_a_range_holds_inside_and_fails_on_either_side(low: float, high: float, outcome: str) -> None:
    assert Check("", {}, within=(0.1, 0.4)).judge(low, high) == outcome
    assert Check("", {}, within=(0.7, 0.9)).judge(0.1, 0.2) == "fails"


def test_one_part_that_fails_refutes_a_claim_and_what_is_open_leaves_it_undecided() -> None:
    checks = [Check(name, {}, decides=name != "context") for name in ("one", "two", "context")]
    whole = claim(*checks)
    assert whole.verdict({"one": "holds", "two": "holds", "context": "fails"}) == "supported"
    assert whole.verdict({"one": "holds", "two": "fails", "context": "holds"}) == "refuted"
    assert whole.verdict({"one": "holds", "two": "open", "context": "holds"}) == "undecided"
    assert whole.verdict({"one": "open", "two": "fails", "context": "holds"}) == "refuted"


def test_there_are_fourteen_claims_and_every_effect_and_every_run_of_them_is_fit() -> None:
    whole = book()
    assert [one.number for one in whole.claims] == list(range(1, 15))
    for one in whole.claims:
        assert any(check.decides for check in one.checks)
        assert len({check.what for check in one.checks}) == len(one.checks)
        for check in one.checks:
            assert check.effect["kind"] in KINDS
    for spec in whole.arms.values():
        with work.at_hand(spec.settings["environment"]["name"]):
            run = run_of(spec.plain(seed=1, rate=0.5))
        assert run.seed == 1


def test_a_run_at_another_rate_leaves_the_definition_as_it_was() -> None:
    spec = small().arms["arithmetic/a"]
    before = key_of(spec.plain(seed=0, rate=1.0))
    assert run_of(spec.plain(seed=0, rate=0.5)).optimizer.learning_rate == pytest.approx(0.0005)
    assert key_of(spec.plain(seed=0, rate=1.0)) == before
    assert run_of(spec.plain(seed=0, rate=1.0)).optimizer.learning_rate == pytest.approx(0.001)


def test_claims_2_to_4_have_their_control_of_shuffled_rewards() -> None:
    for one in book().claims[1:4]:
        assert any("shuffled" in arm for arm in one.arms)
    shuffled = [spec for name, spec in book().arms.items() if name.endswith("/shuffled")]
    assert all(spec.settings["control"] == "shuffled_rewards" for spec in shuffled)


def test_arms_of_claims_2_and_3_differ_in_the_weight_alone() -> None:
    for home in ("arithmetic", "webshop"):
        sft, reinforce = (dict(book().arms[f"{home}/{name}"].settings) for name in ("sft", "reinforce"))
        assert (sft.pop("algorithm")["name"], reinforce.pop("algorithm")["name"]) == ("weighted_sft", "reinforce")
        assert sft == reinforce


def test_an_arm_takes_the_learning_rate_of_the_one_it_varies_and_waits_for_its_sweep() -> None:
    spec = ArmSpec("arithmetic/a", QUICK, seeds=1, sweep=(1.0, 0.5), sweep_updates=1)
    variant = ArmSpec("arithmetic/b", QUICK | {"updates": 3}, seeds=1, rate_of="arithmetic/a")
    whole = Book({spec.name: spec, variant.name: variant}, {}, ())
    todo, waiting = work.jobs(whole, {})
    assert [(job.kind, job.plain["rate"]) for job in todo] == [("sweep", 1.0), ("sweep", 0.5)]
    assert waiting == 2
    assert {job.plain["seed"] for job in todo} == {SWEEP_SEED}
    swept = {job.key: {"curve": [[0, 0.1], [1, dev]]} for job, dev in zip(todo, (0.3, 0.4), strict=True)}
    todo, waiting = work.jobs(whole, swept)
    assert [(job.arm, job.plain["rate"]) for job in todo if job.kind == "run"] == [
        ("arithmetic/a", 0.5),
        ("arithmetic/b", 0.5),
    ]
    assert waiting == 0
    equal = {key: {"curve": [[1, 0.3]]} for key in swept}
    assert work.chosen_rate(whole, spec, equal) == 1.0


def test_a_difference_is_paired_and_the_verdict_follows_from_it() -> None:
    whole = small(seeds=3)
    half, full = "01" * 50, "1" * 100
    found = Evidence(whole, records(whole, {"arithmetic/a": [full] * 3, "arithmetic/b": [half] * 3}))
    judged = found.judge(whole.claims[0])
    (one,) = judged.findings
    assert one.interval is not None
    assert one.interval.mean == pytest.approx(0.5)
    assert one.seeds == (3, 3)
    assert judged.verdict == "supported"
    turned = Evidence(whole, records(whole, {"arithmetic/a": [half] * 3, "arithmetic/b": [full] * 3}))
    assert turned.judge(whole.claims[0]).verdict == "refuted"


def test_one_seed_decides_nothing_and_records_of_other_definitions_are_left_out() -> None:
    whole = small()
    every = records(whole, {"arithmetic/a": ["11", "11"], "arithmetic/b": ["00", "00"]})
    keys = [job.key for job in work.jobs(whole, {})[0]]
    found = Evidence(whole, {keys[0]: every[keys[0]], keys[2]: every[keys[2]], "odd": every[keys[1]]})
    judged = found.judge(whole.claims[0])
    assert (judged.verdict, judged.findings[0].interval, judged.findings[0].seeds) == ("undecided", None, (1, 2))
    assert "odd" not in found.used


def test_runs_on_different_tasks_are_not_paired() -> None:
    whole = small()
    every = records(whole, {"arithmetic/a": ["10", "11"], "arithmetic/b": ["00", "01"]})
    for one in every.values():
        if one["arm"] == "arithmetic/b":
            one["tasks"] = "others"
    with pytest.raises(RunError, match="different tasks"):
        Evidence(whole, every).judge(whole.claims[0])


@pytest.mark.parametrize(
    ("effect", "mean"),
    [
        ({"kind": "area", "first": "arithmetic/a", "second": "arithmetic/b"}, 0.0),
        ({"kind": "half", "arm": "arithmetic/a"}, 0.5),
        ({"kind": "metric", "arm": "arithmetic/a", "name": "entropy", "where": "last"}, 0.1),
        ({"kind": "metric", "arm": "arithmetic/a", "name": "entropy", "where": "max"}, 0.5),
        ({"kind": "metric", "arm": "arithmetic/a", "name": "entropy"}, 0.3),
        ({"kind": "gain", "arm": "arithmetic/a"}, 0.75),
        ({"kind": "gain", "arm": "arithmetic/a", "sign": -1}, -0.75),
        ({"kind": "success", "arm": "arithmetic/a"}, 0.75),
    ],
)
def test_effects_are_what_their_names_say(effect: dict[str, object], mean: float) -> None:
    whole = small(Check("it", effect, holds_above=0.0))
    found = Evidence(whole, records(whole, {"arithmetic/a": ["1110", "1101"], "arithmetic/b": ["0000", "0001"]}))
    interval = found.find(whole.claims[0].checks[0]).interval
    assert interval is not None
    assert interval.mean == pytest.approx(mean)


def test_t_intervals_have_the_quantile_of_their_seeds() -> None:
    found = seed_interval([0.0, 1.0, 2.0])
    # t(0.975; 2) = 4.3027, over a standard error of 1 / √3.
    assert found.high - found.mean == pytest.approx(4.3027 / 3**0.5, abs=1e-4)
    # Equal seeds leave the tasks: √(0.25 / 100) times t(0.975; 99) = 1.9842.
    alike = share_interval([0.5, 0.5], 100)
    assert alike.high - 0.5 == pytest.approx(1.9842 * 0.05, abs=1e-4)
    # Seeds 0.4, 0.5, 0.6: t(0.975; 2) = 4.3027 over a standard error of 0.1 / √3; the two add in squares.
    apart = share_interval([0.4, 0.5, 0.6], 100)
    assert apart.high - 0.5 == pytest.approx(((4.3027 * 0.1 / 3**0.5) ** 2 + 0.0992**2) ** 0.5, abs=1e-3)


def test_runs_are_done_once_by_as_many_processes_as_share_the_folder(tmp_path: Path) -> None:
    arm = small(seeds=1, sweep=(1.0, 0.5)).arms["arithmetic/a"]
    whole = Book({arm.name: arm}, {}, ())
    first = work.jobs(whole, {})[0][0]
    with work.held_by_us(tmp_path, first.key) as ours:
        assert ours
        with work.held_by_us(tmp_path, first.key) as theirs:
            assert not theirs
    assert work.work(whole, tmp_path) == {}
    done = work.read_folder(tmp_path)
    todo, waiting = work.jobs(whole, done)
    assert waiting == 0
    assert {job.key for job in todo} == set(done)
    assert [job.kind for job in todo] == ["sweep", "sweep", "run"]
    one = done[todo[-1].key]
    assert (one["updates"], one["episodes"], one["after"]["n"]) == (2, 16, 6)
    # The start's outcomes as well: gains are paired task by task.
    assert {*one["before"]} >= {"outcomes", "success", "n"}
    assert one["before"]["outcomes"] != ""
    assert [update for update, _ in one["curve"]] == [0, 1, 2]
    assert len(one["metrics"]["entropy"]) == 2
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "records").iterdir()}
    assert work.work(whole, tmp_path) == {}
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "records").iterdir()} == before


def test_a_run_that_fails_leaves_its_sentence_and_the_others_go_on(tmp_path: Path) -> None:
    whole = small(seeds=1)
    bad = ArmSpec("arithmetic/bad", QUICK | {"policy": {"model": str(tmp_path / "none")}}, seeds=1)
    both = Book({bad.name: bad, "arithmetic/a": whole.arms["arithmetic/a"]}, {}, ())
    failed = work.work(both, tmp_path / "out")
    assert list(failed) == ["arithmetic/bad, seed 0"]
    assert len(work.read_folder(tmp_path / "out")) == 1
    (sorry,) = (tmp_path / "out" / "failures").iterdir()
    assert "arithmetic/bad, seed 0: " in sorry.read_text("utf-8")


def test_a_run_may_be_judged_in_another_environment_than_it_was_trained_in(tmp_path: Path) -> None:
    easy = QUICK | {"updates": 1, "evaluation": {"tasks": 40, "samples": 0, "every": 0}}
    spec = ArmSpec("arithmetic/a", easy, seeds=1, judged_in={"level": "hard"})
    whole = Book({spec.name: spec}, {}, ())
    assert work.work(whole, tmp_path) == {}
    ((key, one),) = work.read_folder(tmp_path).items()
    trained_in = json.loads((tmp_path / "runs" / key / "result.json").read_text("utf-8"))
    assert one["before"]["success"] < trained_in["before"]["success"]
    assert one["tasks"] != tasks_digest(
        json.loads((tmp_path / "runs" / key / "outcomes" / "after.json").read_text("utf-8"))
    )
    assert key_of(spec.plain(seed=0, rate=1.0)) != key_of(ArmSpec(spec.name, easy).plain(seed=0, rate=1.0))


def test_signal_to_noise_is_measured_on_other_episodes_in_every_draw(tmp_path: Path) -> None:
    arms = small().arms
    ratio = RatioSpec("arithmetic/start", tuple(arms), draws=2, tasks=4, attempts=2, parts=2)
    check = Check("snr", {"kind": "ratio", "ratio": ratio.name, "first": "arithmetic/a", "second": "arithmetic/b"}, 0.0)
    whole = Book({}, {ratio.name: ratio}, (claim(check),))
    both = Book(arms, whole.ratios, whole.claims)
    assert work.work(both, tmp_path, only=["arithmetic/start"]) == {}
    found = Evidence(both, work.read_folder(tmp_path))
    noise = [one["ratios"]["arithmetic/a"]["noise"] for one in found.draws["arithmetic/start"].values()]
    assert noise[0] != noise[1]
    assert found.find(check).seeds == (2, 2)


def test_claims_that_are_chosen_bring_the_runs_that_they_read() -> None:
    some = book().only((5,))
    assert [one.number for one in some.claims] == [5]
    assert "arithmetic/negative-only" in some.arms
    assert "failed/reinforce" not in some.arms
    with pytest.raises(SettingsError, match=r"there is no claim 15: known: 1, 2, "):
        book().only((15,))


def test_runs_of_train_are_taken_over_where_their_settings_are_those_asked_for(tmp_path: Path) -> None:
    spec = ArmSpec("arithmetic/a", QUICK, preset="default", seeds=1, checkpoints=(100,))
    whole = Book({spec.name: spec}, {}, ())
    with pytest.raises(RunError, match="must be a folder of runs"):
        adopted.adopt(whole, tmp_path / "none", tmp_path / "out")
    from astarpo.trainer import train

    home = tmp_path / "home"
    train(run_of(spec.plain(seed=0, rate=1.0)), home / "default.0")
    after = json.loads((home / "default.0" / "result.json").read_text("utf-8"))["after"]
    (home / "default.0.100.json").write_text(json.dumps({"policy": "there", **after}))
    assert adopted.adopt(whole, home, tmp_path / "out") == ["arithmetic/a, seed 0"]
    (one,) = work.read_folder(tmp_path / "out").values()
    assert one["checkpoints"]["100"]["success"] == pytest.approx(one["after"]["success"], abs=1e-6)
    other = ArmSpec("arithmetic/a", QUICK | {"updates": 1}, preset="default", seeds=1, checkpoints=(100,))
    with pytest.raises(RunError, match="updates 2 and arithmetic/a has 1"):
        adopted.adopt(Book({other.name: other}, {}, ()), home, tmp_path / "out")


def test_the_page_is_what_the_committed_data_give() -> None:
    data = page.read_data(REPO / "docs" / "claims" / page.DATA)
    assert (REPO / "docs" / page.PAGE).read_text("utf-8") == page.page(book(), data)


def test_no_record_is_kept_that_no_claim_reads() -> None:
    data = page.read_data(REPO / "docs" / "claims" / page.DATA)
    assert set(Evidence(book(), data).used) == set(data)


def test_every_claim_has_words_on_its_result_that_were_written_for_this_verdict() -> None:
    data = page.read_data(REPO / "docs" / "claims" / page.DATA)
    for one in page.judged(book(), data)[1]:
        assert one.claim.reading, one.claim.number
        assert one.claim.reading_for == one.verdict, one.claim.number


def test_words_are_left_out_where_the_verdict_is_another_or_runs_are_missing() -> None:
    data = page.read_data(REPO / "docs" / "claims" / page.DATA)
    of_two, of_eight, of_all = "falls, narrowly", "shows a difference", 'does not": not here'

    def shown(records: dict[str, dict[str, object]]) -> list[bool]:
        written = page.page(book(), records)
        return [words in written for words in (of_two, of_eight, of_all)]

    assert shown(data) == [True, True, True]
    # Without data claim 2 is undecided, and so is claim 8, for whose verdict its words were written.
    assert shown({}) == [False, False, False]
    kept = {key: one for key, one in data.items() if (one["arm"], one["number"]) != ("webshop/reinforce-bonuses", 2)}
    assert shown(kept) == [True, False, False]


def test_figures_in_words_are_those_of_the_records() -> None:
    whole = small(better(unit="points"), seeds=2)
    plain = records(whole, {"arithmetic/a": ["1110", "1111"], "arithmetic/b": ["0000", "0001"]})
    for one in plain.values():
        one["before"] = {**one["before"], "success": 0.25}  # type: ignore[dict-item]
    found = Evidence(whole, plain)
    every = [found.judge(whole.claims[0])]
    interval = every[0].findings[0].interval
    assert interval is not None

    def said(text: str) -> str:
        return words.filled(text, found, every)

    # 7 of 8 solved less 1 of 8.
    assert said("by {1.1}") == "by +75.0"
    assert said("{1.1 interval}").startswith(f"+75.0 ({words.points(interval.low)} to ")
    assert said("{arithmetic/a start}, {arithmetic/a}: {arithmetic/a each}") == "25.0, 87.5: 75.0 and 100.0"
    assert said("{1 verdict}, {undecided}, {undecided claims}, {refuted}") == f"{every[0].verdict}, 1, 1, none"
    for name in ("2.1", "1.2", "1.0", "1.1 median", "arithmetic/c", "3 verdict", "lost"):
        with pytest.raises(SettingsError, match="stands for no figure of the claims"):
            said(f"{{{name}}}")


@pytest.mark.parametrize(
    ("low", "high", "seeds"),
    # Half-widths over t(0.975; 2) / sqrt(3) = 2.4842; 0.03 is cleared from t / sqrt(n) < 1.863 and < 0.5733 on:
    # t(3) / 2 = 1.591; t(13) / sqrt(14) = 0.5774 and t(14) / sqrt(15) = 0.5538.
    [(-0.01, 0.07, 4), (-0.10, 0.16, 15), (-1.0, 1.06, None)],
)
def test_seeds_that_would_decide_follow_from_the_width(low: float, high: float, seeds: int | None) -> None:
    assert words.closes(Finding(better(), Interval((low + high) / 2, low, high), (3, 3), "open")) == seeds
    assert words.closes(Finding(better(), Interval(0.05, 0.01, 0.09), (3, 3), "holds")) is None


def test_a_run_that_gained_nothing_has_no_share_of_its_gain() -> None:
    check = Check("half", {"kind": "half", "arm": "arithmetic/a"}, within=(0.4, 0.6))
    whole = small(check, seeds=3)
    every = records(whole, {"arithmetic/a": ["10"] * 3, "arithmetic/b": ["10"] * 3})
    lost = [one for one in every.values() if one["arm"] == "arithmetic/a"]
    lost[0]["curve"] = [[0, 0.4], [50, 0.1], [100, 0.2]]
    some = Evidence(whole, every).find(check)
    assert some.interval is not None
    assert some.interval.mean == pytest.approx(0.5)
    assert some.seeds == (2, 3)
    lost[1]["curve"] = lost[2]["curve"] = lost[0]["curve"]
    none = Evidence(whole, every).find(check)
    assert (none.interval, none.seeds, none.outcome) == (None, (0, 3), "open")


def test_numbers_that_the_words_on_results_give_in_full_are_those_of_the_records() -> None:
    data = page.read_data(REPO / "docs" / "claims" / page.DATA)
    found = Evidence(book(), data)

    def metric(arm: str, name: str) -> list[list[float]]:
        return [one["metrics"][name] for _, one in sorted(found.runs[arm].items())]

    def dev(arm: str, place: int) -> list[float]:
        return [one["curve"][place][1] for _, one in sorted(found.runs[arm].items())]

    def mean(values: list[float]) -> float:
        return sum(values) / len(values)

    # Claim 2.
    shares = [share for run in metric("arithmetic/sft-described", "weights/failure_share") for share in run]
    assert (round(min(shares), 2), round(max(shares), 2)) == (0.66, 0.83)
    assert all(share < 0.03 for run in metric("arithmetic/sft", "weights/failure_share") for share in run[1:])
    paid = metric("arithmetic/sft-described", "reward/mean")
    assert (round(mean([run[0] for run in paid]), 2), round(mean([run[-1] for run in paid]), 2)) == (0.33, 0.51)
    ahead = [mean(dev("arithmetic/sft", i)) - mean(dev("arithmetic/reinforce", i)) for i in range(11)]
    assert all(gap > 0 for gap in ahead[1:5])
    assert all(gap < 0 for gap in ahead[6:])
    # Claims 3 and 7.
    assert (dev("webshop/sft", 1), dev("webshop/reinforce", 1)) == ([0.29, 0.42, 0.46], [0.64, 0.59, 0.63])
    assert (sorted(dev("webshop/reinforce-schedule", 2))[::2], sorted(dev("webshop/reinforce", 2))[::2]) == (
        [0.26, 0.30],
        [0.72, 0.77],
    )
    assert [round(100 * run[0]) for run in metric("webshop/reinforce-schedule", "invalid")] == [75, 68, 77]
    assert [round(100 * run[0]) for run in metric("webshop/reinforce", "invalid")] == [4, 8, 8]
    # Claim 4: each seed ends below 1 %.
    for arm in ("sft/shuffled", "sft/constant", "sft-described/shuffled", "sft-described/constant"):
        assert all(one["after"]["success"] < 0.01 for one in found.runs[f"arithmetic/{arm}"].values())
    # Claim 5, the sweep.
    swept = {
        job.plain["rate"]: data[job.key]["curve"][-1][1]
        for job in work.sweep_jobs(book().arms["arithmetic/negative-only"])
    }
    assert (swept[1.0], swept[3.0]) == (0.83, 0.38)
    # Claim 10: both at 94 % of dev.
    assert [round(100 * mean(dev(f"arithmetic/{arm}", -1))) for arm in ("sft-steps", "sft-5")] == [94, 94]
    # Claim 11: ways B and C at 100.
    for way, seeds in (("reinforce", [51, 48, 82]), ("hybrid", [47, 39, 63])):
        runs = found.runs[f"webshop-300/{way}_described"]
        assert [round(100 * one["checkpoints"]["100"]["success"]) for _, one in sorted(runs.items())] == seeds
    # Claim 12: nothing succeeds in the faulty shop.
    for arm in ("reinforce", "sft", "astar_po"):
        assert all(max(run) == 0 for run in metric(f"failed/{arm}", "train/success"))
    for arm in ("reinforce", "astar_po"):
        assert all(one["after"]["success"] < one["before"]["success"] for one in found.runs[f"failed/{arm}"].values())
    shares = [share for run in metric("mended/sft", "weights/failure_share") for share in run]
    assert (round(min(shares), 2), round(max(shares), 2)) == (0.66, 0.97)
    # Claim 13.
    assert [round(100 * run[-1]) for run in metric("waiting/reinforce", "invalid")] == [4, 1, 27]
    assert all(0.06 < run[-1] <= 0.1 for run in metric("waiting/reinforce", "train/success"))
    # Claim 14.
    assert (round(mean(dev("arithmetic/lagging", 1)), 2), round(mean(dev("arithmetic/lagging", -1)), 2)) == (0.68, 0.26)


def test_parts_that_are_said_to_stand_hold() -> None:
    data = page.read_data(REPO / "docs" / "claims" / page.DATA)
    found = {
        (one.claim.number, place): finding
        for one in page.judged(book(), data)[1]
        for place, finding in enumerate(one.findings, 1)
    }
    for key in ((4, 6), (11, 17), (11, 18), (13, 1), (13, 2), (14, 1), (14, 2)):
        assert found[key].outcome == "holds", key
    # One number of seeds is said for several predictions.
    assert words.closes(found[11, 4]) == words.closes(found[11, 5])
    assert words.closes(found[12, 1]) == words.closes(found[12, 3]) == words.closes(found[12, 4])
