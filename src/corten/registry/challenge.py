"""`WWW-Authenticate`: how a registry wants to be shown who asks (RFC 9110 §11.6.1, RFC 6750 §3, RFC 7617)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

_LENGTH_MAX = 16 << 10
_TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_SCHEME = re.compile(rf"[ \t,]*({_TOKEN})(?=[ \t]|,|$)[ \t]*")
_PARAMETER = re.compile(rf'[ \t,]*({_TOKEN})[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]*))')
_ESCAPED = re.compile(r"\\(.)")


@dataclass(frozen=True, slots=True)
class Challenge:
    """One way that is offered: the scheme in lower case, its parameters by names in lower case."""

    scheme: str
    parameters: dict[str, str] = field(default_factory=dict)


def parse_challenges(values: Iterable[str]) -> list[Challenge]:
    """What all headers of an answer offer, in order.  What is no challenge is left out."""
    return [challenge for value in values for challenge in _parse(value[:_LENGTH_MAX])]


def _parse(value: str) -> Iterable[Challenge]:
    position = 0
    while match := _SCHEME.match(value, position):
        position = match.end()
        parameters: dict[str, str] = {}
        while found := _PARAMETER.match(value, position):
            position = found.end()
            text = found[3] if found[2] is None else _ESCAPED.sub(r"\1", found[2])
            parameters.setdefault(found[1].lower(), text)
        yield Challenge(match[1].lower(), parameters)
