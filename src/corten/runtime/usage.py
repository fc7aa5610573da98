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
    "events": (
        "display container events such as OOM notifications, cpu, memory, and IO usage",
        "[command options] <container-id>",
    ),
    "pause": ("suspends all processes inside the container", "<container-id>"),
    "resume": ("resumes all processes that have been previously paused", "<container-id>"),
    "update": ("update container resource constraints", "[command options] <container-id>"),
    "spec": ("create a new specification file", "[command options]"),
    "features": ("show the enabled features", ""),
    "version": ("print the version", ""),
    "checkpoint": ("checkpoint a running container", "[command options] <container-id>"),
    "restore": ("restore a container from a previous checkpoint", "[command options] <container-id>"),
    "plan": ("show the launch plan of a bundle without starting anything", "[command options] [bundle]"),
}

FLAGS = {
    "debug": "write debug lines to the log",
    "log": "file to write the log to (default: stderr)",
    "log-format": "'text' (default) or 'json'",
    "root": f"directory of the containers' state (default: {args.DEFAULT_ROOT})",
    "criu": "the criu of checkpoint and restore, if it is not in PATH",
    "systemd-cgroup": "use systemd's cgroup manager; refused where systemd is not running",
    "rootless": "whether cgroups may fail: 'true', 'false' or 'auto' (default)",
    "cgroup-manager": "'cgroupfs' (default), 'systemd' or 'disabled'",
    "default-pids-limit": "limit for a container whose bundle has none (default: 500; -1: no limit)",
    "config": "file of node defaults (default: /etc/corten/runtime.json)",
    "help": "show help",
    "version": "print the version",
    "bundle": "path of the bundle directory (default: the current directory)",
    "console-socket": "unix socket that receives the master end of the console's pseudoterminal",
    "pid-file": "file to write the process id to",
    "pidfd-socket": "unix socket that receives a pidfd of the process",
    "preserve-fds": "pass N additional file descriptors to the process",
    "no-pivot": "do not use pivot_root to enter the root filesystem",
    "no-new-keyring": "do not create a new session keyring",
    "detach": "do not wait for the process",
    "keep": "do not delete the container after it exits",
    "no-subreaper": "leave orphans of a container without pid namespace to the host's init",
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
    "cgroup": "run the process in an existing sub-cgroup, [<controller>[,…]:]<path>; may be repeated",
    "ignore-paused": "allow exec in a paused container",
    "format": "'table' (default) or 'json'",
    "quiet": "display only container IDs",
    "resources": "file with the resources to update, or '-' for stdin; other flags are then ignored",
    "interval": "time between two samples (default: 5s)",
    "stats": "print one sample, then exit",
    "blkio-weight": "weight of the block devices, 10 to 1000",
    "cpu-period": "length of a CPU period in microseconds",
    "cpu-quota": "CPU time in a period, in microseconds; -1: no limit",
    "cpu-burst": "CPU time saved in quiet periods for busy ones, in microseconds",
    "cpu-share": "CPU shares, against other containers",
    "cpu-rt-period": "length of a realtime period in microseconds",
    "cpu-rt-runtime": "realtime CPU time in a period, in microseconds",
    "cpu-idle": "1: run only on CPUs that are idle; 0: as usual",
    "cpuset-cpus": "CPUs to use",
    "cpuset-mems": "memory nodes to use",
    "kernel-memory": "obsolete, ignored with a warning",
    "kernel-memory-tcp": "obsolete, ignored with a warning",
    "memory": "memory limit in bytes, or with a unit (64m); -1: no limit",
    "memory-reservation": "memory reservation, a soft limit",
    "memory-swap": "limit of memory and swap together; -1: no limit of swap",
    "pids-limit": "how many processes the container may have; -1: no limit",
    "l3-cache-schema": "Intel RDT/CAT L3 cache schema",
    "mem-bw-schema": "Intel RDT/MBA memory bandwidth schema",
    "image-path": "directory of the criu image files",
    "work-path": "directory of criu's work files and logs",
    "tcp-established": "allow open TCP connections",
    "ext-unix-sk": "allow external unix sockets",
    "shell-job": "allow shell jobs",
    "lazy-pages": "use userfaultfd to restore memory pages lazily",
    "file-locks": "handle file locks",
    "manage-cgroups-mode": "'soft' (default), 'full', 'strict' or 'ignore'",
    "empty-ns": "create a namespace, but do not restore its properties; may be repeated",
    "auto-dedup": "deduplicate memory images",
    "link-remap": "allow files that are linked no more",
    "parent-path": "directory of the image files of a pre-dump before this one",
    "leave-running": "leave the process running",
    "status-fd": "descriptor to which criu writes a byte when lazy pages are ready",
    "page-server": "ADDRESS:PORT of the page server",
    "pre-dump": "dump memory only and leave the container running",
    "tcp-skip-in-flight": "skip TCP connections that are being made",
    "lsm-profile": "LSM profile of the restored process, TYPE:NAME",
    "lsm-mount-context": "LSM mount context of the restored mounts",
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
