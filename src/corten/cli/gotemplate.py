"""The part of Go's text/template that `--format` uses: fields, pipes, range, if, with, variables and functions.

A template is parsed into nodes and rendered over JSON values.  Go's documentation of text/template rules; the
functions `json`, `join`, `upper`, `lower`, `title`, `split`, `truncate`, `pad`, `println` are Docker's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from corten import errors
from corten.cli.gostruct import MISSING, NIL, NilList, NilMap, Struct

_TOKEN = re.compile(
    r"""\s*(?:(?P<string>"(?:[^"\\]|\\.)*"|`[^`]*`)|(?P<number>-?\d+(?:\.\d+)?)|(?P<assign>:=|=)"""
    r"""|(?P<field>(?:\$\w*)?(?:\.\w+)+|\$\w*|\.)|(?P<name>\w+)|(?P<mark>[|(),]))"""
)
_ACTION = re.compile(r"\{\{(-\s)?(.*?)(\s-)?\}\}", re.S)


class Token:
    """A word of an action; `at` is its place in the line of the template."""

    __slots__ = ("at", "kind", "text")

    def __init__(self, kind: str, text: str, at: int) -> None:
        self.kind = kind
        self.text = text
        self.at = at


@dataclass(frozen=True, slots=True)
class Text:
    text: str


@dataclass(frozen=True, slots=True)
class Action:
    tokens: tuple[Token, ...]


@dataclass(frozen=True, slots=True)
class Block:
    """`if`, `with` or `range`, with its pipeline and both bodies."""

    word: str
    tokens: tuple[Token, ...]
    body: tuple[Any, ...]
    otherwise: tuple[Any, ...]


class Template:
    """A parsed template.  Raises `ParseError` when it does not parse; `name` is for messages about fields."""

    def __init__(self, source: str, name: str = "") -> None:
        self._name = name
        parts = list(_split(source))
        for token in (token for part in parts if isinstance(part, Action) for token in part.tokens):
            if token.kind == "name" and token.text not in _KNOWN_WORDS:
                raise _parse_error(f'function "{token.text}" not defined')
        self._nodes, stop = _parse(iter(parts))
        if stop:
            raise _parse_error(f"unexpected {{{{{stop}}}}}")

    def render(self, value: Any) -> str:
        """The text for one value.  Raises `InvalidArgument` for an unknown function or a field of a non-object."""
        try:
            return "".join(_render(self._nodes, _Scope(value, {"$": value})))
        except _FieldError as error:
            at, path, reason = error.args
            place = f'template: {self._name}:1:{at}: executing "{self._name}" at <{path}>'
            raise errors.InvalidArgument(f"{place}: {reason}") from None


@dataclass(slots=True)
class _Scope:
    dot: Any
    variables: dict[str, Any]


class ParseError(errors.InvalidArgument):
    """A text that is no template."""


class _FieldError(Exception):
    """(place, path, reason)"""


def _parse_error(text: str) -> ParseError:
    return ParseError(f"template: :1: {text}")


def _tokens(source: str, start: int = 0) -> tuple[Token, ...]:
    found, at = [], 0
    source = source.rstrip()
    while at < len(source):
        match = _TOKEN.match(source, at)
        if match is None:
            raise _parse_error(f"unexpected {source[at:]!r} in operand")
        kind = str(match.lastgroup)
        found.append(Token(kind, match.group(kind), start + match.start(kind)))
        at = match.end()
    return tuple(found)


def _split(source: str) -> Iterator[Text | Action]:
    at, trim = 0, False
    for match in _ACTION.finditer(source):
        text = source[at : match.start()]
        text = text.lstrip() if trim else text
        yield Text(text.rstrip() if match.group(1) else text)
        if not match.group(2).strip().startswith("/*"):
            yield Action(_tokens(match.group(2), match.start(2)))
        at, trim = match.end(), bool(match.group(3))
    rest = source[at:]
    if "{{" in rest:
        raise _parse_error("unclosed action")
    yield Text(rest.lstrip() if trim else rest)


def _parse(parts: Iterator[Text | Action]) -> tuple[tuple[Any, ...], str]:
    nodes: list[Any] = []
    for part in parts:
        if isinstance(part, Text):
            nodes.append(part)
            continue
        word = part.tokens[0].text if part.tokens and part.tokens[0].kind == "name" else ""
        if word in ("if", "with", "range"):
            nodes.append(_parse_block(word, part.tokens[1:], parts))
        elif word in ("end", "else"):
            return tuple(nodes), " ".join(token.text for token in part.tokens)
        else:
            _check(part.tokens, "command")
            nodes.append(part)
    return tuple(nodes), ""


