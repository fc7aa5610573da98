"""The user's config.json: credentials for registries, or the helpers that keep them; which context is in use.

`{"auths": {server: {"auth": base64 of user:password, "identitytoken": …}}, "credsStore": name, "credHelpers": {server:
name}}`.  A helper is the program `docker-credential-NAME`, called with `get`, `store` or `erase`
(docs of docker login, "Credential helper protocol").  What is in the file besides is kept as it is.
"""

from __future__ import annotations

import base64
import binascii
import functools
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from corten import errors

INDEX_SERVER: Final = "https://index.docker.io/v1/"  # under which Docker keeps the credentials for docker.io
FILE_NAME: Final = "config.json"
_TOKEN_USER: Final = "<token>"  # a helper's user name that says: the secret is an identity token
_NOT_FOUND: Final = "credentials not found in native keychain"
_PROXIES: Final = {
    "httpProxy": "HTTP_PROXY",
    "httpsProxy": "HTTPS_PROXY",
    "noProxy": "NO_PROXY",
    "ftpProxy": "FTP_PROXY",
    "allProxy": "ALL_PROXY",
}
_UNENCRYPTED: Final = """
WARNING! Your credentials are stored unencrypted in '{}'.
Configure a credential helper to remove this warning. See
https://docs.docker.com/go/credential-store/
"""


@dataclass(frozen=True, slots=True)
class Login:
    """A user at a registry; all empty when nobody is."""

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    registry_token: str = field(default="", repr=False)

    @property
    def is_empty(self) -> bool:
        """Whether it proves nothing."""
        return not (self.username or self.password or self.identity_token or self.registry_token)


