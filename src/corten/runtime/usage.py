"""What `--help` and `--version` print: made from the tables of `corten.runtime.args`."""

from __future__ import annotations

from corten import __version__
from corten.runtime import args
from corten.runtime.state import OCI_VERSION

VERBS = {
    "create": ("create a container", "[command options] <container-id>"),
    "run": ("create and run a container", "[command options] <container-id>"),
    "start": ("executes the user defined process in a created container", "<container-id>"),
    "state": ("output the state of a container", "<container-id>"),
    "kill": ("kill sends the specified signal (default: SIGTERM)", "[command options] <container-id> [signal]"),
    "delete": ("delete any resources held by the container", "[command options] <container-id>"),
    "exec": (
        "execute new process inside the container",
        "[command options] <container-id> <command> [args]  || -p process.json <container-id>",
    ),
    "list": ("lists containers with the given root", "[command options]"),
    "ps": ("displays the processes running inside a container", "[command options] <container-id> [ps options]"),
    "pause": ("suspends all processes inside the container", "<container-id>"),
    "resume": ("resumes all processes that have been previously paused", "<container-id>"),
    "update": ("update container resource constraints", "[command options] <container-id>"),
    "spec": ("create a new specification file", "[command options]"),
    "features": ("show the enabled features", ""),
    "plan": ("show the launch plan of a bundle without starting anything", "[command options] [bundle]"),
}

FLAGS = {
    "debug": "write debug lines to the log",
    "log": "file to write the log to (default: stderr)",
    "log-format": "'text' (default) or 'json'",
    "root": f"directory of the containers' state (default: {args.DEFAULT_ROOT})",
    "criu": "accepted for compatibility, not used",
    "systemd-cgroup": "use systemd's cgroup manager; refused where systemd is not running",
    "rootless": "'true', 'false' or 'auto', accepted for compatibility",
    "cgroup-manager": "'cgroupfs' (default), 'systemd' or 'disabled'",
    "default-pids-limit": "limit for a container whose bundle has none (default: 500; -1: no limit)",
    "config": "file of node defaults (default: /etc/corten/runtime.json)",
    "help": "show help",
    "version": "print the version",
    "bundle": "path of the bundle directory (default: the current directory)",
    "console-socket": "unix socket that receives the master end of the console's pseudoterminal",
    "pid-file": "file to write the process id to",
    "preserve-fds": "pass N additional file descriptors to the process",
    "no-pivot": "do not use pivot_root to enter the root filesystem",
    "no-new-keyring": "do not create a new session keyring",
    "detach": "do not wait for the process",
    "keep": "do not delete the container after it exits",
    "no-subreaper": "accepted for compatibility, not used",
    "all": "send the signal to all processes inside the container",
    "force": "delete the container even if it is running (uses SIGKILL)",
    "cwd": "current working directory in the container",
    "env": "set an environment variable; may be repeated",
    "tty": "allocate a pseudo-TTY",
    "user": "UID (format: <uid>[:<gid>])",
    "additional-gids": "additional gids; may be repeated",
    "process": "path of a process.json",
    "process-label": "SELinux label of the process",
    "apparmor": "AppArmor profile of the process",
    "no-new-privs": "set no_new_privs for the process",
    "cap": "add a capability to the process; may be repeated",
    "cgroup": "run the process in an existing sub-cgroup",
    "ignore-paused": "allow exec in a paused container",
    "format": "'table' (default) or 'json'",
    "quiet": "display only container IDs",
    "resources": "file with the resources to update, or '-' for stdin; other flags are then ignored",
}


def version() -> str:
    """The text of `--version`; the first line is what callers parse."""
    return f"{args.PROGRAM} version {__version__}\nspec: {OCI_VERSION}\n"


def text(verb: str) -> str:
    """The help of a verb, or of the program for ''."""
    if verb not in VERBS:
        return _program()
    summary, synopsis = VERBS[verb]
    return (
        f"NAME:\n   {args.PROGRAM} {verb} - {summary}\n\n"
        f"USAGE:\n   {args.PROGRAM} {verb} {synopsis}\n\n"
        f"OPTIONS:\n{_flags(args.VERBS[verb].flags)}"
    )


def _program() -> str:
    width = max(map(len, VERBS)) + 3
    verbs = "".join(f"   {name.ljust(width)}{summary}\n" for name, (summary, _) in VERBS.items())
    return (
        f"NAME:\n   {args.PROGRAM} - OCI container runtime\n\n"
        f"USAGE:\n   {args.PROGRAM} [global options] command [command options] [arguments...]\n\n"
        f"VERSION:\n   {__version__}\n\n"
        f"COMMANDS:\n{verbs}\n"
        f"GLOBAL OPTIONS:\n{_flags(args.GLOBAL_FLAGS)}"
    )


def _flags(rows: tuple[args.FlagRow, ...]) -> str:
    spelled = [
        (f"--{name}{'' if kind == args.BOOL else ' value'}{f', -{short}' if short else ''}", FLAGS.get(name, ""))
        for name, short, kind in rows
    ]
    width = max(len(left) for left, _ in spelled) + 2
    return "".join(f"   {left.ljust(width)}{right}".rstrip() + "\n" for left, right in spelled)
