"""The loop. It reads like the paper's pseudo-code and does not know which algorithm it runs."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path

import torch
import yaml

from astarpo import preflight
from astarpo.backends.base import open_backend
from astarpo.batch import Batch
from astarpo.budget import Used
from astarpo.checkpoint import Checkpoints, Restored, check_version, is_run, mark_run
from astarpo.collapse import collapse_metrics
from astarpo.collate import collate
from astarpo.controls import LOUD, controlled
from astarpo.engine.slots import position_bytes
from astarpo.errors import AstarpoError, RunError
from astarpo.evaluate import Evaluation, evaluate
from astarpo.filters import filtered
from astarpo.journal import Journal, read_metrics, write_atomically
from astarpo.policy.huggingface import HuggingFacePolicy
from astarpo.policy.load import load_policy
from astarpo.policy.offload import offload
from astarpo.pools import Pools
from astarpo.progress import Watch
from astarpo.reference import KeptLogProbs
from astarpo.result import Clock, Result, peak_memory
from astarpo.rollout import Play, check_context, collect, episode_metrics, shortened, tokens_of
from astarpo.run import Run, algorithm, environment, keeps_reference, plays_reference
from astarpo.saved import Saved, take_values, with_values
from astarpo.sinks.base import Sinks
from astarpo.stage_one import FILE, StageOne, frozen
from astarpo.types import Episode
from astarpo.update import learn, new_optimizer
from astarpo.value_summary import ValueSummary
from astarpo.value_table import ValueTable
from astarpo.value_tracker import ValueTracker


class Trainer:
    """One run, new or resumed.

    Args:
        run: its settings.
        folder: where it lives.
        watch: told of progress.
    """

    def __init__(self, run: Run, folder: Path, watch: Watch) -> None:
        self.run, self.folder, self.watch = run, folder, watch
        self.clock, self.warnings = Clock(), tuple[str, ...]()
        self.environment = environment(run)
        self.reward = self.environment.reward_mode(run.environment.reward)
        self.algorithm = algorithm(run)
        self.policy = load_policy(run.policy, run.environment.name)
        check_context(self.policy, run.rollout)
        needs = self.algorithm.needs
        self.reference = frozen(self.policy) if keeps_reference(run) else None
        # Inside `self.near()` the reference can play and score.
        self.near: Callable[[], AbstractContextManager[None]] = nullcontext
        if self.reference is not None and run.policy.reference_device == "cpu":
            self.near = offload(self.reference)
        # Who plays: the policy itself, or a copy that lags behind it.
        self.sampler = self.policy if run.rollout.sync_every == 1 else frozen(self.policy)
        self.backend = open_backend(run)
        self.optimizer = new_optimizer(self.policy, run.optimizer, self.algorithm)
        self.sinks = Sinks(run.sinks, folder, run.dump(), self.watch.warn)
        self.journal = Journal(folder, self.sinks)
        self.checkpoints = Checkpoints(folder, run.keep_checkpoints)
        self.pools = Pools(run, self.environment, preflight.kept(folder))
        self.curriculum = self.pools.curriculum
        self.saved = self._open_saved()
        self.stage_one = self._open_values() if plays_reference(run) else None
        self.tracker = ValueTracker(run.values) if needs.values and self.stage_one is None else None
        self.kept = self._score_saved(self.saved) if self.saved is not None and needs.reference else None
        self.best = (-1.0, 0)
        self.not_finite = 0
        self.dev: float | None = None
        self.seconds_before = 0.0
        self.used = self._played = Used()
        self.seconds_counted = 0.0
        if run.control != "none":
            self.warn(LOUD[run.control])
        for remark in self.policy.remarks():
            self.watch.note(remark)

    # ---- stages ------------------------------------------------------------------------------------------------------

    def preflight(self) -> None:
        """A short check; what it finds unreachable is left out. Raises EnvironmentContractError where it is in vain.

        Saved episodes were checked as they were read, and no task is drawn.
        """
        if self.saved is not None:
            preflight.keep(self.folder, ())
            return
        found = preflight.preflight(self.environment, self.pools.levels, seed=self.run.seed, tell=self.note)
        preflight.keep(self.folder, found)
        self.pools.unreachable = frozenset(found)

    def evaluate(self, split: str, tasks: int | None = None, samples: int | None = None) -> Evaluation:
        """The current policy on held-out tasks."""
        with self.clock(f"evaluation on {split}"), self._memory_for_playing():
            return evaluate(
                self.backend.player(self.policy),
                self.environment,
                settings=self.run.evaluation,
                rollout=self.run.rollout,
                split="dev" if split == "dev" else "test",
                tasks=tasks,
                samples=samples,
                watch=self.watch,
            )

    # ---- the loop ----------------------------------------------------------------------------------------------------

    def loop(self, first: int) -> int:
        """Updates from `first` on, until there are `run.updates` or the budget is used up; how many there are then."""
        update = first
        while not self.finished(update):
            before = self.used
            episodes, metrics = self.update(update)
            update += 1
            self._keep(update, episodes, metrics, before)
        return update

    def update(self, update: int) -> tuple[list[Episode], dict[str, float]]:
        """Play the tasks of `update` (from 0) and learn from them; nothing is written, but for stage 1's plays.

        Returns:
            Every episode that was played, those that were not learned from included, and the line of metrics.

        Raises:
            RunError: the gradient is not finite; the weights are those of the update before.
        """
        run = self.run
        began, share = time.perf_counter(), self._share(update)
        self._sync(update)
        groups, replaced, sampling = self._groups(update)
        values = self._values_of([group[0].task for group in groups], update)
        learned = [episode for group in groups for episode in group]
        batch = collate(learned, values=values, device=self.policy.device)
        if self.kept is not None:
            batch = replace(batch, ref_logp=self.kept.column(update, batch))
        batch = controlled(batch, run.control, seed=run.seed, update=update)
        kept, filtering = filtered(batch, run.filter)
        collapse = self._collapse(learned, update)
        metrics = {"signal/skipped": 1.0} if kept is None else self._learn(kept, update, share)
        if self.saved is not None or self.sampler.version != self.policy.version:
            # Sampler and trainer differ here because other policies sampled, not because they compute otherwise.
            metrics = {name.replace("mismatch/", "lag/"): value for name, value in metrics.items()}
        # Everything that was played counts for the curriculum and in the journal; only `learned` was learned from.
        episodes = learned + replaced
        chosen = self.curriculum.observe(episodes) if self.saved is None else {}
        metrics |= chosen | sampling | filtering | collapse
        if self.tracker is not None:
            metrics |= self.tracker.observe(episodes, update)
        self.policy.version = update + 1
        metrics |= episode_metrics(episodes) | {"temperature": batch.temperature}
        metrics["seconds"] = time.perf_counter() - began
        read, said = (sum(tokens) for tokens in zip(*map(tokens_of, episodes), strict=True))
        metrics["tokens_per_second"] = (read + said) / metrics["seconds"]
        self._count(Used(len(episodes), read, said))
        return episodes, metrics | self.used.metrics()

    def finished(self, update: int) -> bool:
        """Whether the run ends after `update` updates."""
        return update >= self.run.updates or self.run.budget.share(self.used) >= 1.0

    def _share(self, update: int) -> float | None:
        """How much of a run with a budget is over before `update` (from 0); None where updates alone end it."""
        if self.run.budget.kind is None:
            return None
        return min(1.0, max(self.run.budget.share(self.used), update / max(self.run.updates, 1)))

    def _count(self, played: Used) -> None:
        """Add what an update played to what is used.

        Everything that goes by a budget reads the number that stands in the journal, so a resumed run goes as one that
        never stopped.
        """
        seconds = round(self.seconds_counted + self._training_seconds(but="stage 1"), 3)
        self._played = replace(self._played + played, seconds=seconds)
        used = self._played + self._stage_one_used()
        self.used = replace(used, seconds=round(used.seconds, 3))

    def _stage_one_used(self) -> Used:
        if self._table is None:
            return Used()
        used, unknown = self._table.used()
        if unknown and self.run.budget.kind in {"tokens", "seconds"}:
            raise RunError(
                f"values.sqlite of {self.folder} holds {unknown:,} plays whose tokens and seconds were not kept, so "
                f"they cannot be counted against budget.{self.run.budget.kind}: set budget.episodes, or start in a "
                "folder without that table."
            )
        return replace(used, seconds=round(used.seconds, 3))

    def _learn(self, batch: Batch, update: int, share: float | None) -> dict[str, float]:
        run = self.run
        try:
            batch = self._with_reference(batch)
            needed = self.near if self.algorithm.needs.exact_kl else nullcontext
            with self.clock("training"), needed():
                metrics = learn(
                    self.policy,
                    batch,
                    self.algorithm,
                    self.optimizer,
                    run.optimizer,
                    reference=self.reference,
                    update=update,
                    updates=run.updates,
                    seed=run.seed,
                    share=share,
                )
        except torch.OutOfMemoryError as error:
            raise RunError(out_of_memory(run, update)) from error
        if "signal/not_finite" not in metrics:
            self.not_finite = 0
            return metrics
        self.not_finite += 1
        if self.not_finite == NOT_FINITE:
            raise RunError(
                f"update {update + 1} stopped the run because its gradient and those of the {NOT_FINITE - 1} updates "
                "before it were not finite: the weights of the last checkpoint are intact; lower "
                "optimizer.learning_rate and resume from it."
            )
        self.warn(
            f"the gradient of update {update + 1} was not finite and was left out, {self.not_finite} in a row; at "
            f"{NOT_FINITE} the run stops."
        )
        return metrics

    def _groups(self, update: int) -> tuple[list[list[Episode]], list[Episode], dict[str, float]]:
        """Attempts task by task that `update` learns from, those that it played beside them, and metrics."""
        if self.saved is not None:
            return self.saved.batch(update), [], self.saved.metrics(update)
        tasks = self.curriculum.choose(update, self.run.rollout.tasks_per_update)
        return self._with_signal(tasks, self._collect(tasks, update), update)

    def _with_signal(
        self, tasks: Sequence[str], groups: list[list[Episode]], update: int
    ) -> tuple[list[list[Episode]], list[Episode], dict[str, float]]:
        """`groups` with those whose attempts all earned the same replaced by attempts at other tasks, as far as
        `rollout.extra_rounds` goes; the episodes that were replaced; metrics."""
        rounds, replaced, seen = self.run.rollout.extra_rounds, list[Episode](), frozenset(tasks)
        if not rounds:
            return groups, replaced, {}
        played = 0
        while played < rounds and (silent := _silent(groups)):
            played += 1
            others = self.curriculum.choose(update, len(silent), round=played, without=seen)
            seen |= frozenset(others)
            for place, group in zip(silent, self._collect(others, update, played), strict=True):
                replaced += groups[place]
                groups[place] = group
        return (
            groups,
            replaced,
            {
                "sampling/extra_rounds": float(played),
                "sampling/replaced": float(len(replaced) // self.run.algorithm.group_size),
                "sampling/silent": float(len(_silent(groups))),
            },
        )

    def _collect(self, tasks: Sequence[str], update: int, round: int = 0) -> list[list[Episode]]:
        """The attempts at each task. Those of later rounds are numbered on, so that each has randomness of its own."""
        run, size = self.run, self.run.algorithm.group_size
        numbers = range(round * size, (round + 1) * size)
        episodes = self._play([Play(task, number, (run.seed, update)) for task in tasks for number in numbers], update)
        return [episodes[first : first + size] for first in range(0, len(episodes), size)]

    def _play(self, plays: Sequence[Play], update: int) -> list[Episode]:
        run = self.run
        with self._memory_for_playing():
            episodes = collect(
                self.backend.player(self.sampler),
                self.environment,
                plays,
                rollout=run.rollout,
                temperature=run.rollout.temperature_at(update, run.updates, self._share(update)),
                reward=self.reward,
                spent=self.clock.spent,
            )
        return [shortened(episode, run.rollout) for episode in episodes]

    @contextmanager
    def _memory_for_playing(self) -> Iterator[None]:
        """Raises RunError where a GPU's memory does not do for what is played inside."""
        try:
            yield
        except torch.OutOfMemoryError as error:
            slots = self.run.rollout.in_flight(position_bytes(self.policy.model))
            raise RunError(
                "the GPU's memory did not do for playing; any checkpoint is intact, so lower rollout.slots (now "
                f"{slots}), which holds fewer conversations, or rollout.episode_tokens (now "
                f"{self.run.rollout.episode_tokens}), which holds shorter ones, and resume."
            ) from error

    def _collapse(self, episodes: Sequence[Episode], update: int) -> dict[str, float]:
        """Collapse metrics of the policy before it learns, where it is their turn."""
        own = self.run.collapse
        if not own.every or (update + 1) % own.every:
            return {}
        with self.clock("collapse metrics"):
            return collapse_metrics(self.policy, episodes, own.episodes)

    def _sync(self, update: int) -> None:
        """Give a sampler that lags the policy's weights where it is its turn."""
        if self.sampler is not self.policy and update % self.run.rollout.sync_every == 0:
            self.sampler.model.load_state_dict(self.policy.model.state_dict())
            self.sampler.version = self.policy.version

    def _with_reference(self, batch: Batch) -> Batch:
        if self.algorithm.needs.hidden:
            with self.clock("critic"):
                batch = replace(batch, hidden=self.policy.hidden_states(batch))
        if self.reference is None or not self.algorithm.needs.reference or batch.ref_logp is not None:
            return batch
        with self.clock("reference"), torch.no_grad(), self.near():
            return replace(batch, ref_logp=self.reference.log_probs(batch).logp)

    def _values_of(self, tasks: Sequence[str], update: int) -> dict[str, float] | None:
        if self.tracker is not None:
            return self.tracker.values(tasks, update)
        if self.stage_one is None:
            return None
        with self.clock("stage 1"):
            return self.stage_one.values(tasks, update)

    def _keep(self, update: int, episodes: Sequence[Episode], metrics: dict[str, float], before: Used) -> None:
        """Journal, evaluation on dev, checkpoint: what survives this update."""
        run, last = self.run, self.finished(update)
        by_share = run.budget.evaluations > 0
        due = run.budget.due(before, self.used) if by_share else update % max(run.evaluation.every, 1) == 0
        with self.clock("journal"):
            if self.saved is None:
                self.journal.episodes(update, episodes)
            self.journal.metrics({"update": update, **metrics})
        seen = {} if self.dev is None else {"dev/success": self.dev}
        if run.budget.kind is not None:
            seen["budget/share"] = min(run.budget.share(self.used), 1.0)
        stop: AstarpoError | None = None
        try:
            self.watch.update(update, metrics | seen)
        except AstarpoError as error:
            # Whoever ends the run here ends it after this update: it is kept as any other, for those who go on.
            stop = error
        if (run.evaluation.every or by_share) and (due or last):
            on_dev = self._on_dev(update)
            if on_dev.success > self.best[0]:
                self.best = (on_dev.success, update)
        # The best is only worth remembering if it is also kept.
        if update % run.checkpoint_every == 0 or last or self.best[1] == update or stop is not None:
            with self.clock("journal"):
                self._checkpoint(update)
        if stop is not None:
            raise stop

    def _on_dev(self, update: int) -> Evaluation:
        seen = self.evaluate("dev", tasks=self.run.evaluation.dev_tasks, samples=0)
        self.journal.metrics({"update": update, "evaluation": seen.as_dict()})
        self.watch.note(f"dev after {update} updates: {100 * seen.success:.1f} % (n = {seen.n})")
        self.dev = seen.success
        return seen

    def _checkpoint(self, update: int) -> None:
        state = Restored(
            update=update,
            curriculum=self.curriculum.state(),
            algorithm=self.algorithm.state(),
            tracker={} if self.tracker is None else self.tracker.state(),
            best=self.best,
            seconds=self.seconds_before + self._training_seconds(),
        )
        self.checkpoints.save(self.policy, self.optimizer, state, self._table, self._lagging)

    # ---- a run from end to end ---------------------------------------------------------------------------------------

    def start(self) -> Result:
        """A new run."""
        before = self.evaluate("test")
        write_atomically(self.folder / "before.json", json.dumps(before.as_dict()).encode())
        self.journal.outcomes("before", before.outcomes)
        if self.run.evaluation.every or self.run.budget.evaluations:
            self.best = (self._on_dev(0).success, 0)
        if self.saved is not None:
            self._begin_saved(self.saved)
        elif self.stage_one is not None and self.run.values.schedule != "steps":
            with self.clock("stage 1"):
                summary = self.stage_one.measure()
            self.note(summary.report())
        self.used = self._stage_one_used()
        if self.finished(0) and self.run.updates:
            self.warn("the reference plays of stage 1 use up the whole budget, so no update is left: raise it.")
        self._checkpoint(0)
        return self.go_on(0)

    def resume(self) -> Result:
        """From the newest checkpoint to the end; from the start where none was reached, stage 1's plays kept."""
        if not self.checkpoints.exists() and not any(line["update"] for line in read_metrics(self.folder)):
            self.journal.rewind(-1)
            self.note("stopped before the first checkpoint: started over")
            if not (self.folder / preflight.FILE).exists():
                self.preflight()
            return self.start()
        restored = self.checkpoints.restore(self.policy, self.optimizer, self._table, self._lagging)
        self.sampler.version = restored.update - restored.update % self.run.rollout.sync_every
        stored = Result.read(self.folder)
        self._count_again(restored.update)
        if stored is not None and stored.updates == restored.update and self.finished(restored.update):
            self.watch.note("the run is finished, so nothing is played: --updates N trains it further.")
            return stored
        self.curriculum.restore(restored.curriculum)
        self.algorithm.restore(restored.algorithm)
        if self.tracker is not None:
            self.tracker.restore(restored.tracker)
        self.best, self.seconds_before = restored.best, restored.seconds
        self.journal.rewind(restored.update)
        self.dev = next(
            (e["evaluation"]["success"] for e in read_metrics(self.folder)[::-1] if "evaluation" in e), None
        )
        self.note(f"resumed after update {restored.update}")
        return self.go_on(restored.update)

    def go_on(self, first: int) -> Result:
        """The loop from `first`, then the last evaluation, result.json and the curve."""
        before = self._before()
        self.watch.stage("training", self.run.updates - first if self.run.budget.kind is None else 0)
        updates = self.loop(first)
        if self._table is not None and self.run.values.schedule == "steps" and self._table.tasks():
            self.note(self._table.summary().report())
        after = self.evaluate("test")
        self.journal.outcomes("after", after.outcomes)
        result = Result(
            folder=self.folder,
            environment=self.run.environment.name,
            algorithm=self.run.algorithm.name,
            updates=updates,
            seconds=self.seconds_before + self._training_seconds(),
            before=before,
            after=after,
            times=dict(self.clock.spent),
            peak_memory=peak_memory(),
            warnings=self.warnings,
            used=self.used,
        )
        write_atomically(self.folder / "result.json", (json.dumps(result.as_dict(), indent=1) + "\n").encode())
        return result

    # ---- pieces ------------------------------------------------------------------------------------------------------

    def note(self, text: str) -> None:
        """Show a remark and keep it."""
        self.journal.note(text)
        self.watch.note(text)

    def warn(self, text: str) -> None:
        """Show a remark loudly, keep it, and say it again beside the result."""
        self.journal.note(text)
        self.watch.warn(text)
        self.warnings += (text,)

    def close(self) -> None:
        """Close the value table, the sinks and the backend."""
        self.sinks.close()
        self.backend.close()
        if self.stage_one is not None:
            self.stage_one.close()

    def _before(self) -> Evaluation:
        path = self.folder / "before.json"
        try:
            return Evaluation.from_dict(json.loads(path.read_text("utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise RunError(
                f"{path}, the evaluation before training, is missing or damaged, so there is nothing to compare with: "
                "put it back, or `astarpo evaluate` the run alone."
            ) from error

    @property
    def _table(self) -> ValueTable | None:
        return None if self.stage_one is None else self.stage_one.table

    @property
    def _lagging(self) -> HuggingFacePolicy | None:
        return None if self.sampler is self.policy else self.sampler

    def _training_seconds(self, but: str = "") -> float:
        return sum(seconds for name, seconds in self.clock.spent.items() if name not in {*NOT_TRAINING, but})

    def _count_again(self, update: int) -> None:
        """Take up what was used where the journal has it."""
        lines = [line for line in read_metrics(self.folder) if "evaluation" not in line]
        played = [line for line in lines if line["update"] <= update]
        used = Used.from_metrics(played[-1]) if played else self._stage_one_used()
        if used is None:
            self.note(f"episodes and tokens of the first {update} updates were not kept and are not counted.")
            used = self._stage_one_used()
        self.used, self._played = used, used - self._stage_one_used()
        self.seconds_counted = self._played.seconds

    def _open_saved(self) -> Saved | None:
        run = self.run
        if run.episodes is None:
            return None
        with self.clock("reading episodes"):
            saved = Saved(run, environment=self.environment, policy=self.policy, reward=self.reward)
        saved.keep(self.folder)
        if plays_reference(run):
            take_values(saved.source, self.folder, FILE)
        return saved

    def _begin_saved(self, saved: Saved) -> None:
        """Say what is learned from, and what cannot be learned of it by this method."""
        self.note(saved.report())
        if self._table is not None:
            self.note(self._table.summary(saved.tasks).report())
        if (why := self.algorithm.misled) is not None:
            self.warn(f"{self.run.algorithm.name} learns from episodes that other policies played and {why}.")

    def _score_saved(self, saved: Saved) -> KeptLogProbs | None:
        """What the reference says of the saved episodes; None where a copy of it must stay for an exact KL anyway.

        Nothing was learned or restored yet, so the policy is the reference.
        """
        if self.reference is not None:
            return None
        with self.clock("reference"):
            return KeptLogProbs(self.folder, saved, self.policy, updates=self.run.updates, watch=self.watch)

    def _open_values(self) -> StageOne:
        values = StageOne(
            self.run,
            self.folder,
            # Under saved episodes nobody plays: what is asked is whose plays the table holds.
            reference=self.reference or self.policy,
            near=self.near,
            backend=self.backend,
            environment=self.environment,
            pools=self.pools,
            watch=self.watch,
            note=self.note,
        )
        if values.mismatch:
            self.warn(values.mismatch)
        if self.saved is not None and (left := with_values(self.saved, values.table)) is not None:
            self.note(left)
        return values


def _silent(groups: Sequence[Sequence[Episode]]) -> list[int]:
    """Which of the groups hold attempts that all earned the same."""
    return [place for place, group in enumerate(groups) if len({episode.reward for episode in group}) == 1]


NOT_FINITE = 3
"""Updates in a row without a finite gradient after which a run stops; it does not mend by itself."""


def out_of_memory(run: Run, update: int) -> str:
    """The sentence for a GPU whose memory did not do for the learning of `update` (from 0), and what lowers which part.

    `astarpo plan` has the same parts in bytes.
    """
    held = run.optimizer.microbatch_tokens
    lower = [f"optimizer.microbatch_tokens (now {held}) holds fewer activations"]
    if not run.policy.gradient_checkpointing:
        lower.append("policy.gradient_checkpointing=true keeps those of one layer")
    if run.optimizer.name == "adamw":
        lower.append("optimizer.name=adamw_8bit shrinks the optimiser's state")
    if not run.policy.lora.rank:
        lower.append("policy.lora.rank=16 leaves gradients and state of an adapter alone")
    if run.policy.dtype == "float32":
        lower.append("policy.dtype=bfloat16 halves the weights")
    return (
        f"update {update + 1} ran out of GPU memory while it learned; the last checkpoint is intact, so lower one of "
        f"these and resume: {'; '.join(lower)}."
    )


NOT_TRAINING = frozenset({"evaluation on test", "evaluation on dev"})

TABLE = frozenset({FILE, f"{FILE}-wal", f"{FILE}-shm"})
"""What `measure_values` leaves; the last two only after a kill."""


def train(run: Run, out: Path, *, watch: Watch | None = None) -> Result:
    """Train from the start.

    Args:
        run: all settings.
        out: the run folder; made here, or holding nothing but the plays of `measure_values`, which are taken over.
        watch: told of progress.

    Raises:
        RunError: `out` holds something already, or cannot be written.
        AstarpoError: settings, data or environment are not fit to train on; nothing was trained.
    """
    new = [folder for folder in (out, *out.parents) if not folder.exists()]
    there = {path.name for path in _made(out).iterdir()}
    if there - TABLE or (there and not plays_reference(run)):
        kind = "a run already: resume it with --resume" if is_run(out) else "files already: choose another --out"
        raise RunError(f"{out} holds {kind}.")
    write_atomically(out / "settings.yaml", yaml.safe_dump(run.dump(), sort_keys=False).encode())
    mark_run(out)
    with ExitStack() as stack:
        try:
            trainer = stack.enter_context(closing(Trainer(run, out, watch or Watch())))
            trainer.preflight()
        except AstarpoError:
            # Nothing was played for keeps: the folder is free for the next attempt, with what was in it before.
            stack.close()
            _clear(out, but=there, new=new)
            raise
        trainer.watch.note(f"run folder: {out}")
        return trainer.start()


def resume(out: Path, *, updates: int | None = None, watch: Watch | None = None) -> Result:
    """Go on where the newest checkpoint of `out` stands, bit-identically to a run that never stopped (on CPU).

    Args:
        out: the run folder.
        updates: train up to this many updates instead of what the run was set to; not fewer than it has done.
        watch: told of progress.

    Raises:
        RunError: `out` is no run, is of another version, or has no complete checkpoint after the first update.
    """
    run = load_run(out)
    if updates is not None:
        run = Run.build(run.dump() | {"updates": updates})
        done = max((int(line["update"]) for line in read_metrics(out)), default=0)
        if updates < done:
            raise RunError(f"the run in {out} has done {done} updates, so it cannot be trained to {updates}.")
        write_atomically(out / "settings.yaml", yaml.safe_dump(run.dump(), sort_keys=False).encode())
    with closing(Trainer(run, out, watch or Watch())) as trainer:
        return trainer.resume()


def load_run(folder: Path) -> Run:
    """The settings of a run folder. Raises RunError where it is no run of this version."""
    check_version(folder)
    try:
        return Run.build(dict(yaml.safe_load((folder / "settings.yaml").read_text("utf-8"))))
    except (OSError, ValueError, TypeError, yaml.YAMLError) as error:
        raise RunError(f"{folder}/settings.yaml cannot be read: the folder is damaged.") from error


def measure_values(run: Run, out: Path, *, watch: Watch | None = None) -> ValueSummary:
    """Stage 1 alone: reference plays into `out`/values.sqlite; goes on where an earlier call stopped.

    No algorithm is asked whether it uses V*. `train` into a folder that holds this table alone goes on with its plays.

    Raises:
        RunError: `out` cannot be written, or its table is of something else.
        AstarpoError: settings, data or environment are not fit to play.
    """
    watch, world = watch or Watch(), environment(run)
    pools = Pools(run, world)
    pools.unreachable = frozenset(preflight.unreachable(world, pools.levels, tell=watch.note))
    reference = load_policy(run.policy, run.environment.name)
    with closing(open_backend(run)) as backend, ExitStack() as stack:
        stage = StageOne(
            run,
            _made(out),
            reference=reference,
            backend=backend,
            environment=world,
            pools=pools,
            watch=watch,
            note=watch.note,
        )
        stack.enter_context(closing(stage))
        if stage.mismatch:
            watch.warn(stage.mismatch)
        return stage.measure()


def _made(out: Path) -> Path:
    """The folder `out`, made where it was not there. Raises RunError where it cannot be."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot make the folder {out}: {error.strerror}; choose another --out.") from error
    return out


def _clear(folder: Path, but: Container[str], new: Sequence[Path]) -> None:
    """Remove what is in `folder` except the names in `but`, then those of the folders `new` that are empty."""
    for path in folder.iterdir():
        if path.name not in but:
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    with suppress(OSError):
        for empty in (folder, *new):
            if empty.exists():
                empty.rmdir()
