"""Which servers are asked for an image of a registry, and how far each is believed.

Mirrors of docker.io come first; then what `hosts.toml` in the registry's folder of certs.d says, else the registry
itself.  Its certificates lie in the same folder, as Docker has them (`*.crt` to believe, `*.cert` and `*.key` to show).
Files are read for every request, so that a change needs no reload.  Source: moby `registry/service_v2.go`, `config.go`.
"""

from __future__ import annotations

import enum
import ipaddress
import os
import re
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Final

from corten.errors import InvalidArgument
from corten.registry import hostsfile
from corten.registry.endpoint import Endpoint, Tls
from corten.registry.hostsfile import Entry
from corten.spec.reference import DEFAULT_DOMAIN, LEGACY_DOMAIN

HUB_HOST: Final = "registry-1.docker.io"
DEFAULT_FOLDER: Final = "_default"  # whose hosts.toml holds for registries without a folder of their own
_LOOPBACK: Final = ("127.0.0.0/8", "::1/128")
_FOLDER: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*(?::[0-9]+)?|\[[0-9A-Fa-f:]+\](?::[0-9]+)?")

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Lookup = Callable[[str], Iterable[str]]


class Purpose(enum.Enum):
    """What the servers are asked for."""

    PULL = "pull"
    PUSH = "push"
    LOGIN = "login"


def addresses(host: str) -> list[str]:
    """The addresses of a name, by the host's resolver; none when it has none."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    return [str(address[0]).partition("%")[0] for *_, address in found]


class Hosts:
    """The servers of every registry, by the settings of one moment.  Thread-safe."""

    def __init__(
        self,
        *,
        mirrors: Sequence[str] = (),
        insecure: Sequence[str] = (),
        certs_dirs: Sequence[str] = (),
        lookup: Lookup = addresses,
    ) -> None:
        """`mirrors` are URLs for docker.io, `insecure` hosts and networks; the first folder in `certs_dirs` wins."""
        self._mirrors = tuple(mirrors)
        self._hosts = frozenset(one for one in insecure if "/" not in one)
        self._networks = [ipaddress.ip_network(one) for one in (*insecure, *_LOOPBACK) if "/" in one]
        self._certs_dirs = tuple(certs_dirs)
        self._lookup = lookup

    def endpoints(self, domain: str, purpose: Purpose) -> tuple[Endpoint, ...]:
        """The servers for `domain` (`docker.io`, `reg.example:5000`) in the order in which they are tried.

        Raises InvalidArgument for a hosts.toml or certificates that cannot be used, with the file's name.
        """
        domain = DEFAULT_DOMAIN if domain == LEGACY_DOMAIN else domain
        mirrors = self._mirrors if domain == DEFAULT_DOMAIN else ()
        found = [*map(self._mirror, mirrors), *self._configured(domain)]
        return tuple(one for one in found if _serves(one, purpose))

    def is_insecure(self, host: str) -> bool:
        """Whether `host[:port]` may be asked without TLS, or with certificates of nobody known."""
        if host in self._hosts:
            return True
        name = _name(host)
        return any(address in network for address in self._addresses(name) for network in self._networks)

    def _addresses(self, name: str) -> Iterator[ipaddress.IPv4Address | ipaddress.IPv6Address]:
        try:
            yield ipaddress.ip_address(name)
        except ValueError:
            yield from map(ipaddress.ip_address, self._lookup(name))

    # what Docker does

    def _mirror(self, url: str) -> Endpoint:
        root = f"{url.rstrip('/')}/v2"
        return Endpoint(root, can_push=False, tls=self._tls(_host(root)), is_mirror=True)

    def _itself(self, domain: str) -> Endpoint:
        host = _server(domain)
        tls = self._tls(host)
        return Endpoint(f"https://{host}/v2", tls=tls, plain_http_fallback=tls.skip_verify)

    def _tls(self, host: str) -> Tls:
        folder = self._folder(host)
        found = certificates(folder) if folder else Tls()
        return replace(found, skip_verify=host != HUB_HOST and self.is_insecure(host))

    # hosts.toml

    def _configured(self, domain: str) -> list[Endpoint]:
        for name in (domain, DEFAULT_FOLDER):
            folder = self._folder(name)
            if folder:
                entries = hostsfile.read(os.path.join(folder, hostsfile.FILE_NAME)) or ()
                return [self._of_entry(domain, one, name) for one in entries] or [self._itself(domain)]
        return [self._itself(domain)]

    def _of_entry(self, domain: str, entry: Entry, folder: str) -> Endpoint:
        """`server` of a registry's own file is the registry, whatever it is called; the others are its mirrors."""
        usual = Endpoint(entry.url, tls=self._tls(entry.host)) if entry.url else self._itself(domain)
        is_same = not entry.url or entry.host in (domain, _server(domain))
        return replace(
            usual,
            can_resolve="resolve" in entry.capabilities,
            can_pull="pull" in entry.capabilities,
            can_push="push" in entry.capabilities,
            tls=_stated(entry, usual.tls),
            headers=entry.headers,
            namespace="" if is_same else domain,
            is_mirror=not is_same and (not entry.is_server or folder == DEFAULT_FOLDER),
        )

    def _folder(self, name: str) -> str:
        """The folder of a registry; empty when there is none.  A name is a folder's only if it looks like a host."""
        if name != DEFAULT_FOLDER and not _FOLDER.fullmatch(name):
            return ""
        forms = (name, name.replace(":", "_", 1) + "_") if ":" in name and not name.startswith("[") else (name,)
        places = (os.path.join(folder, form) for folder in self._certs_dirs for form in forms)
        return next((place for place in places if os.path.isdir(place)), "")


