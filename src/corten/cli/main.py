"""The `corten` command: Docker's verbs over the engine's socket.

Commands are loaded when they are called, so that `corten ps` pays for `ps` alone (design.md §7).
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping
from typing import Any

import click

from corten import __version__, errors
from corten.cli import flags
from corten.cli.command import Failure, daemon_error, usage_error
from corten.cli.session import Session
from corten.cli.transport import check_host, default_host

_C, _R, _I, _S = "corten.cli.containers", "corten.cli.run", "corten.cli.images", "corten.cli.system"
_D, _M = "corten.cli.disk", "corten.cli.imagemount"
_A, _V, _X = "corten.cli.archives", "corten.cli.volumes", "corten.cli.context"
_N = "corten.cli.networks"

# verb → (module, attribute)
COMMANDS: dict[str, tuple[str, str]] = {
    "__complete": ("corten.cli.completion", "completing"),
    "__manual": ("corten.cli.manual", "manual"),
    "attach": (_R, "attach"),
    "commit": (_A, "commit"),
    "completion": ("corten.cli.completion", "completion"),
    "cp": ("corten.cli.cp", "cp"),
    "create": (_R, "create"),
    "diff": (_A, "diff"),
    "doctor": ("corten.cli.doctor", "doctor"),
    "events": (_S, "events"),
    "exec": (_R, "exec_"),
    "export": (_A, "export"),
    "history": (_I, "history"),
    "images": (_I, "images"),
    "import": (_I, "import_"),
    "info": (_S, "info"),
    "inspect": (_S, "inspect"),
    "kill": (_C, "kill"),
    "load": (_I, "load"),
    "login": ("corten.cli.login", "login"),
    "logout": ("corten.cli.login", "logout"),
    "logs": (_C, "logs"),
    "pause": (_C, "pause"),
    "port": (_C, "port"),
    "ps": ("corten.cli.ps", "ps"),
    "pull": ("corten.cli.pull", "pull"),
    "push": ("corten.cli.push", "push"),
    "rename": (_C, "rename"),
    "restart": (_C, "restart"),
    "rm": (_C, "rm"),
    "rmi": (_I, "rmi"),
    "run": (_R, "run"),
    "save": (_A, "save"),
    "start": (_R, "start"),
    "stats": ("corten.cli.stats", "stats"),
    "stop": (_C, "stop"),
    "tag": (_I, "tag"),
    "top": (_C, "top"),
    "trace": ("corten.cli.trace", "trace"),
    "unpause": (_C, "unpause"),
    "update": ("corten.cli.update", "update"),
    "version": (_S, "version"),
    "wait": (_C, "wait"),
    "why": ("corten.cli.why", "why"),
}
# group → {verb in the group: the top-level verb, or its own (module, attribute)}
GROUPS: dict[str, dict[str, str | tuple[str, str]]] = {
    "container": {
        **{verb: verb for verb in ("attach", "commit", "create", "diff", "exec", "export", "kill", "logs", "pause")},
        **{verb: verb for verb in ("cp", "port", "rename", "restart")},
        **{verb: verb for verb in ("rm", "run", "start", "stats", "stop", "top", "trace", "unpause", "update", "wait")},
        "why": "why",
        "ls": "ps",
        "list": "ps",
        "ps": "ps",
        "inspect": (_S, "inspect_container"),
        "prune": (_C, "prune"),
    },
    "context": {
        "create": (_X, "create"),
        "export": (_X, "export"),
        "import": (_X, "import_"),
        "inspect": (_X, "inspect"),
        "list": (_X, "ls"),
        "ls": (_X, "ls"),
        "remove": (_X, "rm"),
        "rm": (_X, "rm"),
        "show": (_X, "show"),
        "update": (_X, "update"),
        "use": (_X, "use"),
    },
    "image": {
        "history": "history",
        "import": "import",
        "inspect": (_S, "inspect_image"),
        "load": "load",
        "mount": (_M, "mount"),
        "ls": "images",
        "list": "images",
        "prune": (_D, "image_prune"),
        "pull": "pull",
        "push": "push",
        "rm": "rmi",
        "save": "save",
        "tag": "tag",
        "umount": (_M, "unmount"),
        "unmount": (_M, "unmount"),
    },
    "network": {
        "connect": (_N, "connect"),
        "create": (_N, "create"),
        "disconnect": (_N, "disconnect"),
        "inspect": (_S, "inspect_network"),
        "list": (_N, "ls"),
        "ls": (_N, "ls"),
        "prune": (_N, "prune"),
        "remove": (_N, "rm"),
        "rm": (_N, "rm"),
    },
    "volume": {
        "create": (_V, "create"),
        "inspect": (_S, "inspect_volume"),
        "list": (_V, "ls"),
        "ls": (_V, "ls"),
        "prune": (_V, "prune"),
        "remove": (_V, "rm"),
        "rm": (_V, "rm"),
        "update": (_V, "update"),
    },
    "system": {
        "df": (_D, "df"),
        "events": "events",
        "info": "info",
        "prune": (_D, "system_prune"),
        "dial-stdio": ("corten.cli.dialstdio", "dial_stdio"),
    },
}


# What Docker 28 has; without the plugins of its packages.
UNSUPPORTED = frozenset(
    {
        *("build", "builder", "checkpoint", "config"),
        *("manifest", "node", "plugin", "search", "secret", "service", "stack"),
        *("swarm", "trust"),
        "image build",
    }
)
# What works also when the context in use is gone.
_WITHOUT_ENGINE = (None, "completion", "context", "__complete", "__manual")
_CONTEXT_HELP = "Name of the context to use (see `corten context`); goes before DOCKER_HOST"
_LEVEL_HELP = 'Set the logging level ("debug", "info", "warn", "error", "fatal"); this program logs nothing'


_WHOLE = 1000  # characters of a command's help, which is one line


def _check_level(text: str) -> None:
    if text.lower() not in ("debug", "info", "warn", "warning", "error", "fatal", "panic", "trace"):
        raise errors.InvalidArgument(f"unable to parse logging level: {text}")


def _load(module: str, attribute: str) -> click.Command:
    command: click.Command = getattr(importlib.import_module(module), attribute)
    return command


class LazyGroup(click.Group):
    """A group that imports a command when it is asked for."""

    def __init__(self, *args: Any, table: dict[str, tuple[str, str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.table = table

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*self.table, *(GROUPS if ctx.parent is None else ())])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in self.table:
            return _load(*self.table[cmd_name])
        if ctx.parent is None and cmd_name in GROUPS:
            table = {
                verb: COMMANDS[where] if isinstance(where, str) else where for verb, where in GROUPS[cmd_name].items()
            }
            text = "Manage Corten" if cmd_name == "system" else f"Manage {cmd_name}s"
            callback = click.pass_context(_help)
            return LazyGroup(cmd_name, table=table, callback=callback, invoke_without_command=True, help=text)
        return None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        command = self.get_command(ctx, args[0])
        if command is None and args[0] == "help" and ctx.parent is None:
            return self._topic(ctx, args[1:])
        if command is None:
            raise _unknown(ctx, args[0])
        return args[0], command, args[1:]

    def _topic(self, ctx: click.Context, words: list[str]) -> tuple[str, click.Command, list[str]]:
        """`help [COMMAND [VERB]]` is `[COMMAND [VERB]] --help`."""
        found: click.Command | None = self
        for number, word in enumerate(words):
            above = ctx if number == 0 else click.Context(self, parent=ctx)
            found = found.get_command(above, word) if isinstance(found, LazyGroup) else None
            if found is None:
                raise Failure(f"unknown help topic: {' '.join(words[number:])}")
        if not words:
            print(ctx.get_help())
            ctx.exit()
        command = self.get_command(ctx, words[0])
        assert command is not None
        return words[0], command, [*words[1:], "--help"]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """As click does, but for its cut through long lines."""
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            rows = [
                (name, one.get_short_help_str(_WHOLE)) for name, one in commands if one is not None and not one.hidden
            ]
            formatter.write_dl(rows)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, flags.read(self.get_params(ctx), args, is_mixed=False))
        except click.UsageError as error:
            raise usage_error(ctx.command_path, "[OPTIONS] COMMAND [ARG...]", error.format_message()) from None


def _unknown(ctx: click.Context, verb: str) -> Failure:
    """What Docker has, and we do not yet, is said to be so."""
    group = "" if ctx.parent is None else f"{ctx.info_name} "
    if f"{group}{verb}" in UNSUPPORTED:
        return Failure(f"corten: '{ctx.command_path} {verb}' is not supported yet")
    usage = "" if ctx.parent is None else f"Usage:  {ctx.command_path}\n\n"
    return Failure(
        f"corten: unknown command: {ctx.command_path} {verb}\n\n{usage}"
        f"Run '{ctx.command_path} --help' for more information"
    )


def _help(ctx: click.Context) -> None:
    """Without a verb the help goes to stderr, as Docker's does, and nothing has failed."""
    if ctx.invoked_subcommand is None:
        print(ctx.get_help(), file=sys.stderr)


