"""A context as one file, and as `context inspect` shows it (docker/cli cli/context/store/store.go).

The file is a tar archive, or a zip file to read: meta.json, tls/ENDPOINT/FILE.  What others made may say anything: it
is read into memory within a limit, no name of it becomes a path but of those two forms, nothing is unpacked.
"""

from __future__ import annotations

import io
import os
import re
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, Final

from corten import errors
from corten.cli.contextstore import Context, TlsFiles, parse
from corten.cli.gojson import go_json
from corten.cli.gostruct import Struct
from corten.cli.gotemplate import ParseError, Template

_LIMIT: Final = 10 << 20
_META: Final = "meta.json"
_TLS: Final = re.compile(r"tls/([^/\0]+)/([^/\0]+)")
_KIND: Final = "can't evaluate field {} in type context.contextWithTLSListing"


def write(context: Context, files: TlsFiles, target: str) -> None:
    """To a new file that only its user may read, or to stdout for `-`.  Raises a CortenError."""
    if target == "-":
        if sys.stdout.isatty():
            raise errors.InvalidArgument("cowardly refusing to export to a terminal, specify a file path")
        sys.stdout.buffer.write(_archive(context, files))
        sys.stdout.flush()
        return
    data = _archive(context, files)
    try:
        with open(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(data)
    except OSError as error:
        raise errors.FailedPrecondition(f"open {target}: {(error.strerror or '').lower()}") from error


def _archive(context: Context, files: TlsFiles) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:

        def add(name: str, data: bytes | None, mode: int) -> None:
            member = tarfile.TarInfo(name)
            member.mode, member.type = mode, tarfile.REGTYPE if data is not None else tarfile.DIRTYPE
            member.size = len(data or b"")
            archive.addfile(member, io.BytesIO(data or b""))

        add(_META, go_json(context.values()).encode(), 0o644)
        add("tls", None, 0o700)
        for endpoint, texts in files.items():
            add(f"tls/{endpoint}", None, 0o700)
            for name, data in texts.items():
                add(f"tls/{endpoint}/{name}", data, 0o600)
    return out.getvalue()


def read(source: str) -> tuple[Context, TlsFiles]:
    """From a file, or stdin for `-`.  Raises a CortenError for what is none."""
    try:
        with sys.stdin.buffer if source == "-" else open(source, "rb") as file:
            data = file.read(_LIMIT + 1)
    except OSError as error:
        raise errors.NotFound(f"open {source}: {(error.strerror or '').lower()}") from error
    if len(data) > _LIMIT:
        raise errors.InvalidArgument("read exceeds the defined limit")
    members = _zipped(data) if data.startswith(b"PK\x03\x04") else _packed(data)
    try:
        return _sorted(members)
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, RuntimeError):
        raise errors.InvalidArgument("unexpected EOF") from None


def _packed(data: bytes) -> Iterator[tuple[str, bytes]]:
    if not data:
        return
    # Docker's CLI ends its archives without a last block
    with tarfile.open(fileobj=io.BytesIO(data + bytes(-len(data) % 512)), mode="r:") as archive:
        for member in archive:
            if member.size < 0 or member.offset_data + member.size > len(data):
                raise EOFError
            if not member.isdir():
                file = archive.extractfile(member) if member.isreg() else None
                yield member.name, file.read() if file else b""


def _zipped(data: bytes) -> Iterator[tuple[str, bytes]]:
    left = _LIMIT
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for member in archive.infolist():
            if not member.is_dir():
                if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # Go reads no other
                    raise zipfile.BadZipFile(member.filename)
                with archive.open(member) as file:
                    text = file.read(left + 1)
                left -= len(text)
                if left < 0:
                    raise errors.InvalidArgument("read exceeds the defined limit")
                yield member.filename, text


def _sorted(members: Iterator[tuple[str, bytes]]) -> tuple[Context, TlsFiles]:
    context: Context | None = None
    files: dict[str, dict[str, bytes]] = {}
    for name, data in members:
        if name == _META:
            context = parse(data, _META)
        elif (found := _TLS.fullmatch(name)) and not {".", ".."} & set(found.groups()):
            files.setdefault(found[1], {})[found[2]] = data
        else:
            raise errors.InvalidArgument(f"{name}: unexpected context file")
    if context is None:
        raise errors.InvalidArgument("invalid context: no metadata found")
    return context, files


def write_inspected(found: Sequence[dict[str, Any]], form: str) -> list[str]:
    """JSON or a template, on stdout; what did not work."""
    if form in ("", "json"):
        print(go_json(found, indent=None if form else 4))
        return []
    try:
        template = Template(form)
    except ParseError as error:
        return [f"template parsing error: {error.text}"]
    failed = []
    for one in found:
        try:
            print(template.render(Struct(one, one, _KIND)))
        except errors.InvalidArgument as error:
            failed.append(f"template parsing error: {error.text}")
    if not found or failed:
        print()
    return failed
