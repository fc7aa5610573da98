"""Command lines as Docker's flag parser reads them (github.com/spf13/pflag, facts only), and values as Go reads them.

`read` turns the words of a command line into ones that click understands in exactly one way: `--name=value` for a
flag with a value, `--name` for a boolean one, then the operands.  What is wrong is said in pflag's words.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import click

from corten import errors
from corten.spec.words import BOOLEANS

_ESCAPES = {"\a": "a", "\b": "b", "\f": "f", "\n": "n", "\r": "r", "\t": "t", "\v": "v", '"': '"', "\\": "\\"}


def quoted(text: str) -> str:
    """Go's `%q`: what a terminal would obey is shown instead."""
    return '"' + "".join(map(_shown, text)) + '"'


def _shown(character: str) -> str:
    code = ord(character)
    if character in _ESCAPES:
        return f"\\{_ESCAPES[character]}"
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is no UTF-8
        return f"\\x{code - 0xDC00:02x}"
    if character.isprintable():
        return character
    return f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


class FlagError(click.UsageError):
    """A command line that pflag would refuse; the text is the whole first line."""


class Value(click.ParamType[Any]):
    """A flag's value that `check` accepts; it stays the text that was given.

    `check` raises `InvalidArgument` with the reason alone; the flag and the value are put in front here.
    """

    name = "string"

    def __init__(self, check: Callable[[str], object]) -> None:
        self._check = check

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            self._check(value)
        except errors.CortenError as error:
            raise FlagError(f'invalid argument {quoted(value)} for "{shown(param)}" flag: {error.text}') from None
        return value


class Integer(click.ParamType[Any]):
    """A number as `strconv.ParseInt` and `ParseUint` read it with base 0."""

    name = "int"

    def __init__(self, bits: int = 64, *, is_signed: bool = True) -> None:
        self._signed = is_signed
        self._limit = 1 << (bits - 1 if is_signed else bits)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, int):
            return value
        try:
            return go_integer(value, self._limit, is_signed=self._signed)
        except errors.InvalidArgument as error:
            raise FlagError(f'invalid argument {quoted(value)} for "{shown(param)}" flag: {error.text}') from None


def go_integer(text: str, limit: int = 1 << 63, *, is_signed: bool = True, base: int = 0) -> int:
    """`strconv.ParseInt`.  Raises `InvalidArgument` with its words."""
    reader = "ParseInt" if is_signed else "ParseUint"
    is_octal = base == 0 and re.fullmatch(r"[+-]?0[0-7_]+", text)
    body = text if re.fullmatch(r"[+-]?\w+" if is_signed else r"\w+", text) else ""
    try:
        number = int(body, 8 if is_octal else base)
    except ValueError:
        raise errors.InvalidArgument(f"strconv.{reader}: parsing {quoted(text)}: invalid syntax") from None
    if not -limit <= number < limit:
        raise errors.InvalidArgument(f'strconv.{reader}: parsing "{text}": value out of range')
    return number


class Switch(click.Option):
    """A boolean flag that is on unless `--name=false` is given; its `--no-name` is click's alone."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        return ", ".join(self.opts), self.help or ""


class OldName(click.Option):
    """An option with a name that Docker still takes and no longer shows: the last of its names.

    `is_deprecated`: it says so on stdout, as Docker's CLI does.
    """

    def __init__(self, *args: Any, is_deprecated: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.is_deprecated = is_deprecated

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        kept, self.opts = self.opts, self.opts[:-1]
        try:
            return super().get_help_record(ctx)
        finally:
            self.opts = kept


def shown(param: click.Parameter | None) -> str:
    """`-m, --memory`, as pflag names a flag in an error."""
    names = param.opts[:-1] if isinstance(param, OldName) else param.opts if param else []
    short = [name for name in names if not name.startswith("--")]
    return ", ".join([*short[:1], *[name for name in names if name.startswith("--")][:1]])


def read(params: Sequence[click.Parameter], args: Sequence[str], *, is_mixed: bool) -> list[str]:
    """See the module.  `is_mixed`: flags may stand behind operands.  Raises `FlagError`."""
    return _Reader(params).read(list(args), is_mixed=is_mixed)


class _Reader:
    def __init__(self, params: Sequence[click.Parameter]) -> None:
        options = [param for param in params if isinstance(param, click.Option)]
        self._options = {name: option for option in options for name in option.opts}
        self._opposites = {
            name: option for option in options if not isinstance(option, Switch) for name in option.secondary_opts
        }
        self._words: list[tuple[click.Option | None, str]] = []

    def read(self, args: list[str], *, is_mixed: bool) -> list[str]:
        operands: list[str] = []
        while args:
            word = args.pop(0)
            if word == "--":
                operands += args
                break
            if word == "-" or not word.startswith("-"):
                operands.append(word)
                if not is_mixed:
                    operands += args
                    break
            elif word.startswith("--"):
                self._long(word, args)
            else:
                self._short(word, args)
        return [*(word for _, word in self._words), "--", *operands]

    def _long(self, word: str, args: list[str]) -> None:
        name, equals, value = word.partition("=")
        if len(name) == 2 or name[2] == "-":
            _refuse(f"bad flag syntax: {word}")
        if word in self._opposites:
            self._boolean(self._opposites[word], "false")
            return
        option = self._options.get(name)
        if option is None:
            _refuse(f"unknown flag: {name}")
        if isinstance(option, OldName) and option.is_deprecated and name == option.opts[-1]:
            print(f"Flag {name} has been deprecated, use {option.opts[-2]} instead")
        if option.is_flag:
            self._boolean(option, value if equals else "true")
        elif equals or args:
            self._give(option, value if equals else args.pop(0))
        else:
            _refuse(f"flag needs an argument: {name}")

    def _short(self, word: str, args: list[str]) -> None:
        letters = word[1:]
        while letters:
            option = self._options.get(f"-{letters[0]}")
            if option is None:
                _refuse(f"unknown shorthand flag: '{letters[0]}' in -{letters}")
            if option.is_flag and letters[1:2] != "=":
                self._boolean(option, "true")
                letters = letters[1:]
                continue
            if letters[1:]:
                value = letters[1:].removeprefix("=")
            elif args:
                value = args.pop(0)
            else:
                _refuse(f"flag needs an argument: '{letters[0]}' in -{letters}")
            self._boolean(option, value) if option.is_flag else self._give(option, value)
            return

    def _give(self, option: click.Option, value: str) -> None:
        name = next((name for name in option.opts if name.startswith("--")), option.opts[0])
        self._words.append((option, f"{name}={value}"))

    def _boolean(self, option: click.Option, value: str) -> None:
        """The last one counts: click knows only "given"."""
        if value not in BOOLEANS:
            reason = f"strconv.ParseBool: parsing {quoted(value)}: invalid syntax"
            _refuse(f'invalid argument {quoted(value)} for "{shown(option)}" flag: {reason}')
        self._words = [(other, word) for other, word in self._words if other is not option]
        if BOOLEANS[value]:
            self._words.append((option, option.opts[-1]))
        elif option.secondary_opts:
            self._words.append((option, option.secondary_opts[0]))


def _refuse(text: str) -> NoReturn:
    raise FlagError(text)
