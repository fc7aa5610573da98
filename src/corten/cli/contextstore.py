"""Contexts as Docker's CLI keeps them: names for engines, with the files of their TLS (docker/cli cli/context/store).

    <folder>/contexts/meta/<sha256 of the name>/meta.json        {"Name", "Metadata", "Endpoints": {"docker": …}}
    <folder>/contexts/tls/<sha256 of the name>/docker/*.pem      ca.pem, cert.pem, key.pem

Docker's CLI and this one read and write the same files.  What is in them besides is kept.  `default` is none of them:
it stands for DOCKER_HOST and the usual socket.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from corten import errors
from corten.cli.contextchoice import DEFAULT
from corten.cli.gojson import go_json

ENDPOINT: Final = "docker"
TLS_FILES: Final = {"ca": "ca.pem", "cert": "cert.pem", "key": "key.pem"}
_NAME: Final = r"^[a-zA-Z0-9][a-zA-Z0-9_.+-]+$"

TlsFiles = Mapping[str, Mapping[str, bytes]]  # endpoint → name of a file → what is in it


@dataclass(frozen=True, slots=True)
class Context:
    """One context: `metadata` has Description and what others put there, `endpoints` the engine as `docker`."""

    name: str
    metadata: Mapping[str, Any] = field(default_factory=dict)
    endpoints: Mapping[str, Any] = field(default_factory=dict)

    @property
    def description(self) -> str:
        """Empty for none."""
        return str(self.metadata.get("Description") or "")

    @property
    def host(self) -> str:
        """The engine's address; empty for the usual socket."""
        return str(self._engine.get("Host") or "")

    @property
    def is_unverified(self) -> bool:
        """Whether the engine may be anyone."""
        return bool(self._engine.get("SkipTLSVerify"))

    @property
    def _engine(self) -> Mapping[str, Any]:
        found = self.endpoints.get(ENDPOINT)
        return found if isinstance(found, dict) else {}

    def described(self, text: str) -> Context:
        """The same with another description; an empty one changes nothing."""
        if not text:
            return self
        others = {key: value for key, value in self.metadata.items() if key != "Description"}
        return Context(self.name, {"Description": text, **others}, self.endpoints)

    def values(self) -> dict[str, Any]:
        """As meta.json has it."""
        return {"Name": self.name, "Metadata": dict(self.metadata), "Endpoints": dict(self.endpoints)}


def engine_values(host: str, *, is_unverified: bool) -> dict[str, Any]:
    """The endpoint `docker` of meta.json."""
    return {**({"Host": host} if host else {}), "SkipTLSVerify": is_unverified}


def parse(data: bytes, path: str) -> Context:
    """A context out of meta.json.  Raises InvalidArgument that names the file."""
    try:
        values = json.loads(data)
        json.dumps(values, ensure_ascii=False).encode()  # a lone surrogate: UnicodeEncodeError is a ValueError
    except ValueError as error:
        raise errors.InvalidArgument(f"parsing {path}: {error}") from None
    if not isinstance(values, dict) or not isinstance(values.get("Name"), str):
        raise errors.InvalidArgument(f"parsing {path}: not an object with a Name")
    parts = [values.get(key) or {} for key in ("Metadata", "Endpoints")]
    if not all(isinstance(part, dict) for part in parts):
        raise errors.InvalidArgument(f"parsing {path}: Metadata and Endpoints are not objects")
    return Context(values["Name"], *parts)


def check_name(name: str) -> None:
    """Raises InvalidArgument for one that no stored context may have."""
    if name == "":
        raise errors.InvalidArgument("context name cannot be empty")
    if name == DEFAULT:
        raise errors.InvalidArgument(f'"{DEFAULT}" is a reserved context name')
    if not re.fullmatch(_NAME, name):
        raise errors.InvalidArgument(f'context name "{name}" is invalid, names are validated against regexp "{_NAME}"')


