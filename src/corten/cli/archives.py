"""Verbs that write an archive: to a file, or to stdout when that is no terminal."""

from __future__ import annotations

import contextlib
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
from corten.cli.platforms import platform_query
from corten.cli.session import Session, pass_session

_CHUNK_BYTES = 1 << 20
_MODE = 0o600


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


def _check_output(path: str, what: str) -> None:
    """Raises Failure in Docker's words where an archive cannot go."""
    if not path:
        if sys.stdout.isatty():
            raise Failure("cowardly refusing to save to a terminal. Use the -o flag or redirect")
        return
    folder = os.path.dirname(os.path.normpath(path))
    if folder and not os.path.exists(folder):
        raise Failure(f'{what}: invalid output path: directory "{folder}" does not exist')
    with contextlib.suppress(OSError):
        mode = os.stat(path).st_mode
        if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
            kind = "a device" if stat.S_ISCHR(mode) or stat.S_ISBLK(mode) else "an irregular file"
            raise Failure(f'{what}: invalid output path: "{path}" must be a directory or a regular file: got {kind}')


def _write(response: HTTPResponse, path: str) -> None:
    """The answer's body to the file, which appears whole or not at all, or to stdout."""
    if not path:
        _copy(response, sys.stdout.buffer)
        return
    try:
        fd, temporary = tempfile.mkstemp(prefix=".docker_temp_", dir=os.path.dirname(os.path.abspath(path)))
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
