"""Authorization plugins: programs that see every request, and every answer, and may refuse it.

Each is asked in the order in which daemon.json names them (`authorization-plugins`), and each must allow.  What they
get and answer, and where they are found, is Docker's ("Access authorization plugin", "Docker Plugin API"):

    /run/docker/plugins/NAME.sock, …/NAME/NAME.sock                        a socket
    /etc/docker/plugins/NAME.spec, …/NAME.json, and below /usr/lib/docker  its address: unix://, tcp:// or http://

Bodies are shown only where they are JSON, and never those of /auth.  An answer that is already on its way cannot be
taken back: who follows a log is refused before it, not in it.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import os
import re
import ssl
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote, urlsplit

from corten.errors import CortenError, Internal, InvalidArgument, NotFound, PermissionDenied

if TYPE_CHECKING:
    import aiohttp

log = logging.getLogger("corten.docker")

MAX_BODY_BYTES: Final = 4 << 20
SOCKETS: Final = "/run/docker/plugins"
SPECS: Final = ("/etc/docker/plugins", "/usr/lib/docker/plugins")
MEDIA_TYPE: Final = "application/vnd.docker.plugins.v1.2+json"
MAX_ANSWER_BYTES: Final = 1 << 20
_ANSWER_S: Final = 30.0
_WITHIN_S: Final = 30.0  # for a plugin that is being started again
_HOST: Final = "plugin.moby.localhost"
_SECRET: Final = frozenset({"authorization", "x-registry-config", "x-registry-auth"})
_AUTH: Final = re.compile(r"/(v\d[\d.]*/)?auth")
_NAME: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")


@dataclass(frozen=True, slots=True)
class Peer:
    """Who speaks, by a certificate that was checked: its common name, and itself in PEM."""

    name: str
    certificate: str


@dataclass(slots=True)
class Asked:
    """One request as plugins see it (`authorization.Request`); the answer is added to it later."""

    fields: dict[str, Any]
    path: str

    @staticmethod
    def of(method: str, target: str, headers: Mapping[str, str], body: bytes, peer: Peer | None) -> Asked:
        """`target`: the path with its query as it was sent; `body`: the whole one, or b"" when it is not to be seen."""
        path, given = unquote(target.partition("?")[0]), headers.items()
        made: dict[str, Any] = {"RequestMethod": method, "RequestUri": target, "RequestHeaders": _flat(given)}
        content_type = next((value for name, value in given if name.lower() == "content-type"), "")
        if body and shows_body(path, content_type):
            made["RequestBody"] = _base64(body)
        if peer is not None:
            made |= {"User": peer.name, "UserAuthNMethod": "TLS"}
            made["RequestPeerCertificates"] = [_base64(peer.certificate.encode())]
        return Asked(made, path)

    def answer(self, status: int, headers: Iterable[tuple[str, str]], content_type: str, body: bytes) -> None:
        """What the engine has answered."""
        self.fields |= {"ResponseStatusCode": status, "ResponseHeaders": _flat(headers)}
        if body and len(body) <= MAX_BODY_BYTES and shows_body(self.path, content_type):
            self.fields["ResponseBody"] = _base64(body)


def shows_body(path: str, content_type: str) -> bool:
    """Whether plugins see a body: JSON alone, and no password."""
    return content_type.partition(";")[0].strip().lower() == "application/json" and not _AUTH.match(path)


def _flat(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The last of each name, written as Go does; without what says who somebody is."""
    return {
        "-".join(word.capitalize() for word in name.split("-")): value
        for name, value in headers
        if name.lower() not in _SECRET
    }


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


@dataclass(frozen=True, slots=True)
class Places:
    """Where plugins are looked for."""

    sockets: str = SOCKETS
    specs: tuple[str, ...] = SPECS

    def find(self, name: str) -> tuple[str, Mapping[str, Any] | None]:
        """Address and TLS settings.  Raises NotFound, InvalidArgument."""
        if not _NAME.fullmatch(name):
            raise InvalidArgument(f"{name!r} is no name of a plugin")
        for path in (f"{self.sockets}/{name}.sock", f"{self.sockets}/{name}/{name}.sock"):
            if _is_socket(path):
                return f"unix://{path}", None
        for folder in self.specs:
            for base in (f"{folder}/{name}", f"{folder}/{name}/{name}"):
                for suffix in (".spec", ".json"):
                    if os.path.exists(base + suffix):
                        return _read_spec(base + suffix)
        raise NotFound(f"plugin {name} not found: neither {self.sockets}/{name}.sock nor a .spec or .json file")


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError:
        return False


def _read_spec(path: str) -> tuple[str, Mapping[str, Any] | None]:
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(1 << 16)
        if not path.endswith(".json"):
            return text.strip(), None
        found = json.loads(text)
        secured = found.get("TLSConfig")
        return str(found["Addr"]), dict(secured) if secured else None
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise InvalidArgument(f"{path}: not an address of a plugin: {error}") from error


