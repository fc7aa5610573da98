"""`corten trace`: where the milliseconds of a start went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click

from corten.cli.command import Command, operands
from corten.cli.session import Session, pass_session
from corten.cli.table import align


@click.command(
    "trace",
    cls=Command,
    operands="[OPTIONS] CONTAINER",
    at_least=1,
    at_most=1,
    help="Show the recorded steps of a container's start with their times",
)
@click.option(
    "--order/--widest",
    "in_order",
    default=False,
    help="Steps in their order, or the widest first (the default)",
)
@click.option("-n", "--lines", type=int, default=0, help="Show only the first n steps")
@click.option("--format", "form", default="", help="`json` for the recorded values")
@operands()
@pass_session
def trace(session: Session, /, operands: tuple[str, ...], in_order: bool, lines: int, form: str) -> None:
    """Prints the trace of the last start."""
    answer = session.client.json("GET", f"/containers/{operands[0]}/corten/trace")
    if form == "json":
        import json

        print(json.dumps(answer))
        return
    print_trace(answer, in_order=in_order, lines=lines)


def print_trace(answer: Mapping[str, Any], *, in_order: bool, lines: int = 0) -> None:
    """Phases of the engine and shim first, then the launcher's steps."""
    _print_table("PHASE", answer.get("phases") or (), "name", in_order, 0)
    print()
    _print_table("STEP", answer.get("steps") or (), "op", in_order, lines)


def _print_table(title: str, rows: Sequence[Mapping[str, Any]], field: str, in_order: bool, lines: int) -> None:
    total = sum(row["duration_ns"] for row in rows) or 1
    ordered = list(rows) if in_order else sorted(rows, key=lambda row: -row["duration_ns"])
    cells = [["TIME", "SHARE", title]]
    for row in ordered[: lines or None]:
        number = f"{row['index']:>3}  " if "index" in row else ""
        cells.append(
            [
                f"{row['duration_ns'] / 1000:.0f} µs",
                f"{row['duration_ns'] * 100 / total:.1f} %",
                f"{number}{row[field]}",
            ]
        )
    align(cells)
    print(f"{total / 1e6:.2f} ms in {len(rows)} {title.lower()}s")
