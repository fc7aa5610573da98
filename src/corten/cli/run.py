"""`run`, `create`, `start`, `attach`, `exec`: the verbs that join a terminal to a container."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from http.client import HTTPResponse
from typing import Any

import click
from click.core import ParameterSource

from corten import errors
from corten.cli import stream
from corten.cli.command import Command, Failure, daemon_error, each, operands
from corten.cli.config import config_of
from corten.cli.flags import Switch, Value
from corten.cli.options import create_flags, create_request, environment, refuse_windows
from corten.cli.platforms import check_platform
from corten.cli.session import Session, pass_session
from corten.cli.transport import Client
from corten.cli.values import environment_variable
from corten.spec.reference import Reference, parse_any
from corten.spec.reference import parse as parse_reference

_RUN_EXTRA = (
    (("-d", "--detach"), "bool", "Run container in background and print container ID"),
    (("--detach-keys",), "str", "Override the key sequence for detaching a container"),
    (("--sig-proxy/--no-sig-proxy",), "switch", "Proxy received signals to the process"),
    (("--explain",), "bool", "Print the effective configuration and the launch plan, and start nothing"),
)
_WRONG_PLATFORM = "error parsing specified platform: "
_DEFAULT_KEYS = "ctrl-p,ctrl-q"


def _run_command(name: str, callback: Callable[..., Any], extra: Any) -> Command:
    params: list[click.Parameter] = [*create_flags(extra)]
    params.append(click.Argument(["operands"], nargs=-1, type=click.UNPROCESSED))
    return Command(
        name,
        callback=callback,
        params=params,
        operands="[OPTIONS] IMAGE [COMMAND] [ARG...]",
        at_least=1,
        context_settings={"allow_interspersed_args": False, "help_option_names": ["--help"]},
        help="Create and run a new container from an image" if name == "run" else "Create a new container",
    )


def _request(verb: str, given: Mapping[str, Any]) -> dict[str, Any]:
    image, *command = given["operands"]
    try:
        refuse_windows(given)
        if verb == "run" and given["detach"] and given["attach"]:
            raise errors.InvalidArgument("conflicting options: cannot specify both --attach and --detach")
    except errors.CortenError as error:
        raise Failure(error.text) from None
    try:
        parse_reference(image)
        stream.parse_detach_keys(given.get("detach_keys") or "")
        body = create_request(given, image, command)
        if verb == "run" and given["platform"]:
            check_platform(given["platform"], _WRONG_PLATFORM)
    except errors.CortenError as error:
        raise Failure(f"corten: {error.text}\n\nRun 'corten {verb} --help' for more information", 125) from None
    try:
        if given["platform"]:
            check_platform(given["platform"], _WRONG_PLATFORM)
    except errors.CortenError as error:
        raise Failure(error.text) from None
    return body


def _run_failure(verb: str, error: errors.CortenError) -> Failure:
    """`docker run`'s exit codes: 127 not found, 126 not executable, 125 the engine itself."""
    text = error.text
    code = 125
    if any(word in text for word in ("executable file not found", "no such file or directory", "system cannot find")):
        code = 127
    elif "permission denied" in text or "is a directory" in text:
        code = 126
    text = f"corten: {daemon_error(error).message}\n\nRun 'corten {verb} --help' for more information"
    return Failure(text, code)


def _create(session: Session, body: Mapping[str, Any], given: Mapping[str, Any], secrets: bytes) -> str:
    with _cidfile(given["cidfile"]) as write_id:
        container_id = _created(session, body, given)
        write_id(container_id)
        if secrets:
            from corten.cli import apisocket

            apisocket.put(session, container_id, secrets)
        return container_id


def _add_socket(session: Session, body: dict[str, Any], given: Mapping[str, Any]) -> bytes:
    """What --use-api-socket adds to the request; the archive of credentials for the container, or nothing."""
    if not given["use_api_socket"]:
        return b""
    from corten.cli import apisocket

    return apisocket.prepare(session, body)