@click.pass_context
def _root(ctx: click.Context, /, show_version: bool, **given: Any) -> None:
    if show_version:
        print(f"Corten version {__version__}")
        ctx.exit()
    ctx.obj = session_of(given, is_resolved=ctx.invoked_subcommand not in _WITHOUT_ENGINE)
    _help(ctx)


def session_of(given: Mapping[str, Any], *, is_resolved: bool = True) -> Session:
    """The session of the flags in front of a verb.  Raises Failure or `InvalidArgument` for a wrong host.

    `is_resolved`: the engine's address is needed, and so the context in use has to be there.
    """
    from corten.cli import contextchoice

    host = given["host"] or ()
    if len(host) > 1:
        raise Failure("Specify only one -H")
    address = host[0] if host else default_host()
    is_ours = not host and address.endswith("/run/corten/corten.sock")
    session = Session(address, is_default=is_ours, config_folder=given["config"] or "")
    session.is_host_given = bool(host)
    session.context = contextchoice.chosen(given["context"] or "", host, session.config_folder, os.environ)
    if session.context != contextchoice.DEFAULT:
        if is_resolved:
            contextchoice.apply(session)
        return session
    check_host(address)
    if address.startswith("tcp:"):
        from corten.cli.tunnel import tls_of

        session.tls = tls_of(given, session.config_folder, os.environ)
    return session


