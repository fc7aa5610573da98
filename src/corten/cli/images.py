"""Verbs on images."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any

import click

from corten import errors
from corten.cli.command import Command, Failure, daemon_error, operands
from corten.cli.flags import Switch
from corten.cli.imagetree import write_tree
from corten.cli.moments import rfc3339
from corten.cli.platforms import platform_queries, platform_query
from corten.cli.progress import show
from corten.cli.session import Session, pass_session
from corten.cli.table import FORMAT, ellipsis, filter_flag, filters, raw_template, write_rows
from corten.cli.units import ago, human_size
from corten.spec.reference import parse, parse_any

_COLUMNS = (
    ("Repository", "REPOSITORY"),
    ("Tag", "TAG"),
    ("ID", "IMAGE ID"),
    ("CreatedSince", "CREATED"),
    ("Size", "SIZE"),
)
_HEADINGS = {
    **{"CreatedAt": "CREATED AT", "Digest": "DIGEST", "Containers": "CONTAINERS", "SharedSize": "SHARED SIZE"},
    **{"UniqueSize": "UNIQUE SIZE", "VirtualSize": "SIZE"},
}
_RAW = (
    ("repository", "Repository"),
    ("tag", "Tag"),
    ("image_id", "ID"),
    ("created_at", "CreatedAt"),
    ("virtual_size", "Size"),
)
_NOT_WITH_TREE = {"quiet": "quiet", "no_trunc": "no-trunc", "digests": "show-digest", "form": "format"}
_HISTORY = (
    ("ID", "IMAGE"),
    ("CreatedSince", "CREATED"),
    ("CreatedBy", "CREATED BY"),
    ("Size", "SIZE"),
    ("Comment", "COMMENT"),
)


@click.command("images", cls=Command, operands="[OPTIONS] [REPOSITORY[:TAG]]", at_most=1, help="List images")
@click.option("-a", "--all", "all_", is_flag=True, help="Show all images (default hides intermediate images)")
@click.option("--digests", is_flag=True, help="Show digests")
@filter_flag("-f", "--filter")
@click.option("--format", "form", default="", help=FORMAT)
@click.option("--no-trunc", is_flag=True, help="Don't truncate output")
@click.option("-q", "--quiet", is_flag=True, help="Only show image IDs")
@click.option("--tree", is_flag=True, help="List multi-platform images as a tree")
@operands()
@pass_session
def images(session: Session, /, operands: tuple[str, ...], **given: Any) -> None:
    """Lists images."""
    wanted = [*given["filter_"], *(f"reference={name}" for name in operands)]
    query = {"all": given["all_"], "digests": given["digests"], "filters": filters(wanted)}
    if given["tree"]:
        for name, shown in _NOT_WITH_TREE.items():
            if given[name]:
                raise Failure(f"--{shown} is not yet supported with --tree")
        write_tree(session.client.json("GET", "/images/json", query={**query, "manifests": True}))
        return
    found = session.client.json("GET", "/images/json", query=query)
    with_digests = given["digests"] or ".Digest" in given["form"]
    rows = [row for item in found for row in image_rows(item, no_trunc=given["no_trunc"], digests=with_digests)]
    if given["quiet"] and not given["form"]:
        for row in rows:
            print(row["ID"])
        return
    columns = (*_COLUMNS[:2], ("Digest", "DIGEST"), *_COLUMNS[2:]) if given["digests"] else _COLUMNS
    form = raw_template(_RAW) if given["form"] == "raw" else given["form"]
    write_rows(rows, columns, form=form, headings=_HEADINGS, kind="formatter.imageContext")


def image_rows(item: Mapping[str, Any], *, no_trunc: bool, digests: bool = False) -> list[dict[str, str]]:
    """One row a tag, or one without, or with `digests` one for each of them; all its values as Docker writes them."""
    common = {
        "ID": item["Id"] if no_trunc else item["Id"].removeprefix("sha256:")[:12],
        "CreatedSince": ago(item["Created"]),
        "CreatedAt": datetime.fromtimestamp(item["Created"]).astimezone().strftime("%Y-%m-%d %H:%M:%S %z %Z"),
        "Size": human_size(item["Size"]),
        "Containers": _known(item.get("Containers", -1), str),
        "SharedSize": _known(item.get("SharedSize", -1), lambda size: human_size(size, 4)),
        "UniqueSize": _known(item.get("SharedSize", -1), lambda size: human_size(item["Size"] - size, 4)),
        "VirtualSize": human_size(item["Size"], 4),
    }
    names = _names(item.get("RepoTags") or (), item.get("RepoDigests") or (), digests=digests)
    return [{**common, "Repository": name, "Tag": tag, "Digest": digest} for name, tag, digest in names]


def _names(tags: Iterable[str], pinned: Iterable[str], *, digests: bool) -> list[tuple[str, str, str]]:
    """(repository, tag, digest) of every row: digests stand beside the tags of their repository, else alone."""
    known: dict[str, list[str]] = {}
    for name in pinned:
        repository, _, digest = name.partition("@")
        known.setdefault(repository, []).append(digest)
    rows, tagged = [], set()
    for name in tags:
        repository, _, tag = name.rpartition(":")
        tagged.add(repository)
        rows += [(repository, tag, digest) for digest in (digests and known.get(repository)) or ["<none>"]]
    for repository in sorted(known.keys() - tagged):
        rows += [(repository, "<none>", digest) for digest in (known[repository] if digests else ["<none>"])]
    return rows or [("<none>", "<none>", "<none>")]


def _known(number: int, shown: Callable[[int], str]) -> str:
    return "N/A" if number == -1 else shown(number)


@click.command(
    "history",
    cls=Command,
    operands="[OPTIONS] IMAGE",
    at_least=1,
    at_most=1,
    help="Show the history of an image",
)
@click.option("--format", "form", default="", help=FORMAT)
@click.option("-H", "--human/--no-human", default=True, cls=Switch, help="Print human readable sizes and dates")
@click.option("--no-trunc", is_flag=True, help="Don't truncate output")
@click.option("-q", "--quiet", is_flag=True, help="Only show image IDs")
@click.option("--platform", default="", help="Show history for the given platform")
@operands()
@pass_session
def history(
    session: Session, /, operands: tuple[str, ...], form: str, human: bool, no_trunc: bool, quiet: bool, platform: str
) -> None:
    """Shows the history of an image."""
    rows = []
    query = {"platform": platform_query(platform)}
    for item in session.client.json("GET", f"/images/{operands[0]}/history", query=query):
        created_by = item["CreatedBy"].replace("\t", " ")
        at = rfc3339(item["Created"]) if item["Created"] else "N/A"
        rows.append(
            {
                "ID": item["Id"] if no_trunc else item["Id"].removeprefix("sha256:")[:12],
                "CreatedSince": (ago(item["Created"]) if item["Created"] else "N/A") if human else at,
                "CreatedAt": at,
                "CreatedBy": created_by if no_trunc else ellipsis(created_by, 45),
                "Size": human_size(item["Size"]) if human else str(item["Size"]),
                "Comment": item["Comment"],
            }
        )
    if quiet and not form:
        print("\n".join(row["ID"] for row in rows))
        return
    columns = _HISTORY if human else (_HISTORY[0], ("CreatedAt", "CREATED AT"), *_HISTORY[2:])
    headings = {"CreatedAt": "CREATED AT", "CreatedSince": "CREATED"}
    write_rows(rows, columns, form=form, headings=headings, kind="image.historyContext")


@click.command(
    "tag",
    cls=Command,
    operands="SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]",
    at_least=2,
    at_most=2,
    help="Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE",
)
@operands()
@pass_session
def tag(session: Session, /, operands: tuple[str, ...]) -> None:
    """Names an image."""
    source, target = operands
    repository, name = tag_names(source, target)
    session.client.json("POST", f"/images/{source}/tag", query={"repo": repository, "tag": name})


def tag_names(source: str, target: str) -> tuple[str, str]:
    """Repository and tag of `target`.  Raises Failure in docker's words for names that cannot be."""
    for given, check in ((source, parse_any), (target, parse)):
        try:
            check(given)
        except errors.InvalidArgument as error:
            raise Failure(f'Error parsing reference: "{given}" is not a valid repository/tag: {error.text}') from None
    if parse(target).is_canonical:
        raise Failure("refusing to create a tag with a digest reference")
    return split_tag(target)


