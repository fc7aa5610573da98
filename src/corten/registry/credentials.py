"""Who the user is at a registry, as clients send it with a request (`X-Registry-Auth`).

Documents: Docker API "Authentication"; moby `api/types/registry/authconfig.go` for the texts.  Nothing here is ever
logged: `repr` shows no secret (field.md §3, "secrets leak by env, log, provenance").
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field

import msgspec

from corten.errors import InvalidArgument

AUTH_HEADER_MAX = 64 << 10
"""Bytes of a header that is taken: identity tokens have a few thousand."""

_PREFIX = "invalid X-Registry-Auth header"


@dataclass(frozen=True, slots=True)
class Credentials:
    """One user at one registry; every part may be empty.

    `identity_token` stands for the user at the token server (OAuth2 refresh token), `registry_token` is sent to the
    registry as it is.  `server_address` says for which registry the client took them: a hint, nothing is bound to it.
    """

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    registry_token: str = field(default="", repr=False)
    server_address: str = ""

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to prove anything with."""
        return not (self.username or self.password or self.identity_token or self.registry_token)

    @property
    def basic(self) -> str:
        """The value of `Authorization` for basic authentication (RFC 7617); "" without a user name and password."""
        if not (self.username and self.password):
            return ""
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()


class AuthConfig(msgspec.Struct, frozen=True, omit_defaults=True):
    """Docker's AuthConfig, as it stands in the header, in the body of `POST /auth` and in config.json."""

    username: str | None = None
    password: str | None = None
    auth: str | None = None
    email: str | None = None
    serveraddress: str | None = None
    identitytoken: str | None = None
    registrytoken: str | None = None


def decode_auth(header: str) -> Credentials:
    """The credentials in an `X-Registry-Auth` header: base64url of JSON.  An empty header has none.

    Raises InvalidArgument with Docker's words; a caller that needs no credentials may go on without, as dockerd does.
    """
    if not header:
        return Credentials()
    if len(header) > AUTH_HEADER_MAX:
        raise InvalidArgument(f"{_PREFIX}: larger than {AUTH_HEADER_MAX} bytes")
    return decode_auth_body(_from_base64url(header))


def decode_auth_body(body: bytes) -> Credentials:
    """The credentials in an AuthConfig as JSON.  Raises InvalidArgument."""
    try:
        config = msgspec.json.decode(body, type=AuthConfig)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidArgument(f"{_PREFIX}: {error if body else 'EOF'}") from None
    return credentials_of(config)


def credentials_of(config: AuthConfig) -> Credentials:
    """What Docker takes out of an AuthConfig: all but `auth`, which is for config.json alone."""
    return Credentials(
        username=config.username or "",
        password=config.password or "",
        identity_token=config.identitytoken or "",
        registry_token=config.registrytoken or "",
        server_address=config.serveraddress or "",
    )


def encode_auth(credentials: Credentials) -> str:
    """The header for `credentials`, as the docker CLI writes it."""
    config = AuthConfig(
        username=credentials.username or None,
        password=credentials.password or None,
        serveraddress=credentials.server_address or None,
        identitytoken=credentials.identity_token or None,
        registrytoken=credentials.registry_token or None,
    )
    return base64.urlsafe_b64encode(msgspec.json.encode(config)).decode()


def _from_base64url(text: str) -> bytes:
    """Decodes strictly, with or without padding: docker-py leaves it in, other clients do not."""
    padded = text + "=" * (-len(text) % 4)
    try:
        return base64.b64decode(padded.encode("ascii"), altchars=b"-_", validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise InvalidArgument(f"{_PREFIX}: illegal base64 data") from None
