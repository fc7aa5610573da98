"""`corten context`: names for engines, in the files of Docker's CLI (`contextstore`).

create, export, import, inspect, ls, rm, show, update, use.
"""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import click

from corten import errors
from corten.cli.command import Command, Failure, operands
from corten.cli.config import config_of
from corten.cli.contextchoice import DEFAULT, HOST_VARIABLES
from corten.cli.contextstore import ENDPOINT, TLS_FILES, Context, Store, TlsFiles, check_name, engine_values
from corten.cli.flags import Value, quoted
from corten.cli.session import Session, pass_session
from corten.cli.table import ellipsis, write_rows
from corten.cli.transport import default_host
from corten.cli.volumes import natural
from corten.spec.words import BOOLEANS

_FROM_ENVIRONMENT: Final = "Current DOCKER_HOST based configuration"
_KEYS: Final = ("ca", "cert", "from", "host", "key", "skip-tls-verify")
_DOCKER_HELP: Final = f"Set the docker endpoint: name=value,... of {', '.join(_KEYS)}"
_ERROR_LENGTH: Final = 45
_COLUMNS: Final = (
    ("Name", "NAME"),
    ("Description", "DESCRIPTION"),
    ("DockerEndpoint", "DOCKER ENDPOINT"),
    ("Error", "ERROR"),
)
_TABLE: Final = "table {{.Name}}{{if .Current}} *{{end}}\t{{.Description}}\t{{.DockerEndpoint}}\t{{.Error}}"
_IN_MEMORY: Final = "<IN MEMORY>"


# the flag --docker


def pairs(text: str) -> dict[str, str]:
    """`name=value,…`, as pflag's stringToString reads it.  Raises InvalidArgument with the reason."""
    count = text.count("=")
    try:
        words = [text.strip('"')] if count == 1 else next(csv.reader([text], strict=True), []) or [text]
    except csv.Error as error:
        raise errors.InvalidArgument(f"parse error on line 1: {error}") from None
    for word in words:
        if "=" not in word:
            raise errors.InvalidArgument(f"{word} must be formatted as key=value")
    return dict(word.partition("=")[::2] for word in words)


def _docker_flag() -> Callable[[Any], Any]:
    return click.option("--docker", multiple=True, type=Value(pairs), help=_DOCKER_HELP)


_description_flag = click.option("--description", default="", help="Description of the context")


def _engine_of(given: Sequence[str], store: Store) -> tuple[dict[str, Any], TlsFiles]:
    """The endpoint that `--docker` asks for, with its files.  Raises a CortenError."""
    try:
        return _wanted({key: value for text in given for key, value in pairs(text).items()}, store)
    except errors.CortenError as error:
        raise errors.InvalidArgument(f"unable to create docker endpoint config: {error.text}") from error


def _wanted(values: Mapping[str, str], store: Store) -> tuple[dict[str, Any], TlsFiles]:
    if unknown := [key for key in values if key not in _KEYS]:
        raise errors.InvalidArgument("\n".join(f"unrecognized config key: {key}" for key in unknown))
    if "from" in values:
        known = _default() if values["from"] == DEFAULT else store.load(values["from"])
        return engine_values(known.host, is_unverified=known.is_unverified), {}
    files = {TLS_FILES[key]: _read(values[key]) for key in TLS_FILES if values.get(key)}
    skipped = values.get("skip-tls-verify") or "false"
    if skipped not in BOOLEANS:
        raise errors.InvalidArgument(f"skip-tls-verify: parsing {quoted(skipped)}: invalid syntax")
    host = values.get("host", "")
    if host:
        _check(host, files)
    return engine_values(host, is_unverified=BOOLEANS[skipped]), {ENDPOINT: files} if files else {}


def _check(host: str, files: Mapping[str, bytes]) -> None:
    """What Docker's CLI looks at before it keeps a context; the rest is told when it is used."""
    if "://" not in host:
        raise errors.InvalidArgument(f"unable to apply docker endpoint options: unable to parse docker host `{host}`")
    if not host.startswith("ssh://") and TLS_FILES["ca"] in files and not _has_certificate(files[TLS_FILES["ca"]]):
        text = "failed to retrieve context tls info: ca.pem seems invalid"
        raise errors.InvalidArgument(f"invalid docker endpoint options: {text}")


def _has_certificate(data: bytes) -> bool:
    import ssl

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=data.decode())
    except (ssl.SSLError, ValueError):
        return False
    return True


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise errors.InvalidArgument(f"open {path}: {(error.strerror or '').lower()}") from error


# what there is


def _default(host: str = "") -> Context:
    return Context(DEFAULT, {}, {ENDPOINT: engine_values(host or default_host(), is_unverified=False)})


def _default_of(session: Session) -> Context:
    """That of `--host` where it was given."""
    return _default(session.host if session.is_host_given else "")


