"""click commands that take flags as Docker's CLI does, and fail with its words and exit codes.

Docker's flag parser accepts `--flag=true`, stops at the first operand where a command follows, and answers
`unknown flag: --x` with exit code 125.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeVar

import click

from corten import errors

USAGE_EXIT = 125
_Function = TypeVar("_Function", bound=Callable[..., Any])


class Failure(Exception):
    """An error that ends the program with one line and a chosen exit code."""

    def __init__(self, text: str, exit_code: int = 1) -> None:
        super().__init__(text)
        self.message = text
        self.status = exit_code

    def show(self, file: Any = None) -> None:
        """Prints the line as it is, on stderr."""
        print(self.message, file=file or sys.stderr)


def daemon_error(error: errors.CortenError) -> Failure:
    """Docker's wording for what the engine answered."""
    from corten.cli.transport import ConnectFailed

    prefix = "" if isinstance(error, ConnectFailed) else "Error response from daemon: "
    return Failure(prefix + error.text, 1)


class Command(click.Command):
    """A leaf command: Docker's usage line, boolean flags with values, and argument count errors."""

    def __init__(self, *args: Any, operands: str = "", at_least: int = 0, at_most: int = -1, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.operands = operands
        self.at_least = at_least
        self.at_most = at_most

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            rest = super().parse_args(ctx, list(self._plain_booleans(args)))
        except click.NoSuchOption as error:
            self._usage_error(ctx, _unknown_flag(error.option_name))
        except click.BadParameter as error:
            flag = (error.param.opts[-1] if error.param else "") or ""
            self._usage_error(ctx, f'invalid argument for "{flag}" flag: {error.message}')
        except click.UsageError as error:
            self._usage_error(ctx, error.format_message())
        self._check_count(ctx, len(ctx.params.get("operands", ())))
        return rest

    def _check_count(self, ctx: click.Context, given: int) -> None:
        if self.at_least == self.at_most != given:
            need = f"requires {self.at_least} argument" + ("s" if self.at_least != 1 else "")
        elif given < self.at_least:
            need = f"requires at least {self.at_least} argument" + ("s" if self.at_least != 1 else "")
        elif 0 <= self.at_most < given:
            need = f"accepts at most {self.at_most} argument" + ("s" if self.at_most != 1 else "")
        else:
            return
        path = ctx.command_path
        raise Failure(
            f"{path}: '{path}' {need}\n\nUsage:  {path} {self.operands}\n\nSee '{path} --help' for more information"
        )

    def _usage_error(self, ctx: click.Context, text: str) -> NoReturn:
        path = ctx.command_path
        raise Failure(
            f"{text}\n\nUsage:  {path} {self.operands}\n\nRun '{path} --help' for more information",
            USAGE_EXIT,
        ) from None

    def _plain_booleans(self, args: Sequence[str]) -> list[str]:
        """`--rm=true` → `--rm`, `--rm=false` → nothing; operands after the first are left alone."""
        flags = {name for p in self.params if isinstance(p, click.Option) and p.is_flag for name in p.opts}
        plain: list[str] = []
        for index, arg in enumerate(args):
            if arg == "--" or (not arg.startswith("-") and not self.allow_interspersed_args and not plain):
                return plain + list(args[index:])
            name, equals, value = arg.partition("=")
            if equals and name in flags and value.lower() in ("1", "t", "true", "0", "f", "false"):
                plain += [name] if value.lower() in ("1", "t", "true") else []
            else:
                plain.append(arg)
        return plain

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return [self.operands]


def _unknown_flag(name: str) -> str:
    if name.startswith("--"):
        return f"unknown flag: {name}"
    return f"unknown shorthand flag: '{name.lstrip('-')[:1]}' in {name}"


def operands() -> Callable[[_Function], _Function]:
    """The command's operands, all of them, unprocessed."""
    return click.argument("operands", nargs=-1, type=click.UNPROCESSED)


def each(names: Sequence[str], act: Any, *, say: bool = True, summary: str = "") -> None:
    """Runs `act` on every name, prints the names that worked, and fails at the end if any did not.

    `summary` is a last line before the names that failed.
    """
    failed, bad = [], []
    for name in names:
        try:
            act(name)
        except errors.NotModified:
            pass
        except errors.CortenError as error:
            failed.append(daemon_error(error).message)
            bad.append(name)
            continue
        if say:
            print(name, flush=True)
    if failed and summary:
        failed.append(f"{summary}: {', '.join(bad)}")
    if failed:
        raise Failure("\n".join(failed))
