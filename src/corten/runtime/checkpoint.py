"""The verb `checkpoint`: CRIU writes the processes of a running container to a directory.

The directory has what runc's has (images, descriptors.json, keys of external mounts and namespaces), so that runc's
`restore` takes it too.
"""

from __future__ import annotations

import fcntl
import posix

from corten.errors import FailedPrecondition, InvalidArgument
from corten.launch.filesystem import DEFAULT_DEVICES
from corten.runtime import container, criu, ending, fast
from corten.runtime.settings import root
from corten.runtime.state import PAUSED, RUNNING
from corten.sys import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from corten.runtime.args import Invocation, Options
    from corten.runtime.log import Log
    from corten.runtime.state import State
    from corten.spec.runtime import Config

LOG_FILE, DESCRIPTORS = "dump.log", "descriptors.json"
DEFAULT_IMAGES = "checkpoint"
LOG_LEVEL = 4  # everything: a dump that fails is found out from its log alone
CLONE_NEWNET = 0x40000000
CONFIG_ANNOTATION, CONFIG_FILE = "org.criu.config", "/etc/criu/runc.conf"
# of the command line, each the name of CRIU's option with dashes
FLAGS = (
    *("leave-running", "ext-unix-sk", "tcp-established", "tcp-skip-in-flight", "shell-job", "file-locks", "auto-dedup"),
    *("link-remap", "lazy-pages"),
)
READY = "status-ready"
O_ACCMODE = 3
NO_FD = -1
LINKS = 40  # as many as the kernel follows


def checkpoint(invocation: Invocation, log: Log) -> int:
    """Dumps a running or paused container and removes it, unless it is to stay."""
    flags = invocation.options
    record = container.state(root(invocation.settings), invocation.arguments[0])
    if posix.geteuid():
        log.warning("checkpoint is untested with rootless containers")
    status = record.status()
    if status not in (RUNNING, PAUSED):
        raise FailedPrecondition(f"Container cannot be checkpointed in {status} state")
    if not record.rootfs:
        raise FailedPrecondition("its root filesystem has no path, without which nothing restores it")
    config = record.config()
    dump(record, config, flags, program=invocation.settings.text("criu"), log=log)
    if not (flags.is_set("leave-running") or flags.is_set("pre-dump")):
        for complaint in ending.destroy(record):
            log.warning(complaint)
    return 0


def dump(record: State, config: Config, flags: Options, *, program: str, log: Log) -> None:
    """Has CRIU write the images."""
    images = files.absolute(flags.text("image-path") or DEFAULT_IMAGES)
    work = files.absolute(flags.text("work-path")) if flags.given("work-path") else images
    parent = flags.text("parent-path")
    for path in (images, work):
        files.make_directories(path, 0o700)
    request = criu.Request()
    if parent:
        check_parent(images, parent)
        request.text("parent_img", parent)
    options_of(flags, request)
    program = criu.find(program or criu.PROGRAM)
    pre_dump = flags.is_set("pre-dump")
    if parent or pre_dump:
        request.number("track_mem", 1)
        criu.check_feature(program, criu.MEM_TRACK, "MemTrack")
    on_note = lazy_pages(request, flags, program, log)
    about_container(request, record, config)
    fds = [posix.open(path, posix.O_RDONLY | posix.O_DIRECTORY | posix.O_CLOEXEC) for path in (images, work)]
    try:
        request.number("images_dir_fd", fds[0])
        request.number("work_dir_fd", fds[1])
        if not pre_dump:
            files.replace(f"{images}/{DESCRIPTORS}", fast.dump_bytes(stdio_of(record.pid)))
        criu.carry_out(criu.PRE_DUMP if pre_dump else criu.DUMP, request, program, on_note)
    except criu.Failed as error:
        raise FailedPrecondition(f"{error}\nlog file: {work}/{LOG_FILE}") from error
    finally:
        for fd in fds:
            posix.close(fd)


def lazy_pages(request: criu.Request, flags: Options, program: str, log: Log) -> criu.OnNote:
    """What is to be done at CRIU's notes: with `--lazy-pages` it answers only when the last page was asked for, and
    tells before that the port is there (criu.org/Lazy_migration)."""
    if not flags.is_set("lazy-pages"):
        return criu.agree
    criu.check_feature(program, criu.LAZY_PAGES, "LazyPages")
    fd = flags.number("status-fd", NO_FD)
    if fd == NO_FD:
        return criu.agree
    check_writable(fd)
    request.number("notify_scripts", 1)  # without which CRIU tells nothing
    return teller(fd, log)


def check_writable(fd: int) -> None:
    """Raises InvalidArgument, in runc's words, for a --status-fd that no byte can go to.

    One that closes at an execve was not handed in: it is our own, the log as a rule.
    """
    try:
        mode = fcntl.fcntl(fd, fcntl.F_GETFL) & O_ACCMODE
        is_ours = fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    except (OSError, ValueError, OverflowError) as error:
        why = files.why(error) if isinstance(error, OSError) else "bad file descriptor"
        raise InvalidArgument(f"invalid --status-fd argument {fd}: {why}") from error
    if is_ours:
        raise InvalidArgument(f"invalid --status-fd argument {fd}: bad file descriptor")
    if mode == posix.O_RDONLY:
        raise InvalidArgument(f"invalid --status-fd argument {fd}: not writable")


def teller(status_fd: int, log: Log) -> criu.OnNote:
    """Tells who waits at a descriptor that CRIU is ready; it is closed then, and who is gone is no reason to fail."""

    def tell(script: str, pid: int, fd: int) -> None:
        if script != READY:
            return
        try:
            posix.write(status_fd, b"\0")
        except OSError as error:
            log.warning(f"can't write \\0 to status fd: {files.why(error)}")
        posix.close(status_fd)

    return tell