class Config:
    """config.json of one folder.  One that cannot be read counts as empty, is told about, and is never overwritten."""

    def __init__(self, folder: str) -> None:
        self.path = os.path.join(folder, FILE_NAME)
        self._is_broken = False
        self._values = self._read()

    def login(self, server: str) -> Login:
        """The user at `server` (a host, or INDEX_SERVER); nobody when there is none or the helper fails."""
        helper = self._helper(server)
        if not helper:
            return self._of_file(server)
        try:
            return _from_helper(helper, server)
        except errors.CortenError as error:
            print(f"WARNING: no credentials for {server}: {error.text}", file=sys.stderr)
            return Login()

    def username(self, server: str) -> str:
        """The user's name at `server` as the file has it: no helper is asked."""
        return self._of_file(server).username

    def all_entries(self) -> dict[str, dict[str, str]]:
        """server → what `auths` of a file without helpers would have.  Raises a CortenError when a helper fails."""
        store = str(self._values.get("credsStore") or "")
        if store:
            found = {server: _from_helper(store, server) for server in _listed_by(store)}
        else:
            found = {server: _login_of(entry) for server, entry in self._auths().items()}
        helpers = self._values.get("credHelpers")
        for server, helper in helpers.items() if isinstance(helpers, dict) else ():
            found[server] = _from_helper(str(helper), server)
        entries = {server: _entry(login) for server, login in found.items()}
        return {server: {key: text for key, text in entry.items() if text} for server, entry in entries.items()}

    @property
    def current_context(self) -> str:
        """The context that `context use` chose; empty for none."""
        return str(self._values.get("currentContext") or "")

    def use_context(self, name: str) -> None:
        """Keeps that choice; an empty name is none.  Raises a CortenError when the file cannot be written."""
        if name == self.current_context:
            return
        self._values.pop("currentContext", None)
        if name:
            self._values["currentContext"] = name
        self._write()

    def proxies(self, host: str) -> dict[str, str]:
        """The variables that containers of an engine get, under both spellings (docs of docker, "Proxies")."""
        known = self._values.get("proxies") or {}
        chosen = known.get(host, known.get("default")) if isinstance(known, dict) else None
        out: dict[str, str] = {}
        for key, name in _PROXIES.items():
            value = chosen.get(key) if isinstance(chosen, dict) else None
            if isinstance(value, str) and value:
                out |= {name: value, name.lower(): value}
        return out

    def save(self, server: str, login: Login) -> None:
        """Keeps a user, with the helper for `server` where there is one.  Raises a CortenError when that fails."""
        self._choose_store()
        helper = self._helper(server)
        if helper:
            _to_helper(helper, server, login)
            self._put(server, {})
        elif self._put(server, _entry(login)) and login.password:
            print(_UNENCRYPTED.format(self.path), file=sys.stderr)

    def erase(self, server: str) -> None:
        """Forgets a user; nothing when there is none.  Raises a CortenError when the helper fails."""
        helper = self._helper(server)
        if self._auths().pop(server, None) is not None:
            self._write()
        if helper:
            _call(helper, "erase", server)

    def _helper(self, server: str) -> str:
        helpers = self._values.get("credHelpers")
        if isinstance(helpers, dict) and server in helpers:
            return str(helpers[server])
        return str(self._values.get("credsStore") or "")

    def _choose_store(self) -> None:
        """The keeper of secrets of this desktop, where nothing is kept yet and its helper is there, as docker does."""
        if any(self._values.get(key) for key in ("auths", "credsStore", "credHelpers")):
            return
        import shutil

        name = "pass" if shutil.which("pass") else "secretservice"
        if shutil.which(f"docker-credential-{name}"):
            self._values["credsStore"] = name

    def _of_file(self, server: str) -> Login:
        auths = self._auths()
        entry = auths.get(server)
        if entry is None:
            entry = next((entry for key, entry in auths.items() if hostname(key) == server), {})
        return _login_of(entry)

    def _auths(self) -> dict[str, Any]:
        auths = self._values.setdefault("auths", {})
        return auths if isinstance(auths, dict) else {}

    def _put(self, server: str, entry: Mapping[str, str]) -> bool:
        """False when it stands there already."""
        kept = {key: value for key, value in entry.items() if value}
        if self._auths().get(server) == kept:
            return False
        self._auths()[server] = kept
        self._write()
        return True

    # the file

    def _read(self) -> dict[str, Any]:
        try:
            with open(self.path, "rb") as file:
                values = json.loads(file.read() or b"{}")
            _check(values)
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, errors.CortenError) as error:
            self._is_broken = True
            print(f"WARNING: Error parsing config file ({self.path}): {error}", file=sys.stderr)
            return {}
        return dict(values)

    def _write(self) -> None:
        """By a new file and a rename; the file's mode is kept, and a link stays one."""
        if self._is_broken:
            raise errors.FailedPrecondition(f"{self.path} cannot be read and is not overwritten: correct or remove it")
        path = os.path.realpath(self.path)
        try:
            os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
            _replace(path, json.dumps(self._values, indent="\t", ensure_ascii=False))
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise errors.PermissionDenied(f"open {error.filename or path}: {reason}") from error


@functools.cache
def config_of(folder: str) -> Config:
    """The one of a folder: read, and told about, once."""
    return Config(folder)


def hostname(server: str) -> str:
    """`reg.example:5000` of `https://reg.example:5000/v2/`."""
    scheme, separator, rest = server.partition("://")
    return (rest if separator and scheme in ("http", "https", "ssh") else server).partition("/")[0]


