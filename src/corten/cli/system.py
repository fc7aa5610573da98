"""`version`, `info`, `events` and `inspect`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import click

from corten import __version__, errors
from corten.cli.command import Command, Failure, operands
from corten.cli.gotemplate import Template
from corten.cli.moments import unix_seconds
from corten.cli.session import Session, pass_session
from corten.cli.table import filters
from corten.cli.transport import API_VERSION, Client


@click.command("version", cls=Command, operands="[OPTIONS]", at_most=0, help="Show the Corten version information")
@click.option("-f", "--format", "form", default="", help="Format output using a custom template")
@operands()
@pass_session
def version(session: Session, /, form: str, operands: tuple[str, ...]) -> None:
    """Shows versions of client and engine."""
    import platform

    client = {
        "Version": __version__,
        "ApiVersion": API_VERSION,
        "Os": "linux",
        "Arch": "amd64",
        "PythonVersion": platform.python_version(),
    }
    failure = None
    server: Any = None
    try:
        server = session.client.json("GET", "/version")
    except errors.CortenError as error:
        failure = error
    if form:
        _print_one({"Client": client, "Server": server}, form)
    else:
        print("Client: Corten")
        _print_fields(client)
        if server:
            print(f"\nServer: {server.get('Platform', {}).get('Name', 'Corten')}\n Engine:")
            _print_fields({key: value for key, value in server.items() if isinstance(value, str)}, indent=2)
    if failure:
        raise failure


def _print_fields(fields: Mapping[str, Any], indent: int = 1) -> None:
    for key, value in fields.items():
        print(f"{' ' * indent}{key + ':':<18}{value}")


_INFO_LINES: tuple[tuple[str, str], ...] = (
    ("Server Version", "ServerVersion"),
    ("Storage Driver", "Driver"),
    ("Logging Driver", "LoggingDriver"),
    ("Cgroup Driver", "CgroupDriver"),
    ("Cgroup Version", "CgroupVersion"),
    ("Default Runtime", "DefaultRuntime"),
    ("Kernel Version", "KernelVersion"),
    ("Operating System", "OperatingSystem"),
    ("OSType", "OSType"),
    ("Architecture", "Architecture"),
    ("CPUs", "NCPU"),
    ("Total Memory", "MemTotal"),
    ("Name", "Name"),
    ("ID", "ID"),
    ("Docker Root Dir", "DockerRootDir"),
    ("Debug Mode", "Debug"),
    ("Live Restore Enabled", "LiveRestoreEnabled"),
)


@click.command("info", cls=Command, operands="[OPTIONS]", at_most=0, help="Display system-wide information")
@click.option("-f", "--format", "form", default="", help="Format output using a custom template")
@operands()
@pass_session
def info(session: Session, /, form: str, operands: tuple[str, ...]) -> None:
    """Describes the engine."""
    answer = session.client.json("GET", "/info")
    if form:
        _print_one(answer, form)
        return
    print("Server:")
    print(f" Containers: {answer['Containers']}")
    for state in ("Running", "Paused", "Stopped"):
        print(f"  {state}: {answer['Containers' + state]}")
    print(f" Images: {answer['Images']}")
    for title, field in _INFO_LINES:
        value = answer.get(field)
        if value not in (None, ""):
            print(f" {title}: {str(value).lower() if isinstance(value, bool) else value}")
    print(f" Runtimes: {' '.join(sorted(answer.get('Runtimes') or ()))}")
    print(" Security Options:")
    for option in answer.get("SecurityOptions") or ():
        print(f"  {option}")
    for warning in answer.get("Warnings") or ():
        print(warning)


@click.command("events", cls=Command, operands="[OPTIONS]", at_most=0, help="Get real time events from the server")
@click.option("-f", "--filter", "filter_", multiple=True, help="Filter output based on conditions provided")
@click.option("--format", "form", default="", help="Format output using a custom template")
@click.option("--since", default="", help="Show all events created since timestamp")
@click.option("--until", default="", help="Stream events until this timestamp")
@operands()
@pass_session
def events(
    session: Session,
    /,
    operands: tuple[str, ...],
    filter_: tuple[str, ...],
    form: str,
    since: str,
    until: str,
) -> None:
    """Prints events as they come."""
    query = {
        "filters": filters(filter_),
        "since": unix_seconds(since) if since else "",
        "until": unix_seconds(until) if until else "",
    }
    template = Template("{{json .}}" if form == "json" else form) if form else None
    for event in session.client.stream("GET", "/events", query=query):
        print(template.render(event) if template else _event_line(event), flush=True)


def _event_line(event: Mapping[str, Any]) -> str:
    nanoseconds = event["timeNano"]
    at = datetime.fromtimestamp(nanoseconds // 10**9).astimezone()
    zone = at.strftime("%z")
    stamp = f"{at:%Y-%m-%dT%H:%M:%S}.{nanoseconds % 10**9:09d}{zone[:3]}:{zone[3:]}"
    attributes = ", ".join(f"{key}={value}" for key, value in sorted(event["Actor"]["Attributes"].items()))
    text = f"{stamp} {event['Type']} {event['Action']} {event['Actor']['ID']}"
    return f"{text} ({attributes})" if attributes else text


_KINDS: dict[str, str] = {"container": "/containers/{}/json", "image": "/images/{}/json"}


def _find(client: Client, name: str, kinds: Sequence[str], query: Mapping[str, Any]) -> Any:
    for kind in kinds:
        try:
            return client.json("GET", _KINDS[kind].format(name), query=query if kind == "container" else None)
        except errors.NotFound as error:
            if len(kinds) == 1:
                raise Failure(f"Error response from daemon: {error.text}") from None
    raise Failure(f"Error: No such object: {name}")


def _inspect(client: Client, names: Sequence[str], kinds: Sequence[str], form: str, size: bool) -> None:
    found, failed = [], []
    for name in names:
        try:
            found.append(_find(client, name, kinds, {"size": size}))
        except Failure as failure:
            failed.append(failure.message)
    if form and form != "json":
        for value in found:
            _print_one(value, form)
    else:
        print(json.dumps(found, indent=None if form else 4, ensure_ascii=False))
    if failed:
        raise Failure("\n".join(failed))


def _print_one(value: Any, form: str) -> None:
    print(
        json.dumps(value, separators=(",", ":"), ensure_ascii=False) if form == "json" else Template(form).render(value)
    )


def _inspect_command(name: str, kinds: tuple[str, ...], help_: str) -> Command:
    @pass_session
    def callback(session: Session, /, operands: tuple[str, ...], form: str, size: bool, type_: str) -> None:
        if type_ and type_ not in _KINDS:
            raise Failure(f'unknown type: "{type_}"')
        _inspect(session.client, operands, (type_,) if type_ else kinds, form, size)

    return _command_with_flags(name, callback, help_)


def _command_with_flags(name: str, callback: Callable[..., Any], help_: str) -> Command:
    return Command(
        name,
        callback=callback,
        params=[
            click.Option(["-f", "--format", "form"], default="", help="Format output using a custom template"),
            click.Option(["-s", "--size"], is_flag=True, help="Display total file sizes if the type is container"),
            click.Option(["--type", "type_"], default="", help="Only inspect objects of the given type"),
            click.Argument(["operands"], nargs=-1, type=click.UNPROCESSED),
        ],
        operands="[OPTIONS] NAME|ID [NAME|ID...]",
        at_least=1,
        help=help_,
    )


inspect = _inspect_command("inspect", ("container", "image"), "Return low-level information on Corten objects")
inspect_container = _inspect_command(
    "inspect", ("container",), "Display detailed information on one or more containers"
)
inspect_image = _inspect_command("inspect", ("image",), "Display detailed information on one or more images")
