"""Platforms as users write them: `os`, `architecture`, `os/architecture[/variant]`, as containerd reads them."""

from __future__ import annotations

import re

from corten.errors import InvalidArgument
from corten.spec.image import Platform, normalized

_COMPONENT = "^[A-Za-z0-9_.-]+$"
_SYSTEMS = frozenset(
    {
        "aix", "android", "darwin", "dragonfly", "freebsd", "illumos", "ios", "js", "linux", "macos", "netbsd",
        "openbsd", "plan9", "solaris", "wasip1", "windows",
    }
)  # fmt: skip
_ARCHITECTURES = frozenset(
    {
        "386", "amd64", "arm", "arm64", "loong64", "mips", "mips64", "mips64le", "mipsle", "ppc64", "ppc64le",
        "riscv64", "s390x", "wasm", "aarch64", "armhf", "armel", "i386", "i686", "x86_64", "x86-64",
    }
)  # fmt: skip


def parse_platform(text: str, host: Platform) -> Platform:
    """The platform that `text` names, as Go names it; what it leaves out is the host's.

    Raises InvalidArgument in containerd's words.
    """
    parts = text.split("/")
    for part in parts:
        if not re.fullmatch(_COMPONENT, part):
            raise InvalidArgument(
                f'"{part}" is an invalid component of "{text}":'
                f' platform specifier component must match "{_COMPONENT}": invalid argument'
            )
    if len(parts) > 3:
        raise InvalidArgument(f'"{text}": cannot parse platform specifier: invalid argument')
    if len(parts) > 1:
        return normalized(Platform(parts[1], parts[0], parts[2] if len(parts) > 2 else ""))
    word = text.lower()
    if word in _SYSTEMS:
        return normalized(Platform(host.architecture, "darwin" if word == "macos" else word))
    if word in _ARCHITECTURES:
        return normalized(Platform(word, host.os))
    raise InvalidArgument(f'"{text}": unknown operating system or architecture: invalid argument')
