"""`corten volume`: create, inspect (in `system`), ls, prune, rm, update."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import click

from corten import errors
from corten.cli.command import Command, Failure, confirmed, daemon_error, operands
from corten.cli.pruning import dry_query, dry_run_flag, write_pruned
from corten.cli.session import Session, pass_session
from corten.cli.table import FORMAT, filter_flag, filters, raw_template, write_rows
from corten.cli.units import human_size

Json = Mapping[str, Any]

_COLUMNS = (("Driver", "DRIVER"), ("Name", "VOLUME NAME"))
_HEADINGS = {
    **{"Scope": "SCOPE", "Mountpoint": "MOUNTPOINT", "Labels": "LABELS", "Links": "LINKS", "Size": "SIZE"},
    **{"Group": "GROUP", "Availability": "AVAILABILITY", "Status": "STATUS"},
}
_RAW = (("name", "Name"), ("driver", "Driver"))


@click.command("create", cls=Command, operands="[OPTIONS] [VOLUME]", at_most=1, help="Create a volume")
@click.option("-d", "--driver", default="local", help="Specify volume driver name")
@click.option("--label", multiple=True, help="Set metadata for a volume")
@click.option("--name", default="", hidden=True, help="Specify volume name")
@click.option("-o", "--opt", multiple=True, help="Set driver specific options")
@operands()
@pass_session
def create(
    session: Session, /, operands: tuple[str, ...], driver: str, label: tuple[str, ...], name: str, opt: tuple[str, ...]
) -> None:
    """Makes a volume and prints its name."""
    if name and operands:
        raise Failure("conflicting options: either specify --name or provide positional arg, not both")
    body = {
        "Name": operands[0] if operands else name,
        "Driver": driver,
        "DriverOpts": _map(opt),
        "Labels": _map(label) or None,
    }
    print(session.client.json("POST", "/volumes/create", body=body)["Name"])


def _map(words: Iterable[str]) -> dict[str, str]:
    """`name=value` words; without `=` the value is empty."""
    return dict(word.partition("=")[::2] for word in words)


@click.command("ls", cls=Command, operands="[OPTIONS]", at_most=0, help="List volumes")
@filter_flag("-f", "--filter")
@click.option("--format", "form", default="", help=FORMAT)
@click.option("-q", "--quiet", is_flag=True, help="Only display volume names")
@operands()
@pass_session
def ls(session: Session, /, operands: tuple[str, ...], filter_: tuple[str, ...], form: str, quiet: bool) -> None:
    """Lists volumes by name."""
    answer = session.client.json("GET", "/volumes", query={"filters": filters(filter_)})
    found = sorted(answer["Volumes"] or (), key=lambda one: natural(one["Name"]))
    if quiet and not form:
        for one in found:
            print(one["Name"])
        return
    if form == "raw":
        form = "name: {{.Name}}" if quiet else raw_template(_RAW)
    write_rows(map(volume_row, found), _COLUMNS, form=form, headings=_HEADINGS, kind="formatter.volumeContext")


def natural(name: str) -> list[tuple[int, int, str, int]]:
    """The key of Docker's order of names: numbers in them by value, digits before all else (Go's sortorder)."""
    parts = re.findall(r"[0-9]+|[^0-9]", name, re.DOTALL)
    return [
        (0, len(part.lstrip("0")), part.lstrip("0"), len(part)) if part.isdigit() else (1, ord(part), "", 0)
        for part in parts
    ]


def volume_row(one: Json) -> dict[str, Any]:
    """A volume with all its values as Docker writes them."""
    labels = one.get("Labels") or {}
    usage = one.get("UsageData")
    return {
        "Name": one["Name"],
        "Driver": one["Driver"],
        "Scope": one["Scope"],
        "Mountpoint": one["Mountpoint"],
        "Labels": ",".join(f"{key}={value}" for key, value in sorted(labels.items())),
        "Label": lambda name: labels.get(name, ""),
        "Links": str(usage["RefCount"]) if usage else "N/A",
        "Size": human_size(usage["Size"]) if usage else "N/A",
        **dict.fromkeys(("Group", "Availability", "Status"), "N/A"),
    }


@click.command(
    "rm", cls=Command, operands="[OPTIONS] VOLUME [VOLUME...]", at_least=1, help="Remove one or more volumes"
)
@click.option("-f", "--force", is_flag=True, help="Force the removal of one or more volumes")
@operands()
@pass_session
def rm(session: Session, /, operands: tuple[str, ...], force: bool) -> None:
    """Removes volumes."""
    failed = []
    for name in operands:
        try:
            session.client.json("DELETE", f"/volumes/{name}", query={"force": force})
            print(name)
        except errors.CortenError as error:
            failed.append(daemon_error(error).message)
    if failed:
        sys.stdout.flush()
        raise Failure("\n".join(failed))


@click.command("prune", cls=Command, operands="[OPTIONS]", at_most=0, help="Remove unused local volumes")
@click.option("-a", "--all", "all_", is_flag=True, help="Remove all unused volumes, not just anonymous ones")
@filter_flag("--filter")
@click.option("-f", "--force", is_flag=True, help="Do not prompt for confirmation")
@dry_run_flag
@operands()
@pass_session
def prune(
    session: Session, /, operands: tuple[str, ...], all_: bool, filter_: tuple[str, ...], force: bool, dry_run: bool
) -> None:
    """Removes volumes that no container has."""
    what = "all" if all_ else "anonymous"
    if all_ and any(one.partition("=")[0] == "all" for one in filter_):
        raise Failure("conflicting options: cannot specify both --all and --filter all=1")
    warning = f"This will remove {what} local volumes not used by at least one container."
    if not force and not dry_run and not confirmed(warning):
        return
    wanted = [*filter_, *(["all=1"] if all_ else [])]
    query = {"filters": filters(wanted), **dry_query(session.client, dry_run)}
    answer = session.client.json("POST", "/volumes/prune", query=query)
    write_pruned("Volumes", answer["VolumesDeleted"], answer["SpaceReclaimed"], dry_run)


@click.command("update", cls=Command, operands="[OPTIONS] VOLUME", at_least=1, at_most=1, help="Update a volume")
@click.option("--availability", default="active", help="Cluster Volume availability")
@operands()
@pass_session
def update(session: Session, /, operands: tuple[str, ...], availability: str) -> None:
    """Of cluster volumes alone: says so."""
    session.client.json("PUT", f"/volumes/{operands[0]}", query={"version": 0}, body={})
