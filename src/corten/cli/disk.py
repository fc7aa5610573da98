"""`system df`, `system prune` and `image prune`: what takes space, and how to have it back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click

from corten import errors
from corten.cli.command import Command, Failure, confirmed, operands
from corten.cli.gostruct import Struct
from corten.cli.gotemplate import ParseError, Template
from corten.cli.images import image_rows
from corten.cli.pruning import dry_query, dry_run_flag, title, total
from corten.cli.ps import container_row
from corten.cli.session import Session, pass_session
from corten.cli.table import FORMAT, filter_flag, filters, write_rows
from corten.cli.transport import Client
from corten.cli.units import human_size
from corten.cli.volumes import volume_row

Json = Mapping[str, Any]
_Pruned = tuple[list[str], int]

_SUMMARY = (
    ("Type", "TYPE"),
    ("TotalCount", "TOTAL"),
    ("Active", "ACTIVE"),
    ("Size", "SIZE"),
    ("Reclaimable", "RECLAIMABLE"),
)
_IMAGES = (
    ("Repository", "REPOSITORY"),
    ("Tag", "TAG"),
    ("ID", "IMAGE ID"),
    ("CreatedSince", "CREATED"),
    ("Size", "SIZE"),
    ("SharedSize", "SHARED SIZE"),
    ("UniqueSize", "UNIQUE SIZE"),
    ("Containers", "CONTAINERS"),
)
_CONTAINERS = (
    ("ID", "CONTAINER ID"),
    ("Image", "IMAGE"),
    ("Command", "COMMAND"),
    ("LocalVolumes", "LOCAL VOLUMES"),
    ("Size", "SIZE"),
    ("RunningFor", "CREATED"),
    ("Status", "STATUS"),
    ("Names", "NAMES"),
)
_VOLUMES = (("Name", "VOLUME NAME"), ("Links", "LINKS"), ("Size", "SIZE"))
_BUILDS = (
    ("ID", "CACHE ID"),
    ("CacheType", "CACHE TYPE"),
    ("Size", "SIZE"),
    ("CreatedSince", "CREATED"),
    ("LastUsedSince", "LAST USED"),
    ("UsageCount", "USAGE"),
    ("Shared", "SHARED"),
)
_RUNNING = frozenset({"running", "paused", "restarting"})


@click.command("df", cls=Command, operands="[OPTIONS]", at_most=0, help="Show disk usage")
@click.option("--format", "form", default="", help=FORMAT)
@click.option("-v", "--verbose", is_flag=True, help="Show detailed information on space usage")
@operands()
@pass_session
def df(session: Session, /, operands: tuple[str, ...], form: str, verbose: bool) -> None:
    """Shows what takes space."""
    usage = session.client.json("GET", "/system/df")
    if not verbose:
        write_rows(_summary(usage), _SUMMARY, form=form, headings={}, kind="formatter.diskUsageImagesContext")
    elif form:
        _write_formatted(usage, form)
    else:
        _write_details(usage)


def _summary(usage: Json) -> list[dict[str, str]]:
    images, containers = usage["Images"] or (), usage["Containers"] or ()
    used = sum(one["Size"] - one["SharedSize"] for one in images if one["Containers"] and one["SharedSize"] != -1)
    own = sum(one.get("SizeRw", 0) for one in containers)
    idle = [one for one in containers if one["State"] not in _RUNNING]
    active = sum(one["Containers"] > 0 for one in images)
    return [
        _line("Images", len(images), active, usage["LayersSize"], usage["LayersSize"] - used),
        _line("Containers", len(containers), len(containers) - len(idle), own, sum(o.get("SizeRw", 0) for o in idle)),
        _volumes_line(usage["Volumes"] or ()),
        _builds_line(usage["BuildCache"] or ()),
    ]


def _volumes_line(volumes: Sequence[Json]) -> dict[str, str]:
    known = [one["UsageData"] for one in volumes if one.get("UsageData") and one["UsageData"]["Size"] != -1]
    active = sum(bool(one.get("UsageData")) and one["UsageData"]["RefCount"] > 0 for one in volumes)
    idle = sum(one["Size"] for one in known if not one["RefCount"])
    return _line("Local Volumes", len(volumes), active, sum(one["Size"] for one in known), idle)


def _builds_line(builds: Sequence[Json]) -> dict[str, str]:
    size = sum(one["Size"] for one in builds if not one.get("Shared"))
    used = sum(one["Size"] for one in builds if one.get("InUse") and not one.get("Shared"))
    line = _line("Build Cache", len(builds), sum(bool(one.get("InUse")) for one in builds), size, size - used)
    return {**line, "Reclaimable": human_size(size - used, 4)}


def _line(what: str, total: int, active: int, size: int, reclaimable: int) -> dict[str, str]:
    share = f" ({reclaimable * 100 // size}%)" if size > 0 else ""
    return {
        "Type": what,
        "TotalCount": str(total),
        "Active": str(active),
        "Size": human_size(size, 4),
        "Reclaimable": human_size(reclaimable, 4) + share,
    }


def _image_rows(usage: Json, *, no_trunc: bool = False) -> list[dict[str, str]]:
    """One row an image, under the first of its tags."""
    return [image_rows(one, no_trunc=no_trunc)[0] for one in usage["Images"] or ()]


def _container_rows(usage: Json, *, no_trunc: bool = False) -> list[dict[str, Any]]:
    return [container_row({**one, "SizeRootFs": 0}, no_trunc=no_trunc) for one in usage["Containers"] or ()]


def _volume_rows(usage: Json) -> list[dict[str, Any]]:
    rows = []
    for one in usage["Volumes"] or ():
        known = one.get("UsageData") or {"RefCount": "N/A", "Size": -1}
        size = "N/A" if known["Size"] == -1 else human_size(known["Size"], 4)
        rows.append({**volume_row(one), "Links": str(known["RefCount"]), "Size": size})
    return rows


def _write_details(usage: Json) -> None:
    print("Images space usage:\n")
    write_rows(_image_rows(usage), _IMAGES, headings={}, kind="formatter.imageContext")
    print("\nContainers space usage:\n")
    write_rows(_container_rows(usage), _CONTAINERS, headings={}, kind="formatter.ContainerContext")
    print("\nLocal Volumes space usage:\n")
    write_rows(_volume_rows(usage), _VOLUMES, headings={}, kind="formatter.volumeContext")
    size = human_size(sum(one["Size"] for one in usage["BuildCache"] or () if not one.get("Shared")), 4)
    print(f"\nBuild cache usage: {size}\n")
    write_rows((), _BUILDS, headings={}, kind="formatter.buildCacheContext")
    packed = usage.get("ContentSize")
    if packed is not None:
        print(f"\nPacked layers, configurations and manifests, kept for push and save: {human_size(packed, 4)}")
    logs = sum(one.get("SizeLog", 0) for one in usage["Containers"] or ())
    if logs:
        print(f"\nLogs, counted in the sizes of their containers: {human_size(logs, 4)}")


def _write_formatted(usage: Json, form: str) -> None:
    """Nothing is cut off, and digests are left out, as in Docker's CLI; no newline ends it."""
    found: dict[str, list[dict[str, Any]]] = {
        "Images": [{**row, "Digest": ""} for row in _image_rows(usage, no_trunc=True)],
        "Containers": _container_rows(usage, no_trunc=True),
        "Volumes": _volume_rows(usage),
        "BuildCache": [],
    }
    rows = {
        name: [{key: one for key, one in sorted(row.items()) if not callable(one)} for row in values]
        for name, values in found.items()
    }
    fields = {name: [Struct(row, row) for row in values] for name, values in rows.items()}
    reason = "can't evaluate field {} in type formatter.diskUsageContext"
    try:
        template = Template("{{json .}}" if form == "json" else form)
        print(template.render(Struct(fields, rows, reason)), end="")
    except (ParseError, errors.InvalidArgument) as error:
        raise Failure(f"template parsing error: {error.text}") from None


