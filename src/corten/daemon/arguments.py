"""The command line of cortend."""

from __future__ import annotations

import argparse
import re
from typing import Any, NoReturn

from corten import __version__
from corten.daemon import flagvalues
from corten.daemon.config import DEFAULT_DATA_ROOT, DEFAULT_EXEC_ROOT, DEFAULT_FILE, UNSUPPORTED
from corten.daemon.flagvalues import boolean, integer
from corten.daemon.legacy import ABSENT
from corten.errors import InvalidArgument
from corten.runtime.defaults import CONFIG_PATH as NODE_FILE


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in dockerd's words."""

    def error(self, message: str) -> NoReturn:
        found = re.fullmatch(r"argument (?:-\w/)?(--[\w-]+)(?:/.*)?: (.*)", message, re.DOTALL)
        if found and found[2] == "expected one argument":
            raise InvalidArgument(f"flag needs an argument: {found[1]}{_SEE}")
        if found and (number := re.match(r'strconv\.Parse(?:Int|Bool): parsing "(.*?)":', found[2])):
            raise InvalidArgument(f'invalid argument "{number[1]}" for "{found[1]}" flag: {found[2]}{_SEE}')
        raise InvalidArgument(f"{message}{_SEE}")


_SEE = "\nSee 'cortend --help'."


def parse(argv: list[str]) -> argparse.Namespace:
    """`argv` without the program's name.  Raises `InvalidArgument` with what is wrong and where to read on."""
    parser = _Parser(
        prog="cortend",
        description="The Corten container engine.  Settings are read from a daemon.json with Docker's keys.",
        allow_abbrev=False,
    )
    parser.add_argument("--data-root", metavar="DIR", help=f"images, containers, records ({DEFAULT_DATA_ROOT})")
    parser.add_argument("--exec-root", metavar="DIR", help=f"what a reboot may forget ({DEFAULT_EXEC_ROOT})")
    parser.add_argument(
        "-H", "--host", metavar="URL", action="append", help="unix://PATH, tcp://ADDRESS:PORT or fd:// to listen on"
    )
    parser.add_argument("-p", "--pidfile", metavar="FILE", help="where to write the process id")
    parser.add_argument("--config", "--config-file", metavar="FILE", help=f"daemon.json ({DEFAULT_FILE})")
    parser.add_argument("--node-defaults", metavar="FILE", default="", help=f"the node's defaults ({NODE_FILE})")
    _add_registries(parser)
    _add_tls(parser)
    flagvalues.add(parser)
    parser.add_argument("--metrics-addr", metavar="ADDRESS:PORT", help="where metrics are shown at /metrics (nowhere)")
    parser.add_argument("-D", "--debug", action="store_true", default=None, help="log more")
    parser.add_argument("--validate", action="store_true", help="check the configuration and exit")
    parser.add_argument("--destroy", action="store_true", help="stop and remove everything of this engine, and exit")
    parser.add_argument("--doctor", action="store_true", help="compare records with disk and kernel, and exit")
    parser.add_argument("--fix", action="store_true", help="with --doctor: remove what no record names")
    parser.add_argument("-v", "--version", action="version", version=f"Corten version {__version__}")
    given, unknown = parser.parse_known_args(argv)
    if unknown:
        raise _unknown(unknown[0])
    if given.fix and not given.doctor:
        raise InvalidArgument(f"--fix goes with --doctor{_SEE}")
    return given


def _add_registries(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--registry-mirror", metavar="URL", action="append", help="a mirror of docker.io; may be given several times")
    add("--insecure-registry", metavar="HOST", action="append", help="host[:port] or network without verified TLS")
    add("--max-concurrent-downloads", metavar="N", type=integer, help="layers of a pull at once (3)")
    add("--max-concurrent-uploads", metavar="N", type=integer, help="layers of a push at once (5)")
    add("--max-download-attempts", metavar="N", type=integer, help="tries for each layer of a pull (5)")
    add("--http-proxy", metavar="URL", help="proxy for requests to http:// registries")
    add("--https-proxy", metavar="URL", help="proxy for requests to https:// registries")
    add("--no-proxy", metavar="LIST", help="hosts, domains and networks that are asked without a proxy")


def _add_tls(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    given: dict[str, Any] = {"nargs": "?", "const": True, "type": boolean, "metavar": "BOOL"}
    add("--tls", help="TLS on tcp:// sockets; --tlsverify turns it on as well", **given)
    add("--tlsverify", help="and clients need a certificate that --tlscacert has signed", **given)
    add("--tlscacert", metavar="FILE", help="who signs the certificates of clients (ca.pem in ~/.docker)")
    add("--tlscert", metavar="FILE", help="the certificate (cert.pem in ~/.docker)")
    add("--tlskey", metavar="FILE", help="its key (key.pem in ~/.docker)")


def _unknown(word: str) -> InvalidArgument:
    """A flag that dockerd has is told from one that nobody knows."""
    name = word.partition("=")[0]
    if not name.startswith("-"):
        return InvalidArgument(f'"cortend" accepts no argument(s).{_SEE}')
    if not name.startswith("--"):
        return InvalidArgument(f"unknown shorthand flag: '{name[1:2]}' in {name}{_SEE}")
    bare = name[2:].removeprefix("add-")
    forms = (bare, f"{bare}s", bare.replace("-opt", "-opts"), f"{bare.removesuffix('y')}ies")
    for key in forms:
        if key in ABSENT:
            return InvalidArgument(f"{name} is not supported: {ABSENT[key]}")
        if key in UNSUPPORTED:
            return InvalidArgument(f"{name} is not supported yet")
    return InvalidArgument(f"unknown flag: {name}{_SEE}")


def flags(arguments: argparse.Namespace) -> dict[str, Any]:
    """What was given on the command line, by daemon.json key.  Raises InvalidArgument that names the flag."""
    given = {
        "data-root": arguments.data_root,
        "exec-root": arguments.exec_root,
        "hosts": _tuple(arguments.host),
        "pidfile": arguments.pidfile,
        "debug": arguments.debug,
        "http-proxy": arguments.http_proxy,
        "https-proxy": arguments.https_proxy,
        "insecure-registries": _tuple(arguments.insecure_registry),
        "max-concurrent-downloads": arguments.max_concurrent_downloads,
        "max-concurrent-uploads": arguments.max_concurrent_uploads,
        "max-download-attempts": arguments.max_download_attempts,
        "metrics-addr": arguments.metrics_addr,
        "no-proxy": arguments.no_proxy,
        "registry-mirrors": _tuple(arguments.registry_mirror),
        "tls": arguments.tls,
        "tlscacert": arguments.tlscacert,
        "tlscert": arguments.tlscert,
        "tlskey": arguments.tlskey,
        "tlsverify": arguments.tlsverify,
    }
    return {key: value for key, value in given.items() if value is not None} | flagvalues.given(arguments)


def _tuple(given: list[str] | None) -> tuple[str, ...] | None:
    return tuple(given) if given else None
