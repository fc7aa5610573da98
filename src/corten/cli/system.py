"""`version`, `info`, `events` and `inspect`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click

from corten import errors
from corten.cli.command import Command, Failure, daemon_error, operands
from corten.cli.config import INDEX_SERVER, config_of
from corten.cli.gostruct import Struct, typed
from corten.cli.gotemplate import ParseError, Template
from corten.cli.moments import rfc3339, unix_seconds
from corten.cli.platforms import platform_query
from corten.cli.session import Session, pass_session
from corten.cli.table import filter_flag, filters
from corten.cli.transport import Client

_FORMAT = "Format output using a custom template: `json`, or a template of Go"
_WRONG_TEMPLATE = 64  # the exit code of Docker's CLI for a template that does not parse


@click.command("version", cls=Command, operands="[OPTIONS]", at_most=0, help="Show the Corten version information")
@click.option("-f", "--format", "form", default="", help=_FORMAT)
@operands()
@pass_session
def version(session: Session, /, form: str, operands: tuple[str, ...]) -> None:
    """Shows versions of client and engine."""
    from corten.cli import about

    template = _template(form, "version")
    client = about.client_version()
    failure = None
    server: Any = None
    try:
        server = session.client.json("GET", "/version")
    except errors.CortenError as error:
        failure = error
    if template is not None:
        render = about.version_values(client, server)
        _print_one(template, render)
    else:
        print("\n".join(about.version_lines(client, server)))
    if failure:
        raise failure


@click.command("info", cls=Command, operands="[OPTIONS]", at_most=0, help="Display system-wide information")
@click.option("-f", "--format", "form", default="", help=_FORMAT)
@operands()
@pass_session
def info(session: Session, /, form: str, operands: tuple[str, ...]) -> None:
    """Describes the engine."""
    from corten.cli import about

    template = _template(form)
    answer = {**session.client.json("GET", "/info"), "ClientInfo": about.client_info()}
    if template is not None:
        _print_one(template, typed(answer, reason="can't evaluate field {} in type system.dockerInfo"), prefix="")
        return
    username = config_of(session.config_folder).username(INDEX_SERVER)
    print("\n".join(about.info_lines(answer, username)))
    for warning in answer.get("Warnings") or ():
        print(warning, file=sys.stderr)


def _template(form: str, name: str = "") -> Template | None:
    """None for no `--format`; a wrong one ends the program."""
    if not form:
        return None
    try:
        return Template("{{json .}}" if form == "json" else form, name)
    except ParseError as error:
        text = error.text.replace("template: :", f"template: {name}:", 1)
        raise Failure(f"template parsing error: {text}", _WRONG_TEMPLATE) from None


def _print_one(template: Template, value: Any, *, prefix: str = "") -> None:
    """What did not work leaves an empty line on stdout, as with Docker."""
    try:
        print(template.render(value))
    except errors.InvalidArgument as error:
        print()
        raise Failure(prefix + error.text) from None


@click.command("events", cls=Command, operands="[OPTIONS]", at_most=0, help="Get real time events from the server")
@filter_flag("-f", "--filter")
@click.option("--format", "form", default="", help=_FORMAT)
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
    try:
        template = Template("{{json .}}" if form == "json" else form) if form else None
    except ParseError as error:
        raise Failure(f"Error parsing format: {error.text}", _WRONG_TEMPLATE) from None
    for event in session.client.stream("GET", "/events", query=query):
        try:
            print(template.render(_event_value(event)) if template else _event_line(event), flush=True)
        except errors.InvalidArgument as error:
            raise Failure(f"Error parsing format: {error.text}", _WRONG_TEMPLATE) from None


def _event_value(event: Mapping[str, Any]) -> Struct:
    """The event with the names of Go's fields."""
    attributes = dict(sorted(event["Actor"]["Attributes"].items()))
    actor = {"ID": event["Actor"]["ID"], "Attributes": attributes}
    fields = {
        **{"Status": event.get("status", ""), "ID": event.get("id", ""), "From": event.get("from", "")},
        **{"Type": event["Type"], "Action": event["Action"], "Actor": Struct(actor, actor)},
        **{"Scope": event.get("scope", ""), "Time": event["time"], "TimeNano": event["timeNano"]},
    }
    return Struct(fields, {**event, "Actor": actor}, "can't evaluate field {} in type *events.Message")


def _event_line(event: Mapping[str, Any]) -> str:
    seconds, nanoseconds = divmod(event["timeNano"], 10**9)
    attributes = ", ".join(f"{key}={value}" for key, value in sorted(event["Actor"]["Attributes"].items()))
    text = f"{rfc3339(seconds, nanoseconds)} {event['Type']} {event['Action']} {event['Actor']['ID']}"
    return f"{text} ({attributes})" if attributes else text