# Removing


@click.command("prune", cls=Command, operands="[OPTIONS]", at_most=0, help="Remove unused images")
@click.option("-a", "--all", "all_", is_flag=True, help="Remove all unused images, not just dangling ones")
@filter_flag("--filter")
@click.option("-f", "--force", is_flag=True, help="Do not prompt for confirmation")
@click.option("--unused-for", default="", help="Remove images not used for this long (30d, 12h), tagged ones too")
@dry_run_flag
@operands()
@pass_session
def image_prune(
    session: Session,
    /,
    operands: tuple[str, ...],
    all_: bool,
    filter_: tuple[str, ...],
    force: bool,
    unused_for: str,
    dry_run: bool,
) -> None:
    """Removes unused images."""
    what = "all images without at least one container associated to them" if all_ else "all dangling images"
    if unused_for:
        what = f"all images without a container that nobody used for {unused_for}"
    if not force and not dry_run and not confirmed(f"This will remove {what}."):
        return
    wanted = [*filter_, *([f"unused-for={unused_for}"] if unused_for else [])]
    lines, size = _prune_images(session.client, wanted, is_all=all_ or bool(unused_for), dry_run=dry_run)
    _write_lines(lines)
    print(total(size, dry_run))


def _prune_images(
    client: Client, wanted: Sequence[str], *, is_all: bool, dry_run: bool = False, leaving: Sequence[str] = ()
) -> _Pruned:
    """Lines to print, none when nothing was removed, and bytes."""
    dangling = f"dangling={'false' if is_all else 'true'}"
    query = {"filters": filters([*wanted, dangling]), **dry_query(client, dry_run), "leaving": list(leaving)}
    answer = client.json("POST", "/images/prune", query=query)
    found = answer.get("ImagesDeleted") or ()
    lines = [f"deleted: {one['Deleted']}" if "Deleted" in one else f"untagged: {one['Untagged']}" for one in found]
    return ([title("Images", dry_run), *lines] if lines else []), answer.get("SpaceReclaimed") or 0


