"""click commands that take flags as Docker's CLI does, and fail with its words and exit codes.

Docker's flag parser accepts `--flag=true`, stops at the first operand where a command follows, and answers
`unknown flag: --x` with exit code 125.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from corten import errors
from corten.cli import flags

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
    """Docker's wording: what the engine answered has a prefix, what this program found out itself has none."""
    from corten.cli.transport import Answer

    prefix = "Error response from daemon: " if isinstance(error, Answer) else ""
    return Failure(prefix + error.text, 1)


class Command(click.Command):
    """A leaf command: Docker's usage line, flags as `corten.cli.flags` reads them, and argument count errors."""

    def __init__(self, *args: Any, operands: str = "", at_least: int = 0, at_most: int = -1, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.operands = operands
        self.at_least = at_least
        self.at_most = at_most

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            words = flags.read(self.get_params(ctx), args, is_mixed=ctx.allow_interspersed_args)
            rest = super().parse_args(ctx, words)
        except click.UsageError as error:
            raise usage_error(ctx.command_path, self.operands, error.format_message()) from None
        self._check_count(ctx, len(ctx.params.get("operands", ())))
        return rest

    def _check_count(self, ctx: click.Context, given: int) -> None:
        if given >= self.at_least and (self.at_most < 0 or given <= self.at_most):
            return
        least, most = _arguments(self.at_least), _arguments(self.at_most)
        if self.at_most == 0:
            need = "accepts no arguments"
        elif self.at_least == self.at_most:
            need = f"requires {least}"
        elif self.at_most < 0:
            need = f"requires at least {least}"
        elif self.at_least:
            need = f"requires at least {self.at_least} and at most {most}"
        else:
            need = f"requires at most {most}"
        path = ctx.command_path
        hint = "See" if self.at_most < 0 else "Run"
        program = path.partition(" ")[0]
        raise Failure(
            f"{program}: '{path}' {need}\n\nUsage:  {f'{path} {self.operands}'.rstrip()}\n\n"
            f"{hint} '{path} --help' for more information"
        )

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return [self.operands]


def usage_error(path: str, operands: str, text: str) -> Failure:
    """A command line that cannot be read: the reason, the usage line, where to read on."""
    return Failure(f"{text}\n\nUsage:  {path} {operands}\n\nRun '{path} --help' for more information", USAGE_EXIT)


def _arguments(count: int) -> str:
    return f"{count} argument" + ("s" if count != 1 else "")


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


def confirmed(warning: str) -> bool:
    """Asks before something is removed; no answer is a no."""
    print(f"WARNING! {warning}")
    print("Are you sure you want to continue? [y/N] ", end="", flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")
