"""Verbs on containers that need no terminal: stop, kill, rm, logs, wait, top, rename, port, prune …"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

from corten import errors
from corten.cli import stream
from corten.cli.command import Command, Failure, confirmed, daemon_error, each, operands
from corten.cli.flags import Integer, OldName, go_integer
from corten.cli.ports import parse_ports
from corten.cli.pruning import dry_query, dry_run_flag, write_pruned
from corten.cli.session import Session, pass_session
from corten.cli.table import align, filter_flag, filters

_Function = TypeVar("_Function", bound=Callable[..., Any])
_MANY = "CONTAINER [CONTAINER...]"
_PORT_CHANGES = {"add": "Add", "rm": "Remove"}
_MOMENT = '(e.g. "2013-01-02T13:23:37Z") or relative (e.g. "42m" for 42 minutes)'
_SINCE = f"Show logs since timestamp {_MOMENT}"
_UNTIL = f"Show logs before a timestamp {_MOMENT}"


def _signal_and_time(function: _Function) -> _Function:
    function = click.option(
        "-t",
        "--timeout",
        "--time",
        "timeout",
        type=Integer(),
        cls=OldName,
        is_deprecated=True,
        help="Seconds to wait",
    )(function)
    return click.option("-s", "--signal", "signal_", default="", help="Signal to send to the container")(function)


@click.command(
    "stop", cls=Command, operands=f"[OPTIONS] {_MANY}", at_least=1, help="Stop one or more running containers"
)
@_signal_and_time
@operands()
@pass_session
def stop(session: Session, /, operands: tuple[str, ...], signal_: str, timeout: int | None) -> None:
    """Stops containers."""
    query = {"signal": signal_, "t": timeout}
    each(operands, lambda name: session.client.json("POST", f"/containers/{name}/stop", query=query))


@click.command("restart", cls=Command, operands=f"[OPTIONS] {_MANY}", at_least=1, help="Restart one or more containers")
@_signal_and_time
@operands()
@pass_session
def restart(session: Session, /, operands: tuple[str, ...], signal_: str, timeout: int | None) -> None:
    """Restarts containers."""
    query = {"signal": signal_, "t": timeout}
    each(operands, lambda name: session.client.json("POST", f"/containers/{name}/restart", query=query))


@click.command(
    "kill", cls=Command, operands=f"[OPTIONS] {_MANY}", at_least=1, help="Kill one or more running containers"
)
@click.option("-s", "--signal", "signal_", default="KILL", help="Signal to send to the container")
@operands()
@pass_session
def kill(session: Session, /, operands: tuple[str, ...], signal_: str) -> None:
    """Kills containers."""
    each(
        operands,
        lambda name: session.client.json("POST", f"/containers/{name}/kill", query={"signal": signal_}),
    )


@click.command(
    "pause", cls=Command, operands=_MANY, at_least=1, help="Pause all processes within one or more containers"
)
@operands()
@pass_session
def pause(session: Session, /, operands: tuple[str, ...]) -> None:
    """Pauses containers."""
    each(operands, lambda name: session.client.json("POST", f"/containers/{name}/pause"))


@click.command(
    "unpause",
    cls=Command,
    operands=_MANY,
    at_least=1,
    help="Unpause all processes within one or more containers",
)
@operands()
@pass_session
def unpause(session: Session, /, operands: tuple[str, ...]) -> None:
    """Resumes containers."""
    each(operands, lambda name: session.client.json("POST", f"/containers/{name}/unpause"))


@click.command("rm", cls=Command, operands=f"[OPTIONS] {_MANY}", at_least=1, help="Remove one or more containers")
@click.option("-f", "--force", is_flag=True, help="Force the removal of a running container (uses SIGKILL)")
@click.option("-l", "--link", is_flag=True, help="Remove the specified link")
@click.option("-v", "--volumes", is_flag=True, help="Remove anonymous volumes associated with the container")
@operands()
@pass_session
def rm(session: Session, /, operands: tuple[str, ...], force: bool, link: bool, volumes: bool) -> None:
    """Removes containers."""
    query = {"force": force, "link": link, "v": volumes}

    def remove(name: str) -> None:
        try:
            session.client.json("DELETE", f"/containers/{name}", query=query)
        except errors.NotFound:
            if not force:
                raise
            print(f"Error response from daemon: No such container: {name}", file=sys.stderr)
            return
        print(name, flush=True)

    each(operands, remove, say=False)


@click.command(
    "wait",
    cls=Command,
    operands=_MANY,
    at_least=1,
    help="Block until one or more containers stop, then print their exit codes",
)
@operands()
@pass_session
def wait(session: Session, /, operands: tuple[str, ...]) -> None:
    """Prints exit codes."""
    each(
        operands,
        lambda name: print(session.client.json("POST", f"/containers/{name}/wait")["StatusCode"], flush=True),
        say=False,
    )


@click.command("rename", cls=Command, operands="CONTAINER NEW_NAME", at_least=2, at_most=2, help="Rename a container")
@operands()
@pass_session
def rename(session: Session, /, operands: tuple[str, ...]) -> None:
    """Renames a container."""
    if not all(name.strip() for name in operands):
        raise Failure("Error: Neither old nor new names may be empty")
    try:
        session.client.json("POST", f"/containers/{operands[0]}/rename", query={"name": operands[1]})
    except errors.CortenError as error:
        said = daemon_error(error).message
        raise Failure(f"{said}\nError: failed to rename container named {operands[0]}") from None


@click.command(
    "top",
    cls=Command,
    operands="CONTAINER [ps OPTIONS]",
    at_least=1,
    help="Display the running processes of a container",
    context_settings={"allow_interspersed_args": False},
)
@operands()
@pass_session
def top(session: Session, /, operands: tuple[str, ...]) -> None:
    """Shows processes."""
    answer = session.client.json("GET", f"/containers/{operands[0]}/top", query={"ps_args": " ".join(operands[1:])})
    align([answer["Titles"], *(answer["Processes"] or ())], least=20)


@click.command(
    "logs",
    cls=Command,
    operands="[OPTIONS] CONTAINER",
    at_least=1,
    at_most=1,
    help="Fetch the logs of a container",
)
@click.option("--details", is_flag=True, help="Show extra details provided to logs")
@click.option("-f", "--follow", is_flag=True, help="Follow log output")
@click.option("--since", default="", help=_SINCE)
@click.option("--until", default="", help=_UNTIL)
@click.option("-n", "--tail", default="all", help='Number of lines to show from the end of the logs (default "all")')
@click.option("-t", "--timestamps", is_flag=True, help="Show timestamps")
@operands()
@pass_session
def logs(session: Session, /, operands: tuple[str, ...], **given: Any) -> None:
    """Copies a container's log to stdout and stderr."""
    client = session.client
    name = operands[0]
    query = {
        "stdout": True,
        "stderr": True,
        **given,
        "since": _moment("since", given["since"]),
        "until": _moment("until", given["until"]),
    }
    is_tty = client.json("GET", f"/containers/{name}/json")["Config"]["Tty"]
    response = client.open("GET", f"/containers/{name}/logs", query=query)
    demultiplexer = stream.Demultiplexer()
    while data := response.read1(65536):
        if is_tty:
            stream.write_all(stream.STDOUT, data)
            continue
        for number, payload in demultiplexer.feed(data):
            stream.write_all(stream.STDERR if number == stream.STDERR else stream.STDOUT, payload)


