"""`corten pull`, and the pull that `run` and `create` do by themselves."""

from __future__ import annotations

import sys
from typing import Any, TextIO

import click

from corten.cli.command import Command, Failure, operands
from corten.cli.credentials import registry_auth
from corten.cli.progress import show
from corten.cli.session import Session, pass_session
from corten.spec.reference import Reference, parse


@click.command(
    "pull",
    cls=Command,
    operands="[OPTIONS] NAME[:TAG|@DIGEST]",
    at_least=1,
    at_most=1,
    help="Download an image from a registry",
)
@click.option("-a", "--all-tags", is_flag=True, help="Download all tagged images in the repository")
@click.option("--disable-content-trust", type=bool, default=True, hidden=True, help="Skip image verification")
@click.option("--platform", default="", help="Set platform if server is multi-platform capable")
@click.option("-q", "--quiet", is_flag=True, help="Suppress verbose output")
@operands()
@pass_session
def pull(session: Session, /, operands: tuple[str, ...], **given: Any) -> None:
    """Downloads an image, or all of a repository."""
    reference = parse(operands[0])
    if given["all_tags"] and (reference.tag or reference.digest):
        raise Failure("tag can't be used with --all-tags/-a")
    if not given["all_tags"] and not (reference.tag or reference.digest):
        reference = reference.tagged()
        if not given["quiet"]:
            print(f"Using default tag: {reference.tag}", flush=True)
    fetch(session, reference, platform=given["platform"], quiet=given["quiet"])
    print(reference)


def fetch(
    session: Session, reference: Reference, *, platform: str = "", quiet: bool = False, out: TextIO | None = None
) -> None:
    """Has the engine pull an image, with the credentials of config.json; progress goes to `out` (stdout).

    Raises the engine's errors; Failure for one in the middle of the stream.
    """
    query = {"fromImage": reference.familiar_name, "tag": reference.digest or reference.tag, "platform": platform}
    headers = registry_auth(str(reference), session.config_folder)
    messages = session.client.stream("POST", "/images/create", query=query, headers=headers)
    show(messages, out=out or sys.stdout, quiet=quiet)