def split_tag(reference: str) -> tuple[str, str]:
    """(`host:5000/name`, `tag`); the tag is empty when there is none."""
    head, slash, last = reference.rpartition("/")
    name, _, found = last.partition(":")
    return head + slash + name, found


@click.command("rmi", cls=Command, operands="[OPTIONS] IMAGE [IMAGE...]", at_least=1, help="Remove one or more images")
@click.option("-f", "--force", is_flag=True, help="Force removal of the image")
@click.option("--no-prune", is_flag=True, help="Do not delete untagged parents")
@click.option("--platform", multiple=True, help="Remove only the given platform variant")
@operands()
@pass_session
def rmi(session: Session, /, operands: tuple[str, ...], force: bool, no_prune: bool, platform: tuple[str, ...]) -> None:
    """Removes images."""
    query = {"force": force, "noprune": no_prune, "platforms": platform_queries(platform)}
    failed = []
    for name in operands:
        try:
            answer = session.client.json("DELETE", f"/images/{name}", query=query)
        except errors.CortenError as error:
            if force and isinstance(error, errors.NotFound):
                print(daemon_error(error).message, file=sys.stderr)
            else:
                failed.append(daemon_error(error).message)
            continue
        for item in answer:
            print(f"Deleted: {item['Deleted']}" if "Deleted" in item else f"Untagged: {item['Untagged']}")
    if failed:
        raise Failure("\n".join(failed))


