"""hosts.toml: which servers stand for a registry, in containerd's format.

    server = "https://registry.example"          the registry itself; what it is when the file does not say
    [host."https://mirror.example"]              tried before it, in the file's order
      capabilities = ["pull", "resolve"]         and "push"; all three where not given
      ca = "mirror.pem"                          or a list; relative to the file
      client = [["cert.pem", "key.pem"]]         or a file with both, or a list of such
      skip_verify = false
      override_path = false                      true: the URL's path is the whole root, without /v2
      [host."https://mirror.example".header]
        x-name = "value"                         or a list

Document: containerd `docs/hosts.md`.  The keys of a host may stand at the top for `server`.
"""

from __future__ import annotations

import os
import posixpath
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from corten.errors import InvalidArgument

FILE_NAME: Final = "hosts.toml"
FILE_BYTES_MAX: Final = 1 << 20
_CAPABILITIES: Final = ("pull", "resolve", "push")
_HOST_KEYS: Final = frozenset(
    {"capabilities", "ca", "client", "skip_verify", "header", "override_path", "dial_timeout"}
)  # fmt: skip
_HEADER: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")

Table = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Entry:
    """One server of a hosts.toml.  `url` is its root without a slash at the end; empty: the registry's usual one.

    `is_server`: the registry itself, not a `[host]`.  `ca_files`, `client_certs` and `skip_verify` are None where the
    file does not say.
    """

    url: str
    is_server: bool = False
    capabilities: frozenset[str] = frozenset(_CAPABILITIES)
    ca_files: tuple[str, ...] | None = None
    client_certs: tuple[tuple[str, str], ...] | None = None
    skip_verify: bool | None = None
    headers: tuple[tuple[str, str], ...] = ()

    @property
    def host(self) -> str:
        """`host[:port]` of the URL."""
        return urlsplit(self.url).netloc


def read(path: str) -> tuple[Entry, ...] | None:
    """The servers of a file, the registry itself last; None when there is no file.

    Raises InvalidArgument that names file and key.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise InvalidArgument(f"open {path}: {(error.strerror or str(error)).lower()}") from error
    if len(data) > FILE_BYTES_MAX:
        raise InvalidArgument(f"{path}: larger than {FILE_BYTES_MAX} bytes")
    try:
        return parse(data, os.path.dirname(path))
    except InvalidArgument as error:
        raise InvalidArgument(f"{path}: {error.text}") from error


def parse(data: bytes, folder: str) -> tuple[Entry, ...]:
    """`data` of a file in `folder`.  Raises InvalidArgument that names the key."""
    try:
        found = tomllib.loads(data.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise InvalidArgument(f"not TOML: {error}") from error
    hosts = found.pop("host", {})
    if not isinstance(hosts, dict):
        raise InvalidArgument("host: not a table")
    server = found.pop("server", "")
    if not isinstance(server, str):
        raise InvalidArgument("server: not a string")
    entries = [_entry(f'host."{url}"', url, _table(f'host."{url}"', table), folder) for url, table in hosts.items()]
    return (*entries, _entry("", server, found, folder))


def _table(where: str, value: Any) -> Table:
    if not isinstance(value, dict):
        raise InvalidArgument(f"{where}: not a table")
    return value


def _entry(where: str, url: str, table: Table, folder: str) -> Entry:
    """`where` is in front of a key's name; empty for the registry itself."""
    prefix = f"{where}." if where else ""
    if strange := sorted(set(table) - _HOST_KEYS):
        raise InvalidArgument(f"{prefix}{strange[0]}: unknown key")
    is_whole = _boolean(prefix, table, "override_path") or False
    return Entry(
        url=_root(where or "server", url, is_whole=is_whole) if url or where else "",
        is_server=not where,
        capabilities=_capabilities(prefix, table),
        ca_files=_files(prefix, table, folder),
        client_certs=_pairs(prefix, table, folder),
        skip_verify=_boolean(prefix, table, "skip_verify"),
        headers=_headers(prefix, table),
    )


def _root(where: str, url: str, *, is_whole: bool) -> str:
    whole = url if "://" in url else f"https://{url}"
    try:
        parts = urlsplit(whole)
        is_url = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        is_url = False
    if not is_url or parts.query or parts.fragment or parts.username is not None:
        raise InvalidArgument(f"{where}: not http[s]://host[:port][/path]")
    path = posixpath.normpath(parts.path).rstrip("/") if parts.path else ""
    if not is_whole and not path.endswith("/v2"):
        path += "/v2"
    return f"{parts.scheme}://{parts.netloc}{path}"


def _capabilities(prefix: str, table: Table) -> frozenset[str]:
    given = table.get("capabilities") or list(_CAPABILITIES)
    if not isinstance(given, list):
        raise InvalidArgument(f"{prefix}capabilities: not a list of strings")
    for one in given:
        if one not in _CAPABILITIES:
            raise InvalidArgument(f"{prefix}capabilities: unknown capability {one!r}")
    return frozenset(given)


def _boolean(prefix: str, table: Table, key: str) -> bool | None:
    value = table.get(key)
    if value is not None and not isinstance(value, bool):
        raise InvalidArgument(f"{prefix}{key}: not true or false")
    return value


def _files(prefix: str, table: Table, folder: str) -> tuple[str, ...] | None:
    given = table.get("ca")
    if given is None:
        return None
    files = [given] if isinstance(given, str) else given
    if not isinstance(files, list) or not all(isinstance(one, str) for one in files):
        raise InvalidArgument(f"{prefix}ca: not a path or a list of paths")
    return tuple(os.path.join(folder, one) for one in files)


def _pairs(prefix: str, table: Table, folder: str) -> tuple[tuple[str, str], ...] | None:
    given = table.get("client")
    if given is None:
        return None
    return tuple(_pair(prefix, one, folder) for one in (given if isinstance(given, list) else [given]))


def _pair(prefix: str, given: Any, folder: str) -> tuple[str, str]:
    """(certificate, key); a single file has both."""
    files = [given] if isinstance(given, str) else given
    if not isinstance(files, list) or not all(isinstance(one, str) for one in files) or len(files) not in (1, 2):
        raise InvalidArgument(f"{prefix}client: not a path or a list of [certificate, key]")
    certificate, key = files[0], files[-1] or files[0]
    return os.path.join(folder, certificate), os.path.join(folder, key)


def _headers(prefix: str, table: Table) -> tuple[tuple[str, str], ...]:
    given = table.get("header", {})
    if not isinstance(given, dict):
        raise InvalidArgument(f"{prefix}header: not a table")
    out = []
    for name, value in given.items():
        for one in value if isinstance(value, list) else [value]:
            if not isinstance(one, str) or not _HEADER.fullmatch(name) or not one.isprintable():
                raise InvalidArgument(f"{prefix}header.{name}: not a header that can be sent")
            out.append((name, one))
    return tuple(out)
