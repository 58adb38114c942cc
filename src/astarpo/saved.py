"""Training from saved episodes: those of another run, or a folder of its files. No task is played to learn from it.

Token ids, their log-probs and the temperature are taken as they were saved; nothing is encoded again. Rewards are found
anew from the saved steps, so that any reward mode of the environment can be learned from.

A part is `group_size` attempts at one task that one file holds, so that what is compared was played by one policy. An
epoch goes through every part once, in an order of its own. What an update learns from depends on the seed and its
number alone: a resumed run draws what the uninterrupted one would have.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from astarpo.checkpoint import check_version, is_run
from astarpo.collate import stretches
from astarpo.curriculum.base import generator
from astarpo.environments.base import Environment, EnvironmentSettings
from astarpo.environments.rewards import RewardMode
from astarpo.errors import AstarpoError, DataError, EnvironmentContractError, RunError
from astarpo.journal import read_episodes, write_atomically
from astarpo.policy.huggingface import HuggingFacePolicy
from astarpo.rollout import rewarded, shortened
from astarpo.run import RolloutSettings, Run, load_file
from astarpo.types import Episode
from astarpo.value_store import PlayStore
from astarpo.value_table import ValueTable

FILE = "saved.json"
"""In the folder of a run: the saved episodes it learns from, by their digest."""

CHECKED = 1000
"""Episodes whose words are compared with the environment and the tokenizer, evenly spread over all."""


@dataclass(frozen=True)
class Part:
    """Attempts at one task that are learned from together.

    Attributes:
        task: its id.
        temperature: that sampled all of them.
        episodes: as many as `algorithm.group_size`.
    """

    task: str
    temperature: float
    episodes: tuple[Episode, ...]


class Draw:
    """Parts in batches of `size` different tasks and one temperature, epoch after epoch.

    Parts come in an order drawn anew each epoch, and each goes to the first batch under way that lacks its task. What
    has not filled a batch when an epoch ends is passed over in it.

    Args:
        parts: at least `size` tasks at each temperature.
        size: parts in a batch.
        seed: of the run.
    """

    def __init__(self, parts: Sequence[Part], size: int, seed: int) -> None:
        self._parts, self._size, self._seed = parts, size, seed
        self._epochs = 0
        self._full: list[tuple[float, list[int]]] = []

    def batch(self, update: int) -> list[Part]:
        """What `update` (from 0) learns from."""
        return [self._parts[number] for number in self.numbers(update)]

    def numbers(self, update: int) -> list[int]:
        """Which of the parts those are."""
        return self._batch(update)[1]

    def epoch(self, update: int) -> float:
        """Epochs gone through once `update` (from 0) has learned."""
        return self._batch(update)[0]

    def _batch(self, update: int) -> tuple[float, list[int]]:
        while len(self._full) <= update:
            self._go_through()
        return self._full[update]

    def _go_through(self) -> None:
        """One epoch. Where every temperature has `size` tasks, it fills a batch at least."""
        batches: dict[float, list[list[int]]] = {}
        # No batch before these takes a part: of that temperature, since they are full; of that task, since it is there.
        not_full: dict[float, int] = {}
        without: dict[tuple[float, str], int] = {}
        order = generator(self._seed, "saved", self._epochs).permutation(len(self._parts))
        for passed, number in enumerate(map(int, order), start=1):
            warm, task = self._parts[number].temperature, self._parts[number].task
            there = batches.setdefault(warm, [])
            place = max(not_full.get(warm, 0), without.get((warm, task), 0))
            while place < len(there) and len(there[place]) == self._size:
                place += 1
            if place == len(there):
                there.append([])
            there[place].append(number)
            without[warm, task] = place + 1
            if len(there[place]) == self._size:
                self._full.append((self._epochs + passed / len(order), there[place]))
                while not_full.get(warm, 0) < len(there) and len(there[not_full.get(warm, 0)]) == self._size:
                    not_full[warm] = not_full.get(warm, 0) + 1
        self._epochs += 1


class Saved:
    """The saved episodes that a run learns from.

    Args:
        run: its settings; `run.episodes` says where they are.
        environment: whose tasks they must be.
        policy: whose tokens they must be.
        reward: mode that turns their steps into training rewards.

    Raises:
        RunError: there are none, they are damaged, or too few for one update.
        DataError: they are of another environment or tokenizer, of held-out tasks, or longer than the model reads.
        EnvironmentContractError: the reward mode does not take them.
    """

    def __init__(
        self,
        run: Run,
        *,
        environment: Environment[EnvironmentSettings],
        policy: HuggingFacePolicy,
        reward: RewardMode,
    ) -> None:
        assert run.episodes is not None
        self.source = Path(run.episodes)
        self._run = run
        files = episode_files(self.source)
        _same_environment(self.source, run.environment.name)
        self.digest = _digest(files)
        self._shared: dict[int, int] = {}
        per_file = [[self._compact(episode) for episode in read_episodes(path)] for path in files]
        every = [episode for episodes in per_file for episode in episodes]
        self.episodes, self.files = len(every), len(files)
        _sound(self.source, every)
        _readable(self.source, every, policy)
        _of_this_world(self.source, every, environment, policy)
        self.parts, self.left_over = self._cut(per_file, environment.settings.name, reward)
        self._draw = self._drawn()

    def batch(self, update: int) -> list[list[Episode]]:
        """Attempts task by task that `update` (from 0) learns from, all of one temperature."""
        return [list(part.episodes) for part in self._draw.batch(update)]

    def numbers(self, update: int) -> list[int]:
        """Which of `parts` `update` (from 0) learns from, in the order of `batch`."""
        return self._draw.numbers(update)

    def metrics(self, update: int) -> dict[str, float]:
        """Epochs gone through once `update` (from 0) has learned."""
        return {"saved/epoch": self._draw.epoch(update)}

    @property
    def tasks(self) -> list[str]:
        """Tasks that are learned from, each once."""
        return list(dict.fromkeys(part.task for part in self.parts))

    def only(self, tasks: Collection[str]) -> None:
        """Learn from these tasks alone. Raises RunError where too few are left for an update."""
        self.parts = [part for part in self.parts if part.task in tasks]
        self._draw = self._drawn()

    def report(self) -> str:
        """What there is, in a sentence."""
        size, each = self._run.rollout.tasks_per_update, self._run.algorithm.group_size
        said = (
            f"{self.episodes:,} saved episodes in {self.files:,} files of {self.source}: {len(self.parts):,} times "
            f"{each} attempts at one of {len(self.tasks):,} tasks, {size} of them an update, so that an epoch is "
            f"{len(self.parts) / size:.1f} updates."
        )
        if self.left_over:
            said += f" {self.left_over:,} episodes are left out: with fewer than {each} to a task in a file."
        return said

    def keep(self, folder: Path) -> None:
        """Write down what the run in `folder` learns from, or see that it is what it began with.

        Raises:
            RunError: it is not, or the file is damaged or cannot be written.
        """
        path = folder / FILE
        plain = {"source": str(self.source), "files": self.files, "episodes": self.episodes, "sha256": self.digest}
        if not path.exists():
            write_atomically(path, (json.dumps(plain, indent=1) + "\n").encode())
            return
        try:
            began = json.loads(path.read_text("utf-8"))["sha256"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunError(
                f"{path}, which saved episodes the run learns from, is damaged: put it back, or start the run anew."
            ) from error
        if began != self.digest:
            raise RunError(
                f"the episodes in {self.source} are not those that the run in {folder} began with, so it would not go "
                "on as it was: put them back, or start a new run."
            )

    def _compact(self, episode: Episode) -> Episode:
        """The same episode with equal numbers and texts kept once for all."""
        share = self._shared.setdefault
        turns = tuple(
            replace(
                turn,
                observation=sys.intern(turn.observation),
                observation_ids=tuple(share(i, i) for i in turn.observation_ids),
                reply=turn.reply._replace(ids=tuple(share(i, i) for i in turn.reply.ids)),
            )
            for turn in episode.turns
        )
        return replace(episode, turns=turns)

    def _cut(
        self, per_file: Sequence[Sequence[Episode]], environment: str, reward: RewardMode
    ) -> tuple[list[Part], int]:
        """Parts in the order of the files, and how many episodes are in none."""
        size, parts, left, most = self._run.algorithm.group_size, list[Part](), 0, 0
        for episodes in per_file:
            groups: dict[tuple[str, float, int], list[Episode]] = {}
            for episode in episodes:
                groups.setdefault((episode.task, episode.temperature, episode.policy_version), []).append(episode)
            for (task, temperature, _), group in groups.items():
                most = max(most, len(group))
                whole = len(group) - len(group) % size
                left += len(group) - whole
                rewarded = [_rewarded(one, environment, reward, self._run.rollout) for one in group[:whole]]
                parts += [
                    Part(task, temperature, tuple(rewarded[first : first + size])) for first in range(0, whole, size)
                ]
        if not parts:
            raise RunError(
                f"{self.source} has at most {most} attempts of one policy at one task in a file, and "
                f"algorithm.group_size is {size}: lower it, or choose episodes with larger groups."
            )
        return parts, left

    def _drawn(self) -> Draw:
        size = self._run.rollout.tasks_per_update
        there: dict[float, set[str]] = {}
        for part in self.parts:
            there.setdefault(part.temperature, set()).add(part.task)
        temperature, tasks = min(there.items(), key=lambda one: len(one[1]), default=(1.0, set[str]()))
        if len(tasks) < size:
            raise RunError(
                f"an update learns from rollout.tasks_per_update = {size} tasks sampled at one temperature and "
                f"{self.source} has {len(tasks)} that can be learned from at {temperature:g}: lower it."
            )
        return Draw(self.parts, size, self._run.seed)


def episode_files(source: Path) -> list[Path]:
    """The files of saved episodes in `source`, a run or a folder of them, in the order they were written.

    Raises:
        RunError: it is neither, it is a run of another version, or holds none.
    """
    if not source.is_dir():
        raise RunError(
            f"--episodes {source} is no folder: name a run, or a folder of episode files such as RUN/episodes."
        )
    if is_run(source):
        check_version(source)
        found = sorted((source / "episodes").glob("*.jsonl.gz"))
        if not found:
            why = "it learned from saved episodes itself" if (source / FILE).exists() else "none were kept"
            raise RunError(f"the run {source} holds no episodes ({why}): name one that played its own.")
        return found
    found = sorted(source.glob("*.jsonl.gz"))
    if not found:
        raise RunError(
            f"--episodes {source} is neither a run nor a folder of episode files (*.jsonl.gz): name one, for example "
            "runs/FIRST or runs/FIRST/episodes."
        )
    return found


def take_values(source: Path, folder: Path, name: str) -> None:
    """Copy the reference plays of the run `source` to `folder`, unless it has some already.

    Args:
        source: a run, or a folder of episode files.
        folder: of the new run.
        name: of the file.

    Raises:
        RunError: there are none, or they cannot be copied.
    """
    if (folder / name).exists():
        return
    homes = [home for home in (source, source.parent) if (home / name).exists()]
    if not homes:
        raise RunError(
            f"V* of each task is needed and {source} holds no {name}: choose a baseline without V*, name a run that "
            "trained with V*, or play the reference first with `astarpo values ENV --out DIR` and train with --out DIR."
        )
    store = PlayStore(homes[0] / name)
    try:
        store.backup(folder / name)
    finally:
        store.close()


def with_values(saved: Saved, table: ValueTable) -> str | None:
    """Leave out saved tasks whose V* is unknown or that the table's filters drop; a sentence where there are any.

    Raises:
        RunError: none has a V*, or too few are left.
    """
    tasks = saved.tasks
    missing = set(table.tasks_missing(tasks))
    known = [task for task in tasks if task not in missing]
    if not known:
        try:
            table.value(tasks[0])
        except RunError as error:
            raise RunError(
                f"{error} Plays count where the model, the environment's settings, both token limits, the reward and "
                "the temperature are those of the run that played them."
            ) from None
    kept = set(table.filtered_ids(known))
    if len(kept) == len(tasks):
        return None
    saved.only(kept)
    return (
        f"{len(tasks) - len(kept):,} of {len(tasks):,} saved tasks are left out: {len(missing):,} have no reference "
        f"play, {len(known) - len(kept):,} are dropped by the value filters."
    )


def _same_environment(source: Path, wanted: str) -> None:
    for home in (source, source.parent):
        if is_run(home):
            section = load_file(home / "settings.yaml").get("environment", {})
            name = section.get("name") if isinstance(section, Mapping) else section
            if name != wanted:
                raise DataError(
                    f"the episodes in {source} are of {name!r} and this run trains on {wanted!r}: name the same "
                    "environment."
                )
            return


def _digest(files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.name.encode())
        try:
            digest.update(hashlib.sha256(path.read_bytes()).digest())
        except OSError as error:
            raise RunError(f"cannot read {path}: {error.strerror}.") from error
    return digest.hexdigest()


def _sound(source: Path, episodes: Sequence[Episode]) -> None:
    """Every said token has a log-prob, and a temperature that a policy can be scored at."""
    for episode in episodes:
        if not episode.temperature > 0:
            raise DataError(
                f"{source} holds an episode of task {episode.task!r} that was played greedily: what it said has no "
                "probability to learn from; name sampled episodes."
            )
        replies = [turn.reply for turn in episode.turns]
        if not replies or any(len(said.ids) != len(said.log_probs) for said in replies):
            raise DataError(
                f"{source} holds an episode of task {episode.task!r} without a log-prob for each token said: the file "
                "was changed after it was written."
            )
        if not all(math.isfinite(value) and value <= 1e-3 for said in replies for value in said.log_probs):
            raise DataError(
                f"{source} holds an episode of task {episode.task!r} with a log-prob that is none (0 nats or less): "
                "the file was changed after it was written."
            )


def _readable(source: Path, episodes: Sequence[Episode], policy: HuggingFacePolicy) -> None:
    """Every id is one of the model's, and nothing that is read in one piece is longer than it reads."""
    name = policy.name or "the model"
    context = getattr(policy.model.config.get_text_config(), "max_position_embeddings", None)
    for episode in episodes:
        for ids, _ in stretches(episode):
            if not 0 <= min(ids) <= max(ids) < policy.vocabulary:
                raise DataError(_other_tokens(source, f"token {max(ids)} where {name} has {policy.vocabulary}"))
            if context is not None and len(ids) > context:
                raise DataError(
                    f"{source} holds an episode of {len(ids)} tokens and {name} reads {context} at most: choose a "
                    "model with a longer context, or other episodes."
                )


