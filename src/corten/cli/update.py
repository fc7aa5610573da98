"""`corten update`: limits and restart policy of containers that are there."""

from __future__ import annotations

import sys
from typing import Any

import click

from corten import errors
from corten.cli import values
from corten.cli.command import Command, Failure, daemon_error, operands
from corten.cli.options import HOST_FIELDS, make_option, restart_policy
from corten.cli.session import Session, pass_session

_FLAGS = (
    (("--blkio-weight",), "uint16", "Block IO (relative weight), between 10 and 1000"),
    (("--cpu-period",), "int", "Limit CPU CFS (Completely Fair Scheduler) period"),
    (("--cpu-quota",), "int", "Limit CPU CFS (Completely Fair Scheduler) quota"),
    (("--cpu-rt-period",), "int", "Limit the CPU real-time period in microseconds"),
    (("--cpu-rt-runtime",), "int", "Limit the CPU real-time runtime in microseconds"),
    (("-c", "--cpu-shares"), "int", "CPU shares (relative weight)"),
    (("--cpus",), "cpus", "Number of CPUs"),
    (("--cpuset-cpus",), "str", "CPUs in which to allow execution (0-3, 0,1)"),
    (("--cpuset-mems",), "str", "MEMs in which to allow execution (0-3, 0,1)"),
    (("-m", "--memory"), "size", "Memory limit"),
    (("--memory-reservation",), "size", "Memory soft limit"),
    (("--memory-swap",), "swap", "Swap limit equal to memory plus swap: '-1' to enable unlimited swap"),
    (("--pids-limit",), "int", "Tune container pids limit (set -1 for unlimited)"),
    (("--restart",), "str", "Restart policy to apply when a container exits"),
)


@click.command(
    "update",
    cls=Command,
    operands="[OPTIONS] CONTAINER [CONTAINER...]",
    at_least=1,
    help="Update configuration of one or more containers",
    params=[make_option(names, kind, text) for names, kind, text in _FLAGS],
)
@operands()
@pass_session
def update(session: Session, /, operands: tuple[str, ...], **given: Any) -> None:
    """Updates containers; warnings come after all of them."""
    if all(value is None for value in given.values()):
        raise Failure("you must provide one or more flags when using this command")
    body = _body(given)
    warnings: list[str] = []
    failed: list[str] = []
    for name in operands:
        try:
            answer = session.client.json("POST", f"/containers/{name}/update", body=body)
        except errors.CortenError as error:
            failed.append(daemon_error(error).message)
            continue
        print(name, flush=True)
        warnings += answer.get("Warnings") or []
    for line in warnings:
        print(line, file=sys.stderr)
    if failed:
        raise Failure("\n".join(failed))


def _body(given: dict[str, Any]) -> dict[str, Any]:
    """ContainerUpdate's.  Raises InvalidArgument in the words of Docker's CLI."""
    body: dict[str, Any] = {
        field: convert(given[name]) for field, name, convert in HOST_FIELDS if given.get(name) not in (None, "")
    }
    if given["cpus"]:
        body["NanoCpus"] = values.cpus(given["cpus"])
    if given["restart"]:
        body["RestartPolicy"] = restart_policy(given["restart"])
    return body
