"""`astarpo claims`: the claims of the original comparison, a preset of compare; resumable, and shared by processes."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from astarpo.cli.common import JsonOption, emit
from astarpo.errors import SettingsError

STOPPED, FAILED = 130, 1


def claims(
    only: Annotated[
        str | None, typer.Option(metavar="N,N,...", help="Claims by number. [default: all fourteen]")
    ] = None,
    arms: Annotated[
        str | None, typer.Option(metavar="A,B,...", help="Only runs of arms whose names begin so: webshop/, for one.")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(metavar="N", help="At most N seeds of each arm. [default: as the claim says]")
    ] = None,
    workers: Annotated[int, typer.Option(metavar="N", help="Processes side by side.")] = 1,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where runs and their records go.")] = Path("runs/claims"),
    data: Annotated[
        Path, typer.Option(metavar="DIR", help="Where claims.md is, and claims/claims.jsonl, its data.")
    ] = Path("docs"),
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Train nothing; take over finished records and write claims.md again.")
    ] = False,
    adopt: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Take finished runs PRESET.SEED in DIR for those of 300 updates."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Put the claims of docs/claims.md to the test.

    The same command goes on where it was stopped, and several at one --out share the work. Everything takes hours on
    two cores; --only and --arms take a part. --rebuild then writes the page.
    """
    if workers < 1:
        raise SettingsError(f"--workers must be 1 or more, got {workers}.")
    if seeds is not None and seeds < 1:
        raise SettingsError(f"--seeds must be 1 or more, got {seeds}: 3 to 5 make an interval.")
    numbers = _numbers(only)
    from astarpo.compare.claims.definitions import book as shipped

    book = shipped().only(numbers)
    begins = tuple(name.strip() for name in (arms or "").split(",") if name.strip())
    for name in begins:
        if not any(known.startswith(name) for known in (*book.arms, *book.ratios)):
            raise SettingsError(f"--arms: no arm's name begins with {name!r}: known: {', '.join(book.arms)}.")
    from astarpo.compare.claims import adopted, page, work

    if adopt is not None:
        taken = adopted.adopt(book, adopt, out)
        typer.echo(f"{len(taken)} runs of {adopt} taken over", err=True)
    failures: dict[str, str] = {}
    if rebuild:
        if numbers:
            raise SettingsError("--rebuild writes the page of all claims: leave --only out.")
        page.rebuild(book, out, data)
    elif adopt is None:
        failures = _work(book, out, workers, seeds, begins, only, json)
    records = {**page.read_data(data / "claims" / page.DATA), **work.read_folder(out)}
    _, found = page.judged(book, records)
    plain = [page.plain(one) for one in found]
    if json:
        emit({"claims": plain, "failures": failures, "folder": str(out)})
    else:
        _show(plain, failures)
    if failures:
        raise typer.Exit(FAILED)


def _numbers(only: str | None) -> tuple[int, ...]:
    try:
        return tuple(int(one) for one in (only or "").split(",") if one.strip())
    except ValueError:
        raise SettingsError(f"--only takes numbers of claims, such as 1,5, got {only!r}.") from None


def _work(
    book: Any, out: Path, workers: int, seeds: int | None, begins: tuple[str, ...], only: str | None, json: bool
) -> dict[str, str]:
    from astarpo.cli.display import watching
    from astarpo.compare.claims import work

    def stop(_number: int, _frame: Any) -> None:
        raise KeyboardInterrupt

    # Ended by a system that shuts down, say, it stops its workers as on Ctrl-C and does not leave them behind.
    before = signal.signal(signal.SIGTERM, stop)
    try:
        with watching(quiet_stdout=json) as watch:
            if workers == 1:
                return work.work(book, out, watch=watch, seeds=seeds, only=begins)
            said = [] if only is None else ["--only", only]
            said += ["--arms", ",".join(begins)] if begins else []
            said += ["--seeds", str(seeds)] if seeds is not None else []
            return work.share_out(out, workers, said, watch=watch, book=book, seeds=seeds, only=begins)
    except KeyboardInterrupt:
        typer.echo(f"stopped; every run is kept. Go on with the same command and --out {out}", err=True)
        raise typer.Exit(STOPPED) from None
    finally:
        signal.signal(signal.SIGTERM, before)


def _show(found: list[dict[str, Any]], failures: Mapping[str, str]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("", justify="right")
    for name in ("claim", "verdict", "predictions that decide"):
        table.add_column(name)
    colours = {"supported": "green", "refuted": "red", "undecided": "yellow"}
    for one in found:
        verdict = one["verdict"]
        table.add_row(str(one["number"]), one["title"], f"[{colours[verdict]}]{verdict}[/]", one["counts"])
    console.print(table)
    for name, why in failures.items():
        console.print(f"{name} failed: {why}", style="red", markup=False, highlight=False)
