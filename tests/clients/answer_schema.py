"""Whether an answer is what Docker's API description says: a validator for the part of Swagger 2.0 that it uses.

An object may have no field that the description does not have.  As everywhere in dockerd, a list, a map or an object
that is not there may be null (Go's nil), and a moment that never was is an empty text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from clients import api_description

Json = Any
Schema = dict[str, Any]

_MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)")
_UNSIGNED = frozenset({"uint8", "uint16", "uint32", "uint64"})


def operation(method: str, path: str) -> Schema:
    """The description's entry for an operation; `path` as it stands there."""
    found: Schema = api_description.description()["paths"][path][method.lower()]
    return found


def answer_problems(method: str, path: str, status: int, body: Json) -> list[str]:
    """What is wrong with an answer, one line each: an undescribed status, or where the body is not of its schema."""
    responses = operation(method, path)["responses"]
    if str(status) not in responses:
        return [f"status {status} is not described: {body!r}"]
    schema = responses[str(status)].get("schema")
    return list(problems(schema, body)) if schema else []


def problems(schema: Schema, value: Json, place: str = "") -> Iterator[str]:
    """Where a value is not of its schema."""
    nullable = schema.get("x-nullable") == "true"
    schema = api_description.resolve(schema)
    if value is None:
        if not (nullable or schema.get("x-nullable") == "true" or _kind(schema) in ("array", "object")):
            yield f"{place}: null"
        return
    enum = schema.get("enum")
    if isinstance(enum, list) and str(value) not in (*map(str, enum), ""):
        yield f"{place}: {value!r} is none of {enum}"
    yield from _OF_KIND.get(_kind(schema), _anything)(schema, value, place)


def _kind(schema: Schema) -> str:
    if "type" in schema:
        kind = schema["type"]
        return kind if isinstance(kind, str) else str(kind[0])
    parts = [_kind(api_description.resolve(part)) for part in schema.get("allOf") or ()]
    return next(filter(None, parts), "object" if "properties" in schema else "")


def _anything(schema: Schema, value: Json, place: str) -> Iterator[str]:
    yield from ()


def _object(schema: Schema, value: Json, place: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{place}: {value!r} is no object"
        return
    fields, required = _composed(schema)
    for name in required - set(value):
        yield f"{place}.{name}: missing"
    rest = schema.get("additionalProperties")
    for name, item in value.items():
        if name in fields:
            yield from problems(fields[name] or {}, item, f"{place}.{name}")
        elif isinstance(rest, dict):
            yield from problems(rest, item, f"{place}{{}}")
        elif fields and rest is None:
            yield f"{place}.{name}: not described"


def _composed(schema: Schema) -> tuple[dict[str, Any], set[str]]:
    """Fields and names of those that must be there, of a schema and all that it is made of."""
    schema = api_description.resolve(schema)
    fields, required = dict(schema.get("properties") or {}), set(schema.get("required") or ())
    for part in schema.get("allOf") or ():
        more, needed = _composed(part)
        fields, required = more | fields, required | needed
    return fields, required


def _array(schema: Schema, value: Json, place: str) -> Iterator[str]:
    if not isinstance(value, list):
        yield f"{place}: {value!r} is no list"
        return
    for item in value:
        yield from problems(schema.get("items") or {}, item, f"{place}[]")


def _string(schema: Schema, value: Json, place: str) -> Iterator[str]:
    if not isinstance(value, str):
        yield f"{place}: {value!r} is no text"
    elif schema.get("format") in ("dateTime", "date-time") and value and not _MOMENT.fullmatch(value):
        yield f"{place}: {value!r} is no moment"


def _integer(schema: Schema, value: Json, place: str) -> Iterator[str]:
    if isinstance(value, bool) or not isinstance(value, int):
        yield f"{place}: {value!r} is no integer"
    elif schema.get("format") in _UNSIGNED and value < 0:
        yield f"{place}: {value} is negative"


def _number(schema: Schema, value: Json, place: str) -> Iterator[str]:
    if isinstance(value, bool) or not isinstance(value, int | float):
        yield f"{place}: {value!r} is no number"


def _boolean(schema: Schema, value: Json, place: str) -> Iterator[str]:
    if not isinstance(value, bool):
        yield f"{place}: {value!r} is neither true nor false"


_OF_KIND = {
    "object": _object,
    "array": _array,
    "string": _string,
    "integer": _integer,
    "number": _number,
    "boolean": _boolean,
}
