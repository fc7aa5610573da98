"""`corten trace`: where the milliseconds of a start went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click

from corten.cli.command import Command, operands
from corten.cli.flags import Integer
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
@click.option("-n", "--lines", type=Integer(), default=0, help="Show only the first n steps")
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
    """Phases of engine and shim first (some lie within others), then the launcher's steps with their shares."""
    phases = _ordered(answer.get("phases") or (), in_order)
    align([["TIME", "PHASE"], *([_time(row), row["name"]] for row in phases)])
    print()
    steps = answer.get("steps") or ()
    total = sum(row["duration_ns"] for row in steps) or 1
    cells = [["TIME", "SHARE", "STEP"]]
    for row in _ordered(steps, in_order)[: lines or None]:
        cells.append([_time(row), f"{row['duration_ns'] * 100 / total:.1f} %", f"{row['index']:>3}  {row['op']}"])
    align(cells)
    print(f"{total / 1e6:.2f} ms in {len(steps)} steps")


def _ordered(rows: Sequence[Mapping[str, Any]], in_order: bool) -> list[Mapping[str, Any]]:
    return list(rows) if in_order else sorted(rows, key=lambda row: -row["duration_ns"])


def _time(row: Mapping[str, Any]) -> str:
    return f"{row['duration_ns'] / 1000:.0f} µs"
