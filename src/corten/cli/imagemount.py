"""`corten image mount` and `unmount`: an image's files at a directory of the host, read only."""

from __future__ import annotations

from typing import Any

import click

from corten import errors
from corten.cli.command import Command, Failure, daemon_error, operands
from corten.cli.platforms import platform_query
from corten.cli.session import Session, pass_session
from corten.cli.table import write_rows

_COLUMNS = (("ID", "IMAGE ID"), ("Path", "PATH"))


@click.command(
    "mount",
    cls=Command,
    operands="[OPTIONS] [IMAGE [DIRECTORY]]",
    at_most=2,
    help="Mount an image's files, read only, and print where; without an image list what is mounted",
)
@click.option("--format", "form", default="", help="Format the list using a custom template")
@click.option("--platform", default="", help="Mount the given platform of the image")
@operands()
@pass_session
def mount(session: Session, /, operands: tuple[str, ...], form: str, platform: str) -> None:
    """Mounts an image, or lists mounts."""
    if not operands:
        found = session.client.json("GET", "/corten/mounts")
        rows = [{"ID": one["Image"].removeprefix("sha256:")[:12], "Path": one["Path"]} for one in found]
        write_rows(rows, _COLUMNS, form=form, headings={}, kind="imagemount.context")
        return
    query: dict[str, Any] = {"target": operands[1] if operands[1:] else "", "platform": platform_query(platform)}
    print(session.client.json("POST", f"/images/{operands[0]}/corten/mount", query=query)["Path"])


@click.command(
    "unmount",
    cls=Command,
    operands="IMAGE|DIRECTORY [IMAGE|DIRECTORY...]",
    at_least=1,
    help="Unmount images that `image mount` mounted",
)
@operands()
@pass_session
def unmount(session: Session, /, operands: tuple[str, ...]) -> None:
    """Unmounts images."""
    failed = []
    for what in operands:
        try:
            for one in session.client.json("POST", "/corten/unmount", query={"what": what}):
                print(one["Path"])
        except errors.CortenError as error:
            failed.append(daemon_error(error).message)
    if failed:
        raise Failure("\n".join(failed))
