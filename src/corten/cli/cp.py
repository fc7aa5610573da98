"""`corten cp`: files between a container and here, both ways, or as an archive on stdin and stdout."""

from __future__ import annotations

import base64
import io
import json
import posixpath
import shutil
import sys
from collections.abc import Iterator
from http.client import HTTPException, HTTPResponse
from typing import Any

import click

from corten import errors
from corten.cli import copypath, untar
from corten.cli.command import Command, Failure, operands
from corten.cli.copypath import End, Way
from corten.cli.flags import Switch
from corten.cli.session import Session, pass_session
from corten.cli.units import human_size

_CHUNK_BYTES = 1 << 20
_MODE_DIRECTORY, _MODE_LINK, _MODE_DEVICE = 1 << 31, 1 << 27, 1 << 26  # Go's os.FileMode


@click.command(
    "cp",
    cls=Command,
    operands="[OPTIONS] CONTAINER:SRC_PATH DEST_PATH|-\n\tcorten cp [OPTIONS] SRC_PATH|- CONTAINER:DEST_PATH",
    at_least=2,
    at_most=2,
    help="Copy files/folders between a container and the local filesystem\n\n"
    "Use '-' as the source to read a tar archive from stdin\n"
    "and extract it to a directory destination in a container.\n"
    "Use '-' as the destination to stream a tar archive of a\n"
    "container source to stdout.",
)
@click.option("-a", "--archive", is_flag=True, help="Archive mode (copy all uid/gid information)")
@click.option("-L", "--follow-link", is_flag=True, help="Always follow symbol link in SRC_PATH")
@click.option(
    "-q/--no-q",
    "--quiet/--no-quiet",
    "quiet",
    default=None,
    cls=Switch,
    help="Suppress progress output during copy. Progress output is automatically suppressed if no terminal is attached",
)
@operands()
@pass_session
def cp(session: Session, /, operands: tuple[str, ...], archive: bool, follow_link: bool, quiet: bool | None) -> None:
    """Copies out of or into a container."""
    for word, text in zip(("source", "destination"), operands, strict=True):
        if not text:
            raise Failure(f"{word} can not be empty")
    (source, source_path), (target, target_path) = map(copypath.split_argument, operands)
    is_quiet = quiet if quiet is not None else not sys.stdout.isatty()
    if source and target:
        raise Failure("copying between containers is not supported")
    try:
        if source:
            _copy_out(_Container(session, source), source_path, target_path, follows=follow_link, is_quiet=is_quiet)
        elif target:
            into = _Container(session, target)
            _copy_in(into, source_path, target_path, follows=follow_link, keeps_owner=archive, is_quiet=is_quiet)
        else:
            raise Failure("must specify at least one container source")
    except HTTPException as error:
        raise errors.Unavailable("unexpected EOF") from error
    except OSError as error:
        raise Failure(f"lstat {error.filename}: {(error.strerror or str(error)).lower()}") from None


class _Container:
    """The files of one, as the API has them."""

    def __init__(self, session: Session, name: str) -> None:
        self.name = name
        self._client = session.client
        self._path = f"/containers/{name}/archive"

    def stat(self, path: str) -> dict[str, Any]:
        """Raises NotFound."""
        response = self._client.open("HEAD", self._path, query={"path": path})
        response.close()
        return _stat_of(response)

    def read(self, path: str) -> tuple[HTTPResponse, dict[str, Any]]:
        """The archive of what is there."""
        response = self._client.open("GET", self._path, query={"path": path})
        return response, _stat_of(response)

    def write(self, path: str, body: Any, *, keeps_owner: bool) -> None:
        """Unpacks an archive there."""
        query = {"path": path, "noOverwriteDirNonDir": "true", "copyUIDGID": "true" if keeps_owner else ""}
        self._client.open("PUT", self._path, query=query, body=body).read()


def _stat_of(response: HTTPResponse) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(base64.b64decode(response.headers["X-Docker-Container-Path-Stat"]))
    return found