def _moment(flag: str, text: str) -> str:
    """A moment as the API wants it: seconds since the epoch.  Takes `10m`, RFC 3339, or seconds."""
    from corten.cli.moments import unix_seconds

    try:
        return unix_seconds(text) if text else ""
    except errors.InvalidArgument as error:
        raise Failure(f'invalid value for "{flag}": {error.text}') from None


class _PortCommand(Command):
    """`port add web 8080:80` has three words and more; Docker's own form has two at most."""

    def _check_count(self, ctx: click.Context, given: int) -> None:
        if given < 3 or ctx.params["operands"][0] not in _PORT_CHANGES:
            super()._check_count(ctx, given)


@click.command(
    "port",
    cls=_PortCommand,
    epilog="port add CONTAINER [[IP:]HOSTPORT:]PORT[/PROTOCOL]... publishes more ports of a container, which may run; "
    "port rm CONTAINER [[IP:]HOSTPORT:]PORT[/PROTOCOL]... publishes them no more.",
    operands="CONTAINER [PRIVATE_PORT[/PROTO]]",
    at_least=1,
    at_most=2,
    help="List port mappings or a specific mapping for the container",
)
@operands()
@pass_session
def port(session: Session, /, operands: tuple[str, ...]) -> None:
    """Lists published ports."""
    if len(operands) > 2:
        try:
            _, bindings = parse_ports(operands[2:])
        except errors.InvalidArgument as error:
            raise Failure(error.text) from None
        body = {_PORT_CHANGES[operands[0]]: bindings}
        session.client.json("POST", f"/containers/{operands[1]}/corten/ports", body=body)
        return
    ports = session.client.json("GET", f"/containers/{operands[0]}/json")["NetworkSettings"]["Ports"] or {}
    wanted = operands[1] if len(operands) > 1 else ""
    if wanted:
        number, slash, proto = wanted.partition("/")
        try:
            go_integer(number, 1 << 16, is_signed=False, base=10)
        except errors.InvalidArgument as error:
            raise Failure(f"Error: invalid port ({number}): {error.text}") from None
        key = f"{number}/{proto if slash else 'tcp'}"
        if not ports.get(key):
            raise Failure(f"Error: No public port '{wanted}' published for {operands[0]}")
        ports = {key: ports[key]}
    for key in sorted(ports):
        for binding in ports[key] or ():
            address = binding["HostIp"]
            text = f"[{address}]" if ":" in address else address
            print(f"{text}:{binding['HostPort']}" if wanted else f"{key} -> {text}:{binding['HostPort']}")


@click.command("prune", cls=Command, operands="[OPTIONS]", at_most=0, help="Remove all stopped containers")
@filter_flag("--filter")
@click.option("-f", "--force", is_flag=True, help="Do not prompt for confirmation")
@dry_run_flag
@operands()
@pass_session
def prune(session: Session, /, operands: tuple[str, ...], filter_: tuple[str, ...], force: bool, dry_run: bool) -> None:
    """Removes stopped containers."""
    wanted = filters(filter_)
    if not force and not dry_run and not confirmed("This will remove all stopped containers."):
        return
    query = {"filters": wanted, **dry_query(session.client, dry_run)}
    answer = session.client.json("POST", "/containers/prune", query=query)
    write_pruned("Containers", answer.get("ContainersDeleted"), answer.get("SpaceReclaimed"), dry_run)
