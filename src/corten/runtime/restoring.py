"""The acting half of `restore`: CRIU makes the processes of a container from images, in a cgroup that is ours.

    state directory → state.json → cgroup → CRIU, in the cgroup → its notes → config.json, pid

What of this is left when somebody is killed is removed by `delete --force`, which kills whoever is in the cgroup, CRIU
included.  CRIU by itself kills what it has restored so far when its client is gone.

note of CRIU         what is done while it waits
setup-namespaces     the loopback device, resource control, prestart and createRuntime hooks
orphan-pts-master    the master of the container's terminal goes to the console
post-restore         every process is there and stands still: the record gets its pid, the limit of processes is set
"""

from __future__ import annotations

import os
import posix
import subprocess

from corten import errors
from corten.errors import FailedPrecondition, Internal
from corten.launch.filesystem import DEFAULT_DEVICES
from corten.runtime import criu, fast, managers
from corten.runtime.launching import Creation, open_child, write_pid_file
from corten.runtime.parentsteps import furnish
from corten.runtime.restoreplace import Place
from corten.runtime.state import CONFIG_FILE, process_start
from corten.spec.resources import Resources
from corten.sys import cgroup, files, namespace, netns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from corten.runtime.options import CreateOptions
    from corten.runtime.prepare import Host
    from corten.spec.runtime import Config

ROOT = "criu-root"
SIGKILL = 9
UNLIMITED = -1
JOINED = {"ipc": "ipc", "uts": "uts", "user": "user", "time": "time"}
INHERITED = {"network": "extRootNetNS", "pid": "extRootPidNS"}
PTS_MASTER = "orphan-pts-master"


class Images:
    """What to restore from: directories of images and of CRIU's log, CRIU's options, and its program."""

    __slots__ = ("log", "path", "program", "request", "work")

    def __init__(self, path: str, work: str, log: str, request: criu.Request, program: str) -> None:
        self.path = path
        self.work = work
        self.log = log
        self.request = request
        self.program = program