def root() -> LazyGroup:
    """The program's command tree."""
    return LazyGroup(
        "corten",
        table=COMMANDS,
        callback=_root,
        invoke_without_command=True,
        help="A container engine, compatible with Docker",
        context_settings={"help_option_names": ["--help"]},
        params=[
            click.Option(["--config"], help="Location of client config files: config.json with credentials"),
            click.Option(["-c", "--context"], help=_CONTEXT_HELP),
            click.Option(["-D", "--debug"], is_flag=True, help="Enable debug mode"),
            click.Option(["-H", "--host"], multiple=True, help="Engine socket to connect to"),
            click.Option(["-l", "--log-level"], type=flags.Value(_check_level), help=_LEVEL_HELP, expose_value=False),
            click.Option(["--tls"], is_flag=True, help="Use TLS; implied by --tlsverify"),
            click.Option(["--tlscacert"], help="Trust certs signed only by this CA"),
            click.Option(["--tlscert"], help="Path to TLS certificate file"),
            click.Option(["--tlskey"], help="Path to TLS key file"),
            flags.Switch(["--tlsverify/--no-tlsverify"], default=None, help="Use TLS and verify the remote"),
            click.Option(["-v", "--version", "show_version"], is_flag=True, help="Print version information and quit"),
        ],
    )


def main(argv: list[str]) -> int:
    """Runs one command; the exit code is Docker's."""
    try:
        result = root().main(args=argv[1:], prog_name="corten", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except Failure as failure:
        failure.show()
        return failure.status
    except errors.CortenError as error:
        daemon_error(error).show()
        return 1
    except click.ClickException as error:
        print(error.format_message(), file=sys.stderr)
        return 125
    except (click.Abort, KeyboardInterrupt):
        return 130
    except BrokenPipeError:
        return 141
