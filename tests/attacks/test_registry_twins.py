"""The registry client's defences one by one (D15): each attack does its harm to a client built without the step."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from corten.errors import CortenError
from support import lies, weakened_corten
from support.certificates import Authority
from support.lyingregistry import Exchange, Lie, LyingRegistry, Trap, on, wants_basic
from support.weakened import Edit

MODULES = ("client", "transport", "endpoint", "credentials", "cancel")
BASIC = ("somebody", "s3cret")
DATA = b"content" * 100


class Client:
    """A client of some build, with credentials; `trap` is the other host."""

    def __init__(self, modules: list[Any], trap: Trap, folder: Path) -> None:
        self._client, self._transport, self._endpoint, self._credentials, self._cancel = modules
        self.trap, self.folder = trap, folder
        settings = self._transport.TransportSettings(connect_timeout=5, read_timeout=5, attempts=1)
        self.transport = self._transport.Transport(settings)

    def repository(self, *servers: LyingRegistry, ca: Path | None = None, identity: bool = False) -> Any:
        """The target at mirrors and the last server."""
        tls = self._endpoint.Tls(ca_files=(str(ca),) if ca else ())
        endpoints = [
            self._endpoint.Endpoint(f"{one.url}/v2", is_mirror=one is not servers[-1], tls=tls) for one in servers
        ]
        secret = {"identity_token": "s3cret"} if identity else {"username": "somebody", "password": "s3cret"}
        credentials = self._credentials.Credentials(**secret)
        registry = self._client.Registry(
            self.transport, endpoints, credentials=credentials, cancel=self._cancel.Cancel()
        )
        return registry.repository(lies.REPOSITORY)


def serving(*told: Lie, **options: Any) -> LyingRegistry:
    """A registry with the honest image and these lies."""
    made = LyingRegistry(*told, **options)
    made.add(lies.honest(), lies.REPOSITORY, lies.TAG)
    return made


def after_basic(lie: Lie) -> Lie:
    """The lie is for who has shown the password."""
    return lambda exchange: "authorization" in exchange.headers and lie(exchange)


def bearer(realm: str) -> Lie:
    """A challenge with a realm, until some token comes."""

    def lie(exchange: Exchange) -> bool:
        if exchange.headers.get("authorization", "").startswith("Bearer "):
            return False
        return exchange.reply(401, {"WWW-Authenticate": f'Bearer realm="{realm}",service="x"'}, b"{}")

    return lie


# What is done to a client.


def is_redirected(client: Client) -> None:
    """A manifest lies at the other host."""
    away = after_basic(on("manifests", lambda one: one.reply(307, {"Location": f"{client.trap.url}{one.target}"})))
    with serving(on("manifests", away), wants_basic(*BASIC)) as server:
        client.repository(server).manifest(lies.TAG)


def is_paged_elsewhere(client: Client) -> None:
    """The next page of tags is at the other host."""
    link = f'<{client.trap.url}/v2/x/tags/list>; rel="next"'
    paged = after_basic(on("tags", lambda one: one.reply(200, {"Link": link}, b'{"tags": ["1"]}')))
    with serving(paged, wants_basic(*BASIC)) as server:
        client.repository(server).tags()


def is_asked_elsewhere(client: Client) -> None:
    """The other host of a redirect names a realm of its own."""
    trap = client.trap
    trap.lies.insert(0, lambda one: one.kind == "manifests" and bearer(f"{trap.url}/token")(one))
    away = on("manifests", lambda one: one.reply(307, {"Location": f"{trap.url}{one.target}"}))
    with serving(away) as server:
        client.repository(server).manifest(lies.TAG)


def uses_a_mirror(client: Client) -> None:
    """The mirror asks for a password."""
    client.trap.lies.insert(0, wants_basic("nobody", "else"))
    with serving() as server:
        client.repository(client.trap, server).manifest(lies.TAG)


def has_an_open_realm(client: Client) -> None:
    """The registry speaks TLS, the token server that it names does not."""
    authority = Authority(client.folder)
    with serving(bearer(f"{client.trap.url}/token"), tls=authority.issue("server")) as server:
        client.repository(server, ca=authority.ca).manifest(lies.TAG)


def has_a_redirected_realm(client: Client) -> None:
    """The token server redirects the request that has the identity token."""
    with (
        LyingRegistry(lies.status(307, {"Location": f"{client.trap.url}/token"})) as tokens,
        serving(bearer(f"{tokens.url}/token")) as server,
    ):
        client.repository(server, identity=True).manifest(lies.TAG)


@dataclass(frozen=True, slots=True)
class Attack:
    """What happens to a client, and the step that keeps its secrets."""

    step: tuple[Edit, ...]
    happens: Callable[[Client], None]


ATTACKS = {
    "a redirect": Attack(weakened_corten.REDIRECTED_SECRETS, is_redirected),
    "a page elsewhere": Attack(weakened_corten.LOCATED_SECRETS, is_paged_elsewhere),
    "a question behind a redirect": Attack(weakened_corten.ASKED_ELSEWHERE, is_asked_elsewhere),
    "a mirror": Attack(weakened_corten.MIRRORED_SECRETS, uses_a_mirror),
    "a realm without TLS": Attack(weakened_corten.OPEN_REALMS, has_an_open_realm),
    "a token server that redirects": Attack(weakened_corten.REDIRECTED_TOKENS, has_a_redirected_realm),
}

Without = Callable[[tuple[Edit, ...]], list[Any]]


@pytest.fixture
def trap() -> Iterator[Trap]:
    with Trap() as other:
        other.add(lies.honest(), lies.REPOSITORY, lies.TAG)
        yield other


@pytest.fixture
def without() -> Iterator[Without]:
    """The client's modules, built without some step."""
    with ExitStack() as stack:

        def get(step: tuple[Edit, ...]) -> list[Any]:
            build = stack.enter_context(weakened_corten.build(*step))
            return build.modules(*(f"corten.registry.{name}" for name in MODULES))

        yield get