def options_of(flags: Options, request: criu.Request) -> None:
    """What the command line asks of CRIU; raises InvalidArgument in runc's words."""
    for name in FLAGS:
        if flags.is_set(name):
            request.number(name.replace("-", "_"), 1)
    mode = criu.CGROUP_MODES.get(flags.text("manage-cgroups-mode"))
    if mode is None:
        raise InvalidArgument("Invalid manage cgroups mode")
    request.number("manage_cgroups", 1)
    request.number("manage_cgroups_mode", mode)
    for name in flags.items("empty-ns"):
        if name != "network":
            raise InvalidArgument(f'namespace "{name}" is not supported')
    request.number("empty_ns", CLONE_NEWNET)  # the network's links are its maker's business
    server = flags.text("page-server")
    if server:
        address, _, port = server.rpartition(":")
        if not address or not port:
            raise InvalidArgument("Use --page-server ADDRESS:PORT to specify page server")
        if not port.isdecimal():
            raise InvalidArgument("Invalid port number")
        request.page_server(address.removeprefix("[").removesuffix("]"), int(port))


def check_parent(images: str, parent: str) -> None:
    """Raises InvalidArgument unless `parent` is a directory, named from `images`."""
    if parent.startswith("/"):
        raise InvalidArgument("--parent-path must be relative")
    path = files.absolute(f"{images}/{parent}")
    if not files.exists(path):
        raise InvalidArgument(f"invalid --parent-path: stat {path}: no such file or directory")
    if not files.is_directory(path):
        raise InvalidArgument(f"invalid --parent-path:  {path}: not a directory")


def about_container(request: criu.Request, record: State, config: Config) -> None:
    """What CRIU must know: the process, its cgroup, and what is not the container's own."""
    request.number("pid", record.pid)
    request.text("root", record.rootfs)
    request.number("log_level", LOG_LEVEL)
    request.text("log_file", LOG_FILE)
    request.number("orphan_pts_master", 1)
    add_settings(request, config)
    freezer = record.cgroup.directory("freezer")
    if freezer:
        request.text("freeze_cgroup", freezer)
    for kind, name, key in (("network", "net", "extRootNetNS"), ("pid", "pid", "extRootPidNS")):
        namespace = config.linux.namespace(kind)
        if namespace is not None and namespace.path:
            request.text("external", f"{name}[{posix.stat(namespace.path).st_ino}]:{key}")
    for key, value in external_mounts(record, config).items():
        request.pair("ext_mnt", key, value)


def add_settings(request: criu.Request, config: Config) -> None:
    """The machine's file of CRIU's settings, or the container's."""
    settings = config.annotations.get(CONFIG_ANNOTATION, CONFIG_FILE)
    if settings:
        request.text("config_file", settings)


def external_mounts(record: State, config: Config) -> dict[str, str]:
    """Mount points whose file systems are the host's, and the keys by which a restore names them."""
    inside = f"/proc/{record.pid}/root"
    points = mount_points(files.read_text(f"/proc/{record.pid}/mountinfo"))
    wanted: dict[str, str] = {}
    shares_cgroups = record.cgroup.mode != "v2" and config.linux.namespace("cgroup") is None
    for mount in config.mounts:
        path = resolved(inside, mount.destination)
        if mount.type == "bind" or "bind" in mount.options or "rbind" in mount.options:
            wanted[path] = path
        elif mount.type == "cgroup" and shares_cgroups:
            wanted.update({point: point for point in points if point.startswith(f"{path}/")})
    for device in (*DEFAULT_DEVICES, *config.linux.devices):  # in a user namespace each is a bind
        path = resolved(inside, device.path)
        wanted[path] = path
    nodes = [row["path"] for row in record.origins.get("maskedPaths", ())]
    for masked in (*config.linux.masked_paths, *nodes):
        path = resolved(inside, masked)
        if not files.is_directory(f"{inside}{path}"):
            wanted[path] = "/dev/null"
    return {path: key for path, key in wanted.items() if path in points}


def mount_points(mountinfo: str) -> set[str]:
    """The fifth column of proc_pid_mountinfo(5), its octal escapes undone."""
    points = set()
    for line in mountinfo.splitlines():
        head, *rest = line.split(" ")[4].split("\\")
        points.add(head + "".join(chr(int(part[:3], 8)) + part[3:] for part in rest))
    return points


def resolved(inside: str, path: str) -> str:
    """`path` as the container sees it, its links followed within `inside`; only a name, nothing is opened by it."""
    waiting = path.split("/")[::-1]
    found: list[str] = []
    links = 0
    while waiting:
        part = waiting.pop()
        if part in ("", "."):
            continue
        if part == "..":
            found = found[:-1]
            continue
        try:
            target = posix.readlink("/".join((inside, *found, part)))
        except OSError:
            found.append(part)
            continue
        links += 1
        if links > LINKS:
            raise InvalidArgument(f"{path}: too many levels of symbolic links")
        if target.startswith("/"):
            found = []
        waiting += target.split("/")[::-1]
    return "/" + "/".join(found)


def stdio_of(pid: int) -> list[str]:
    """Where stdin, stdout and stderr go, as descriptors.json names them: `pipe:[INODE]` or a path."""
    targets = []
    for fd in range(3):
        try:
            targets.append(posix.readlink(f"/proc/{pid}/fd/{fd}"))
        except FileNotFoundError:
            targets.append("")
    return targets
