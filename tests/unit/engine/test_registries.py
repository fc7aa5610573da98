"""The engine's way to registries."""

from __future__ import annotations

from pathlib import Path

import pytest

from corten.engine.registries import Registries, domain_of
from corten.engine.settings import Settings
from corten.errors import InvalidArgument
from corten.registry.cancel import Cancel
from corten.registry.hosts import Purpose


@pytest.mark.parametrize(
    ("address", "domain"),
    [
        ("", "docker.io"),
        ("https://index.docker.io/v1/", "docker.io"),
        ("docker.io", "docker.io"),
        ("reg.example:5000", "reg.example:5000"),
        ("http://reg.example:5000/v1/", "reg.example:5000"),
        ("https://[::1]:5000", "[::1]:5000"),
    ],
)
def test_a_servers_address_names_its_registry(address: str, domain: str) -> None:
    assert domain_of(address) == domain


@pytest.mark.parametrize("address", ["a b", "%zz", "https://", "u:p@reg.example", "..", "reg.example:x"])
def test_an_address_that_names_none_is_refused(address: str) -> None:
    with pytest.raises(InvalidArgument, match="unable to parse server address"):
        domain_of(address)


def test_a_reload_holds_from_the_next_request_on() -> None:
    settings = Settings(data_root="/d", exec_root="/e")
    now = [settings]
    registries = Registries(lambda: now[0])
    first = registries.transport
    assert registries.transport is first
    assert first.settings.attempts == 5
    now[0] = Settings(data_root="/d", exec_root="/e", max_download_attempts=2)
    assert registries.transport.settings.attempts == 2
    registries.close()


def test_proxies_of_the_settings_reach_the_connections() -> None:
    registries = Registries(lambda: Settings(data_root="/d", exec_root="/e", https_proxy="http://p", no_proxy="x"))
    proxies = registries.transport.settings.proxies
    assert (proxies.https, proxies.no_proxy) == ("http://p", "x")


def test_a_registry_without_a_server_for_the_purpose_is_refused(tmp_path: Path) -> None:
    (tmp_path / "reg.example").mkdir()
    (tmp_path / "reg.example" / "hosts.toml").write_text('capabilities = ["pull"]\n')
    registries = Registries(lambda: Settings(data_root="/d", exec_root="/e", certs_dirs=(str(tmp_path),)))
    with pytest.raises(InvalidArgument, match=r"no server for push is configured for registry reg\.example"):
        registries.registry("reg.example", Purpose.PUSH, cancel=Cancel())