@dataclass(slots=True)
class Plugin:
    """One of them, connected when it is asked first."""

    name: str
    places: Places
    _found: tuple[str, Mapping[str, Any] | None] | None = None
    _session: aiohttp.ClientSession | None = None
    _base: str = ""

    async def activate(self) -> None:
        """Ask what it is.  Raises what `call` does, and InvalidArgument when it does not judge requests."""
        found = await self.call("Plugin.Activate", {})
        kinds = found.get("Implements")
        if not isinstance(kinds, list) or "authz" not in kinds:
            raise InvalidArgument(f"plugin {self.name} implements {kinds!r}, not authz")

    async def call(self, method: str, message: Mapping[str, Any]) -> dict[str, Any]:
        """Its answer.  One that cannot be reached is tried again, for half a minute.  Raises CortenError."""
        import aiohttp

        pause, end = 1.0, asyncio.get_running_loop().time() + _WITHIN_S
        while True:
            try:
                return await self._post(method, message)
            except aiohttp.ClientConnectionError as error:
                await self.close()
                if asyncio.get_running_loop().time() + pause > end:
                    raise Internal(str(error)) from error
                log.warning("plugin %s: %s: trying again in %g s", self.name, error, pause)
            except (TimeoutError, aiohttp.ClientError, ValueError) as error:
                raise Internal(str(error) or f"no answer within {_ANSWER_S:g} s") from error
            await asyncio.sleep(pause)
            pause *= 2

    async def _post(self, method: str, message: Mapping[str, Any]) -> dict[str, Any]:
        session = self._connected()
        headers = {"Accept": MEDIA_TYPE, "Host": _HOST, "Content-Type": "application/json"}
        async with asyncio.timeout(_ANSWER_S):
            data = json.dumps(message).encode()
            async with session.post(f"{self._base}/{method}", data=data, headers=headers) as answer:
                text = await answer.content.read(MAX_ANSWER_BYTES)
        found = json.loads(text) if text.strip() else {}
        if not isinstance(found, dict):
            raise Internal(f"{method}: its answer is no JSON object")
        if answer.status != 200 or found.get("Err"):
            raise Internal(f"{method}: {found.get('Err') or answer.status}")
        return found

    def _connected(self) -> aiohttp.ClientSession:
        if self._session is None:
            import aiohttp

            if self._found is None:  # later its socket may be missing for a while
                self._found = self.places.find(self.name)
            address, secured = self._found
            url = urlsplit(address)
            connector: aiohttp.BaseConnector
            if url.scheme == "unix":
                connector, self._base = aiohttp.UnixConnector(path=url.path), f"http://{_HOST}"
            elif url.scheme in ("tcp", "http", "https") and url.netloc:
                connector = aiohttp.TCPConnector(ssl=_context(secured) if secured is not None else True)
                is_secured = secured is not None or url.scheme == "https"
                self._base = f"{'https' if is_secured else 'http'}://{url.netloc}"
            else:
                raise InvalidArgument(f"plugin {self.name}: {address!r}: give unix://, tcp:// or http://")
            self._session = aiohttp.ClientSession(connector=connector, auto_decompress=False)
        return self._session

    async def close(self) -> None:
        """Its connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()


def _context(secured: Mapping[str, Any]) -> ssl.SSLContext:
    """As a .json file's TLSConfig says: without a CA nothing is checked, as with dockerd."""
    made = ssl.create_default_context(cafile=secured.get("CAFile") or None)
    if secured.get("InsecureSkipVerify") or not secured.get("CAFile"):
        made.check_hostname = False
        made.verify_mode = ssl.CERT_NONE
    if secured.get("CertFile"):
        made.load_cert_chain(secured["CertFile"], secured.get("KeyFile"))
    return made


async def check(names: Iterable[str]) -> None:
    """Whether all of them are there.  Raises InvalidArgument."""
    trial = Authorization()
    await trial.load(names)
    await trial.close()


@dataclass(slots=True)
class Authorization:
    """All plugins of the engine."""

    places: Places = field(default_factory=Places)
    _plugins: tuple[Plugin, ...] = ()

    @property
    def is_on(self) -> bool:
        """Whether there is anybody to ask."""
        return bool(self._plugins)

    async def load(self, names: Iterable[str]) -> None:
        """From now on these; each is asked once what it is.  Raises InvalidArgument; the old ones stay then."""
        known = {one.name: one for one in self._plugins}
        made = tuple(known.get(name) or Plugin(name, self.places) for name in dict.fromkeys(names))
        fresh = [one for one in made if one.name not in known]
        try:
            for one in fresh:
                await one.activate()
        except CortenError as error:
            for one in fresh:
                await one.close()
            raise InvalidArgument(f"authorization-plugins: {error.text}") from error
        old, self._plugins = self._plugins, made
        for one in old:
            if one not in made:
                await one.close()

    async def request(self, asked: Asked) -> None:
        """Raises PermissionDenied when one refuses, Internal when one cannot be asked."""
        await self._ask("AuthZPlugin.AuthZReq", asked)

    async def response(self, asked: Asked) -> None:
        """As `request`, about what `asked.answer` has noted."""
        await self._ask("AuthZPlugin.AuthZRes", asked)

    async def _ask(self, method: str, asked: Asked) -> None:
        for plugin in self._plugins:
            try:
                found = await plugin.call(method, asked.fields)
            except CortenError as error:
                raise Internal(f"plugin {plugin.name} failed with error: {error.text}") from error
            if found.get("Allow") is not True:
                raise PermissionDenied(f"authorization denied by plugin {plugin.name}: {found.get('Msg') or ''}")

    async def close(self) -> None:
        """All connections."""
        for plugin in self._plugins:
            await plugin.close()