def _write_lines(lines: Sequence[str]) -> None:
    if lines:
        print(*lines, "", sep="\n")


@click.command("prune", cls=Command, operands="[OPTIONS]", at_most=0, help="Remove unused data")
@click.option("-a", "--all", "all_", is_flag=True, help="Remove all unused images not just dangling ones")
@filter_flag("--filter")
@click.option("-f", "--force", is_flag=True, help="Do not prompt for confirmation")
@click.option("--volumes", is_flag=True, help="Prune anonymous volumes")
@dry_run_flag
@operands()
@pass_session
def system_prune(
    session: Session,
    /,
    operands: tuple[str, ...],
    all_: bool,
    filter_: tuple[str, ...],
    force: bool,
    volumes: bool,
    dry_run: bool,
) -> None:
    """Removes containers, networks, images and caches that nobody uses."""
    if volumes and any(one.partition("=")[0] == "until" for one in filter_):
        raise Failure('ERROR: The "until" filter is not supported with "--volumes"')
    if not force and not dry_run and not confirmed(_warning(all_, volumes, filter_)):
        return
    client, size = session.client, 0
    leaving: list[str] = []
    steps = [
        ("/containers/prune", "ContainersDeleted", "Containers"),
        ("/networks/prune", "NetworksDeleted", "Networks"),
        *([("/volumes/prune", "VolumesDeleted", "Volumes")] if volumes else []),
    ]
    for path, key, what in steps:
        query = {"filters": filters(filter_), **dry_query(client, dry_run), "leaving": leaving}
        answer = client.json("POST", path, query=query)
        found = answer.get(key) or []
        _write_lines([title(what, dry_run), *found] if found else [])
        size += answer.get("SpaceReclaimed") or 0
        leaving = found if dry_run and what == "Containers" else leaving
    lines, freed = _prune_images(client, filter_, is_all=all_, dry_run=dry_run, leaving=leaving)
    _write_lines(lines)
    # there is no cache of builds yet: nothing of it is removed
    answer = client.json("POST", "/build/prune", query={"filters": filters(filter_)}) if not dry_run else {}
    caches = answer.get("CachesDeleted") or []
    _write_lines([title("build cache objects", dry_run), *caches] if caches else [])
    print(total(size + freed + (answer.get("SpaceReclaimed") or 0), dry_run))


def _warning(all_: bool, volumes: bool, wanted: Sequence[str]) -> str:
    images = "all images without at least one container associated to them" if all_ else "all dangling images"
    lines = [
        "This will remove:",
        "  - all stopped containers",
        "  - all networks not used by at least one container",
        *(["  - all anonymous volumes not used by at least one container"] if volumes else []),
        f"  - {images}",
        f"  - {'all build cache' if all_ else 'unused build cache'}",
    ]
    if wanted:
        lines += ["", "  Items to be pruned will be filtered with:", *(f"  - {one}" for one in sorted(wanted))]
    return "\n".join([*lines, ""])
