"""A token server as docker-registry trusts: GET with basic credentials, POST of OAuth 2, tokens signed with ES256.

Sources: distribution spec/auth/token.md, spec/auth/oauth.md, spec/auth/jwt.md.
"""

from __future__ import annotations

import base64
import json
import secrets
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, urlsplit

from support.certificates import Authority, Pair, sign_es256
from support.httpthread import HttpThread
from support.netns import NetNs

SERVICE = "corten test registry"
ISSUER = "corten test tokens"


@dataclass(frozen=True, slots=True)
class Asked:
    """One request for a token."""

    method: str
    account: str
    scopes: tuple[str, ...]
    headers: Mapping[str, str]
    fields: Mapping[str, str] = field(default_factory=dict)


class _Handler(BaseHTTPRequestHandler):
    owner: TokenServer

    def do_GET(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        user, password = _basic(self.headers.get("Authorization", ""))
        offline = query.get("offline_token", [""])[0] == "true"
        self._answer(Asked("GET", user, _scopes(query.get("scope", [])), dict(self.headers)), password, offline)

    def do_POST(self) -> None:
        form = parse_qs(self.rfile.read(int(self.headers.get("Content-Length", "0"))).decode())
        fields = {key: values[0] for key, values in form.items()}
        user, password = fields.get("username", ""), fields.get("password", "")
        if fields.get("grant_type") == "refresh_token":
            user = self.owner.refresh_tokens.get(fields.get("refresh_token", ""), "nobody")
            password = self.owner.users.get(user, "")
        asked = Asked("POST", user, _scopes(form.get("scope", [])), dict(self.headers), fields)
        self._answer(asked, password, fields.get("access_type") == "offline")

    def _answer(self, asked: Asked, password: str, offline: bool) -> None:
        owner = self.owner
        owner.asked.append(asked)
        if asked.account and owner.users.get(asked.account) != password:
            self._send(401, {"errors": [{"code": "UNAUTHORIZED", "message": "incorrect username or password"}]})
            return
        if not asked.account and asked.method == "POST":
            self._send(401, {"errors": [{"code": "UNAUTHORIZED", "message": "authentication required"}]})
            return
        token = owner.token(asked.account, asked.scopes)
        refresh = {"refresh_token": owner.refresh_token(asked.account)} if offline and asked.account else {}
        named = {"access_token": token} if asked.method == "POST" else {"token": token, "access_token": token}
        self._send(200, {**named, **refresh, "expires_in": owner.lifetime_s, "issued_at": _utc(time.time())})

    def _send(self, status: int, document: Mapping[str, Any]) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class TokenServer(HttpThread):
    """Gives `users` (name: password) all that they ask for, and anybody `pull` of what begins with `public/`."""

    def __init__(
        self,
        authority: Authority,
        users: Mapping[str, str],
        *,
        netns: NetNs | None = None,
        tls: Pair | None = None,
        lifetime_s: int = 300,
    ) -> None:
        self.users = dict(users)
        self.lifetime_s = lifetime_s
        self.asked: list[Asked] = []
        self.refresh_tokens: dict[str, str] = {}
        self.root = authority.ca
        self._signer = authority.issue("tokens")
        self._chain = [base64.b64encode(ssl.PEM_cert_to_DER_cert(self._signer.cert.read_text())).decode()]
        super().__init__(_Handler, netns=netns, tls=tls)

    @property
    def realm(self) -> str:
        """What a registry names in WWW-Authenticate."""
        return f"{self.url}/token"

    def token(self, account: str, scopes: tuple[str, ...]) -> str:
        """A signed token for as much of `scopes` (`repository:<name>:pull,push`) as the account may have."""
        now = int(time.time())
        claims = {"iss": ISSUER, "sub": account, "aud": SERVICE, "jti": secrets.token_hex(8)}
        times = {"iat": now, "nbf": now - 10, "exp": now + self.lifetime_s}
        access = [one for scope in scopes if (one := _granted(account, scope))["actions"]]
        header = {"typ": "JWT", "alg": "ES256", "x5c": self._chain}
        signed = f"{_encoded(header)}.{_encoded({**claims, **times, 'access': access})}"
        return f"{signed}.{_base64url(sign_es256(self._signer.key, signed.encode()))}"

    def refresh_token(self, account: str) -> str:
        """An identity token, which stands for the account's password."""
        token = secrets.token_urlsafe(16)
        self.refresh_tokens[token] = account
        return token


def _granted(account: str, scope: str) -> dict[str, Any]:
    kind, name, actions = scope.split(":", 1)[0], scope.split(":", 1)[1].rpartition(":")[0], scope.rpartition(":")[2]
    wanted = actions.split(",")
    public = ["pull"] if kind == "repository" and name.startswith("public/") and "pull" in wanted else []
    return {"type": kind, "name": name, "actions": wanted if account else public}


def _scopes(given: list[str]) -> tuple[str, ...]:
    """A scope may come several times, or once with spaces (oauth.md); what is none is left out."""
    return tuple(scope for value in given for scope in value.split() if scope.count(":") >= 2)


def _basic(header: str) -> tuple[str, str]:
    if not header.startswith("Basic "):
        return "", ""
    user, _, password = base64.b64decode(header.removeprefix("Basic ")).decode().partition(":")
    return user, password


def _encoded(document: Mapping[str, Any]) -> str:
    return _base64url(json.dumps(document).encode())


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _utc(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
