"""The log option `tag`: the part of Go's text/template that is of use there, over dockerd's logger.Info.

`{{.Name}}`, `{{upper .Name}}`, `{{truncate .ImageName 8}}`, `{{index .ContainerLabels "a"}}`,
`{{(.ExtraAttributes nil).A}}`: fields, calls, pipes.  No conditions and no loops: what comes from a client and runs in
the daemon stays short.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from corten.errors import InvalidArgument

DEFAULT: Final = "{{.ID}}"
_ACTION: Final = re.compile(r"\{\{(-\s)?(.*?)(\s-)?\}\}", re.S)
_WORD: Final = re.compile(
    r"""\s*(?:"(?P<string>(?:[^"\\]|\\.)*)"|(?P<number>\d{1,4})|(?P<extra>\(\s*\.ExtraAttributes\s+nil\s*\)\.\w+)"""
    r"""|(?P<field>(?:\.\w+)+)|(?P<name>\w+)|(?P<pipe>\|))"""
)
_MAX_BYTES: Final = 4096

Fields = Mapping[str, Any]


class Word(NamedTuple):
    """A word of an action; `at` is its place in the template."""

    kind: str
    text: str
    at: int


def render(template: str, fields: Fields) -> str:
    """The tag.  Raises InvalidArgument in Go's words for a template that is none, and for what is not done here."""
    out, at, trim = [], 0, False
    for action in _ACTION.finditer(template):
        text = template[at : action.start()]
        text = text.lstrip() if trim else text
        out += [text.rstrip() if action[1] else text, _text(_pipeline(_words(action[2], action.start(2)), fields))]
        at, trim = action.end(), bool(action[3])
    rest = template[at:]
    if "{{" in rest:
        raise _wrong("unclosed action")
    tag = "".join([*out, rest.lstrip() if trim else rest])
    if len(tag) > _MAX_BYTES:
        raise _wrong(f"the tag has {len(tag)} characters (at most {_MAX_BYTES})")
    return tag


def _wrong(reason: str) -> InvalidArgument:
    return InvalidArgument(f"template: log-tag:1: {reason}")


def _failed(word: Word, reason: str, *, at: int = 0) -> InvalidArgument:
    return InvalidArgument(f'template: log-tag:1:{word.at + at}: executing "log-tag" at <{word.text}>: {reason}')


def _words(source: str, start: int) -> list[Word]:
    out, at, source = [], 0, source.rstrip()
    while at < len(source):
        found = _WORD.match(source, at)
        if found is None:
            raise _wrong(f"unexpected {source[at:].strip()[:20]!r} in operand")
        kind = str(found.lastgroup)
        out.append(Word(kind, found[kind], start + found.start(kind)))
        at = found.end()
    if not out:
        raise _wrong("missing value for command")
    return out


def _pipeline(words: list[Word], fields: Fields) -> Any:
    value: list[Any] = []
    command: list[Word] = []
    for word in [*words, Word("pipe", "|", 0)]:
        if word.kind != "pipe":
            command.append(word)
            continue
        if not command:
            raise _wrong('unexpected "|" in command')
        value, command = [_command(command, value, fields)], []
    return value[0]


def _command(words: list[Word], piped: list[Any], fields: Fields) -> Any:
    first, *rest = words
    text = first.text
    args = [_operand(word, fields) for word in rest] + piped
    if first.kind != "name":
        if args:
            raise _wrong(f"can't give argument to non-function {text}")
        return _operand(first, fields)
    function = _FUNCTIONS.get(text)
    if function is None:
        raise _wrong(f'function "{text}" not defined')
    try:
        return function(*args)
    except (TypeError, ValueError, AttributeError, LookupError) as error:
        raise _failed(first, f"error calling {text}: {error}") from error


def _operand(word: Word, fields: Fields) -> Any:
    text = word.text
    match word.kind:
        case "string":
            try:
                return json.loads(f'"{text}"')
            except ValueError as error:  # Go has escapes that JSON has not
                raise _wrong("invalid syntax") from error
        case "number":
            return int(text)
        case "extra":
            return fields["ExtraAttributes"].get(text.rpartition(".")[2], "<no value>")
        case "field":
            return _walk(word, fields)
    raise _wrong(f'function "{text}" not defined')


def _walk(word: Word, fields: Fields) -> Any:
    """`.A.B`: a field, then keys of maps."""
    value: Any = fields
    at = 0
    for name in word.text[1:].split("."):
        if value is fields and name not in fields:
            raise _failed(word, f"can't evaluate field {name} in type *logger.Info")
        if not isinstance(value, Mapping):
            kind = "[]string" if isinstance(value, list) else "string"
            raise _failed(word, f"can't evaluate field {name} in type {kind}", at=at)
        value = value.get(name, "<no value>")
        at += len(name) + 1
    return value


def _text(value: Any) -> str:
    if isinstance(value, list):
        return f"[{' '.join(map(_text, value))}]"
    if isinstance(value, dict):
        return f"map[{' '.join(f'{key}:{value[key]}' for key in sorted(value))}]"
    return str(value)


def _pad(text: str, left: int, right: int) -> str:
    return " " * left + text + " " * right if text else text


_FUNCTIONS: Final[dict[str, Callable[..., Any]]] = {
    "json": lambda value: json.dumps(value, separators=(",", ":"), ensure_ascii=False),
    "split": lambda text, by: text.split(by),
    "join": lambda items, by: by.join(items),
    "title": lambda text: text.title(),
    "lower": lambda text: text.lower(),
    "upper": lambda text: text.upper(),
    "pad": _pad,
    "truncate": lambda text, length: text[:length],
    "index": lambda value, key: value.get(key, "") if isinstance(value, dict) else value[key],
    "print": lambda *values: "".join(map(_text, values)),
}