class Restoration(Creation):
    """One container in the making, out of images; `pid` and `pidfd` are its init's afterwards, a child of ours."""

    __slots__ = ("has_terminal", "images", "limits_later", "pid", "pidfd")

    def __init__(self, options: CreateOptions, host: Host, images: Images) -> None:
        super().__init__(options, host)
        check(self.prepared.config, self.prepared.paths.mode)
        self.images = images
        self.pid = 0
        self.pidfd = -1
        self.has_terminal = False
        self.limits_later = False

    def restore(self) -> None:
        """Every step; a failure leaves nothing behind."""
        self.claim()
        try:
            self.record()
            self._postpone_limit()
            managers.of(self.state).make(self.prepared)
            self._carry_out()
            if self.options.pid_file:
                write_pid_file(self.options.pid_file, self.pid)
        except BaseException:
            self.undo()
            raise
        self.settle()

    def _abandon(self) -> list[str]:
        if self.pidfd >= 0:
            try:
                fast.pidfd_send_signal(self.pidfd, SIGKILL)
                posix.waitid(posix.P_PIDFD, self.pidfd, posix.WEXITED)
            except (ChildProcessError, ProcessLookupError):
                pass  # somebody else has collected it
            finally:
                posix.close(self.pidfd)
                self.pidfd = -1
        return super()._abandon()

    def _postpone_limit(self) -> None:
        """CRIU and what it starts are in the cgroup until all is restored: the limit of processes comes then."""
        settings = [one for one in self.prepared.settings if one.controller != "pids"]
        self.limits_later = len(settings) < len(self.prepared.settings)
        self.prepared.settings, self.prepared.pids_limit = settings, UNLIMITED

    def _carry_out(self) -> None:
        """Has CRIU do it; raises FailedPrecondition with the place of its log."""
        images = self.images
        fds = join(images.request, self.prepared.config)
        try:
            self._with_criu(fds)
        except criu.Failed as error:
            raise FailedPrecondition(f"{error}\nlog file: {images.work}/{images.log}") from error
        finally:
            for fd in fds:
                posix.close(fd)

    def _with_criu(self, fds: list[int]) -> None:
        """CRIU in its place and in the container's cgroup; it inherits `fds`, and our stdio without a terminal."""
        root = self.state.path(ROOT)
        posix.mkdir(root, 0o755)
        place = Place(self.prepared.config.mounts, self.state.rootfs, root)
        own = self.state.terminal
        stdio = (subprocess.DEVNULL,) * 3 if own else self.options.stdio
        try:
            try:
                talk = criu.Conversation(self.images.program, stdio=stdio, fds=fds, before_exec=place.enter)
            except subprocess.SubprocessError as error:
                place.points()
                raise Internal(f"start criu: {error}") from error
            with talk:
                self._join_cgroup(talk.pid)
                describe(self.images.request, self.prepared.config, root, place.points())
                self._ask(talk)
        finally:
            place.close()
        if self.pidfd < 0:
            raise Internal("criu restored no process")
        posix.rmdir(root)
        self._limit(0)

    def _ask(self, talk: criu.Conversation) -> None:
        """The request.  Its directories are those that CRIU sees: it mounts in them, and may in its namespace alone."""
        images, fds = self.images, []
        try:
            for name, path in (("images_dir_fd", images.path), ("work_dir_fd", images.work)):
                place = f"/proc/{talk.pid}/root{os.path.realpath(path)}"  # a link would lead back to our namespace
                fds.append(posix.open(place, posix.O_RDONLY | posix.O_DIRECTORY | posix.O_CLOEXEC))
                images.request.number(name, fds[-1])
            talk.ask(criu.RESTORE, images.request, self._note)
        finally:
            for fd in fds:
                posix.close(fd)

    def _join_cgroup(self, pid: int) -> None:
        """Puts CRIU into the container's cgroup, which is where its processes will be, wherever they were."""
        manager, request = managers.of(self.state), self.images.request
        if manager.starts_unit:
            manager.start_unit(self, pid)
        for directory in self.state.cgroup.directories() if not manager.starts_unit else ():
            cgroup.write(directory, cgroup.PROCS, str(pid))
        if not self.state.cgroup.directories():
            request.number("manage_cgroups_mode", criu.CGROUP_MODES["ignore"])  # of the two the last one counts
        for line in files.read_text(f"/proc/{pid}/cgroup").splitlines():
            _, controllers, path = line.split(":", 2)
            request.pair("cg_root", controllers, path)

    def _note(self, script: str, pid: int, fd: int) -> None:
        """What CRIU waits for; see the table in the module's text."""
        try:
            if script == "setup-namespaces":
                self.state.pid = pid  # for the hooks; on disk it is not before it is all there
                raise_loopback(self.prepared.config, pid)
                furnish(self, pid)
            elif script == PTS_MASTER and fd >= 0:
                self._hand_over(fd)
            elif script == "post-restore":
                self._adopt(pid)
        finally:
            if fd >= 0:
                posix.close(fd)

    def _hand_over(self, master: int) -> None:
        """The terminal's other side to whoever waits for it."""
        if self.options.console_fd < 0:
            raise FailedPrecondition("the images have a terminal, and process.terminal of the bundle is false")
        fast.send_fd(self.options.console_fd, PTS_MASTER.encode(), master)
        self.has_terminal = True

    def _adopt(self, pid: int) -> None:
        """The record of an init that is there."""
        self.pidfd = open_child(pid)
        if self.pidfd < 0:
            raise Internal(f"criu restored process {pid}, which is no child of ours")
        self.pid = self.state.pid = pid
        self.state.start_time = process_start(pid)[0]
        files.replace(self.state.path(CONFIG_FILE), with_clocks(self.prepared.config_bytes, pid))
        self.state.save()
        self._limit(1)  # CRIU is still in the cgroup
        process = self.prepared.config.process
        if process is not None and process.no_new_privileges and not keeps_privileges(pid):
            self.options.warn("this CRIU does not restore no_new_privs: the processes may gain privileges by execve")

    def _limit(self, others: int) -> None:
        """The limit of processes, with so many more that are not the container's."""
        if self.limits_later:
            limit = Resources(pids_limit=self.state.pids_limit + others)
            managers.of(self.state).update(self.state, limit)