def _loaded(session: Session, name: str) -> tuple[Context, TlsFiles]:
    """A context to copy, the default one too."""
    if name != DEFAULT:
        store = Store(session.config_folder)
        return store.load(name), store.tls(name)
    files: dict[str, bytes] = {}
    if session.tls is not None and session.context == DEFAULT:
        tls = session.tls
        paths = {"ca": tls.authority, "cert": tls.certificate, "key": tls.key}
        files = {TLS_FILES[key]: _read(path) for key, path in paths.items() if path}
    return _default_of(session).described(_FROM_ENVIRONMENT), {ENDPOINT: files} if files else {}


def _refuse_used(store: Store, name: str) -> None:
    check_name(name)
    if store.has(name):
        raise errors.AlreadyExists(f'context "{name}" already exists')


@click.command("create", cls=Command, operands="[OPTIONS] CONTEXT", at_least=1, at_most=1, help="Create a context")
@_description_flag
@_docker_flag()
@click.option("--from", "from_", default="", help="Create context from a named context")
@operands()
@pass_session
def create(
    session: Session, /, operands: tuple[str, ...], description: str, docker: tuple[str, ...], from_: str
) -> None:
    """Makes a context, by default one like that in use."""
    (name,) = operands
    store = Store(session.config_folder)
    _refuse_used(store, name)
    if from_ and docker:
        raise Failure("cannot use --docker flag when --from is set")
    if docker:
        engine, files = _engine_of(docker, store)
        made = Context(name, {}, {ENDPOINT: engine}).described(description)
    else:
        known, files = _loaded(session, from_ or session.context)
        made = Context(name, known.metadata, known.endpoints).described(description)
    store.save(made)
    store.replace_tls(name, files)
    print(name, flush=True)
    print(f'Successfully created context "{name}"', file=sys.stderr)


@click.command("update", cls=Command, operands="[OPTIONS] CONTEXT", at_least=1, at_most=1, help="Update a context")
@_description_flag
@_docker_flag()
@operands()
@pass_session
def update(session: Session, /, operands: tuple[str, ...], description: str, docker: tuple[str, ...]) -> None:
    """Changes what is given."""
    (name,) = operands
    check_name(name)
    store = Store(session.config_folder)
    made = store.load(name).described(description)
    files: TlsFiles | None = None
    if docker:
        engine, files = _engine_of(docker, store)
        made = Context(name, made.metadata, {**made.endpoints, ENDPOINT: engine})
    store.save(made)
    if files is not None:
        store.replace_tls(name, files)
    print(name, flush=True)
    print(f'Successfully updated context "{name}"', file=sys.stderr)


@click.command("use", cls=Command, operands="CONTEXT", help="Set the current context")
@operands()
@pass_session
def use(session: Session, /, operands: tuple[str, ...]) -> None:
    """Keeps a choice in config.json."""
    if len(operands) != 1:
        raise Failure(f"accepts 1 arg(s), received {len(operands)}")
    (name,) = operands
    if name != DEFAULT:
        check_name(name)
        Store(session.config_folder).load(name)
    config_of(session.config_folder).use_context("" if name == DEFAULT else name)
    print(name, flush=True)
    print(f'Current context is now "{name}"', file=sys.stderr)
    if name != DEFAULT and (variable := _overriding()):
        print(_overrides(variable, f'"{name}"'), file=sys.stderr)


def _overriding() -> str:
    """The variable with the address that goes before every choice; empty for none."""
    return next((one for one in HOST_VARIABLES if os.environ.get(one)), "")


def _overrides(variable: str, what: str) -> str:
    return (
        f"Warning: {variable} environment variable overrides the active context. To use {what}, either set the global "
        f"--context flag, or unset {variable} environment variable."
    )


@click.command("show", cls=Command, operands="", at_most=0, help="Print the name of the current context")
@operands()
@pass_session
def show(session: Session, /, operands: tuple[str, ...]) -> None:
    """Says which one is in use, whether it is there or not."""
    print(session.context)


@click.command("rm", cls=Command, operands="CONTEXT [CONTEXT...]", at_least=1, help="Remove one or more contexts")
@click.option("-f", "--force", is_flag=True, help="Force the removal of a context in use")
@operands()
@pass_session
def rm(session: Session, /, operands: tuple[str, ...], force: bool) -> None:
    """Removes contexts with their files."""
    failed = []
    for name in operands:
        try:
            _remove(session, name, is_forced=force)
        except errors.CortenError as error:
            failed.append(error.text)
        else:
            print(name, flush=True)
    if failed:
        raise Failure("\n".join(failed))


