"""A run's policy as a folder that others read: a whole Hugging Face model, or its adapter by itself."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from huggingface_hub import HfApi

# HTTPError is of whichever HTTP library this version of the hub's client has.
from huggingface_hub.errors import (  # type: ignore[attr-defined]
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalTokenNotFoundError,
)

from astarpo.checkpoint import model_folder
from astarpo.errors import RunError, SettingsError
from astarpo.policy import adapters
from astarpo.policy.load import load_policy
from astarpo.trainer import load_run

Form = Literal["merged", "adapter"]


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        folder: where.
        form: merged, a whole model; adapter, to be laid over its base.
        checkpoint: the folder that it came from.
        base: what an adapter lies over; empty for a whole model.
        files: names and bytes.
    """

    folder: Path
    form: Form
    checkpoint: Path
    base: str
    files: dict[str, int]


def export(run: Path, out: Path, *, form: Form | None = None, checkpoint: str = "last") -> Exported:
    """Write the policy of the run folder `run` into the new folder `out`.

    Args:
        run: a run folder.
        out: made here; nothing is left of it where the export fails.
        form: merged or adapter; where not given, merged.
        checkpoint: last, or best on dev.

    Raises:
        RunError: there is no such checkpoint, or `out` is there already or cannot be written.
        SettingsError: an adapter was asked for and the run trained all weights, or its base is in four bits.
    """
    source, settings = model_folder(run, checkpoint), load_run(run)
    adapted = (source / adapters.CONFIG).is_file()
    if form == "adapter" and not adapted:
        raise SettingsError(
            f"{run} has no adapter to export, since it trained all weights (policy.lora.rank 0): export it merged."
        )
    if out.exists():
        raise RunError(f"{out} is there already: choose another --out, so that nothing is overwritten.")
    making = out.parent / f".making-{out.name}"
    shutil.rmtree(making, ignore_errors=True)
    try:
        making.mkdir(parents=True)
        if form == "adapter":
            for name in ("adapter_model.safetensors", adapters.CONFIG, adapters.BASE):
                shutil.copy2(source / name, making / name)
        else:
            # Merged in the precision of the run, and into whole weights where it learned over four bits.
            whole = {"model": str(source), "device": "cpu", "quantize": "none", "forward": "transformers"}
            plain = {"lora": type(settings.policy.lora)(), "gradient_checkpointing": False}
            policy = load_policy(settings.policy.model_copy(update=whole | plain), settings.environment.name)
            adapters.merged(policy.model).save_pretrained(making)
        _copy_tokenizer(source, making)
        making.rename(out)
    except OSError as error:
        raise RunError(f"cannot write {out}: {error.strerror or error}; make room, or choose another --out.") from error
    finally:
        shutil.rmtree(making, ignore_errors=True)
    files = {path.name: path.stat().st_size for path in sorted(out.iterdir())}
    base = adapters.base_of(source) if form == "adapter" else ""
    return Exported(out, form or "merged", source, base, files)


def push(folder: Path, name: str) -> str:
    """Upload an exported folder to the hub under `name`, made private where it is new; its address.

    Raises:
        SettingsError: no such name can be, nobody is logged in, or the hub refuses or cannot be reached.
    """
    api = HfApi()
    try:
        api.create_repo(name, private=True, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=folder)
    except (HFValidationError, LocalTokenNotFoundError, HfHubHTTPError, HTTPError, OSError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise SettingsError(
            f"cannot push to {name!r}: {first}; the folder {folder} is written, so log in with `hf auth login` and "
            "push it from there."
        ) from error
    return f"https://huggingface.co/{name}"


def _copy_tokenizer(source: Path, target: Path) -> None:
    """The tokenizer as it was written: reading and writing it again would change some."""
    of_checkpoint = {"state.json", "config.json", "generation_config.json", adapters.CONFIG, adapters.BASE}
    for path in source.iterdir():
        if path.suffix in {".json", ".jinja", ".model", ".txt"} and path.name not in of_checkpoint:
            shutil.copy2(path, target / path.name)
