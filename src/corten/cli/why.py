"""`corten why`: how a container's last run ended, who asked for it, and by what each claim is known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from corten.cli.command import Command, operands
from corten.cli.session import Session, pass_session
from corten.cli.table import align


@click.command(
    "why",
    cls=Command,
    operands="[OPTIONS] CONTAINER",
    at_least=1,
    at_most=1,
    help="Tell why a container ended, or did not start, with the evidence",
)
@click.option("--format", "form", default="", help="`json` for the recorded values")
@operands()
@pass_session
def why(session: Session, /, operands: tuple[str, ...], form: str) -> None:
    """Prints the verdict on the last run."""
    answer = session.client.json("GET", f"/containers/{operands[0]}/corten/why")
    if form == "json":
        import json

        print(json.dumps(answer))
        return
    print_answer(answer)


def print_answer(answer: Mapping[str, Any]) -> None:
    """The sentence first, then the claims, what is counted of a run that goes on, and the last lines of the log."""
    name, verdict = answer["Name"].removeprefix("/"), answer["Verdict"]
    if answer["Now"] is not None:
        print(f"{name}: {answer['Status']} since {answer['StartedAt']}")
        _print_counters(answer["Now"])
    elif "RemovedAt" in answer:
        print(f"{name}: removed at {answer['RemovedAt']}{'; it has never run' if verdict is None else ''}")
    elif verdict is None:
        print(f"{name}: {answer['Status']}; it has never run")
    if verdict is not None:
        before = "its last run: " if answer["Now"] is not None else ""
        print(f"{name}: {before}{printable(verdict['Sentence'])} ({verdict['At']})")
        print()
        rows = [[printable(one["Claim"]), printable(one["Evidence"])] for one in verdict.get("Claims", ())]
        align([["CLAIM", "EVIDENCE"], *rows])
    _print_lines(answer)


def _print_counters(now: Mapping[str, Any]) -> None:
    memory, processes = now["Memory"], now["Processes"]
    print(f"  killed for want of memory: {memory['OomKills']}{_of(memory, 'bytes')}")
    for one in memory["Victims"]:
        who = f"{printable(one['Name'])} (pid {one['Pid']}, uid {one['Uid']})"
        print(f"    {who}: kernel log, record {one['Sequence']}")
    print(f"  processes refused: {processes['Refused']}{_of(processes, '')}")
    for one in now.get("Calls", ()):
        which = f"{printable(one['Call'])} ({one['Number']}, arch {one['Arch']:#x}) {one['Action']}"
        print(f"  system call {which}: {one['Count']} in the kernel log, {one['First']} to {one['Last']}")


def _of(counted: Mapping[str, Any], unit: str) -> str:
    peak, limit = counted["Peak"], counted["Limit"]
    known = [f"peak {peak}"] if peak >= 0 else []
    if limit >= 0:
        known.append(f"limit {limit}")
    if known and unit:
        known[-1] += f" {unit}"
    return f" ({', '.join(known if limit >= 0 else [*known, 'no limit'])})"


def _print_lines(answer: Mapping[str, Any]) -> None:
    if answer["LogError"]:
        print(f"\nLAST LINES: {printable(answer['LogError'])}")
    elif answer["LastLines"]:
        print("\nLAST LINES")
        for line in answer["LastLines"]:
            print(f"  {printable(line)}")


def printable(text: str) -> str:
    """What a container or a process says of itself must not move the cursor."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "replace").decode() for c in text)
