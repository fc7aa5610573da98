"""Proving to one endpoint who asks: Basic, or tokens of a token server.

Documents: distribution `docs/spec/auth/token.md`, `oauth.md`; RFC 6749 §6, RFC 6750, RFC 7617.

    401, WWW-Authenticate: Bearer realm="https://auth…/token",service="…"
      -> GET realm?service=…&scope=repository:a/b:pull   (Basic when there is a user)
      or POST realm, grant_type=refresh_token            (when there is an identity token)
      -> {"token": …, "expires_in": 300}                 kept per scopes until shortly before it expires
      -> the request again, Authorization: Bearer …

What is secret goes to the endpoint's own origin and to the realm that the endpoint named, over TLS unless the endpoint
itself does without; a mirror gets none (field.md D15).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import msgspec

from corten.registry.cancel import Cancel
from corten.registry.challenge import Challenge, parse_challenges
from corten.registry.credentials import Credentials
from corten.registry.endpoint import Endpoint, Tls, origin_of
from corten.registry.errors import NO_CREDENTIALS, RegistryError, RegistryUnauthorized, UntrustedContent, error_of
from corten.registry.transport import Answer, Request, Transport, body_of

CLIENT_ID = "docker"
SCOPES_MAX = 16
TOKEN_MAX = 64 << 10
_ANSWER_MAX = 1 << 20
_LIFE_MIN = 60
_LIFE_MAX = 24 * 3600
_MARGIN = 10
"""Seconds before its end at which a token is no longer used."""

Scopes = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Token:
    value: str
    until: float


class _TokenAnswer(msgspec.Struct, frozen=True):
    token: str | None = None
    access_token: str | None = None
    refresh_token: str | None = None
    expires_in: float | None = None


class Authorizer:
    """What one endpoint wants to see, learned from its 401s.  Thread-safe: of several threads one asks for a token."""

    def __init__(self, transport: Transport, endpoint: Endpoint, *, credentials: Credentials, cancel: Cancel) -> None:
        self._transport = transport
        self._endpoint = endpoint
        self._credentials = Credentials() if endpoint.is_mirror else credentials
        self._cancel = cancel
        self._lock = threading.Lock()
        self._challenge: Challenge | None = None
        self._tokens: dict[Scopes, _Token] = {}
        self.identity_token = ""
        """The refresh token that came with the last token, if one was asked for (`is_offline`)."""

    def headers(self, scopes: Scopes) -> Mapping[str, str]:
        """What to send along, by what is known so far: perhaps nothing.  Raises as `learn`."""
        if self._credentials.registry_token:
            return {"Authorization": f"Bearer {_sendable(self._credentials.registry_token)}"}
        with self._lock:
            challenge = self._challenge
            if challenge is None:
                return {}
            if challenge.scheme == "basic":
                return {"Authorization": self._credentials.basic}
            return {"Authorization": f"Bearer {self._token(challenge, scopes)}"}

    def learn(self, answer: Answer, scopes: Scopes, *, is_offline: bool = False) -> bool:
        """Takes the challenge of a 401 and gets what it wants; whether a second attempt makes sense.

        Raises RegistryUnauthorized when there is nothing to show, RegistryError and ConnectionFailed of a token server.
        """
        challenge = _chosen(parse_challenges(answer.headers("WWW-Authenticate")))
        shown = answer.request.secrets.get("Authorization", "")
        if challenge is None or self._credentials.registry_token:
            return False
        if challenge.scheme == "basic":
            return self._learn_basic(challenge, shown)
        with self._lock:
            self._challenge = challenge
            known = self._tokens.get(scopes)
            if known is not None and shown == f"Bearer {known.value}":
                del self._tokens[scopes]
            self._token(challenge, scopes, is_offline=is_offline)
        return True

    def _learn_basic(self, challenge: Challenge, shown: str) -> bool:
        if not self._credentials.basic:
            raise RegistryUnauthorized(NO_CREDENTIALS, status=401)
        if shown == self._credentials.basic:
            return False
        with self._lock:
            self._challenge = challenge
        return True

    def _token(self, challenge: Challenge, scopes: Scopes, *, is_offline: bool = False) -> str:
        """A token for `scopes`, kept or fetched.  Holds the lock: others wait for the same one."""
        kept = self._tokens.get(scopes)
        if kept is not None and time.monotonic() < kept.until:
            return kept.value
        answer = self._fetch(challenge, scopes, is_offline)
        value = answer.token or answer.access_token or ""
        if not value:
            raise RegistryError("authorization server did not include a token in the response")
        self.identity_token = answer.refresh_token or ""
        life = min(max(answer.expires_in or _LIFE_MIN, _LIFE_MIN), _LIFE_MAX)
        self._tokens[scopes] = _Token(_sendable(value), time.monotonic() + life - _MARGIN)
        return value

    def _fetch(self, challenge: Challenge, scopes: Scopes, is_offline: bool) -> _TokenAnswer:
        realm = self._realm(challenge)
        service = challenge.parameters.get("service", "")
        if self._credentials.identity_token:
            request = self._refresh(realm, service, scopes)
        else:
            request = self._ask(realm, service, scopes, is_offline)
        with self._transport.send(request, tls=self._tls(realm), cancel=self._cancel) as answer:
            if answer.status != 200:
                raise error_of(answer.status, answer.read_some(_ANSWER_MAX))
            body = answer.read(_ANSWER_MAX)
        try:
            return msgspec.json.decode(body, type=_TokenAnswer)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise RegistryError("unable to decode token response") from None

    def _ask(self, realm: str, service: str, scopes: Scopes, is_offline: bool) -> Request:
        """GET, with the user's name and password if there are (token.md)."""
        query = [("service", service)] if service else []
        query += [("scope", scope) for scope in scopes]
        if is_offline:
            query += [("offline_token", "true"), ("client_id", CLIENT_ID)]
        basic = self._credentials.basic
        if basic:
            query.append(("account", self._credentials.username))
        parts = urlsplit(realm)
        url = urlunsplit(parts._replace(query=urlencode([*parse_qsl(parts.query, keep_blank_values=True), *query])))
        return Request("GET", url, secrets={"Authorization": basic} if basic else {}, stays=bool(basic))

    def _refresh(self, realm: str, service: str, scopes: Scopes) -> Request:
        """POST, with the identity token (oauth.md)."""
        form = {
            "grant_type": "refresh_token",
            "service": service,
            "client_id": CLIENT_ID,
            "scope": " ".join(scopes),
            "refresh_token": self._credentials.identity_token,
        }
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        return Request("POST", realm, headers, body=body_of(urlencode(form).encode()), stays=True)

    def _realm(self, challenge: Challenge) -> str:
        """The token server's URL, if what there is to prove may go there."""
        realm = challenge.parameters.get("realm", "")
        if not realm:
            raise RegistryError("no realm specified for token auth challenge")
        try:
            scheme = origin_of(realm)[0]
        except ValueError:
            raise UntrustedContent("invalid token auth challenge realm: no http URL") from None
        is_open = self._endpoint.url.startswith("http://") or self._endpoint.tls.skip_verify
        if scheme == "http" and not is_open and not self._credentials.is_empty:
            raise UntrustedContent("refusing to send credentials to a token server without TLS")
        return realm

    def _tls(self, realm: str) -> Tls:
        """The endpoint's terms for its own host, without the client's certificate for another."""
        tls = self._endpoint.tls
        return tls if origin_of(realm) == self._endpoint.origin else Tls(tls.ca_files, (), tls.skip_verify)


