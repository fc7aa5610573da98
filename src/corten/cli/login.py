"""`login` and `logout`."""

from __future__ import annotations

import sys
from dataclasses import replace

import click

from corten import errors
from corten.cli.command import Command, Failure, daemon_error, operands
from corten.cli.config import INDEX_SERVER, Config, Login, config_of, hostname
from corten.cli.credentials import auth_config
from corten.cli.session import Session, pass_session
from corten.spec.reference import DEFAULT_DOMAIN

_INSECURE = "WARNING! Using --password via the CLI is insecure. Use --password-stdin."
_OTHER_ACCOUNT = "\n Info -> To login with a different account, run 'corten logout' followed by 'corten login'\n\n"
_PAT = "\n Info -> A Personal Access Token (PAT) can be used instead.\n         To create a PAT, visit {}\n\n"
_PAT_PAGE = "https://app.docker.com/settings"


@click.command("login", cls=Command, operands="[OPTIONS] [SERVER]", at_most=1, help="Authenticate to a registry")
@click.option("-p", "--password", default=None, help="Password or Personal Access Token (PAT)")
@click.option("--password-stdin", is_flag=True, help="Take the Password or Personal Access Token (PAT) from stdin")
@click.option("-u", "--username", default=None, help="Username")
@operands()
@pass_session
def login(
    session: Session,
    /,
    operands: tuple[str, ...],
    password: str | None,
    password_stdin: bool,
    username: str | None,
) -> None:
    """Proves who the user is, by the engine, and keeps that for pulls and pushes."""
    given = _given(username, password, password_stdin)
    server = _server(operands)
    config = config_of(session.config_folder)
    if not (given.username or given.password):
        kept = config.login(server)
        if kept.username and kept.password and _again(session, config, server, kept):
            return
        _new(session, config, server, _asked(given, server, kept.username))
        return
    _new(session, config, server, _asked(given, server, ""))


@click.command("logout", cls=Command, operands="[SERVER]", at_most=1, help="Log out from a registry")
@operands()
@pass_session
def logout(session: Session, /, operands: tuple[str, ...]) -> None:
    """Forgets the user, under every form in which his registry may have been named."""
    given = operands[0] if operands and operands[0] else INDEX_SERVER
    host = given if given == INDEX_SERVER else hostname(given)
    names = [given] if given == INDEX_SERVER else [given, host, f"http://{host}", f"https://{host}"]
    print(f"Removing login credentials for {host}")
    config = config_of(session.config_folder)
    failed = {}
    for name in names:
        try:
            config.erase(name)
        except errors.CortenError as error:
            failed[name] = error.text
    if len(failed) == len(set(names)):
        print("WARNING: could not erase credentials:", file=sys.stderr)
        for name, text in failed.items():
            print(f"{name}: {text}", file=sys.stderr)


def _server(operands: tuple[str, ...]) -> str:
    given = operands[0] if operands else ""
    return INDEX_SERVER if given in ("", DEFAULT_DOMAIN, INDEX_SERVER) else hostname(given)


def _given(username: str | None, password: str | None, from_stdin: bool) -> Login:
    if username == "":
        raise Failure("username is empty")
    if password == "":
        raise Failure("password is empty")
    if password and from_stdin:
        raise Failure("conflicting options: cannot specify both --password and --password-stdin")
    if from_stdin:
        if not username:
            raise Failure("the --password-stdin option requires --username to be set")
        password = sys.stdin.read().removesuffix("\n").removesuffix("\r")
    elif password:
        print(_INSECURE, file=sys.stderr)
    return Login((username or "").strip(), (password or "").strip())


def _again(session: Session, config: Config, server: str, kept: Login) -> bool:
    """Whether the credentials that are kept are still good."""
    print(f"Authenticating with existing credentials... [Username: {kept.username}]", file=sys.stderr)
    print(_OTHER_ACCOUNT, file=sys.stderr)
    try:
        _new(session, config, server, kept)
    except errors.CortenError as error:
        print(f"Login did not succeed, error: {daemon_error(error).message}", file=sys.stderr)
        return False
    return True


def _new(session: Session, config: Config, server: str, login: Login) -> None:
    answer = session.client.json("POST", "/auth", body=auth_config(login, server)) or {}
    if answer.get("IdentityToken"):
        login = replace(login, password="", identity_token=answer["IdentityToken"])
    try:
        config.save(server, login)
    except errors.CortenError as error:
        raise Failure(f"Error saving credentials: {error.text}") from error
    print(answer.get("Status", ""))


def _asked(given: Login, server: str, before: str) -> Login:
    """What is missing is asked for, where somebody can answer."""
    username, password = given.username, given.password
    if username and password:
        return given
    if not sys.stdin.isatty():
        raise Failure("Error: Cannot perform an interactive login from a non TTY device")
    if not username:
        print(f"Username ({before}): " if before else "Username: ", end="", flush=True)
        username = sys.stdin.readline().strip() or before
        if not username:
            raise Failure("Error: Non-null Username Required")
    if not password:
        if server == INDEX_SERVER:
            print(_PAT.format(_PAT_PAGE), end="")
        password = _hidden("Password: ")
        if not password:
            raise Failure("Error: Password Required")
    return Login(username, password)


def _hidden(prompt: str) -> str:
    """A line that the terminal does not show."""
    import termios

    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)
    silent = [*before[:3], before[3] & ~termios.ECHO, *before[4:]]
    termios.tcsetattr(fd, termios.TCSADRAIN, silent)  # before the prompt, whose answer may come at once
    try:
        print(prompt, end="", flush=True)
        return sys.stdin.readline().strip()
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)
        print()
