"""`astarpo export`: a run's policy as a folder that transformers, vLLM and the hub read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from astarpo.cli.common import JsonOption, emit


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="A new folder for the model.")],
    merge: Annotated[bool, typer.Option("--merge", help="A whole model, its adapter added in; the default.")] = False,
    adapter: Annotated[bool, typer.Option("--adapter", help="The adapter alone, of a run with policy.lora.")] = False,
    checkpoint: Annotated[str, typer.Option(metavar="WHICH", help="last, or best on dev.")] = "last",
    push: Annotated[
        str | None, typer.Option(metavar="NAME", help="Also upload it to the Hugging Face hub under this name.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Export a run's policy as a Hugging Face model folder, or its adapter by itself."""
    if merge and adapter:
        raise typer.BadParameter("--merge and --adapter exclude each other: choose one.")
    if checkpoint not in ("last", "best"):
        raise typer.BadParameter(f"{checkpoint!r} is not a checkpoint: choose last or best.")
    from astarpo import export as exporting
    from astarpo.cli.display import watching

    with watching(quiet_stdout=json) as watch:
        watch.note(f"exporting {checkpoint} of {run}")
        found = exporting.export(run, out, form="adapter" if adapter else "merged", checkpoint=checkpoint)
        where = exporting.push(out, push) if push else ""
    if json:
        emit(
            {
                "folder": str(found.folder),
                "form": found.form,
                "checkpoint": str(found.checkpoint),
                "base": found.base,
                "files": found.files,
                "pushed": where,
            }
        )
        return
    from rich.console import Console

    over = f", to be laid over {found.base}" if found.base else ""
    size = sum(found.files.values()) / 2**20
    Console(soft_wrap=True).print(f"{found.folder}: {found.form} of {found.checkpoint}{over}, {size:.1f} MiB")
    if where:
        Console(soft_wrap=True).print(f"pushed to {where}")