def _created(session: Session, body: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    client, image = session.client, parse_any(body["Image"])
    query = {"name": given["name"], "platform": given["platform"]}
    if given["pull"] == "always" and isinstance(image, Reference):
        _pull(session, image, given)
    try:
        created = client.json("POST", "/containers/create", query=query, body=body)
    except errors.NotFound:
        if not isinstance(image, Reference) or given["pull"] not in (None, "", "missing"):
            raise
        if not given["quiet"]:
            print(f"Unable to find image '{image.tagged().familiar}' locally", file=sys.stderr)
        _pull(session, image, given)
        created = client.json("POST", "/containers/create", query=query, body=body)
    for warning in created.get("Warnings") or ():
        print(f"WARNING: {warning}", file=sys.stderr)
    return str(created["Id"])


@contextlib.contextmanager
def _cidfile(path: str | None) -> Iterator[Callable[[str], object]]:
    """Makes the file before the container, so that one without the other never stays."""
    if not path:
        yield lambda _: None
        return
    if os.path.exists(path):
        raise errors.AlreadyExists(
            f"container ID file found, make sure the other container isn't running or delete {path}"
        )
    try:
        with open(path, "x", encoding="ascii") as file:
            try:
                yield file.write
            except BaseException:
                os.unlink(path)
                raise
    except OSError as error:
        if error.filename != path:
            raise
        reason = (error.strerror or "").lower()
        raise errors.InvalidArgument(f"failed to create the container ID file: open {path}: {reason}") from None


def _pull(session: Session, image: Reference, given: Mapping[str, Any]) -> None:
    """Nothing but the container's id may be on stdout."""
    from corten.cli.pull import fetch

    fetch(session, image.tagged(), platform=given["platform"] or "", quiet=given["quiet"], out=sys.stderr)


def _with_proxies(session: Session, given: Mapping[str, Any]) -> dict[str, Any]:
    """The command line with the proxies of config.json that it does not name itself."""
    named = {variable.partition("=")[0] for variable in given["env"]}
    proxies = config_of(session.config_folder).proxies(session.host)
    more = [f"{name}={value}" for name, value in proxies.items() if name not in named]
    return {**given, "env": (*given["env"], *more)}


@pass_session
def _create_callback(session: Session, /, **given: Any) -> None:
    body = _request("create", _with_proxies(session, {**given, "detach": False}))
    try:
        print(_create(session, body, given, _add_socket(session, body, given)))
    except errors.CortenError as error:
        raise daemon_error(error) from None


@pass_session
def _run_callback(session: Session, /, **given: Any) -> int:
    body = _request("run", _with_proxies(session, given))
    client = session.client
    try:
        secrets = _add_socket(session, body, given)
        if given["explain"]:
            return _explain(client, body, given)
        if not given["detach"]:
            _refuse_no_terminal(body)
        container_id = _create(session, body, given, secrets)
        if given["detach"]:
            client.json("POST", f"/containers/{container_id}/start")
            print(container_id)
            return 0
        return _foreground(client, container_id, body, given)
    except errors.CortenError as error:
        raise _run_failure("run", error) from None


def _explain(client: Client, body: Mapping[str, Any], given: Mapping[str, Any]) -> int:
    from corten.cli.explain import print_explanation

    context = click.get_current_context()
    flags = [name for name in given if context.get_parameter_source(name) is ParameterSource.COMMANDLINE]
    print_explanation(client.json("POST", "/corten/explain", query={"name": given["name"]}, body=body), flags)
    return 0


def _refuse_no_terminal(body: Mapping[str, Any]) -> None:
    if body["Tty"] and body["AttachStdin"] and not os.isatty(stream.STDIN):
        raise Failure("the input device is not a TTY", 1)


def _foreground(client: Client, container_id: str, body: Mapping[str, Any], given: Mapping[str, Any]) -> int:
    """attach → wait → start → copy → exit code, in the order of docker's own CLI."""
    _refuse_no_terminal(body)
    sock, first = client.hijack(
        f"/containers/{container_id}/attach",
        query={
            "stream": True,
            "stdin": body["AttachStdin"],
            "stdout": body["AttachStdout"],
            "stderr": body["AttachStderr"],
        },
    )
    waiting = client.open(
        "POST",
        f"/containers/{container_id}/wait",
        query={"condition": "removed" if given["rm"] else "next-exit"},
    )
    client.json("POST", f"/containers/{container_id}/start")
    detached = _copy(client, f"/containers/{container_id}", sock, first, body, given)
    return 0 if detached else _exit_code(waiting)


def _copy(
    client: Client, path: str, sock: Any, first: bytes, body: Mapping[str, Any], given: Mapping[str, Any]
) -> bool:
    """Joins the terminal to the hijacked connection; True when the user detached."""
    is_tty = body["Tty"]
    keys = stream.parse_detach_keys(given.get("detach_keys") or _DEFAULT_KEYS)

    def resize(rows: int, columns: int) -> None:
        Client(client.host, client.tls).json("POST", f"{path}/resize", query={"h": rows, "w": columns})

    def send(name: str) -> None:
        Client(client.host, client.tls).json("POST", f"{path}/kill", query={"signal": name})

    with (
        stream.raw_terminal(stream.STDIN, is_tty and body["AttachStdin"]),
        stream.followed_size(resize, is_tty),
        stream.forwarded_signals(send, bool(given.get("sig_proxy", True))),
    ):
        return stream.copy(sock, first, stdin=bool(body["AttachStdin"]), raw=is_tty, detach_keys=keys)


def _exit_code(waiting: HTTPResponse) -> int:
    import json

    answer = json.loads(waiting.read())
    if (answer.get("Error") or {}).get("Message"):
        print(answer["Error"]["Message"], file=sys.stderr)
        return 125
    return int(answer["StatusCode"])


run = _run_command("run", _run_callback, _RUN_EXTRA)
create = _run_command("create", _create_callback, ())


@click.command(
    "start",
    cls=Command,
    operands="[OPTIONS] CONTAINER [CONTAINER...]",
    at_least=1,
    help="Start one or more stopped containers",
)
@click.option("-a", "--attach", "attach_", is_flag=True, help="Attach STDOUT/STDERR and forward signals")
@click.option("-i", "--interactive", is_flag=True, help="Attach container's STDIN")
@click.option("--detach-keys", help="Override the key sequence for detaching a container")
@click.option("--checkpoint", default="", help="Restore from this checkpoint (not supported yet)")
@click.option("--checkpoint-dir", default="", help="Use a custom checkpoint storage directory (not supported yet)")
@operands()
@pass_session
def start(
    session: Session,
    /,
    operands: tuple[str, ...],
    attach_: bool,
    interactive: bool,
    detach_keys: str | None,
    checkpoint: str,
    checkpoint_dir: str,
) -> int:
    """Starts containers, one of them in the foreground when asked."""
    if checkpoint or checkpoint_dir:
        raise Failure(f"--checkpoint{'' if checkpoint else '-dir'} is not supported yet")
    stream.parse_detach_keys(detach_keys or "")
    client = session.client
    if not attach_ and not interactive:
        each(
            operands,
            lambda name: client.json("POST", f"/containers/{name}/start"),
            summary="Error: failed to start containers",
        )
        return 0
    if len(operands) > 1:
        raise Failure("you cannot start and attach multiple containers at once")
    info = client.json("GET", f"/containers/{operands[0]}/json")
    body = {
        "Tty": info["Config"]["Tty"],
        "OpenStdin": info["Config"]["OpenStdin"],
        "AttachStdout": True,
        "AttachStderr": True,
    }
    body["AttachStdin"] = interactive and body["OpenStdin"]
    given = {"rm": info["HostConfig"]["AutoRemove"], "detach_keys": detach_keys, "sig_proxy": not body["Tty"]}
    return _foreground(client, info["Id"], body, given)


@click.command(
    "attach",
    cls=Command,
    operands="[OPTIONS] CONTAINER",
    at_least=1,
    at_most=1,
    help="Attach local standard input, output, and error streams to a running container",
)
@click.option("--no-stdin", is_flag=True, help="Do not attach STDIN")
@click.option("--sig-proxy/--no-sig-proxy", default=True, cls=Switch, help="Proxy all received signals to the process")
@click.option("--detach-keys", help="Override the key sequence for detaching a container")
@operands()
@pass_session
def attach(
    session: Session, /, no_stdin: bool, sig_proxy: bool, detach_keys: str | None, operands: tuple[str, ...]
) -> int:
    """Attaches to a running container."""
    stream.parse_detach_keys(detach_keys or "")
    client, name = session.client, operands[0]
    info = client.json("GET", f"/containers/{name}/json")
    if not info["State"]["Running"]:
        raise Failure("You cannot attach to a stopped container, start it first")
    if info["State"]["Paused"]:
        raise Failure("You cannot attach to a paused container, unpause it first")
    stdin = info["Config"]["OpenStdin"] and not no_stdin
    body = {"Tty": info["Config"]["Tty"], "AttachStdin": stdin}
    waiting = client.open("POST", f"/containers/{info['Id']}/wait")
    sock, first = client.hijack(
        f"/containers/{info['Id']}/attach",
        query={"stream": True, "stdin": stdin, "stdout": True, "stderr": True},
    )
    # a terminal's end (HUP) is the client's own, as with docker; of `run` alone it is the container's
    given = {"sig_proxy": sig_proxy and not body["Tty"], "detach_keys": detach_keys}
    if _copy(client, f"/containers/{info['Id']}", sock, first, body, given):
        return 0
    return _exit_code(waiting)


@click.command(
    "exec",
    cls=Command,
    operands="[OPTIONS] CONTAINER COMMAND [ARG...]",
    at_least=2,
    help="Execute a command in a running container",
    context_settings={"allow_interspersed_args": False},
)
@click.option("-d", "--detach", is_flag=True, help="Detached mode: run command in the background")
@click.option("--detach-keys", help="Override the key sequence for detaching a container")
@click.option("-e", "--env", multiple=True, type=Value(environment_variable), help="Set environment variables")
@click.option("--env-file", multiple=True, help="Read in a file of environment variables")
@click.option("-i", "--interactive", is_flag=True, help="Keep STDIN open even if not attached")
@click.option("--privileged", is_flag=True, help="Give extended privileges to the command")
@click.option("-t", "--tty", is_flag=True, help="Allocate a pseudo-TTY")
@click.option("-u", "--user", default="", help='Username or UID (format: "<name|uid>[:<group|gid>]")')
@click.option("-w", "--workdir", default="", help="Working directory inside the container")
@operands()
@pass_session
def exec_(session: Session, /, operands: tuple[str, ...], **given: Any) -> int:
    """Runs a command in a running container."""
    stream.parse_detach_keys(given["detach_keys"] or "")
    client, (name, *command) = session.client, operands
    foreground = not given["detach"]
    config = {
        "User": given["user"],
        "Privileged": given["privileged"],
        "Tty": given["tty"],
        "AttachStdin": foreground and given["interactive"],
        "AttachStdout": foreground,
        "AttachStderr": foreground,
        "Env": environment(given["env"], given["env_file"]),
        "WorkingDir": given["workdir"],
        "Cmd": command,
    }
    exec_id = client.json("POST", f"/containers/{name}/exec", body=config)["Id"]
    try:
        if not foreground:
            client.json("POST", f"/exec/{exec_id}/start", body={"Detach": True, "Tty": given["tty"]})
            return 0
        if given["tty"] and given["interactive"] and not os.isatty(stream.STDIN):
            raise Failure("the input device is not a TTY", 1)
        sock, first = client.hijack(f"/exec/{exec_id}/start", body={"Detach": False, "Tty": given["tty"]})
    except errors.CortenError as error:
        raise Failure(daemon_error(error).message, _run_failure("exec", error).status) from None
    _copy(
        client,
        f"/exec/{exec_id}",
        sock,
        first,
        config,
        {"sig_proxy": False, "detach_keys": given["detach_keys"]},
    )
    code = client.json("GET", f"/exec/{exec_id}/json")["ExitCode"]
    return int(code or 0)
