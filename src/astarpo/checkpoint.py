"""Everything a run needs to go on exactly: weights, optimiser, curriculum, algorithm. Each is there whole or not."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, load_model, save_file, save_model

from astarpo.errors import RunError
from astarpo.journal import RUN_VERSION, write_atomically
from astarpo.optimizers import Together
from astarpo.policy import adapters
from astarpo.policy.huggingface import HuggingFacePolicy
from astarpo.value_table import ValueTable

FACTS = ("update", "curriculum", "algorithm", "best", "seconds", "optimizer")
"""What state.json of a checkpoint holds, beside the version."""

NAME = re.compile(r"(\.replaced-)?(\d+)")
"""Folders of checkpoints. One that is written again goes by the longer name until the new one has taken its place."""


@dataclass(frozen=True)
class Restored:
    """What a checkpoint held besides the weights and the optimiser, which are put back in place.

    Attributes:
        update: optimiser updates done.
        curriculum, algorithm: their states.
        best: dev success of the best checkpoint so far, and its update; -1 before the first evaluation on dev.
        seconds: training time before it.
        tracker: what was tracked of V*; empty where nothing is.
    """

    update: int
    curriculum: dict[str, Any]
    algorithm: dict[str, Any]
    best: tuple[float, int]
    seconds: float
    tracker: dict[str, Any] = field(default_factory=dict)


class Checkpoints:
    """The checkpoints of one run folder. The latest few and the best on dev are kept."""

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder = folder / "checkpoints"
        self.keep = keep
        self.folder.mkdir(parents=True, exist_ok=True)

    def save(
        self,
        policy: HuggingFacePolicy,
        optimizer: Together,
        state: Restored,
        values: ValueTable | None = None,
        sampler: HuggingFacePolicy | None = None,
    ) -> Path:
        """Write one checkpoint. It appears under its own name only when it is whole.

        `sampler` is who plays, where that is not the policy itself.

        Raises:
            RunError: it cannot be written; earlier checkpoints are untouched.
        """
        target = self.folder / f"{state.update:06d}"
        making = self.folder / f".making-{state.update:06d}"
        aside = self.folder / f".replaced-{state.update:06d}"
        try:
            shutil.rmtree(making, ignore_errors=True)
            making.mkdir()
            policy.model.save_pretrained(making)
            policy.tokenizer.save_pretrained(making)
            if adapters.has_adapter(policy.model):
                adapters.stamp(policy.model, making)
            tensors, plain = _flatten(optimizer.state_dict())
            save_file(tensors, making / "optimizer.safetensors")
            facts = {
                "version": RUN_VERSION,
                "update": state.update,
                "curriculum": state.curriculum,
                "algorithm": state.algorithm,
                "best": list(state.best),
                "seconds": state.seconds,
                "optimizer": plain,
            }
            assert set(facts) == {"version", *FACTS}
            if state.tracker:
                facts["tracker"] = state.tracker
            if values is not None:
                values.backup(making / "values.sqlite")
            if sampler is not None:
                save_model(sampler.model, str(making / "sampler.safetensors"))
            (making / "state.json").write_text(json.dumps(facts), "utf-8")
            if target.exists():
                # Killed between the two renames, a run goes on from the one put aside.
                shutil.rmtree(aside, ignore_errors=True)
                target.rename(aside)
            making.rename(target)
            shutil.rmtree(aside, ignore_errors=True)
        except Exception as error:  # the tokenizers library raises bare exceptions where a disk is full
            shutil.rmtree(making, ignore_errors=True)
            raise RunError(
                f"cannot write checkpoint {target}: {error}; make room, then go on with `train --resume`."
            ) from error
        self._thin_out(state.best)
        return target

    def latest(self) -> Path:
        """The newest checkpoint that is whole. Raises RunError where there is none."""
        found = self._found()
        if not found:
            raise RunError(f"{self.folder} holds no complete checkpoint: the run cannot be resumed; start it anew.")
        return found[max(found)]

    def exists(self) -> bool:
        """Whether there is a checkpoint that is whole."""
        return bool(self._found())

    def restore(
        self,
        policy: HuggingFacePolicy,
        optimizer: Together,
        values: ValueTable | None = None,
        sampler: HuggingFacePolicy | None = None,
    ) -> Restored:
        """Put weights, optimiser, value table and sampler of the newest checkpoint back, and return the rest.

        Raises:
            RunError: none is whole, or it was written by another version.
        """
        path = self.latest()
        facts = read_state(path)
        try:
            weights = load_file(_weights(path))
            tensors = load_file(path / "optimizer.safetensors")
            if sampler is not None:
                load_model(sampler.model, path / "sampler.safetensors")
        except (OSError, SafetensorError) as error:
            raise RunError(f"checkpoint {path} is damaged ({error}): delete that folder and resume again.") from error
        _put_back(policy.model, weights, path)
        try:
            optimizer.load_state_dict(_unflatten(tensors, facts["optimizer"]))
        except (ValueError, KeyError) as error:
            raise RunError(
                f"checkpoint {path} holds the state of another optimiser than this run has: resume with the "
                "optimizer and policy settings that wrote it."
            ) from error
        if values is not None:
            values.restore(path / "values.sqlite")
        policy.version = int(facts["update"])
        return Restored(
            update=int(facts["update"]),
            curriculum=facts["curriculum"],
            algorithm=facts["algorithm"],
            best=(float(facts["best"][0]), int(facts["best"][1])),
            seconds=float(facts["seconds"]),
            tracker=facts.get("tracker", {}),
        )

    def _found(self) -> dict[int, Path]:
        """Those that are whole, by update."""
        found: dict[int, Path] = {}
        for path in sorted(self.folder.glob("*")):
            # In this order one that was put aside gives way to the one in its place.
            if (named := NAME.fullmatch(path.name)) and _whole(path):
                found[int(named[2])] = path
        return found

    def _thin_out(self, best: tuple[float, int]) -> None:
        found, (success, update) = self._found(), best
        kept = {found[number] for number in sorted(found)[-self.keep :]}
        if success >= 0 and update in found:
            kept.add(found[update])
        for path in self.folder.glob("*"):
            # One that is damaged does not count as one that is kept.
            if NAME.fullmatch(path.name) and path not in kept:
                shutil.rmtree(path, ignore_errors=True)


def read_state(path: Path) -> dict[str, Any]:
    """state.json of a checkpoint. Raises RunError where it is unreadable, lacks something or is of another version."""
    try:
        facts: dict[str, Any] = json.loads((path / "state.json").read_text("utf-8"))
        version = facts["version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"checkpoint {path} has no readable state.json: delete that folder and resume again.") from error
    if version != RUN_VERSION:
        raise RunError(
            f"{path} was written by run version {version!r} and this is version {RUN_VERSION}: use the astarpo that "
            "wrote it."
        )
    missing = [name for name in FACTS if name not in facts]
    if missing:
        raise RunError(
            f"state.json of checkpoint {path} lacks {', '.join(missing)}: delete that folder and resume again."
        )
    return facts


def model_folder(run: Path, which: str = "last") -> Path:
    """The model of a run, as a folder that `load_policy` reads.

    Args:
        run: a run folder.
        which: "last", or "best" on dev.

    Raises:
        RunError: there is none, or the run is of another version, or none of its checkpoints is known to be the best.
    """
    check_version(run)
    checkpoints = Checkpoints.__new__(Checkpoints)
    checkpoints.folder, checkpoints.keep = run / "checkpoints", 1
    latest = checkpoints.latest()
    if which == "last":
        return latest
    success, update = read_state(latest)["best"]
    if success < 0:
        raise RunError(f"{run} was never evaluated on dev, so no checkpoint is its best there: take the last.")
    best = checkpoints._found().get(int(update))
    if best is None:
        raise RunError(
            f"{checkpoints.folder}/{int(update):06d}, the best checkpoint on dev, is gone or damaged: take the last."
        )
    return best


def mark_run(folder: Path) -> None:
    """Stamp a folder as a run of this version."""
    write_atomically(folder / "version.json", json.dumps({"version": RUN_VERSION}).encode())


def is_run(folder: Path) -> bool:
    """Whether `folder` holds a run of any version."""
    return (folder / "settings.yaml").exists() and (folder / "version.json").exists()


def check_version(folder: Path) -> None:
    """Raises RunError where `folder` is no run, or one of another version."""
    if not is_run(folder):
        raise RunError(f"{folder} is not a run: it holds no settings.yaml and version.json.")
    try:
        version = json.loads((folder / "version.json").read_text("utf-8"))["version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{folder}/version.json cannot be read: the folder is damaged.") from error
    if version != RUN_VERSION:
        raise RunError(
            f"{folder} is a run of version {version!r}, this is {RUN_VERSION}: use the astarpo that wrote it."
        )


def _put_back(model: Any, weights: dict[str, torch.Tensor], path: Path) -> None:
    """Load `weights` of the checkpoint `path`: all of the model, or its adapter alone."""
    if adapters.has_adapter(model):
        if not adapters.fits(path, model):
            raise RunError(
                f"the adapter of checkpoint {path} was trained on another model than {model.name_or_path} is now: put "
                "that model back and resume again."
            )
        own = {adapters.saved_name(name): name for name, p in model.named_parameters() if p.requires_grad}
        lacking, extra = set(own) - set(weights), set(weights) - set(own)
        weights = {own[name]: tensor for name, tensor in weights.items() if name in own}
        model.load_state_dict(weights, strict=False)
    else:
        found = model.load_state_dict(weights, strict=False)
        tied = set(getattr(model, "_tied_weights_keys", None) or {})
        lacking, extra = set(found.missing_keys) - tied, set(found.unexpected_keys)
    if lacking or extra:
        raise RunError(
            f"checkpoint {path} does not fit the model of this run: it lacks {len(lacking)} tensors and has "
            f"{len(extra)} others, such as {min(lacking | extra)!r}; resume with the policy settings that wrote it."
        )


def _weights(path: Path) -> Path:
    """The file of a checkpoint's weights, or of its adapter's."""
    whole = path / "model.safetensors"
    return whole if whole.exists() else path / "adapter_model.safetensors"


def _whole(path: Path) -> bool:
    return _weights(path).exists() and all((path / name).exists() for name in ("state.json", "optimizer.safetensors"))


def _flatten(state: dict[str, Any]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    tensors: dict[str, torch.Tensor] = {}
    plain: dict[str, Any] = {"groups": state["param_groups"], "scalars": {}}
    for index, entries in state["state"].items():
        for name, value in entries.items():
            if isinstance(value, torch.Tensor):
                tensors[f"{index}/{name}"] = value.contiguous()
            else:
                plain["scalars"][f"{index}/{name}"] = value
    # safetensors refuses an empty file; before the first update there is no state yet.
    return tensors or {"empty": torch.zeros(1)}, plain


def _unflatten(tensors: dict[str, torch.Tensor], plain: dict[str, Any]) -> dict[str, Any]:
    state: dict[int, dict[str, Any]] = {}
    for key, value in [*tensors.items(), *plain["scalars"].items()]:
        if key == "empty":
            continue
        index, name = key.split("/")
        state.setdefault(int(index), {})[name] = value
    return {"state": state, "param_groups": plain["groups"]}