def _parse_block(word: str, tokens: Sequence[Token], parts: Iterator[Text | Action]) -> Block:
    _check(tokens, word)
    body, stop = _parse(parts)
    otherwise: tuple[Any, ...] = ()
    if stop.startswith("else if"):
        otherwise = (_parse_block("if", _tokens(stop.removeprefix("else if")), parts),)
    elif stop == "else":
        otherwise, stop = _parse(parts)
    if not stop:
        raise _parse_error("unexpected EOF")
    return Block(word, tuple(tokens), body, otherwise)


def _check(tokens: Sequence[Token], what: str) -> None:
    """Raises `ParseError` for a pipeline with nothing in it, a pipe with nothing before it, and odd parentheses."""
    before, depth = ":=", 0
    for text in (token.text for token in tokens):
        depth += (text == "(") - (text == ")")
        if text == "|" and before in (":=", "=", "(", "|"):
            raise _parse_error('unexpected "|" in command')
        if text == ")" and before == "(":
            raise _parse_error("missing value for parenthesized pipeline")
        if depth < 0:
            raise _parse_error("unexpected right paren")
        before = text
    if before in (":=", "="):
        raise _parse_error(f"missing value for {what}")
    if depth:
        raise _parse_error("unclosed left paren")


def _render(nodes: Sequence[Any], scope: _Scope) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, Text):
            yield node.text
        elif isinstance(node, Action):
            names, tokens = _assignment(node.tokens)
            value = _pipeline(list(tokens), scope)
            if names:
                scope.variables[names[0]] = value
            else:
                yield go_text(value)
        else:
            yield from _render_block(node, scope)


def _render_block(block: Block, scope: _Scope) -> Iterator[str]:
    names, tokens = _assignment(block.tokens)
    value = _pipeline(list(tokens), scope)
    if block.word == "range":
        pairs = list(value.items() if isinstance(value, dict) else enumerate(value or ()))
        for key, item in sorted(pairs) if isinstance(value, dict) else pairs:
            bound = dict(zip(names, (key, item) if len(names) == 2 else (item,), strict=False))
            yield from _render(block.body, _Scope(item, {**scope.variables, **bound}))
        if not pairs:
            yield from _render(block.otherwise, scope)
    elif _truth(value):
        bound = {names[0]: value} if names else {}
        dot = value if block.word == "with" else scope.dot
        yield from _render(block.body, _Scope(dot, {**scope.variables, **bound}))
    else:
        yield from _render(block.otherwise, scope)


def _assignment(tokens: Sequence[Token]) -> tuple[list[str], Sequence[Token]]:
    for index, token in enumerate(tokens):
        if token.kind == "assign":
            return [name.text for name in tokens[:index] if name.kind == "field"], tokens[index + 1 :]
    return [], tokens


def _pipeline(stream: list[Token], scope: _Scope) -> Any:
    """Takes from `stream` up to its end or a `)`.  A pipe with nothing behind it counts for nothing, as in Go."""
    value = _command(stream, scope, [])
    while stream and stream[0].text == "|":
        stream.pop(0)
        if stream and stream[0].text != ")":
            value = _command(stream, scope, [value])
    return value


def _command(stream: list[Token], scope: _Scope, piped: list[Any]) -> Any:
    name = ""
    if stream and stream[0].kind == "name" and stream[0].text not in _CONSTANTS:
        name = stream.pop(0).text
    args: list[Any] = []
    words: list[Token] = []
    while stream and stream[0].text not in ("|", ")"):
        words.append(stream[0])
        args.append(_operand(stream, scope))
        if callable(args[-1]) and (name or args[1:]):
            _call_method(words[-1:], args[-1], [])
    if not name:
        if callable(args[0]):
            return _call_method(words, args[0], [*args[1:], *piped])
        if len(args) != 1:
            raise _parse_error("can't give argument to non-function")
        return args[0]
    try:
        return _FUNCTIONS[name](*args, *piped)
    except (TypeError, IndexError, KeyError, ValueError) as error:
        raise errors.InvalidArgument(f"template: :1: error calling {name}: {error}") from error


def _call_method(words: Sequence[Token], method: Callable[[str], Any], args: Sequence[Any]) -> Any:
    """The methods that there are take one string.  `words` are the method's own and those of arguments not piped."""
    word, *given = words
    if len(args) != 1:
        name = word.text.rpartition(".")[2]
        raise _FieldError(word.at, word.text, f"wrong number of args for {name}: want 1 got {len(args)}")
    if not isinstance(args[0], str):
        word = given[0] if given else word
        raise _FieldError(word.at, word.text, f"expected string; found {go_text(args[0])}")
    return method(args[0])


