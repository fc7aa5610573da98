"""`corten ps`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import click

from corten.cli.command import Command, operands
from corten.cli.flags import Integer, quoted
from corten.cli.session import Session, pass_session
from corten.cli.table import FORMAT, ellipsis, filter_flag, filters, raw_template, write_rows
from corten.cli.units import ago, human_size

_COLUMNS = (
    ("ID", "CONTAINER ID"),
    ("Image", "IMAGE"),
    ("Command", "COMMAND"),
    ("RunningFor", "CREATED"),
    ("Status", "STATUS"),
    ("Ports", "PORTS"),
    ("Names", "NAMES"),
)
_HEADINGS = {
    "Size": "SIZE",
    "Labels": "LABELS",
    "Mounts": "MOUNTS",
    "Networks": "NETWORKS",
    "CreatedAt": "CREATED AT",
    "State": "STATE",
    "LocalVolumes": "LOCAL VOLUMES",
    "Platform": "PLATFORM",
}
_RAW = (
    ("container_id", "ID"),
    ("image", "Image"),
    ("command", "Command"),
    ("created_at", "CreatedAt"),
    ("state", "State"),
    ("status", "Status"),
    ("names", "Names"),
    ("labels", "Labels"),
    ("ports", "Ports"),
)


@click.command("ps", cls=Command, operands="[OPTIONS]", at_most=0, help="List containers")
@click.option("-a", "--all", "all_", is_flag=True, help="Show all containers (default shows just running)")
@filter_flag("-f", "--filter")
@click.option("--format", "form", default="", help=FORMAT)
@click.option("-n", "--last", type=Integer(), default=-1, help="Show n last created containers (includes all states)")
@click.option("-l", "--latest", is_flag=True, help="Show the latest created container (includes all states)")
@click.option("--no-trunc", is_flag=True, help="Don't truncate output")
@click.option("-q", "--quiet", is_flag=True, help="Only display container IDs")
@click.option("-s", "--size", is_flag=True, help="Display total file sizes")
@operands()
@pass_session
def ps(
    session: Session,
    /,
    all_: bool,
    filter_: tuple[str, ...],
    form: str,
    last: int,
    latest: bool,
    no_trunc: bool,
    quiet: bool,
    size: bool,
    operands: tuple[str, ...],
) -> None:
    """Lists containers."""
    limit = 1 if latest else last
    wants_size = size or (bool(form) and re.search(r"\.Size\b|\{\{\s*json \.\s*\}\}", form) is not None)
    query = {"all": all_, "size": wants_size, "limit": limit if limit > 0 else None, "filters": filters(filter_)}
    found = session.client.json("GET", "/containers/json", query=query)
    rows = [container_row(item, no_trunc=no_trunc) for item in found]
    if quiet and not form:
        for row in rows:
            print(row["ID"])
        return
    columns = (*_COLUMNS, ("Size", "SIZE")) if size else _COLUMNS
    if form == "raw":
        form = raw_template([*_RAW, ("size", "Size")] if size else _RAW)
    write_rows(rows, columns, form=form, headings=_HEADINGS, kind="formatter.ContainerContext", failed="failed to")


def container_row(item: Mapping[str, Any], *, no_trunc: bool) -> dict[str, Any]:
    """The values of every column; functions are methods of templates."""
    command = item["Command"]
    names = [name.lstrip("/") for name in item["Names"]]
    mounts = [mount.get("Name") or mount.get("Source", "") for mount in item.get("Mounts", ())]
    return {
        "ID": item["Id"] if no_trunc else item["Id"][:12],
        "Image": _image(item, no_trunc=no_trunc),
        "Command": quoted(command if no_trunc else ellipsis(command, 20)),
        "CreatedAt": _local_time(item["Created"]),
        "RunningFor": ago(item["Created"]),
        "Status": item["Status"],
        "State": item["State"],
        "Ports": ports_text(item.get("Ports") or ()),
        "Names": ",".join(names),
        "Label": lambda name: (item.get("Labels") or {}).get(name, ""),
        "Platform": None,
        "Labels": ",".join(f"{key}={value}" for key, value in (item.get("Labels") or {}).items()),
        "Mounts": ",".join(mount if no_trunc else ellipsis(mount, 15) for mount in mounts),
        "Networks": ",".join(sorted(item.get("NetworkSettings", {}).get("Networks") or ())),
        "LocalVolumes": str(sum(mount.get("Driver") == "local" for mount in item.get("Mounts", ()))),
        "Size": _size(item),
    }


def _image(item: Mapping[str, Any], *, no_trunc: bool) -> str:
    image = str(item["Image"])
    if not no_trunc and image.startswith("sha256:"):
        return image.removeprefix("sha256:")[:12]
    return image or "<no image>"


def _size(item: Mapping[str, Any]) -> str:
    own, virtual = item.get("SizeRw", 0), item.get("SizeRootFs", 0)
    return f"{human_size(own)} (virtual {human_size(virtual)})" if virtual else human_size(own)


def _local_time(unix_s: float) -> str:
    import time

    return time.strftime("%Y-%m-%d %H:%M:%S %z %Z", time.localtime(unix_s))


def ports_text(ports: Sequence[Mapping[str, Any]]) -> str:
    """`0.0.0.0:8080->80/tcp, 443/tcp`; consecutive ports of the same kind are joined to a range."""
    groups: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for port in sorted(ports, key=lambda p: (p["PrivatePort"], p["Type"], p.get("IP", ""), p.get("PublicPort", 0))):
        key = (port.get("IP", ""), port["Type"])
        pair = (port["PrivatePort"], port.get("PublicPort", 0))
        groups.setdefault(key, []).append(pair)
    texts = []
    for (address, proto), pairs in groups.items():
        for private_first, private_last, public_first, public_last in _runs(pairs):
            inside = f"{private_first}" if private_first == private_last else f"{private_first}-{private_last}"
            outside = f"{public_first}" if public_first == public_last else f"{public_first}-{public_last}"
            where = f"[{address}]" if ":" in address else address
            text = f"{where}:{outside}->{inside}/{proto}" if public_first else f"{inside}/{proto}"
            texts.append((private_first, text))
    return ", ".join(text for _, text in sorted(texts, key=lambda item: item[0]))


def _runs(pairs: Sequence[tuple[int, int]]) -> list[tuple[int, int, int, int]]:
    runs: list[tuple[int, int, int, int]] = []
    for private, public in pairs:
        if runs:
            first, last, public_first, public_last = runs[-1]
            if private == last + 1 and (public == public_last + 1 if public else not public_last):
                runs[-1] = (first, private, public_first, public or public_last)
                continue
        runs.append((private, private, public, public))
    return runs
