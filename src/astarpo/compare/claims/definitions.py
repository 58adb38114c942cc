"""Claims and arms as data: one YAML file a claim, arms.yaml for all runs. Arms that claims share are run once.

A claim makes predictions. Each is an effect with its 95 % interval and two bounds, written down before there are data:

    holds     the interval lies above `holds_above`, or inside `within`
    fails     the interval lies below `fails_below`, or outside `within`; not where it holds already
    open      neither

    supported   every prediction that decides holds
    refuted     one of them fails
    undecided   otherwise

So a claim of several parts falls with any of them, and what was never measured decides nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any, Literal

import yaml

from astarpo.errors import SettingsError
from astarpo.policy import tiny
from astarpo.run import Run, load_preset, merge

HOME = "astarpo.compare.claims"

Outcome = Literal["holds", "fails", "open"]
Verdict = Literal["supported", "refuted", "undecided"]

EMBEDDED = "embedded:"
"""Before the name of an environment in `policy.model`: the embedded model of that one, for another of the same kind."""

SWEEP_SEED = 10_000
"""Seed of the runs that choose a learning rate; no reported seed."""


@dataclass(frozen=True)
class ArmSpec:
    """One arm of the claims.

    Attributes:
        name: "ENVIRONMENT/ARM", as claims name it.
        settings: those of a run, laid over its preset.
        preset: what they are laid over; empty for none.
        seeds: how many.
        sweep: factors on the learning rate to choose from; one alone is not swept.
        sweep_updates: length of a run of the sweep.
        rate_of: the arm whose choice it takes.
        checkpoints: updates whose weights are judged on test as well.
        unchecked: train without the check of the environment, which would refuse it.
        judged_in: settings of the environment in which start and end are judged, where it is not the one trained in.
        words: what it is.
    """

    name: str
    settings: Mapping[str, Any]
    preset: str = ""
    seeds: int = 5
    sweep: tuple[float, ...] = (1.0,)
    sweep_updates: int = 40
    rate_of: str = ""
    checkpoints: tuple[int, ...] = ()
    unchecked: bool = False
    judged_in: Mapping[str, Any] = field(default_factory=dict)
    words: str = ""

    @property
    def environment(self) -> str:
        """Where it stands on the page: the part before the stroke."""
        return self.name.partition("/")[0]

    def plain(self, *, seed: int, rate: float, updates: int | None = None) -> dict[str, Any]:
        """What determines a run of it; a run is known by the hash of this."""
        found: dict[str, Any] = {"preset": self.preset, "settings": dict(self.settings), "seed": seed, "rate": rate}
        if self.unchecked:
            found["unchecked"] = True
        if self.judged_in:
            found["judged_in"] = dict(self.judged_in)
        if updates is not None:
            # A sweep looks at dev alone.
            found["settings"] = merge(
                self.settings,
                {"updates": updates, "evaluation": {"tasks": 1, "samples": 0, "every": updates, "dev_tasks": 200}},
            )
        elif self.checkpoints:
            found["checkpoints"] = list(self.checkpoints)
        return found


@dataclass(frozen=True)
class RatioSpec:
    """A measurement of gradient signal-to-noise: arms on the same episodes, `draws` times.

    Attributes:
        name: "ENVIRONMENT/NAME".
        arms: by the names they have in arms.yaml.
        draws: independent sets of tasks and plays.
        at: the arm whose trained policy of seed 0 plays; empty for the starting policy.
        tasks, attempts, parts: see `snr.measure`.
    """

    name: str
    arms: tuple[str, ...]
    draws: int = 5
    at: str = ""
    tasks: int = 64
    attempts: int = 8
    parts: int = 16


@dataclass(frozen=True)
class Check:
    """One prediction of a claim.

    Attributes:
        what: is measured, in words.
        effect: kind and arms; see evidence.py.
        holds_above, fails_below: bounds in the effect's units.
        within: a range instead of the two.
        decides: whether the verdict depends on it.
        unit: "points" for shares, "plain" for everything else.
    """

    what: str
    effect: Mapping[str, Any]
    holds_above: float | None = None
    fails_below: float | None = None
    within: tuple[float, float] | None = None
    decides: bool = True
    unit: Literal["points", "percent", "plain"] = "points"

    def judge(self, low: float, high: float) -> Outcome:
        """What an interval from `low` to `high` says of the prediction.

        >>> check = Check("", {}, holds_above=0.0, fails_below=0.02)
        >>> check.judge(0.01, 0.05), check.judge(-0.04, 0.01), check.judge(-0.01, 0.05)
        ('holds', 'fails', 'open')
        """
        if self.within is not None:
            least, most = self.within
            if least <= low and high <= most:
                return "holds"
            return "fails" if high < least or low > most else "open"
        if self.holds_above is not None and low > self.holds_above:
            return "holds"
        if self.fails_below is not None and high < self.fails_below:
            return "fails"
        return "open"

    @property
    def arms(self) -> tuple[str, ...]:
        """Arms whose runs it reads."""
        return tuple(str(self.effect[key]) for key in ("arm", "first", "second") if key in self.effect)


@dataclass(frozen=True)
class Claim:
    """What was said, and how it is decided.

    Attributes:
        number: in the issue that lists them.
        title: in a few words.
        said: the claim.
        checks: predictions.
        rule: in words.
        would_change: what would have led to another verdict.
        blame: a setting of ours that may be to blame.
        reading: words on the result, and the verdict that they were written for.
        ratios: measurements of signal-to-noise that it reads.
    """

    number: int
    title: str
    said: str
    checks: tuple[Check, ...]
    rule: str
    would_change: str
    blame: str
    reading: str = ""
    reading_for: str = ""
    ratios: tuple[str, ...] = field(default=())

    @property
    def arms(self) -> tuple[str, ...]:
        """Arms that its predictions read, in order."""
        return tuple(dict.fromkeys(arm for check in self.checks if "ratio" not in check.effect for arm in check.arms))

    def verdict(self, outcomes: Mapping[str, Outcome]) -> Verdict:
        """The verdict from what came of each check, by its words."""
        deciding = [outcomes[check.what] for check in self.checks if check.decides]
        if "fails" in deciding:
            return "refuted"
        return "supported" if deciding and set(deciding) == {"holds"} else "undecided"


@dataclass(frozen=True)
class Book:
    """All claims and what they need."""

    arms: Mapping[str, ArmSpec]
    ratios: Mapping[str, RatioSpec]
    claims: tuple[Claim, ...]

    def only(self, numbers: tuple[int, ...]) -> Book:
        """The claims of these numbers, and the arms that they read; all where none is given.

        Raises:
            SettingsError: there is no such claim.
        """
        if not numbers:
            return self
        known = {claim.number: claim for claim in self.claims}
        for number in numbers:
            if number not in known:
                raise SettingsError(f"there is no claim {number}: known: {', '.join(map(str, sorted(known)))}.")
        claims = tuple(claim for claim in self.claims if claim.number in numbers)
        ratios = {name: self.ratios[name] for claim in claims for name in claim.ratios}
        wanted = {arm for claim in claims for arm in claim.arms}
        wanted |= {ratio.at for ratio in ratios.values() if ratio.at}
        wanted |= {self.arms[name].rate_of for name in wanted if self.arms[name].rate_of}
        return Book({name: spec for name, spec in self.arms.items() if name in wanted}, ratios, claims)


def run_of(plain: Mapping[str, Any]) -> Run:
    """All settings of a run from what determines it.

    Raises:
        SettingsError: they are not fit.
    """
    given = deepcopy(dict(plain["settings"]))
    if plain["preset"]:
        given = merge(load_preset(given["environment"]["name"], plain["preset"]), given)
    rate = float(plain["rate"])
    if rate != 1.0:
        given["optimizer"]["learning_rate"] = float(f"{float(given['optimizer']['learning_rate']) * rate:.3g}")
    model = given.get("policy", {}).get("model", "")
    if model.startswith(EMBEDDED):
        given["policy"] = {**given["policy"], "model": str(tiny.folder(model.removeprefix(EMBEDDED)))}
    return Run.build(given | {"seed": plain["seed"]})


@cache
def book() -> Book:
    """The claims that ship with the package.

    Raises:
        SettingsError: a file of them is not fit: a name is unknown, or a setting is.
    """
    home = files(HOME)
    plain = yaml.safe_load((home / "arms.yaml").read_text("utf-8"))
    arms = dict[str, ArmSpec]()
    for name, given in plain["arms"].items():
        arms[name] = _arm(name, dict(given), plain["frames"], arms)
    ratios = {
        name: RatioSpec(name=name, **{**given, "arms": tuple(given["arms"])}) for name, given in plain["ratios"].items()
    }
    claims = sorted(_claims(home), key=lambda claim: claim.number)
    for claim in claims:
        for arm in claim.arms:
            if arm not in arms:
                raise SettingsError(f"claim {claim.number} reads the arm {arm!r}, which arms.yaml does not have.")
    return Book(arms, ratios, tuple(claims))


def _claims(home: Any) -> Iterator[Claim]:
    for file in home.iterdir():
        if file.name.endswith(".yaml") and file.name[0].isdigit():
            given = yaml.safe_load(file.read_text("utf-8"))
            checks = []
            for one in given.pop("checks"):
                if "within" in one:
                    one["within"] = tuple(one["within"])
                checks.append(Check(**one))
            given["ratios"] = tuple(dict.fromkeys(c.effect["ratio"] for c in checks if "ratio" in c.effect))
            yield Claim(checks=tuple(checks), **{key: _line(value) for key, value in given.items()})


def _arm(name: str, given: dict[str, Any], frames: Mapping[str, Any], known: Mapping[str, ArmSpec]) -> ArmSpec:
    like, frame = given.pop("like", ""), given.pop("frame", "")
    below: dict[str, Any] = {}
    if like:
        base = known[like]
        below = {
            "settings": base.settings,
            "preset": base.preset,
            "seeds": base.seeds,
            "rate_of": base.rate_of or (like if len(base.sweep) > 1 else ""),
            "checkpoints": base.checkpoints,
            "unchecked": base.unchecked,
            "judged_in": base.judged_in,
        }
    elif frame:
        below = dict(frames[frame])
    if len(given.get("sweep", ())) > 1:
        below.pop("rate_of", None)
    settings = merge(below.get("settings", {}), given.pop("settings", {}))
    whole = {**below, **given, "settings": settings}
    for key in ("sweep", "checkpoints"):
        whole[key] = tuple(whole.get(key, ArmSpec.__dataclass_fields__[key].default))
    return ArmSpec(name=name, **whole)


def _line(value: Any) -> Any:
    return " ".join(value.split()) if isinstance(value, str) else value