def widened(scopes: Scopes, answer: Answer) -> Scopes:
    """`scopes` and those that the registry's Bearer challenge names, as far as they allow nothing else to be done."""
    challenge = _chosen(parse_challenges(answer.headers("WWW-Authenticate")))
    named = challenge.parameters.get("scope", "").split()[:SCOPES_MAX] if challenge else []
    wanted = {action for scope in scopes for action in scope.rpartition(":")[2].split(",")}
    more = (scope for scope in named if set(scope.rpartition(":")[2].split(",")) <= wanted)
    return tuple(dict.fromkeys((*scopes, *more)))


def _sendable(token: str) -> str:
    """The token, if it can stand in a header.  Raises UntrustedContent, which does not show it."""
    if len(token) > TOKEN_MAX or not token.isascii() or not token.isprintable():
        raise UntrustedContent("a token cannot be sent: it is too long, or no text")
    return token


def _chosen(challenges: list[Challenge]) -> Challenge | None:
    """Bearer before Basic, as dockerd chooses."""
    for scheme in ("bearer", "basic"):
        for challenge in challenges:
            if challenge.scheme == scheme:
                return challenge
    return None


def bearer_error(answer: Answer) -> tuple[str, str]:
    """(error, error_description) of the first Bearer challenge that has an error."""
    for challenge in parse_challenges(answer.headers("WWW-Authenticate")):
        if challenge.scheme == "bearer" and challenge.parameters.get("error"):
            return challenge.parameters["error"], challenge.parameters.get("error_description", "")
    return "", ""
