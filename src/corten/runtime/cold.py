"""The verbs that people call: ps, plan, update, spec, features, version.  No time budget, no import budget."""

from __future__ import annotations

import posix
import subprocess

from corten.errors import FailedPrecondition, InvalidArgument, NotFound
from corten.runtime import commands, container, fast, managers
from corten.runtime.cgroups import Cgroup
from corten.runtime.prepare import SPEC, Host, read_config
from corten.runtime.settings import root
from corten.runtime.state import allow
from corten.spec.resources import Resources, parse_resources
from corten.spec.runtime import parse_config
from corten.sys import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from corten.runtime.args import Invocation
    from corten.runtime.log import Log

STDOUT_FD = 1


def ps(invocation: Invocation, log: Log) -> int:
    """The container's processes: pids as JSON, or the rows of the host's ps(1) that are theirs."""
    id, *options = invocation.arguments
    form = invocation.options.text("format", "table")
    if form not in ("table", "json"):
        raise InvalidArgument("invalid format option")
    commands.warn_of_cgroups(invocation, log)
    record = container.state(root(invocation.settings), id)
    Cgroup(record.cgroup).check_there("get all container pids")
    pids = sorted(managers.of(record).group(record).pids())
    if form == "json":
        files.write_all(
            STDOUT_FD, ((fast.dumps(pids) if pids else "null") + "\n").encode()
        )  # as Go prints an empty list
        return 0
    result = subprocess.run(["ps", *(options or ["-ef"])], capture_output=True, check=False)
    if result.returncode:
        raise FailedPrecondition(f"ps: exit status {result.returncode}: {result.stderr.decode('utf-8', 'replace')}")
    files.write_all(STDOUT_FD, rows_of(result.stdout, set(pids)))
    return 0


def rows_of(listing: bytes, pids: set[int]) -> bytes:
    """The header of a ps listing and the lines whose PID column is among `pids`; raises InvalidArgument."""
    lines = listing.splitlines(keepends=True)
    titles = lines[0].split() if lines else []
    if b"PID" not in titles:
        raise InvalidArgument("couldn't find PID field in ps output")
    column = titles.index(b"PID")
    theirs = [line for line in lines[1:] if line.strip() and _pid_of(line, column) in pids]
    return b"".join((lines[0], *theirs))


def _pid_of(line: bytes, column: int) -> int:
    """The number in a column; a column before it may be empty, or have spaces in it, as a process likes."""
    word = next(iter(line.split()[column:]), b"")
    if not word.isdigit():
        raise InvalidArgument(f"unable to parse pid: {word.decode('utf-8', 'replace')!r} in ps output")
    return int(word)


def plan(invocation: Invocation, log: Log) -> int:
    """Prints what `create` would do with a bundle: cgroup, settings, every step."""
    arguments = invocation.arguments
    bundle = files.absolute(arguments[0] if arguments else invocation.options.text("bundle") or posix.getcwd())
    invocation.arguments = [bundle.rpartition("/")[2] or "plan"]
    options = commands.create_options(invocation, log)
    options.bundle = bundle
    process = parse_config(fast.loads_from(SPEC, read_config(bundle))).process
    if process is not None and process.terminal:
        options.console_fd = 0  # any number: nothing is spawned
    files.write_all(STDOUT_FD, commands.encode(container.plan(options, Host()).describe()))
    return 0


def update(invocation: Invocation, log: Log) -> int:
    """Changes limits of a container, from a JSON document or flags."""
    from corten.runtime import cgroup_settings, limits

    place, id, flags = root(invocation.settings), invocation.arguments[0], invocation.options
    record = container.state(place, id)  # an unknown container is the first thing to tell, as by runc
    path = flags.text("resources")
    resources = resources_from_document(path) if path else limits.from_flags(flags, log)
    for text in cgroup_settings.warnings(resources, record.cgroup.mode):
        log.warning(text)
    if resources.devices:
        log.warning("resources.devices is ignored: update changes limits, not rules of devices")
    if any(flags.text(name) for name in limits.RDT):
        from corten.runtime import rdt

        allow("update", id, record.status())
        rdt.update(record, {name: flags.text(name) for name in limits.RDT})
    container.update(place, id, resources)
    return 0


def resources_from_document(path: str) -> Resources:
    """The limits in a file, or on stdin for `-`."""
    try:
        content = files.read_fd(0) if path == "-" else files.read(path)
    except FileNotFoundError:
        raise NotFound(f"open {path}: no such file or directory") from None
    return parse_resources(fast.loads_from("stdin" if path == "-" else path, content))


def spec(invocation: Invocation, log: Log) -> int:
    """Writes a starter config.json into a bundle."""
    from corten.runtime import hostfacts, starter

    bundle = invocation.options.text("bundle") or "."
    if not files.is_directory(bundle):
        reason = "not a directory" if files.exists(bundle) else "no such file or directory"
        raise NotFound(f"chdir {bundle}: {reason}")
    path = files.absolute(bundle + "/config.json")
    if files.exists(path):
        raise InvalidArgument("File config.json exists. Remove it first")
    version_2 = hostfacts.gather().cgroup_mode == "v2"
    make = starter.rootless if invocation.options.is_set("rootless") else starter.document
    document = make(version_2=version_2)
    files.replace(path, (fast.dumps_indented(document, "\t") + "\n").encode(), 0o666 & ~0o022)
    return 0


def features(invocation: Invocation, log: Log) -> int:
    """Prints what this runtime can do (runtime-spec features.md); works without root and without a cgroup."""
    from corten.runtime import features as table

    files.write_all(STDOUT_FD, (fast.dumps_indented(table.document(), "    ") + "\n").encode())
    return 0


def version(invocation: Invocation, log: Log) -> int:
    """Prints what `--version` prints."""
    from corten.runtime import usage

    files.write_all(STDOUT_FD, usage.version().encode())
    return 0