def _remove(session: Session, name: str, *, is_forced: bool) -> None:
    store = Store(session.config_folder)
    if name == DEFAULT:
        raise errors.InvalidArgument(f'context "{DEFAULT}" cannot be removed')
    if not is_forced and not store.has(name):
        raise errors.NotFound(f'context "{name}" does not exist')
    if name == session.context:
        if not is_forced:
            raise errors.Conflict(f'context "{name}" is in use, set -f flag to force remove')
        if config_of(session.config_folder).current_context == name:
            config_of(session.config_folder).use_context("")
    store.remove(name)


@click.command("ls", cls=Command, operands="[OPTIONS]", at_most=0, help="List contexts")
@click.option("--format", "form", default="", help="Format output using a custom template")
@click.option("-q", "--quiet", is_flag=True, help="Only show context names")
@operands()
@pass_session
def ls(session: Session, /, operands: tuple[str, ...], form: str, quiet: bool) -> None:
    """Lists contexts by name, the one in use with a star."""
    found = {one.name: one for one in Store(session.config_folder).all()}
    rows = {name: _row(one, is_current=name == session.context) for name, one in found.items()}
    rows[DEFAULT] = _row(_default_of(session).described(_FROM_ENVIRONMENT), is_current=session.context == DEFAULT)
    if session.context not in rows:
        rows[session.context] = _missing(session)
    ordered = [rows[name] for name in sorted(rows, key=natural)]
    if quiet:
        for row in ordered:
            print(row["Name"])
    else:
        head = {"Current": ""}
        kind = "formatter.clientContextContext"
        form = _TABLE if form in ("", "table") else form
        write_rows(ordered, _COLUMNS, form=form, headings=head, kind=kind)
    if _overriding() and (session.context != DEFAULT or not session.is_host_given):
        sys.stdout.flush()
        print(_overrides(_overriding(), "a context"), file=sys.stderr)


def _row(one: Context, *, is_current: bool) -> dict[str, Any]:
    values = {"Name": one.name, "Description": one.description, "DockerEndpoint": one.host}
    return {**values, "Current": is_current, "Error": ""}


def _missing(session: Session) -> dict[str, Any]:
    """The row of one that is in use and not there."""
    try:
        Store(session.config_folder).load(session.context)
        text = ""
    except errors.CortenError as error:
        text = ellipsis(error.text, _ERROR_LENGTH)
    return {**_row(Context(session.context), is_current=True), "Error": text}


@click.command(
    "inspect",
    cls=Command,
    operands="[OPTIONS] [CONTEXT] [CONTEXT...]",
    help="Display detailed information on one or more contexts",
)
@click.option("-f", "--format", "form", default="", help="Format output using a custom template")
@operands()
@pass_session
def inspect(session: Session, /, operands: tuple[str, ...], form: str) -> None:
    """Shows contexts, by default the one in use."""
    from corten.cli.contextfile import write_inspected

    found, failed = [], []
    for name in operands or (session.context,):
        try:
            found.append(_inspected(session, name))
        except errors.CortenError as error:
            failed.append(error.text)
    failed += write_inspected(found, form)
    if failed:
        sys.stdout.flush()
        raise Failure("\n".join(failed))


def _inspected(session: Session, name: str) -> dict[str, Any]:
    store = Store(session.config_folder)
    one = _default_of(session) if name == DEFAULT else store.load(name)
    places = (_IN_MEMORY, _IN_MEMORY) if name == DEFAULT else (store.meta_path(name), store.tls_path(name))
    storage = dict(zip(("MetadataPath", "TLSPath"), places, strict=True))
    return {**one.values(), "TLSMaterial": {} if name == DEFAULT else store.tls_names(name), "Storage": storage}


@click.command(
    "export",
    cls=Command,
    operands="[OPTIONS] CONTEXT [FILE|-]",
    at_least=1,
    at_most=2,
    help="Export a context to a tar archive FILE or a tar stream on STDOUT.",
)
@operands()
@pass_session
def export(session: Session, /, operands: tuple[str, ...]) -> None:
    """Writes a context with its TLS files, the key among them, into one file."""
    from corten.cli import contextfile

    name = operands[0]
    target = operands[1] if len(operands) == 2 else f"{name}.dockercontext"
    context, files = _loaded(session, name)
    if name == DEFAULT:
        context = _default_of(session)
    contextfile.write(context, files, target)
    if target != "-":
        print(f"Written file {quoted(target)}", file=sys.stderr)


@click.command(
    "import",
    cls=Command,
    operands="CONTEXT FILE|-",
    at_least=2,
    at_most=2,
    help="Import a context from a tar or zip file",
)
@operands()
@pass_session
def import_(session: Session, /, operands: tuple[str, ...]) -> None:
    """Reads what `export` wrote."""
    from corten.cli import contextfile

    name, source = operands
    store = Store(session.config_folder)
    _refuse_used(store, name)
    context, files = contextfile.read(source)
    store.save(Context(name, context.metadata, context.endpoints))
    store.replace_tls(name, files)
    print(name, flush=True)
    print(f'Successfully imported context "{name}"', file=sys.stderr)
