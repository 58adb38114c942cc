"""LoRA through peft: attach an adapter, read one from a folder, say what is wrong with it, merge it.

The adapter's weights are float32 whatever the model's precision: they are what the optimiser moves. All else is frozen,
so that a reference policy shares it and costs no second copy.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging as transformers_logging

from astarpo.errors import DataError, SettingsError

CONFIG = "adapter_config.json"
"""What makes a folder that of an adapter."""

BASE = "astarpo_base.json"
"""Beside an adapter: the print of the model that it was trained on."""


def require_peft() -> None:
    """Raises SettingsError where peft is not installed."""
    try:
        import peft  # noqa: F401
    except ImportError as error:
        raise SettingsError(
            "a LoRA adapter needs the package peft, which is not installed: pip install 'astarpo[lora]'."
        ) from error


def attach(model: Any, *, rank: int, alpha: float, target_modules: Sequence[str]) -> None:
    """Give `model` a fresh adapter, which changes nothing until it learns, and freeze all else.

    Args:
        model: a transformers model.
        rank: of the two factors.
        alpha: their product is scaled by alpha / rank.
        target_modules: names of the layers that get one, or all-linear for every linear layer but the head.

    Raises:
        SettingsError: peft is not installed, or the model lacks one of these layers.
    """
    require_peft()
    from peft import LoraConfig

    names: str | list[str] = "all-linear" if "all-linear" in target_modules else list(target_modules)
    # peft is content with one that there is, and leaves out the others without a word.
    there = {name for name, _ in model.named_modules()}
    wanted = (one for one in target_modules if one != "all-linear")
    lacking = [one for one in wanted if not any(name == one or name.endswith(f".{one}") for name in there)]
    if lacking:
        linear = sorted({name.rpartition(".")[2] for name, part in model.named_modules() if hasattr(part, "weight")})
        raise SettingsError(
            f"policy.lora.target_modules names {', '.join(lacking)}, of which this model has none: its layers "
            f"are {', '.join(linear)}; name some of those, or all-linear."
        )
    try:
        # Always the same: a resumed run finds the reference that it had, by its fingerprint.
        with torch.random.fork_rng():
            torch.manual_seed(0)
            whole: Any = {"r": rank, "lora_alpha": alpha, "target_modules": names, "task_type": "CAUSAL_LM"}
            model.add_adapter(LoraConfig(**whole))
    except ValueError as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise SettingsError(
            f"policy.lora.target_modules {', '.join(target_modules)} cannot all carry an adapter: {first}; name linear "
            "layers, or all-linear."
        ) from error
    only_adapter_learns(model)


def in_short(error: Exception) -> str:
    """What a library says of files that it cannot read: its first line, where that is about them."""
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    # transformers then speaks of an argument of its own and of a table above it.
    return "tensors have other shapes than the model's" if "ignore_mismatched_sizes" in first else first.rstrip(".")


def read(folder: Path, model: Any) -> None:
    """Put the adapter in `folder` on `model`, its base; it goes on learning.

    Raises:
        SettingsError: peft is not installed.
        DataError: it is no LoRA, it was trained on another model, or its files cannot be read.
    """
    require_peft()
    kind = _said(folder, "peft_type")
    if kind != "LORA":
        raise DataError(f"the adapter {folder} is of the kind {kind} and only LoRA's learn here: name one of those.")
    renaming = getattr(model, "_weight_conversions", None)
    try:
        if not fits(folder, model):
            raise DataError(
                f"the adapter {folder} was trained on another model than {model.name_or_path or 'this one'} is now: "
                "name the model that it was trained on."
            )
        with _quiet():
            found = model.load_adapter(str(folder), is_trainable=True)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise DataError(
            f"the adapter {folder} does not fit the model {model.name_or_path}: {in_short(error)}; it was trained on "
            "another base, or its files are damaged."
        ) from error
    # transformers notes how it renamed the adapter's tensors, and would so rename the base's too when they are saved.
    vars(model).pop("_weight_conversions", None)
    if renaming is not None:
        model._weight_conversions = renaming
    lost = sorted({*found.missing_keys, *found.unexpected_keys})
    if lost:
        raise DataError(
            f"the adapter {folder} does not fit the model {model.name_or_path}: {len(lost)} of its tensors have no "
            f"place there or are missing, such as {lost[0]!r}; it was trained on another base."
        )
    only_adapter_learns(model)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' table of tensors that did not fit: what it says, an error of ours says in one sentence."""
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)


def only_adapter_learns(model: Any) -> None:
    """Freeze everything but the adapter, and hold that in float32."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name)
        if "lora_" in name:
            parameter.data = parameter.data.float()


def saved_name(parameter: str) -> str:
    """How peft calls the adapter's parameter of that name in a file."""
    return "base_model.model." + parameter.replace(".default", "")


def has_adapter(model: Any) -> bool:
    """Whether `model` carries an adapter."""
    return bool(getattr(model, "_hf_peft_config_loaded", False))


def base_of(folder: Path) -> str:
    """The model that the adapter in `folder` names as its base.

    Raises:
        DataError: its adapter_config.json cannot be read or names none.
    """
    name = _said(folder, "base_model_name_or_path")
    if not name:
        raise DataError(f"{folder / CONFIG} names no base model: write it as base_model_name_or_path.")
    return str(name)


def _said(folder: Path, name: str) -> Any:
    """An entry of the adapter_config.json in `folder`. Raises DataError where there is none."""
    try:
        return json.loads((folder / CONFIG).read_text("utf-8"))[name]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder / CONFIG} cannot be read: the adapter is damaged.") from error


def base_print(model: Any) -> str:
    """A quick print of the frozen weights: names, shapes and the first numbers of each tensor."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if "lora_" in name:
            continue
        digest.update(f"{name.replace('.base_layer', '')}{list(tensor.shape)}".encode())
        digest.update(tensor.detach().flatten()[:64].float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def fits(folder: Path, model: Any) -> bool:
    """Whether the adapter in `folder` was trained on `model`; true where nobody left a print."""
    path = folder / BASE
    return not path.exists() or json.loads(path.read_text("utf-8"))["print"] == base_print(model)


def stamp(model: Any, folder: Path) -> None:
    """Leave the print of `model` without its adapter in `folder`, for `read` to compare."""
    (folder / BASE).write_text(json.dumps({"print": base_print(model)}) + "\n", "utf-8")


@torch.no_grad()
def merged(model: Any) -> Any:
    """A copy of `model` with its adapter added into the weights; a copy alone where it has none."""
    if not has_adapter(model):
        return copy.deepcopy(model)
    from peft.tuners.tuners_utils import BaseTunerLayer

    whole = copy.deepcopy(model)
    for name, part in list(whole.named_modules()):
        if isinstance(part, BaseTunerLayer):
            part.merge()
            parent, _, own = name.rpartition(".")
            setattr(whole.get_submodule(parent), own, part.get_base_layer())
    whole._hf_peft_config_loaded = False
    vars(whole).pop("peft_config", None)
    return whole.requires_grad_(True)