class Store:
    """The contexts of one folder (`session.config_folder`).  Raises a CortenError for what it cannot read or write."""

    def __init__(self, folder: str) -> None:
        self._root = os.path.join(folder, "contexts")

    def meta_path(self, name: str) -> str:
        """The folder of its meta.json."""
        return os.path.join(self._root, "meta", _id(name))

    def tls_path(self, name: str) -> str:
        """The folder of its TLS files."""
        return os.path.join(self._root, "tls", _id(name))

    def has(self, name: str) -> bool:
        """Whether it is kept here."""
        return os.path.isfile(os.path.join(self.meta_path(name), "meta.json"))

    def load(self, name: str) -> Context:
        """Raises NotFound."""
        path = os.path.join(self.meta_path(name), "meta.json")
        try:
            with open(path, "rb") as file:
                return parse(file.read(), path)
        except FileNotFoundError:
            text = f'context "{name}": context not found: open {path}: no such file or directory'
            raise errors.NotFound(text) from None
        except OSError as error:
            raise _failed(error) from error

    def all(self) -> list[Context]:
        """In no order."""
        folder = os.path.join(self._root, "meta")
        found = []
        try:
            for id in os.listdir(folder):
                path = os.path.join(folder, id, "meta.json")
                with contextlib.suppress(FileNotFoundError, NotADirectoryError), open(path, "rb") as file:
                    found.append(_of_list(file.read(), path))
        except (FileNotFoundError, NotADirectoryError):
            pass
        except OSError as error:
            raise _failed(error) from error
        return found

    def save(self, context: Context) -> None:
        """meta.json, by a new file and a rename."""
        folder = self.meta_path(context.name)
        try:
            os.makedirs(folder, 0o755, exist_ok=True)
            _write(os.path.join(folder, "meta.json"), go_json(context.values()).encode(), 0o644)
        except OSError as error:
            raise _failed(error) from error

    def tls_names(self, name: str) -> dict[str, list[str]]:
        """The names of its TLS files, by endpoint."""
        found: dict[str, list[str]] = {}
        try:
            for endpoint in sorted(os.listdir(self.tls_path(name))):
                found[endpoint] = sorted(os.listdir(os.path.join(self.tls_path(name), endpoint)))
        except FileNotFoundError:
            pass
        except OSError as error:
            raise _failed(error) from error
        return found

    def tls_file(self, name: str, which: str) -> str:
        """The path of one of TLS_FILES of its engine; empty when there is none."""
        path = os.path.join(self.tls_path(name), ENDPOINT, TLS_FILES[which])
        try:
            os.stat(path)
        except FileNotFoundError:
            return ""
        except OSError as error:  # a directory of somebody else: no reason to talk without TLS
            raise _failed(error) from error
        return path

    def tls(self, name: str) -> dict[str, dict[str, bytes]]:
        """What is in them."""
        out: dict[str, dict[str, bytes]] = {}
        try:
            for endpoint, names in self.tls_names(name).items():
                out[endpoint] = {}
                for file_name in names:
                    with open(os.path.join(self.tls_path(name), endpoint, file_name), "rb") as file:
                        out[endpoint][file_name] = file.read()
        except OSError as error:
            raise _failed(error) from error
        return out

    def replace_tls(self, name: str, files: TlsFiles) -> None:
        """These and no others; readable by the user alone."""
        try:
            _remove_tree(self.tls_path(name))
            for endpoint, texts in files.items():
                folder = os.path.join(self.tls_path(name), endpoint)
                for place in (os.path.dirname(self.tls_path(name)), self.tls_path(name), folder):
                    os.makedirs(place, 0o700, exist_ok=True)
                for file_name, data in texts.items():
                    _write(os.path.join(folder, file_name), data, 0o600)
        except OSError as error:
            raise _failed(error) from error

    def remove(self, name: str) -> None:
        """One that is not there is none."""
        try:
            _remove_tree(self.meta_path(name))
            _remove_tree(self.tls_path(name))
        except OSError as error:
            raise _failed(error) from error


def _id(name: str) -> str:
    return hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest()


def _of_list(data: bytes, path: str) -> Context:
    try:
        return parse(data, path)
    except errors.InvalidArgument as error:
        raise errors.InvalidArgument(f"failed to read metadata: {error.text}") from None


def _write(path: str, data: bytes, mode: int) -> None:
    fresh = f"{path}.{os.getpid()}"
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
    with open(fd, "wb") as file:
        file.write(data)
    os.rename(fresh, path)


def _remove_tree(path: str) -> None:
    import shutil

    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(path)


def _failed(error: OSError) -> errors.CortenError:
    reason = (error.strerror or str(error)).lower()
    return errors.FailedPrecondition(f"open {error.filename}: {reason}" if error.filename else reason)