def suffers(attack: Attack, modules: list[Any], trap: Trap, folder: Path) -> list[str]:
    """What the trap caught."""
    client = Client(modules, trap, folder)
    try:
        with contextlib.suppress(CortenError):
            attack.happens(client)
    finally:
        client.transport.close()
    return trap.caught


@pytest.mark.parametrize("name", ATTACKS)
def test_a_client_keeps_its_secrets(trap: Trap, tmp_path: Path, name: str) -> None:
    modules = [importlib.import_module(f"corten.registry.{one}") for one in MODULES]
    assert suffers(ATTACKS[name], modules, trap, tmp_path) == []


@pytest.mark.parametrize("name", ATTACKS)
def test_twin_a_client_without_the_step_gives_them_away(
    trap: Trap, tmp_path: Path, name: str, without: Without
) -> None:
    assert suffers(ATTACKS[name], without(ATTACKS[name].step), trap, tmp_path) != []


def pulls_a_wrong_digest(modules: list[Any], trap: Trap, folder: Path) -> str:
    """The digest that the client believes a manifest has."""
    client = Client(modules, trap, folder)
    try:
        with serving(lies.PROTOCOL["another digest than the content's"]) as server:
            descriptor, _ = client.repository(server).manifest(lies.TAG)
        return str(descriptor.digest)
    finally:
        client.transport.close()


def test_a_manifest_has_the_digest_of_its_bytes(trap: Trap, tmp_path: Path) -> None:
    modules = [importlib.import_module(f"corten.registry.{one}") for one in MODULES]
    with pytest.raises(CortenError):
        pulls_a_wrong_digest(modules, trap, tmp_path)


def test_twin_a_manifest_has_the_digest_that_a_header_gives_it(trap: Trap, tmp_path: Path, without: Without) -> None:
    assert pulls_a_wrong_digest(without(weakened_corten.MANIFEST_DIGESTS), trap, tmp_path) == lies.OTHER