@click.command("load", cls=Command, operands="[OPTIONS]", at_most=0, help="Load an image from a tar archive or STDIN")
@click.option("-i", "--input", "input_", help="Read from tar archive file, instead of STDIN")
@click.option("-q", "--quiet", is_flag=True, help="Suppress the load output")
@click.option("--platform", default="", help="Load only the given platform variant")
@operands()
@pass_session
def load(session: Session, /, operands: tuple[str, ...], input_: str | None, quiet: bool, platform: str) -> None:
    """Loads images."""
    is_shown = not quiet and sys.stdout.isatty()
    query = {"quiet": "0" if is_shown else "1", "platform": platform_query(platform)}
    if input_ is None and sys.stdin.isatty():
        raise Failure("requested load from stdin, but stdin is empty")
    with _opened(input_) as file:
        show(session.client.stream("POST", "/images/load", query=query, body=file))


@click.command(
    "import",
    cls=Command,
    operands="[OPTIONS] file|URL|- [REPOSITORY[:TAG]]",
    at_least=1,
    help="Import the contents from a tarball to create a filesystem image",
)
@click.option("-c", "--change", multiple=True, help="Apply Dockerfile instruction to the created image")
@click.option("-m", "--message", default="", help="Set commit message for imported image")
@click.option("--platform", default="", help="Set platform if server is multi-platform capable")
@operands()
@pass_session
def import_(
    session: Session, /, operands: tuple[str, ...], change: tuple[str, ...], message: str, platform: str
) -> None:
    """Makes an image of a root file system."""
    if len(operands) > 1:
        parse(operands[1])
    source = operands[0]
    is_address = source.startswith(("http://", "https://"))
    repository, name = split_tag(operands[1]) if len(operands) > 1 else ("", "")
    query: dict[str, Any] = {
        "fromSrc": source if is_address else "-",
        "repo": repository,
        "tag": name,
        "message": message,
        "platform": platform,
    }
    if change:
        query["changes"] = list(change)
    with contextlib.nullcontext() if is_address else _opened(None if source == "-" else source) as file:
        show(session.client.stream("POST", "/images/create", query=query, body=file))


def _opened(path: str | None) -> Any:
    if path is None:
        return contextlib.nullcontext(sys.stdin.buffer)
    try:
        return open(path, "rb")
    except OSError as error:
        raise Failure(f"open {path}: {(error.strerror or '').lower()}") from None