def _operand(stream: list[Token], scope: _Scope) -> Any:
    token = stream.pop(0)
    kind, text, at = token.kind, token.text, token.at
    if kind == "string":
        return text[1:-1] if text[0] == "`" else json.loads(text)
    if kind == "number":
        return float(text) if "." in text else int(text)
    if kind == "name":
        return _CONSTANTS[text] if text in _CONSTANTS else _command([token], scope, [])
    if kind == "field":
        return _field(text, scope, at)
    if text == "(":
        value = _pipeline(stream, scope)
        stream.pop(0)  # the `)`
        while stream and stream[0].kind == "field" and stream[0].text.startswith("."):
            value = _walk(value, stream[0].text, stream.pop(0).at)
        return value
    raise _parse_error(f"unexpected {text!r} in operand")


def _field(text: str, scope: _Scope, at: int) -> Any:
    if not text.startswith("$"):
        return _walk(scope.dot, text, at)
    name, dot, rest = text.partition(".")
    if name not in scope.variables:
        raise _parse_error(f'undefined variable "{name}"')
    return _walk(scope.variables[name], dot + rest, at + len(name))


def _walk(value: Any, path: str, at: int) -> Any:
    """The field at a path.  A map without the key has no value; a struct without the field is an error."""
    place, owner = at, None
    before = ("", at)
    for name in filter(None, path.split(".")):
        here = value
        if isinstance(here, Struct):
            value = here.field(name)
            if value is MISSING:
                raise _FieldError(place, path, here.reason.format(name))
        elif here is NIL and isinstance(owner, Struct):
            raise _FieldError(before[1], path, owner.reason.format(before[0]))
        elif here is not None and not isinstance(here, dict):
            raise _FieldError(place, path, f"can't evaluate field {name} in type interface {{}}")
        else:
            value = (here or {}).get(name)
        owner, before = here, (name, place)
        place += len(name) + 1
    return value


def _truth(value: Any) -> bool:
    return value is not NIL and bool(value)


def go_text(value: Any) -> str:
    """A JSON value as Go's fmt `%v` prints it."""
    if value is None:
        return "<no value>"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return "[" + " ".join(go_text(item) for item in value) + "]"
    if isinstance(value, Struct):
        return "{" + " ".join(go_text(value.field(name)) for name in value.names()) + "}"
    if isinstance(value, dict):
        return "map[" + " ".join(f"{key}:{go_text(value[key])}" for key in sorted(value)) + "]"
    return "<nil>" if value is NIL else str(value)


def _json(value: Any) -> str:
    if isinstance(value, Struct):
        value = value.source
    elif value is NIL or isinstance(value, NilList | NilMap):
        value = None
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def _index(value: Any, *keys: Any) -> Any:
    for key in keys:
        value = (value or {}).get(key, "") if isinstance(value, dict) or value is None else value[key]
    return value


def _printf(form: str, *args: Any) -> str:
    values = iter(args)

    def one(match: re.Match[str]) -> str:
        if match.group(0) == "%%":
            return "%"
        value = next(values, "%!(MISSING)")
        verb = match.group(2)
        if verb in "vs":
            return ("%" + match.group(1) + "s") % go_text(value)
        if verb == "q":
            return json.dumps(go_text(value))
        return str(("%" + match.group(1) + verb) % value)

    return re.sub(r"%([-+ 0#]*\d*(?:\.\d+)?)([vsqdxXofgetTc%])", one, form)


def _equal(first: Any, *others: Any) -> bool:
    return any(first == other for other in others)


def _last_or_first(stop: bool) -> Callable[..., Any]:
    def choose(*values: Any) -> Any:
        for value in values:
            if _truth(value) == stop:
                return value
        return values[-1]

    return choose


_CONSTANTS: dict[str, Any] = {"true": True, "false": False, "nil": None}
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "json": _json,
    "join": lambda items, by: by.join(go_text(item) for item in items or ()),
    "split": lambda text, by: text.split(by),
    "upper": lambda text: text.upper(),
    "lower": lambda text: text.lower(),
    "title": lambda text: text.title(),
    "truncate": lambda text, length: text[:length],
    "pad": lambda text, left, right: " " * left + text + " " * right,
    "println": lambda *args: " ".join(go_text(arg) for arg in args) + "\n",
    "print": lambda *args: "".join(go_text(arg) for arg in args),
    "printf": _printf,
    "index": _index,
    "slice": lambda value, start=0, end=None: value[start:end],
    "len": lambda value: len(value or ()),
    "eq": _equal,
    "ne": lambda first, second: first != second,
    "lt": lambda first, second: first < second,
    "le": lambda first, second: first <= second,
    "gt": lambda first, second: first > second,
    "ge": lambda first, second: first >= second,
    "not": lambda value: not _truth(value),
    "and": _last_or_first(stop=False),
    "or": _last_or_first(stop=True),
}
_KNOWN_WORDS = frozenset({*_FUNCTIONS, *_CONSTANTS, "if", "else", "end", "range", "with"})