class _Counted(io.RawIOBase):
    """A stream that tells how much was read of it."""

    def __init__(self, source: Any) -> None:
        self._source = source
        self.size = 0

    def read(self, size: int = -1) -> bytes:
        data: bytes = self._source.read(size)
        self.size += len(data)
        return data


class _Chunked(io.RawIOBase):
    """An archive as it is made, for an upload."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = b""

    def read(self, size: int = -1) -> bytes:
        parts, length = [self._rest], len(self._rest)
        while length < max(size, _CHUNK_BYTES) and (chunk := next(self._chunks, None)) is not None:
            parts.append(chunk)
            length += len(chunk)
        data = b"".join(parts)
        data, self._rest = (data, b"") if size < 0 else (data[:size], data[size:])
        return data


def _copy_out(container: _Container, path: str, target: str, *, follows: bool, is_quiet: bool) -> None:
    if target != "-":
        target = copypath.absolute(target)
    copypath.check_local_output(target)
    rebase = ""
    if follows:
        path, rebase = _followed(container, path)
    response, found = container.read(path)
    with response:
        if target == "-":
            shutil.copyfileobj(response, sys.stdout.buffer, _CHUNK_BYTES)
            sys.stdout.buffer.flush()
            return
        source = End(path, exists=True, is_directory=bool(found["mode"] & _MODE_DIRECTORY), rebase=rebase)
        counted = _Counted(response)
        _unpack(counted, source, target)
    if not is_quiet:
        print("Successfully copied", human_size(counted.size), "to", target, file=sys.stderr)


def _unpack(counted: _Counted, source: End, target: str) -> None:
    way = copypath.way(source, copypath.local_destination(target))
    renamed = Way("", copypath.renamed_part(source.path), source.rebase) if source.rebase else Way("")
    untar.unpack(counted, way.folder, lambda name: way.renamed(renamed.renamed(name)))  # type: ignore[arg-type]
    while counted.read(_CHUNK_BYTES):
        continue


def _followed(container: _Container, path: str) -> tuple[str, str]:
    """What a link in the container stands for, and the name that its archive is to have."""
    try:
        found = container.stat(path)
    except errors.CortenError:
        return path, ""
    if not found["mode"] & _MODE_LINK:
        return path, ""
    return copypath.rebased(path, copypath.beside(path, found["linkTarget"]))


def _copy_in(
    container: _Container, path: str, target: str, *, follows: bool, keeps_owner: bool, is_quiet: bool
) -> None:
    destination = _destination(container, target)
    if path == "-":
        if not destination.is_directory:
            raise Failure(f'destination "{container.name}:{target}" must be a directory')
        counted, folder = _Counted(sys.stdin.buffer), destination.path
    else:
        source = copypath.local_source(copypath.absolute(path), follows=follows)
        way = copypath.way(source, destination)
        counted, folder = _Counted(_Chunked(_packed(source, way))), way.folder
    container.write(folder, counted, keeps_owner=keeps_owner)
    if not is_quiet:
        print(
            "Successfully copied",
            human_size(counted.size),
            "to",
            f"{container.name}:{destination.path}",
            file=sys.stderr,
        )


def _packed(source: End, way: Way) -> Iterator[bytes]:
    folder, name = copypath.split(source.path)
    shown = source.rebase or name
    return untar.pack(posixpath.join(folder, name), shown, way.renamed)


def _destination(container: _Container, path: str) -> End:
    """Where to copy to in a container; what cannot be looked at is taken to be missing."""
    found: dict[str, Any] | None = None
    shown = path
    try:
        found = container.stat(path)
        if found["mode"] & _MODE_LINK:
            path = copypath.beside(path, found["linkTarget"])
            found = container.stat(path)
    except errors.CortenError:
        found = None if found is None or found["mode"] & _MODE_LINK else found
    if found is None:
        return End(path)
    if found["mode"] & _MODE_DEVICE:
        text = "must be a directory or a regular file: got a device"
        raise Failure(f'destination "{container.name}:{shown}" {text}')
    return End(path, exists=True, is_directory=bool(found["mode"] & _MODE_DIRECTORY))
