"""The TLS of tcp:// sockets: keys of daemon.json → an SSLContext (go-connections tlsconfig; facts only)."""

from __future__ import annotations

import os
import ssl

from corten.engine.settings import Settings
from corten.errors import InvalidArgument

_VARIABLE = "DOCKER_TLS_VERIFY"


def is_wanted(made: Settings) -> bool:
    """`tlsverify` turns TLS on, also where it is given as false."""
    return made.tls or "tlsverify" in made.origins or is_verified(made)


def is_verified(made: Settings) -> bool:
    """Whether clients need a certificate of ours."""
    return made.tlsverify or ("tlsverify" not in made.origins and bool(os.environ.get(_VARIABLE)))


def context_of(made: Settings) -> ssl.SSLContext | None:
    """What serves tcp://; None for no TLS.  Raises InvalidArgument in dockerd's words for files that cannot be used."""
    if not is_wanted(made):
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        _load(context, made)
    except InvalidArgument as error:
        raise InvalidArgument(f"invalid TLS configuration: {error.text}") from error
    return context


def _load(context: ssl.SSLContext, made: Settings) -> None:
    cert, key = made.tlscert or _default("cert.pem"), made.tlskey or _default("key.pem")
    pair = f'X509 key pair (cert: "{cert}", key: "{key}")'
    for path in (cert, key):
        _readable(path, f"could not load {pair}")
    try:
        context.load_cert_chain(cert, key, password=_no_password)
    except (ssl.SSLError, ValueError) as error:
        reason = getattr(error, "reason", "") or "not PEM"
        raise InvalidArgument(f"error reading {pair}: {reason}. Make sure the key is not encrypted") from error
    if not is_verified(made):
        return
    authority = made.tlscacert or _default("ca.pem")
    _readable(authority, f'could not read CA certificate "{authority}"')
    try:
        context.load_verify_locations(authority)
    except ssl.SSLError as error:
        raise InvalidArgument(f'failed to append certificates from PEM file: "{authority}"') from error
    context.verify_mode = ssl.CERT_REQUIRED


def _no_password() -> str:
    raise ValueError("encrypted")


def _readable(path: str, what: str) -> None:
    try:
        with open(path, "rb"):
            pass
    except OSError as error:
        raise InvalidArgument(f"{what}: open {path}: {(error.strerror or '').lower()}") from error


def _default(name: str) -> str:
    folder = os.environ.get("DOCKER_CERT_PATH") or os.environ.get("DOCKER_CONFIG") or os.path.expanduser("~/.docker")
    return os.path.join(folder, name)