def keeps_privileges(pid: int) -> bool:
    """Whether no_new_privs is set (proc_pid_status(5), "NoNewPrivs")."""
    return "\nNoNewPrivs:\t1\n" in files.read_text(f"/proc/{pid}/status")


def check(config: Config, mode: str) -> None:
    """Raises for what CRIU 3.17 cannot give back as it was."""
    for entry in config.mounts:
        if "idmap" in entry.options or "ridmap" in entry.options or entry.uid_mappings:
            raise errors.NotImplemented(
                f"restore of the id-mapped mount at {entry.destination}: CRIU knows no such mounts"
            )
    if config.linux.net_devices:
        raise errors.NotImplemented("restore of a container with network devices: nobody could take them back")
    mounts = config.linux.namespace("mount")
    if mounts is not None and mounts.path:
        raise errors.NotImplemented(f"restore into the mount namespace {mounts.path}: CRIU makes its own")
    own = config.linux.namespace("cgroup")
    if own is not None and own.path:
        raise FailedPrecondition("Do not know how to handle namespace NEWCGROUP")
    if own is None and mode != "v2" and any(entry.type == "cgroup" for entry in config.mounts):
        raise errors.NotImplemented(
            "restore of a container that sees the host's v1 cgroups, without a namespace of its own"
        )


def join(request: criu.Request, config: Config) -> list[int]:
    """Namespaces that the configuration names by path; the descriptors that CRIU is to inherit, the caller's."""
    fds: list[int] = []
    for entry in config.linux.namespaces:
        if not entry.path:
            continue
        if entry.type in INHERITED:
            fds.append(posix.open(entry.path, posix.O_RDONLY | posix.O_CLOEXEC))
            request.inherited(INHERITED[entry.type], fds[-1])
        else:
            request.pair("join_ns", JOINED[entry.type], entry.path)
    return fds


def describe(request: criu.Request, config: Config, root: str, points: list[list[str]]) -> None:
    """The root, and what stands for the mounts that are not the container's own."""
    request.text("root", root)
    for destination, source in points:
        request.pair("ext_mnt", destination, source)
    for device in (*DEFAULT_DEVICES, *config.linux.devices):
        request.pair("ext_mnt", files.absolute(device.path), device.path)
    if config.linux.masked_paths:
        request.pair("ext_mnt", "/dev/null", "/dev/null")


def raise_loopback(config: Config, pid: int) -> None:
    """A new network namespace has `lo` up, as after a start: CRIU leaves an empty one as the kernel makes it."""
    own = config.linux.namespace("network")
    if own is None or own.path:
        return
    fd = posix.open(f"/proc/{pid}/ns/net", posix.O_RDONLY | posix.O_CLOEXEC)
    try:
        netns.inside(fd, namespace.raise_loopback)
    finally:
        posix.close(fd)


def with_clocks(config: bytes, pid: int) -> bytes:
    """The configuration for `exec`: CRIU gives a container a time namespace, which it need not have had."""
    if posix.stat(f"/proc/{pid}/ns/time").st_ino == posix.stat("/proc/self/ns/time").st_ino:
        return config
    return with_time(config)


def with_time(config: bytes) -> bytes:
    """The configuration with a time namespace."""
    obj = fast.loads(config)
    linux = obj["linux"] = obj.get("linux") or {}  # null is none
    namespaces = linux["namespaces"] = linux.get("namespaces") or []
    if any(entry["type"] == "time" for entry in namespaces):
        return config
    namespaces.append({"type": "time"})
    return fast.dump_bytes(obj)
