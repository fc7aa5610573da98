"""Docker's API description: where it is found, and as much of YAML as it takes to read it.

`../shared/data` beside the checkout, else Debian 13's golang-github-docker-docker-dev (1.45, the API of the dockerd
that answers are compared with).  Not finding it is a failure.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from support import peers

BESIDE = Path(__file__).parents[3] / "shared" / "data"
INSIDE = "usr/share/gocode/src/github.com/docker/docker/api/swagger.yaml"


@functools.cache
def description() -> dict[str, Any]:
    """The parsed description, the newest that there is."""
    return parse(file().read_text())


def file() -> Path:
    """Where it is."""
    found = sorted(BESIDE.glob("docker-engine-api-v*.yaml"))
    return found[-1] if found else _from_debian()


def version() -> tuple[int, int]:
    """Of the description that was found."""
    major, minor = description()["info"]["version"].split(".")
    return int(major), int(minor)


def _from_debian() -> Path:
    return peers.tree("trixie").root / INSIDE


def operations() -> Iterator[tuple[str, str]]:
    """(METHOD, /path/{with}/{names}) of every operation."""
    for path, methods in description()["paths"].items():
        for method in methods:
            if method in ("get", "head", "post", "put", "delete"):
                yield method.upper(), path


def properties(definition: str) -> dict[str, Any]:
    """Field name: its schema, for a name of `definitions`, with everything that it is composed of."""
    return _properties(description()["definitions"][definition])


def body_properties(path: str) -> dict[str, Any]:
    """The same for the body of `POST path`."""
    parameters = description()["paths"][path]["post"]["parameters"]
    schema = next(parameter["schema"] for parameter in parameters if parameter.get("in") == "body")
    return _properties(schema)


def resolve(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema with its `$ref` followed."""
    reference = schema.get("$ref")
    if reference is None:
        return schema
    found: dict[str, Any] = description()["definitions"][reference.rpartition("/")[2]]
    return found


def _properties(schema: dict[str, Any]) -> dict[str, Any]:
    schema = resolve(schema)
    fields: dict[str, Any] = {}
    for part in schema.get("allOf", []):
        fields |= _properties(part)
    return fields | (schema.get("properties") or {})


def later_fields(served: Callable[[str, str], bool]) -> list[str]:
    """What the description that was found says of served operations, and that of 1.45 does not, a line each.

    What is below a field that is new itself stands for nothing of its own.
    """
    before = set(_all_fields(parse(_from_debian().read_text()), served))
    new = sorted(set(_all_fields(description(), served)) - before)
    return [field for field in new if not any(field.startswith((f"{top}.", f"{top}[", f"{top}{{")) for top in new)]


def _all_fields(document: dict[str, Any], served: Callable[[str, str], bool]) -> Iterator[str]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if method not in ("get", "head", "post", "put", "delete") or not served(method.upper(), path):
                continue
            name = f"{method.upper()} {path}"
            for parameter in operation.get("parameters") or []:
                if parameter.get("in") == "query":
                    yield f"{name} ?{parameter['name']}"
                elif parameter.get("in") == "body":
                    yield from _leaves(document, f"{name} body", parameter["schema"], ())
            for status, answer in operation["responses"].items():
                if str(status).startswith("2"):
                    yield from _leaves(document, f"{name} answer", answer.get("schema") or {}, ())


def _leaves(document: dict[str, Any], place: str, schema: Any, above: tuple[str, ...]) -> Iterator[str]:
    """Dotted paths of a schema's fields; a definition within itself is not followed again."""
    if not isinstance(schema, dict):
        return
    reference = schema.get("$ref", "")
    if reference in above:
        return
    if reference:
        schema, above = document["definitions"][reference.rpartition("/")[2]], (*above, reference)
    for part in schema.get("allOf") or []:
        yield from _leaves(document, place, part, above)
    for name, field in (schema.get("properties") or {}).items():
        yield f"{place}.{name}"
        yield from _leaves(document, f"{place}.{name}", field, above)
    for key, mark in (("items", "[]"), ("additionalProperties", "{}")):
        yield from _leaves(document, f"{place}{mark}", schema.get(key), above)