def _of_this_world(
    source: Path,
    episodes: Sequence[Episode],
    environment: Environment[EnvironmentSettings],
    policy: HuggingFacePolicy,
) -> None:
    """The tasks are training tasks of this environment, told in its words and in the model's tokens."""
    name = environment.settings.name
    held_out = frozenset(environment.ids("dev")) | frozenset(environment.ids("test"))
    for episode in episodes:
        if episode.task in held_out:
            raise DataError(
                f"{source} holds an episode of {episode.task!r}, a held-out task of {name}: learned from, it could not "
                "judge what was learned; leave it out."
            )
    rules = environment.prompt() if policy.rules else ""
    started: dict[str, str] = {}
    for episode in episodes[:: max(1, len(episodes) // CHECKED)]:
        first = episode.turns[0]
        if episode.task not in started:
            started[episode.task] = _started(source, environment, episode.task)
        if started[episode.task] != first.observation:
            raise DataError(
                f"{source} tells task {episode.task!r} as {first.observation[:60]!r} and {name} as set up here tells "
                f"it as {started[episode.task][:60]!r}: these are episodes of another environment; give its settings."
            )
        if any(policy.chat.decode(turn.reply.ids) != turn.reply.text for turn in episode.turns):
            raise DataError(_other_tokens(source, f"replies that {policy.name or 'the model'} reads as other words"))
        if tuple(policy.chat.first(first.observation, rules)) != first.observation_ids:
            raise DataError(_other_tokens(source, "prompts that this run would write in other tokens"))


def _started(source: Path, environment: Environment[EnvironmentSettings], task: str) -> str:
    name = environment.settings.name
    try:
        return environment.task(task).start()
    except AstarpoError as error:
        raise DataError(
            f"{source} holds episodes of another environment than {name} as set up here: {error}"
        ) from error
    except Exception as error:
        raise EnvironmentContractError(
            f"{name} raised {type(error).__name__}: {error} when asked for task {task!r} of {source}: these are "
            "episodes of another environment, or its tasks are broken."
        ) from error


def _other_tokens(source: Path, what: str) -> str:
    return (
        f"the episodes in {source} hold {what}: they were played with another tokenizer, chat template or policy.rules "
        "and can be learned from under the same ones only; choose the policy.model that played them."
    )


def _rewarded(episode: Episode, environment: str, reward: RewardMode, rollout: RolloutSettings) -> Episode:
    """`episode` under the run's own reward mode and price of length."""
    turns = rewarded(episode.turns, episode.success, reward, task=episode.task, environment=environment)
    return shortened(replace(episode, turns=turns), rollout)