def _stated(entry: Entry, usual: Tls) -> Tls:
    """What the file says of TLS, over what else is known of the host."""
    return Tls(
        ca_files=usual.ca_files if entry.ca_files is None else entry.ca_files,
        client_certs=usual.client_certs if entry.client_certs is None else entry.client_certs,
        skip_verify=usual.skip_verify if entry.skip_verify is None else entry.skip_verify,
    )


def certificates(folder: str) -> Tls:
    """What lies in a folder of certs.d.  Raises InvalidArgument in dockerd's words for a half of a pair."""
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise InvalidArgument(f"open {folder}: {(error.strerror or str(error)).lower()}") from error
    for name in names:
        _check_pair(name, names)
    return Tls(
        ca_files=tuple(os.path.join(folder, name) for name in names if name.endswith(".crt")),
        client_certs=tuple(
            (os.path.join(folder, name), os.path.join(folder, _key_of(name)))
            for name in names
            if name.endswith(".cert")
        ),
    )


def _key_of(certificate: str) -> str:
    return certificate.removesuffix(".cert") + ".key"


def _check_pair(name: str, names: Sequence[str]) -> None:
    if name.endswith(".cert") and _key_of(name) not in names:
        wrong = f"missing key {_key_of(name)} for client certificate {name}"
        raise InvalidArgument(f"{wrong}. CA certificates must use the extension .crt")
    certificate = name.removesuffix(".key") + ".cert"
    if name.endswith(".key") and certificate not in names:
        raise InvalidArgument(f"missing client certificate {certificate} for key {name}")


def _serves(endpoint: Endpoint, purpose: Purpose) -> bool:
    if purpose is Purpose.LOGIN:  # no mirror: the credentials are not its
        return not endpoint.is_mirror
    if purpose is Purpose.PUSH:
        return endpoint.can_push
    return endpoint.can_pull or endpoint.can_resolve


def _server(domain: str) -> str:
    return HUB_HOST if domain == DEFAULT_DOMAIN else domain


def _host(url: str) -> str:
    return url.partition("://")[2].partition("/")[0]


def _name(host: str) -> str:
    """`host[:port]` without the port and the brackets of an IPv6 address."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0] if host.count(":") == 1 else host