def _replace(path: str, text: str) -> None:
    import tempfile

    mode = os.stat(path).st_mode & 0o777 if os.path.exists(path) else 0o600
    fd, name = tempfile.mkstemp(prefix=f"{FILE_NAME}.", dir=os.path.dirname(path))
    try:
        with open(fd, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fchmod(fd, mode)
            os.fsync(fd)
        os.rename(name, path)
    except BaseException:
        os.unlink(name)
        raise


def _check(values: Any) -> None:
    """Raises InvalidArgument for what docker would not read."""
    if not isinstance(values, dict):
        raise errors.InvalidArgument("not a JSON object")
    for key in ("auths", "credHelpers"):
        if not isinstance(values.get(key) or {}, dict):
            raise errors.InvalidArgument(f"{key}: not an object")
    for server, entry in (values.get("auths") or {}).items():
        if not isinstance(entry, dict):
            raise errors.InvalidArgument(f"auths: {server}: not an object")
        _login_of(entry)
    for key in ("auths", "credHelpers"):
        if values.get(key) is None:
            values.pop(key, None)


def _login_of(entry: Mapping[str, Any]) -> Login:
    """Raises InvalidArgument in docker's words."""

    def text(key: str) -> str:
        value = entry.get(key) or ""
        if not isinstance(value, str):
            raise errors.InvalidArgument(f"{key}: not a string")
        return value

    username, password = text("username"), text("password")
    if text("auth"):
        username, password = _decoded(text("auth"))
    return Login(username, password, text("identitytoken"), text("registrytoken"))


def _decoded(auth: str) -> tuple[str, str]:
    try:
        found = base64.b64decode(auth, validate=True).decode()
    except (binascii.Error, ValueError):
        raise errors.InvalidArgument("illegal base64 data in auth") from None
    username, colon, password = found.partition(":")
    if not colon or not username:
        raise errors.InvalidArgument("Invalid auth configuration file")
    return username, password.strip("\x00")


def _entry(login: Login) -> dict[str, str]:
    plain = f"{login.username}:{login.password}" if login.username or login.password else ""
    return {
        "auth": base64.b64encode(plain.encode()).decode(),
        "identitytoken": login.identity_token,
        "registrytoken": login.registry_token,
    }


# helpers


def _from_helper(helper: str, server: str) -> Login:
    """Nobody when the helper knows nobody.  Raises a CortenError when it does not work."""
    try:
        found = json.loads(_call(helper, "get", server))
        username, secret = str(found["Username"]), str(found["Secret"])
    except errors.NotFound:
        return Login()
    except (ValueError, KeyError, TypeError):
        raise errors.Internal(f"docker-credential-{helper}: its answer cannot be read") from None
    return Login(identity_token=secret) if username == _TOKEN_USER else Login(username, secret)


def _listed_by(helper: str) -> list[str]:
    """The servers of which it knows somebody."""
    try:
        found = json.loads(_call(helper, "list", "unused"))
        return [str(server) for server in found]
    except errors.NotFound:
        return []
    except (ValueError, TypeError):
        raise errors.Internal(f"docker-credential-{helper}: its answer cannot be read") from None


def _to_helper(helper: str, server: str, login: Login) -> None:
    username, secret = login.username, login.password
    if login.identity_token:
        username, secret = _TOKEN_USER, login.identity_token
    text = json.dumps({"ServerURL": server, "Username": username, "Secret": secret}, ensure_ascii=False)
    try:
        _call(helper, "store", text)
    except errors.CortenError as error:
        raise errors.Internal(f"error storing credentials - err: {error.text}") from error


def _call(helper: str, verb: str, text: str) -> str:
    """What the helper prints.  Raises NotFound when it knows nobody, Internal when it fails."""
    import subprocess

    program = f"docker-credential-{helper}"
    if "/" in helper:
        raise errors.InvalidArgument(f"{helper!r} is not the name of a credential helper")
    try:
        done = subprocess.run([program, verb], input=text, stdout=subprocess.PIPE, encoding="utf-8", check=False)
    except (OSError, UnicodeDecodeError) as error:
        if isinstance(error, UnicodeDecodeError):
            raise errors.Internal(f"{program}: its answer is not UTF-8") from None
        found = "executable file not found in $PATH" if isinstance(error, FileNotFoundError) else error.strerror
        raise errors.Internal(f'exec: "{program}": {found}, out: ``') from error
    said = done.stdout.strip()
    if done.returncode == 0:
        return said
    if said == _NOT_FOUND:
        raise errors.NotFound(said)
    raise errors.Internal(f"exit status {done.returncode}, out: `{said}`")
