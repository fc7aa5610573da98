"""`--platform` as containerd reads it: `os`, `architecture`, `os/architecture[/variant]`."""

from __future__ import annotations

import json
import re

from corten import errors

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


def check_platform(text: str, prefix: str) -> dict[str, str]:
    """The platform as the API's JSON has it.  Raises `InvalidArgument` with the prefix in front."""
    parts = text.split("/")
    for part in parts:
        if not re.fullmatch(r"[A-Za-z0-9_.-]+", part):
            raise errors.InvalidArgument(
                f'{prefix}"{text}": "{part}" is an invalid component of "{text}": '
                'platform specifier component must match "^[A-Za-z0-9_.-]+$": invalid argument'
            )
    if len(parts) > 3:
        raise errors.InvalidArgument(f'{prefix}"{text}": cannot parse platform specifier: invalid argument')
    if len(parts) == 1:
        word = text.lower()
        if word not in _SYSTEMS | _ARCHITECTURES:
            reason = "unknown operating system or architecture: invalid argument"
            raise errors.InvalidArgument(f'{prefix}"{text}": {reason}')
        return {"os": word} if word in _SYSTEMS else {"os": "linux", "architecture": word}
    return dict(zip(("os", "architecture", "variant"), parts, strict=False))


def platform_query(text: str) -> str:
    """A platform as the API takes it: JSON.  The engine says what it can do with it."""
    return json.dumps(check_platform(text, "invalid platform: ")) if text else ""
