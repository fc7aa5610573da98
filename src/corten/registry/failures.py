"""Why no HTTP was spoken, in the words that Go's net, crypto/tls and net/http have for it.

Docker's users, and the programs that read Docker's errors, know these.
"""

from __future__ import annotations

import errno
import http.client
import ipaddress
import os
import re
import socket
import ssl

import urllib3.exceptions as raised
from urllib3.util import parse_url

from corten.registry.errors import cleaned

UNTRUSTED = "tls: failed to verify certificate: x509: "
_VERIFY = {
    9: f"{UNTRUSTED}certificate has expired or is not yet valid",
    10: f"{UNTRUSTED}certificate has expired or is not yet valid",
}
_X509_NO_ISSUER = {2, 18, 19, 20, 21}  # X509_verify_cert_error_string(3)
_HTTP_TO_TLS = {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL", "PACKET_LENGTH_TOO_LONG"}

_AUTHORITY = re.compile(r"(\[[^\]]*\]|[^:]*)(?::([0-9]+))?")


def words_of(error: BaseException, url: str, *, is_ready: bool = True) -> str:
    """The sentence for a failed request of `url`, without the URL.  `is_ready`: the handshakes were over."""
    match error:
        case raised.ProxyError():
            return f"proxyconnect tcp: {words_of(error.original_error, url)}"
        case raised.NameResolutionError():
            return f"dial tcp: lookup {_host(url)}: no such host"
        case raised.NewConnectionError():  # a ConnectTimeoutError by birth, so it comes first
            return f"dial tcp {_address(url)}: connect: {_system(error.__cause__)}"
        case raised.ConnectTimeoutError():
            return f"dial tcp {_address(url)}: i/o timeout"
        case raised.ReadTimeoutError() | TimeoutError() if not is_ready:
            return "net/http: TLS handshake timeout"
        case raised.ReadTimeoutError() | TimeoutError():
            return "context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
        case raised.SSLError() | raised.ProtocolError() if error.args and isinstance(error.args[-1], BaseException):
            return words_of(error.args[-1], url)
        case ssl.SSLError():
            return _tls(error, url)
        case http.client.HTTPException():
            return _http(error)
        case OSError():
            return _system(error)
        case ValueError() if "header" in str(error).lower():
            return "net/http: invalid header field value"  # which may be a secret
    return cleaned(str(error)) or type(error).__name__


def _http(error: http.client.HTTPException) -> str:
    match error:
        case http.client.RemoteDisconnected():
            return "EOF"
        case http.client.IncompleteRead():
            return "unexpected EOF"
        case http.client.LineTooLong():
            return "net/http: server response headers are too long; aborted"
        case http.client.BadStatusLine():
            return f"net/http: malformed HTTP response {cleaned(str(error)[:80])!r}"
    return cleaned(str(error)) or type(error).__name__


def without_address(url: str) -> str:
    """The sentence for the URL of a name that Docker takes and nobody can connect to: `localhost:99999`, `[:::]`."""
    host, port = _AUTHORITY.findall(url.split("/", 3)[2])[0]
    if port and not int(port[:6]):
        return f"dial tcp {host}:{port}: connect: connection refused"
    return f"dial tcp: address {port}: invalid port" if port else f"dial tcp: lookup {host.strip('[]')}: no such host"


def is_malformed(error: BaseException) -> bool:
    """Whether something was said that is not HTTP, or more of it than anybody listens to: it will be again."""
    said = error.args[-1] if isinstance(error, raised.ProtocolError) and error.args else error
    is_broken = isinstance(said, http.client.RemoteDisconnected | http.client.IncompleteRead | OSError)
    return isinstance(said, http.client.HTTPException) and not is_broken


def is_refused(error: BaseException) -> bool:
    """Whether TLS ended it: an alert of the other side may come with the first answer (RFC 8446 §4.4.2.4)."""
    return isinstance(error, raised.SSLError) and "ALERT" in str(getattr(error.args[0], "reason", ""))


def _tls(error: ssl.SSLError, url: str) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        if error.verify_code in _X509_NO_ISSUER:
            return f"{UNTRUSTED}certificate signed by unknown authority"
        if error.verify_code in (62, 64):
            return f"{UNTRUSTED}certificate is not valid for {_host(url)}"
        return _VERIFY.get(error.verify_code, f"{UNTRUSTED}{error.verify_message}")
    reason = error.reason or ""
    if reason in _HTTP_TO_TLS:
        return "http: server gave HTTP response to HTTPS client"
    if "ALERT" in reason:
        alert = reason.lower().partition("alert_")[2].replace("_", " ")
        return f"remote error: tls: {alert}"
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return "EOF"
    return f"tls: {reason.lower().replace('_', ' ') or error}"


def _system(error: BaseException | None) -> str:
    if isinstance(error, OSError) and error.errno == errno.ECONNRESET:
        return "connection reset by peer"
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno).lower()
    return "EOF" if error is None else cleaned(str(error)).lower()


def _host(url: str) -> str:
    return (parse_url(url).host or "").strip("[]")


def _address(url: str) -> str:
    """`127.0.0.1:5000`: the first address of the host, as Go names the one that it tried first."""
    parts = parse_url(url)
    host, port = _host(url), parts.port or (443 if parts.scheme == "https" else 80)
    try:
        ipaddress.ip_address(host)
    except ValueError:
        try:
            host = str(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][4][0])
        except OSError:
            return f"{host}:{port}"
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
