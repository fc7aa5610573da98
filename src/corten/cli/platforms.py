"""`--platform` as containerd reads it: `os`, `architecture`, `os/architecture[/variant]`."""

from __future__ import annotations

import json
from collections.abc import Iterable

from corten.errors import InvalidArgument


def check_platform(text: str, prefix: str) -> dict[str, str]:
    """The platform as the API's JSON has it.  Raises `InvalidArgument` with the prefix in front."""
    from corten.spec.image import Platform  # which few verbs need, and which takes its time
    from corten.spec.platforms import parse_platform

    try:
        found = parse_platform(text, Platform("", "linux"))
    except InvalidArgument as error:
        shown = "" if error.text.startswith(f'"{text}"') else f'"{text}": '
        raise InvalidArgument(f"{prefix}{shown}{error.text}") from None
    fields = {"os": found.os, "architecture": found.architecture, "variant": found.variant}
    return {name: value for name, value in fields.items() if value}


def platform_queries(given: Iterable[str]) -> list[str]:
    """Of a flag that may be given several times, and each time with several, as `platform_query`."""
    return [platform_query(text) for texts in given for text in texts.split(",")]


def platform_query(text: str) -> str:
    """A platform as the API takes it: JSON.  The engine says what it can do with it."""
    return json.dumps(check_platform(text, "invalid platform: ")) if text else ""