# The part of YAML that the description uses: nested maps, lists, quoted and plain scalars, block scalars, flow lists of
# words.  Other flow collections (examples) stay text, as nothing here needs them.

_KEY = re.compile(r"(?P<key>\"[^\"]*\"|'[^']*'|[^\s\"'#-][^:]*|-?\d+|\$ref):(?:\s+(?P<value>.*))?$")


def parse(text: str) -> dict[str, Any]:
    """The document's outermost map."""
    lines = [(len(line) - len(line.lstrip()), line.strip(), line) for line in text.splitlines()]
    value, _ = _block(lines, _skip(lines, 0), 0)
    assert isinstance(value, dict)
    return value


Lines = list[tuple[int, str, str]]


def _skip(lines: Lines, at: int) -> int:
    while at < len(lines) and (not lines[at][1] or lines[at][1].startswith("#")):
        at += 1
    return at


def _block(lines: Lines, at: int, indent: int) -> tuple[Any, int]:
    """The map or list whose entries stand at `indent`, and the line behind it."""
    if lines[at][1].startswith("- ") or lines[at][1] == "-":
        return _list(lines, at, indent)
    found: dict[str, Any] = {}
    while (at := _skip(lines, at)) < len(lines) and lines[at][0] == indent:
        match = _KEY.match(lines[at][1])
        if not match:
            at += 1  # the rest of a flow collection or of a plain scalar
            continue
        found[match["key"].strip("\"'")], at = _value(lines, at, indent, match["value"] or "")
    return found, at


def _list(lines: Lines, at: int, indent: int) -> tuple[list[Any], int]:
    found: list[Any] = []
    while (at := _skip(lines, at)) < len(lines) and lines[at][0] == indent and lines[at][1].startswith("-"):
        rest = lines[at][1][1:].lstrip()
        if _KEY.match(rest):
            inner = indent + len(lines[at][1]) - len(rest)
            lines[at] = (inner, rest, " " * inner + rest)
            value, at = _block(lines, at, inner)
        else:
            value, at = _value(lines, at, indent, rest)
        found.append(value)
    return found, at


def _value(lines: Lines, at: int, indent: int, text: str) -> tuple[Any, int]:
    """What follows `key:` or `-`: a scalar on the line, a block scalar, or a nested block."""
    text = re.sub(r"\s+#.*$", "", text)
    at += 1
    if text.startswith(("|", ">")):
        return _scalar(lines, at, indent)
    if text:
        while at < len(lines) and lines[at][1] and lines[at][0] > indent:
            at += 1  # continued: of no interest
        return _flow(text), at
    inner = _skip(lines, at)
    if inner >= len(lines):
        return None, inner
    if lines[inner][0] > indent and lines[inner][1][0] in "{[":
        text, at = _scalar(lines, at, indent)
        return _flow(" ".join(text.split())), at
    is_list = lines[inner][1].startswith("-")
    if lines[inner][0] > indent or (is_list and lines[inner][0] == indent and not lines[at - 1][1].startswith("-")):
        return _block(lines, inner, lines[inner][0])
    return None, at


def _flow(text: str) -> Any:
    """A list of words as a list, else the text without its quotes."""
    if text.startswith("[") and text.endswith("]") and not set(text) & set("{}:"):
        return [word.strip(" \"'") for word in text[1:-1].split(",") if word.strip()]
    return text.strip("\"'")


def _scalar(lines: Lines, at: int, indent: int) -> tuple[str, int]:
    start = at
    while at < len(lines) and (not lines[at][1] or lines[at][0] > indent):
        at += 1
    return "\n".join(line[1] for line in lines[start:at]), at