# what is asked for in this order when no type is given; the rest only by `--type`
_KINDS: dict[str, str] = {
    "container": "/containers/{}/json",
    "image": "/images/{}/json",
    "network": "/networks/{}",
    "volume": "/volumes/{}",
}
_MORE_KINDS: dict[str, str] = {
    **{"config": "/configs/{}", "node": "/nodes/{}", "plugin": "/plugins/{}/json", "secret": "/secrets/{}"},
    **{"service": "/services/{}", "task": "/tasks/{}"},
}


# what a name without a letter is told; of others as below
_EMPTY = {"image": "Error: No such image: "}


def _find(client: Client, name: str, kinds: Sequence[str], query: Mapping[str, Any]) -> tuple[str, Any]:
    """(kind, value)"""
    if not name:
        raise Failure(_EMPTY.get(kinds[0], f"invalid {kinds[0]} name or ID: value is empty"))
    for kind in kinds:
        path = (_KINDS | _MORE_KINDS)[kind].format(name)
        try:
            return kind, client.json("GET", path, query=_query_of(kind, query))
        except errors.NotFound as error:
            if len(kinds) == 1:
                raise daemon_error(error) from None
        except errors.CortenError as error:
            raise daemon_error(error) from None
    raise Failure(f"Error: No such object: {name}")


def _query_of(kind: str, query: Mapping[str, Any]) -> Mapping[str, Any] | None:
    if kind == "network":
        return {"verbose": True} if query["verbose"] else None
    return {key: query[key] for key in ("size", "platform")} if kind in ("container", "image") else None


def _inspect(client: Client, names: Sequence[str], kinds: Sequence[str], form: str, query: Mapping[str, Any]) -> None:
    template = None if form == "json" else _template(form)
    found, failed = [], []
    for name in names:
        try:
            kind, value = _find(client, name, kinds, query)
            if query["size"] and kind != "container":
                print(f"WARNING: --size ignored for {kind}", file=sys.stderr)
            found.append((kind, value))
        except Failure as failure:
            failed.append(failure.message)
    if template is not None:
        for kind, value in found:
            _print_one(template, typed(value, kind), prefix="template parsing error: ")
        print() if not found else None
    else:
        values = [value for _, value in found]
        compact = (",", ":") if form else None
        print(json.dumps(values, indent=None if form else 4, ensure_ascii=False, separators=compact))
    if failed:
        raise Failure("\n".join(failed))


def _inspect_command(name: str, kinds: tuple[str, ...], help_: str, *flags: click.Option) -> Command:
    @pass_session
    def callback(session: Session, /, operands: tuple[str, ...], form: str, **given: Any) -> None:
        wanted = given.get("type_")
        known = ", ".join(f'"{kind}"' for kind in sorted(_KINDS | _MORE_KINDS))
        if wanted == "":
            raise Failure(f"type is empty: must be one of {known}")
        if wanted and wanted not in _KINDS | _MORE_KINDS:
            raise Failure(f'unknown type: "{wanted}": must be one of {known}')
        query = {
            "size": given.get("size", False),
            "platform": platform_query(given.get("platform", "")),
            "verbose": given.get("verbose", False),
        }
        _inspect(session.client, operands, (wanted,) if wanted else kinds, form, query)

    return _command_with_flags(name, callback, help_, flags)


def _command_with_flags(name: str, callback: Callable[..., Any], help_: str, flags: Sequence[click.Option]) -> Command:
    return Command(
        name,
        callback=callback,
        params=[
            click.Option(["-f", "--format", "form"], default="", help=_FORMAT),
            *flags,
            click.Argument(["operands"], nargs=-1, type=click.UNPROCESSED),
        ],
        operands={
            "inspect": "[OPTIONS] NAME|ID [NAME|ID...]",
            "container inspect": "[OPTIONS] CONTAINER [CONTAINER...]",
            "image inspect": "[OPTIONS] IMAGE [IMAGE...]",
            "network inspect": "[OPTIONS] NETWORK [NETWORK...]",
            "volume inspect": "[OPTIONS] VOLUME [VOLUME...]",
        }[name],
        at_least=1,
        help=help_,
    )


def _size_flag() -> click.Option:
    return click.Option(["-s", "--size"], is_flag=True, help="Display total file sizes if the type is container")


inspect = _inspect_command(
    "inspect",
    tuple(_KINDS),
    "Return low-level information on Corten objects",
    _size_flag(),
    click.Option(["--type", "type_"], default=None, help="Only inspect objects of the given type"),
)
inspect_container = _inspect_command(
    "container inspect",
    ("container",),
    "Display detailed information on one or more containers",
    _size_flag(),
)
inspect_network = _inspect_command(
    "network inspect",
    ("network",),
    "Display detailed information on one or more networks",
    click.Option(["-v", "--verbose"], is_flag=True, help="Verbose output for diagnostics"),
)
inspect_volume = _inspect_command(
    "volume inspect",
    ("volume",),
    "Display detailed information on one or more volumes",
)
inspect_image = _inspect_command(
    "image inspect",
    ("image",),
    "Display detailed information on one or more images",
    click.Option(["--platform"], default="", help="Inspect a specific platform of the multi-platform image"),
)
