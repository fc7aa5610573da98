"""`__manual DIRECTORY`: a man page for each command, made of what the commands say of themselves (man-pages(7))."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import click

from corten import __version__
from corten.cli.command import Command, operands
from corten.cli.complete import shown_names

_ENVIRONMENT = (
    ("CORTEN_HOST, DOCKER_HOST", "The engine's socket, as with --host."),
    ("DOCKER_CONFIG", "The folder of config.json; ~/.docker by default."),
    ("DOCKER_TLS, DOCKER_TLS_VERIFY", "TLS for tcp:// hosts; the second one with a verified engine."),
    ("DOCKER_CERT_PATH", "The folder of ca.pem, cert.pem and key.pem."),
)


@click.command("__manual", cls=Command, operands="DIRECTORY", at_least=1, at_most=1, hidden=True)
@operands()
def manual(operands: tuple[str, ...]) -> None:
    """Writes `corten.1`, `corten-run.1` …; prints how many."""
    from corten.cli.main import root

    os.makedirs(operands[0], exist_ok=True)
    count = 0
    for name, text in pages(root()):
        with open(os.path.join(operands[0], name), "w", encoding="utf-8") as file:
            file.write(text)
        count += 1
    print(f"{count} pages")


def pages(group: click.Group) -> Iterator[tuple[str, str]]:
    """(file name, roff) of a command and everything below it."""
    yield from _pages(group, click.Context(group, info_name=group.name))


def _pages(command: click.Command, context: click.Context) -> Iterator[tuple[str, str]]:
    path = context.command_path
    yield f"{path.replace(' ', '-')}.1", _page(command, context)
    for name, below in _verbs(command, context):
        yield from _pages(below, click.Context(below, parent=context, info_name=name))


def _verbs(command: click.Command, context: click.Context) -> Iterator[tuple[str, click.Command]]:
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            if below is not None and not below.hidden:
                yield name, below


def _page(command: click.Command, context: click.Context) -> str:
    path = context.command_path
    name = path.replace(" ", "-")
    lines = [
        f'.TH "{escaped(name.upper())}" 1 "{_day()}" "Corten {__version__}" "Corten"',
        *(".SH NAME", f"{escaped(name)} \\- {escaped(_first(command))}"),
        *(".SH SYNOPSIS", *_synopsis(command, path)),
        *(".SH DESCRIPTION", escaped(" ".join((command.help or "").split())) or "See the verb."),
    ]
    verbs = list(_verbs(command, context))
    if verbs:
        lines += [".SH COMMANDS", *(line for verb, below in verbs for line in _entry(f"{path} {verb}", _first(below)))]
    options = [one for one in command.get_params(context) if isinstance(one, click.Option) and not one.hidden]
    if options:
        lines += [".SH OPTIONS", *(line for option in options for line in _option(option))]
    if context.parent is None:
        lines += [".SH ENVIRONMENT", *(line for word, text in _ENVIRONMENT for line in _entry(word, text))]
        lines += [".SH EXIT STATUS", "0, or 1 for what the engine refuses, 125 for a command line that cannot be read;"]
        lines += ["run, exec and start \\-a end with the exit status of the command in the container."]
    lines += [".SH SEE ALSO", _see_also(context)]
    return "\n".join(lines) + "\n"


def _day() -> str:
    """Of SOURCE_DATE_EPOCH, for builds that repeat; else today."""
    seconds = float(os.environ.get("SOURCE_DATE_EPOCH") or time.time())
    return time.strftime("%Y-%m-%d", time.gmtime(seconds))


def _first(command: click.Command) -> str:
    return " ".join((command.help or command.get_short_help_str(200)).split()).rstrip(".") or "a verb of corten"


def _synopsis(command: click.Command, path: str) -> Iterator[str]:
    usage = getattr(command, "operands", "") or ("[OPTIONS] COMMAND" if isinstance(command, click.Group) else "")
    for at, line in enumerate(usage.split("\n")):
        if at:
            yield ".br"
        words = line.strip().removeprefix(path).strip()
        yield f"\\fB{escaped(path)}\\fR {escaped(words)}"


def _entry(title: str, text: str) -> list[str]:
    return [".TP", f"\\fB{escaped(title)}\\fR", escaped(text)]


def _option(option: click.Option) -> list[str]:
    names = ", ".join(f"\\fB{escaped(name)}\\fR" for name in shown_names(option))
    value = "" if option.is_flag else f" \\fI{escaped(_value_name(option))}\\fR"
    repeated = " May be given several times." if option.multiple else ""
    return [".TP", f"{names}{value}", escaped(f"{(option.help or '').rstrip('.')}.{repeated}")]


def _value_name(option: click.Option) -> str:
    return (option.metavar or getattr(option.type, "name", "") or "value").lower().replace("text", "string")


def _see_also(context: click.Context) -> str:
    above = context.parent.command_path.replace(" ", "-") if context.parent else ""
    return f"\\fB{escaped(above)}\\fR(1)" if above else "\\fBcortend\\fR, \\fBcorten-runtime\\fR"


def escaped(text: str) -> str:
    """Text as roff shows it unchanged (groff_char(7)); a line does not begin with a control character."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace("`", "\\(ga")
    text = text.replace("^", "\\(ha").replace("~", "\\(ti").replace('"', "\\(dq")
    return f"\\&{text}" if text.startswith(".") else text
