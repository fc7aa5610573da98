"""The command line of cortend."""

from __future__ import annotations

import argparse
from typing import Any

from corten import __version__
from corten.daemon.config import DEFAULT_DATA_ROOT, DEFAULT_EXEC_ROOT, DEFAULT_FILE


def parse(argv: list[str]) -> argparse.Namespace:
    """`argv` without the program's name; a wrong one ends the program with status 2 and a usage line."""
    parser = argparse.ArgumentParser(
        prog="cortend",
        description="The Corten container engine.  Settings are read from a daemon.json with Docker's keys.",
        allow_abbrev=False,
    )
    parser.add_argument("--data-root", metavar="DIR", help=f"images, containers, records ({DEFAULT_DATA_ROOT})")
    parser.add_argument("--exec-root", metavar="DIR", help=f"what a reboot may forget ({DEFAULT_EXEC_ROOT})")
    parser.add_argument(
        "-H", "--host", metavar="URL", action="append", help="unix://PATH or tcp://ADDRESS:PORT to listen on"
    )
    parser.add_argument("-p", "--pidfile", metavar="FILE", help="where to write the process id")
    parser.add_argument("--config", "--config-file", metavar="FILE", help=f"daemon.json ({DEFAULT_FILE})")
    parser.add_argument("-D", "--debug", action="store_true", default=None, help="log more")
    parser.add_argument("--validate", action="store_true", help="check the configuration and exit")
    parser.add_argument("--destroy", action="store_true", help="stop and remove everything of this engine, and exit")
    parser.add_argument("-v", "--version", action="version", version=f"Corten version {__version__}")
    return parser.parse_args(argv)


def flags(arguments: argparse.Namespace) -> dict[str, Any]:
    """What was given on the command line, by daemon.json key."""
    given = {
        "data-root": arguments.data_root,
        "exec-root": arguments.exec_root,
        "hosts": tuple(arguments.host) if arguments.host else None,
        "pidfile": arguments.pidfile,
        "debug": arguments.debug,
    }
    return {key: value for key, value in given.items() if value is not None}
