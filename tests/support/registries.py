"""Real registries: Debian's docker-registry (distribution 2.8), plain, with TLS, and with each kind of authentication.

On a loopback port of an engine's network namespace, or of the test's own.  Each can be killed and started again at the
same port with the same content.
"""

from __future__ import annotations

import base64
import ctypes
import http.client
import json
import shutil
import signal
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from support import paths, peers, process
from support.certificates import Authority, Pair
from support.httpthread import connect, free_port
from support.netns import NetNs
from support.tokenserver import ISSUER, SERVICE, TokenServer

USER, PASSWORD = "somebody", "s3cret: word"
SALT = "$2b$04$abcdefghijklmnopqrstuu"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a registry said; header names are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The body, parsed."""
        return json.loads(self.body)


class Registry:
    """docker-registry with a folder of its own; a context manager.

    `users` (name: password) asks for basic authentication, `tokens` for a token of that server.  `tls` makes an
    authority, whose root is `ca`; `client_certs` asks clients for one that it signed.  `proxied` makes it a mirror
    that fetches what it lacks from the registry with that URL.  `settings` are added to config.yml (JSON is YAML).
    """

    def __init__(
        self,
        *,
        netns: NetNs | None = None,
        tls: bool = False,
        client_certs: bool = False,
        users: Mapping[str, str] | None = None,
        tokens: TokenServer | None = None,
        deletes: bool = True,
        proxied: str = "",
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.netns, self.users, self.tokens = netns, dict(users or {}), tokens
        self.folder = paths.scratch("registry")
        self.storage = self.folder / "storage"
        self.port = free_port(netns)
        self.host = f"127.0.0.1:{self.port}"
        self.url = f"{'https' if tls else 'http'}://{self.host}"
        self.authority = Authority(self.folder) if tls else None
        self._own_pair = self.client_pair("tests") if client_certs else None
        document = self._document(deletes=deletes, client_certs=client_certs) | dict(settings or {})
        if proxied:
            document["proxy"] = {"remoteurl": proxied}
        (self.folder / "config.yml").write_text(json.dumps(document))
        self._daemon: process.Daemon | None = None
        try:
            self.start()
        except process.NotReady:
            self.close()
            raise

    def _document(self, *, deletes: bool, client_certs: bool) -> dict[str, Any]:
        """config.yml; upload purging would delete while a test runs."""
        http_part: dict[str, Any] = {"addr": self.host, "secret": "same after a restart"}
        if self.authority is not None:
            pair = self.authority.issue("server")
            http_part["tls"] = {"certificate": str(pair.cert), "key": str(pair.key)}
            if client_certs:
                http_part["tls"]["clientcas"] = [str(self.authority.ca)]
        storage = {
            "filesystem": {"rootdirectory": str(self.storage)},
            "delete": {"enabled": deletes},
            "maintenance": {"uploadpurging": {"enabled": False}},
        }
        found = {"version": 0.1, "log": {"level": "info"}, "storage": storage, "http": http_part}
        if self.users:
            lines = [f"{name}:{_bcrypt(password)}\n" for name, password in self.users.items()]
            (self.folder / "htpasswd").write_text("".join(lines))
            found["auth"] = {"htpasswd": {"realm": "corten tests", "path": str(self.folder / "htpasswd")}}
        if self.tokens is not None:
            trusted = {"issuer": ISSUER, "service": SERVICE, "rootcertbundle": str(self.tokens.root)}
            found["auth"] = {"token": {"realm": self.tokens.realm, **trusted}}
        return found

    # Its life.

    @property
    def pid(self) -> int:
        """The registry's pid, to be stopped and continued with signals."""
        assert self._daemon is not None
        return self._daemon.pid

    def start(self) -> None:
        """Starts it, at the same port with the same storage as before; NotReady when it does not answer."""
        enter = [] if self.netns is None else self.netns.enter
        argv = [*enter, str(peers.binary("docker-registry")), "serve", str(self.folder / "config.yml")]
        env = {"PATH": "/usr/bin:/bin", "HOME": str(self.folder), "OTEL_TRACES_EXPORTER": "none"}
        self._daemon = process.Daemon(argv, self.folder / "log", env)
        self._daemon.wait_until(self.answers, "answer of docker-registry", timeout=30)

    def kill(self) -> None:
        """SIGKILL: what it was sending and taking breaks off."""
        assert self._daemon is not None
        self._daemon.stop(signal.SIGKILL)

    def log_tail(self, lines: int = 40) -> str:
        """The end of its log."""
        return self._daemon.log_tail(lines) if self._daemon is not None else ""

    def answers(self) -> bool:
        """Whether GET /v2/ is answered, with whatever status."""
        try:
            return self.request("GET", "/v2/", credentials=None).status in {200, 401}
        except ssl.SSLError:  # it wants a certificate of its client
            return True
        except (OSError, http.client.HTTPException):
            return False

    def close(self) -> None:
        """Ends it and removes its folder."""
        if self._daemon is not None:
            self._daemon.stop(signal.SIGKILL)
        shutil.rmtree(self.folder)

    def __enter__(self) -> Registry:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            print(f"---- {self.folder}/log\n{self.log_tail()}")
        self.close()

    # What clients need.

    @property
    def ca(self) -> Path:
        """The root certificate that its clients trust."""
        assert self.authority is not None
        return self.authority.ca

    def client_pair(self, name: str = "client") -> Pair:
        """A client certificate that it accepts."""
        assert self.authority is not None
        return self.authority.issue(name)

    def login(self) -> tuple[str, str] | None:
        """Name and password of the first user; None where anybody is let in."""
        users = self.tokens.users if self.tokens is not None else self.users
        return next(iter(users.items()), None)

    def trust(self, certs_d: Path, pair: Pair | None = None) -> None:
        """Puts the root (and a client's certificate) into `<certs_d>/<host>/`, as Docker, podman and skopeo read it."""
        folder = certs_d / self.host
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(self.ca, folder / "ca.crt")
        if pair is not None:
            shutil.copy(pair.cert, folder / "client.cert")
            shutil.copy(pair.key, folder / "client.key")

    def docker_auth(self, file: Path) -> None:
        """Writes a config.json (or auth.json) with the first user's credentials for this registry."""
        name, password = self.login() or ("", "")
        auth = base64.b64encode(f"{name}:{password}".encode()).decode()
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"auths": {self.host: {"auth": auth}} if name else {}}))

    # A small client, for what a test puts there and looks at; from any namespace.

    def request(
        self,
        method: str,
        target: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        credentials: str | None = "own",
    ) -> Answer:
        """One request on a connection of its own; as the first user unless `credentials` is None."""
        sent = dict(headers or {})
        pair = None if credentials is None else self._own_pair
        if credentials is not None and (login := self.login()) is not None:
            sent["Authorization"] = self._authorization(login, target)
        address = target.removeprefix(self.url)
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        stream = connect(("127.0.0.1", self.port), self.netns)
        connection.sock = self._wrapped(stream, pair) if self.authority is not None else stream
        try:
            connection.request(method, address, body, sent)
            answer = connection.getresponse()
            return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def _wrapped(self, stream: socket.socket, pair: Pair | None) -> ssl.SSLSocket:
        context = ssl.create_default_context(cafile=str(self.ca))
        if pair is not None:
            context.load_cert_chain(pair.cert, pair.key)
        return context.wrap_socket(stream, server_hostname="127.0.0.1")

    def _authorization(self, login: tuple[str, str], target: str) -> str:
        if self.tokens is None:
            return f"Basic {base64.b64encode(':'.join(login).encode()).decode()}"
        name = _repository(target.removeprefix(self.url))
        scope = f"repository:{name}:pull,push,delete" if name else "registry:catalog:*"
        return f"Bearer {self.tokens.token(login[0], (scope,))}"

    def put_blob(self, repository: str, digest: str, data: bytes) -> None:
        """A monolithic upload; a blob that is there already is left alone."""
        if self.request("HEAD", f"/v2/{repository}/blobs/{digest}").status == 200:
            return
        begun = self.request("POST", f"/v2/{repository}/blobs/uploads/", b"")
        assert begun.status == 202, begun
        where = begun.headers["location"]
        joined = f"{where}{'&' if '?' in where else '?'}digest={digest}"
        done = self.request("PUT", joined, data, {"Content-Type": "application/octet-stream"})
        assert done.status == 201, done

    def put_manifest(self, repository: str, reference: str, media_type: str, data: bytes) -> None:
        """A manifest or an index."""
        done = self.request("PUT", f"/v2/{repository}/manifests/{reference}", data, {"Content-Type": media_type})
        assert done.status == 201, done

    def get_manifest(self, repository: str, reference: str) -> Answer:
        """Whatever form it has; `docker-content-digest` is its digest."""
        return self.request("GET", f"/v2/{repository}/manifests/{reference}", headers={"Accept": MANIFESTS})

    def digest(self, repository: str, reference: str) -> str:
        """The digest behind a tag; '' when there is none."""
        found = self.get_manifest(repository, reference)
        return found.headers["docker-content-digest"] if found.status == 200 else ""

    def has_blob(self, repository: str, digest: str) -> bool:
        """Whether the repository has it."""
        return self.request("HEAD", f"/v2/{repository}/blobs/{digest}").status == 200


MANIFESTS = ", ".join(
    [
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    ]
)


def _repository(target: str) -> str:
    """`a/b` of `/v2/a/b/manifests/…`."""
    path = target.partition("?")[0].removeprefix("/v2/")
    for word in ("/manifests/", "/blobs/", "/tags/"):
        if word in path:
            return path.rpartition(word)[0] if word != "/blobs/" else path.partition(word)[0]
    return ""


def _bcrypt(password: str) -> str:
    """crypt(5), method 2b, the only one that docker-registry takes."""
    crypt = ctypes.CDLL("libcrypt.so.1").crypt
    crypt.restype = ctypes.c_char_p
    found: bytes = crypt(password.encode(), SALT.encode())
    return found.decode()
