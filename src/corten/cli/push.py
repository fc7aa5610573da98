"""`corten push`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import click

from corten.cli.command import Command, Failure, operands
from corten.cli.credentials import registry_auth
from corten.cli.flags import Switch
from corten.cli.platforms import platform_query
from corten.cli.progress import show
from corten.cli.session import Session, pass_session
from corten.errors import InvalidArgument
from corten.spec.reference import Reference, parse

_NOBODY = {"X-Registry-Auth": "e30="}  # {}: without the header the engine looks for credentials in the body
_PLATFORM_NOTE = """\
Using --platform pushes only the specified platform manifest of a multi-platform image index.
Other components, like attestations, will not be included.
To push the complete multi-platform image, remove the --platform flag.
"""
_PART_NOTE = "Not all multiplatform-content is present and only the available single-platform image was pushed"


@click.command(
    "push", cls=Command, operands="[OPTIONS] NAME[:TAG]", at_least=1, at_most=1, help="Upload an image to a registry"
)
@click.option("-a", "--all-tags", is_flag=True, help="Push all tags of an image to the repository")
@click.option("--disable-content-trust/--no-disable-content-trust", default=True, cls=Switch, help="Skip image signing")
@click.option("--platform", default="", help="Push a platform-specific manifest as a single-platform image")
@click.option("-q", "--quiet", is_flag=True, help="Suppress verbose output")
@operands()
@pass_session
def push(session: Session, /, operands: tuple[str, ...], **given: Any) -> None:
    """Pushes an image."""
    wanted = _platform(given["platform"])
    name = _named(operands[0], all_tags=given["all_tags"], quiet=given["quiet"])
    if not given["disable_content_trust"]:
        raise Failure("content trust is not supported")
    notes: list[str] = []
    messages = session.client.stream(
        "POST",
        f"/images/{name.familiar_name}/push",
        query={"tag": name.tag, "platform": wanted},
        headers=registry_auth(str(name), session.config_folder) or _NOBODY,
    )
    show(messages, quiet=given["quiet"], aux=lambda value: notes.extend(_note(value)))
    if given["quiet"]:
        print(name)
    for note in notes:
        print(f"Info → {note}", file=sys.stderr)


def _platform(text: str) -> str:
    if not text:
        return ""
    try:
        wanted = platform_query(text)
    except InvalidArgument:
        print(f"Invalid platform {text}", file=sys.stderr)
        raise
    print(f"Info → {_PLATFORM_NOTE}")
    return wanted


def _named(text: str, *, all_tags: bool, quiet: bool) -> Reference:
    name = parse(text)
    if all_tags and (name.tag or name.digest):
        raise Failure("tag can't be used with --all-tags/-a")
    if name.digest:
        raise Failure("cannot push a digest reference")
    if all_tags or name.tag:
        return name
    if not quiet:
        print("Using default tag: latest", flush=True)
    return replace(name, tag="latest")


def _note(value: Mapping[str, Any]) -> list[str]:
    if not value.get("manifestPushedInsteadOfIndex"):
        return []
    index, chosen = value.get("originalIndex") or {}, value.get("selectedManifest") or {}
    return [f"{_PART_NOTE}\n{index.get('digest')} -> {chosen.get('digest')}"]
