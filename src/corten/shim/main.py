"""The program `corten-shim`.  People do not run it: cortend does, once, as a zygote."""

from __future__ import annotations

import os
import sys

_USAGE = "usage: corten-shim --zygote --control-fd N --exec-root DIR [--open-files N] [--join FILE]… [--debug]"


def main(argv: list[str]) -> int:
    """`argv` with the program's name first; returns the exit status."""
    options: dict[str, str] = {}
    joins: list[str] = []
    words = iter(argv[1:])
    for word in words:
        name, equals, value = word.partition("=")
        if name in ("--zygote", "--debug"):
            options[name] = "yes"
        elif name in ("--control-fd", "--exec-root", "--open-files"):
            options[name] = value if equals else next(words, "")
        elif name == "--join":
            joins.append(value if equals else next(words, ""))
        else:
            return _refuse(f"unknown argument {word!r}")
    if "--zygote" not in options or not options.get("--control-fd", "").isdigit():
        return _refuse("it needs --zygote and --control-fd")
    if not options.get("--exec-root"):
        return _refuse("it needs --exec-root")
    _join(joins)  # first: what is loaded from here on is charged to that cgroup
    if options.get("--open-files", "").isdigit():
        from corten.sys import openfiles

        openfiles.give_back(int(options["--open-files"]))
    from corten.shim import zygote

    return zygote.run(int(options["--control-fd"]), options["--exec-root"])


def _join(joins: list[str]) -> None:
    """The cgroup of the shims; where that is refused, all stay in cortend's."""
    for path in joins:
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, b"0")
            finally:
                os.close(fd)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            sys.stderr.write(f"corten-shim: shims do not come to their cgroup: {path}: {reason}\n")


def _refuse(reason: str) -> int:
    sys.stderr.write(f"corten-shim: {reason}\n{_USAGE}\n")
    return 2
