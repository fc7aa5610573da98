"""Verbs that write an archive: to a file, or to stdout when that is no terminal."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import sys
import tempfile
from http.client import HTTPException, HTTPResponse
from typing import BinaryIO

import click

from corten import errors
from corten.cli.command import Command, Failure, operands
from corten.cli.flags import Switch
from corten.cli.images import split_tag
from corten.cli.platforms import platform_query
from corten.cli.session import Session, pass_session
from corten.spec.reference import parse

_CHUNK_BYTES = 1 << 20
_MODE = 0o600
_REFUSED = {  # an archive is renamed to its place, and takes none of these away
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symbolic link directly",
    stat.S_IFIFO: "named pipe (FIFO)",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "character device file",
    stat.S_IFBLK: "block device file",
}


@click.command(
    "save",
    cls=Command,
    operands="[OPTIONS] IMAGE [IMAGE...]",
    at_least=1,
    help="Save one or more images to a tar archive (streamed to STDOUT by default)",
)
@click.option("-o", "--output", default="", help="Write to a file, instead of STDOUT")
@click.option("--platform", default="", help="Save only the given platform variant")
@operands()
@pass_session
def save(session: Session, /, operands: tuple[str, ...], output: str, platform: str) -> None:
    """Saves images."""
    query = {"names": list(operands), "platform": platform_query(platform)}
    _check_output(output, "failed to save image")
    _write(session.client.open("GET", "/images/get", query=query), output)


@click.command(
    "export",
    cls=Command,
    operands="[OPTIONS] CONTAINER",
    at_least=1,
    at_most=1,
    help="Export a container's filesystem as a tar archive",
)
@click.option("-o", "--output", default="", help="Write to a file, instead of STDOUT")
@operands()
@pass_session
def export(session: Session, /, operands: tuple[str, ...], output: str) -> None:
    """Exports a container."""
    _check_output(output, "failed to export container")
    _write(session.client.open("GET", f"/containers/{operands[0]}/export"), output)


@click.command(
    "diff",
    cls=Command,
    operands="CONTAINER",
    at_least=1,
    at_most=1,
    help="Inspect changes to files or directories on a container's filesystem",
)
@operands()
@pass_session
def diff(session: Session, /, operands: tuple[str, ...]) -> None:
    """Lists what a container changed."""
    for change in session.client.json("GET", f"/containers/{operands[0]}/changes") or ():
        print("CAD"[change["Kind"]], change["Path"])


@click.command(
    "commit",
    cls=Command,
    operands="[OPTIONS] CONTAINER [REPOSITORY[:TAG]]",
    at_least=1,
    at_most=2,
    help="Create a new image from a container's changes",
)
@click.option("-a", "--author", default="", help='Author (e.g., "John Hannibal Smith <hannibal@a-team.com>")')
@click.option("-c", "--change", multiple=True, help="Apply Dockerfile instruction to the created image")
@click.option("-m", "--message", default="", help="Commit message")
@click.option("-p", "--pause/--no-pause", default=True, cls=Switch, help="Pause container during commit")
@operands()
@pass_session
def commit(
    session: Session, /, operands: tuple[str, ...], author: str, change: tuple[str, ...], message: str, pause: bool
) -> None:
    """Makes an image of a container."""
    repository, tag = ("", "")
    if len(operands) > 1 and operands[1]:
        if parse(operands[1]).is_canonical:
            raise Failure("refusing to create a tag with a digest reference")
        repository, tag = split_tag(operands[1])
    query = {
        **{"container": operands[0], "repo": repository, "tag": tag, "comment": message, "author": author},
        **{"changes": list(change), "pause": "1" if pause else "0"},
    }
    print(session.client.json("POST", "/commit", query=query)["Id"])


def _check_output(path: str, what: str) -> None:
    """Raises Failure in Docker's words where an archive cannot go."""
    if not path:
        if sys.stdout.isatty():
            raise Failure("cowardly refusing to save to a terminal. Use the -o flag or redirect")
        return
    folder = os.path.dirname(path)
    try:
        if folder and not os.path.isdir(folder) and os.stat(folder):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    except OSError as error:
        raise Failure(f"{what}: invalid output path: stat {folder}: {(error.strerror or '').lower()}") from None
    with contextlib.suppress(FileNotFoundError):
        kind = _REFUSED.get(stat.S_IFMT(os.lstat(path).st_mode))
        if kind:
            raise Failure(f"{what}: cannot write to a {kind}")


def _write(response: HTTPResponse, path: str) -> None:
    """The answer's body to the file, which appears whole or not at all, or to stdout."""
    if not path:
        _copy(response, sys.stdout.buffer)
        return
    try:
        fd, temporary = tempfile.mkstemp(
            prefix=f".tmp-{os.path.basename(path)}", dir=os.path.dirname(os.path.abspath(path))
        )
        with os.fdopen(fd, "wb") as file:
            try:
                os.fchmod(fd, _MODE)
                _copy(response, file)
                file.flush()
                os.rename(temporary, path)
            except BaseException:
                os.unlink(temporary)
                raise
    except OSError as error:
        raise Failure(f"{error.filename or path}: {(error.strerror or str(error)).lower()}") from None


def _copy(response: HTTPResponse, file: BinaryIO) -> None:
    try:
        shutil.copyfileobj(response, file, _CHUNK_BYTES)
        file.flush()
    except HTTPException as error:
        raise errors.Unavailable("unexpected EOF") from error
