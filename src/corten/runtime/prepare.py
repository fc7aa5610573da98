"""Decides everything about a new container before anything of it exists: bundle, host and node defaults in, out comes
the launch plan, the cgroup's place and settings, and the origin of what the bundle did not say."""

from __future__ import annotations

import posix

from corten.errors import InvalidArgument, NotFound
from corten.launch.compile import compile_init
from corten.launch.context import InitContext
from corten.runtime import cgroup_settings, cgroups, fast, hostfacts, managers, settings
from corten.spec.resources import Resources
from corten.spec.runtime import parse_config
from corten.sys import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from corten.launch.facts import HostFacts
    from corten.launch.ops import Plan
    from corten.launch.spawn import Launcher
    from corten.runtime.cgroup_settings import Setting
    from corten.runtime.effective import Origins
    from corten.runtime.launching import Parent
    from corten.runtime.options import CreateOptions
    from corten.spec.process import Process
    from corten.spec.runtime import Config

SPEC = "config.json"
UNLIMITED = -1
NO_CONSOLE = "cannot use console socket if corten-runtime will not detach or allocate tty"
NO_RELATIVE_MOUNTS = "Support for non-absolute mount destinations will be removed in a future release."


class Prepared:
    """Everything decided, nothing done; `device_program` is the v2 form of the device rules, b'' on v1."""

    __slots__ = (
        "config",
        "config_bytes",
        "device_program",
        "origins",
        "paths",
        "pids_limit",
        "pids_limit_origin",
        "plan",
        "rootfs",
        "settings",
    )

    def __init__(
        self,
        config: Config,
        config_bytes: bytes,
        rootfs: str,
        paths: cgroups.CgroupPaths,
        settings: list[Setting],
        device_program: bytes,
        pids_limit: tuple[int, str],
        origins: Origins,
        plan: Plan,
    ) -> None:
        self.config = config
        self.config_bytes = config_bytes
        self.rootfs = rootfs
        self.paths = paths
        self.settings = settings
        self.device_program = device_program
        self.pids_limit, self.pids_limit_origin = pids_limit
        self.origins = origins
        self.plan = plan

    def describe(self) -> str:
        """Cgroup directories, their settings and the launch plan, a line each, for `corten-runtime plan`."""
        limit = "none" if self.pids_limit == UNLIMITED else str(self.pids_limit)
        lines = [f"pids limit {limit} ({self.pids_limit_origin})"]
        if self.origins:
            from corten.runtime import effective

            lines += effective.describe(self.origins)
        lines += [f"cgroup mkdir {directory}" for directory in self.paths.directories()]
        lines += [f"cgroup write {setting.describe()}" for setting in self.settings]
        if self.device_program:
            lines.append(f"cgroup attach device program of {len(self.device_program) // 8} instructions")
        return "\n".join(lines) + "\n" + self.plan.describe()


class Host:
    """What is gathered once per process and used for every container.

    facts           of the host
    launcher        the program in its sealed memfd
    seccomp_cache   directory of compiled profiles, made with mode 0700 when it is needed
    parent          whose children the launched processes become
    """

    __slots__ = ("_launcher", "_parent", "facts", "seccomp_cache")

    def __init__(
        self,
        facts: HostFacts | None = None,
        seccomp_cache: str = "",
        *,
        launcher: Launcher | None = None,
        parent: Parent | None = None,
    ) -> None:
        self.facts = facts or hostfacts.gather()
        self.seccomp_cache = seccomp_cache or settings.seccomp_cache()
        self._launcher = launcher
        self._parent = parent

    @property
    def launcher(self) -> Launcher:
        """The launcher in its sealed memfd, made at first use."""
        if self._launcher is None:
            from corten.launch.spawn import Launcher

            self._launcher = Launcher()
        return self._launcher

    @property
    def parent(self) -> Parent:
        """This process, unless said otherwise."""
        if self._parent is None:
            from corten.runtime.launching import OWN_CHILDREN

            self._parent = OWN_CHILDREN
        return self._parent


def prepare(options: CreateOptions, host: Host) -> Prepared:
    """Reads the bundle and compiles it; raises NotFound and InvalidArgument in runc's words."""
    config_bytes = read_config(options.bundle)
    config = parse_config(fast.loads_from(SPEC, config_bytes))
    process = check_process(config.process)
    origins = complete(config, process, options)
    rootfs = "" if options.rootfs_fd >= 0 else find_rootfs(config, options.bundle)
    check_console(process, options.console_fd)
    for mount in config.mounts:
        if mount.destination[:1] != "/":
            options.warn(f"mount destination {mount.destination} is not absolute. {NO_RELATIVE_MOUNTS}")
    for text in cgroup_settings.warnings(config.linux.resources, host.facts.cgroup_mode):
        options.warn(text)
    warn_of_capabilities(config, process, host.facts, options.warn)
    limit = effective_pids_limit(config.linux.resources, options)
    manager = managers.named(options.manager)
    paths = manager.paths(host.facts, config.linux.cgroups_path, options.id)
    managed = options.manager != managers.DISABLED
    writes = cgroup_writes(paths, config.linux.resources, limit[0]) if managed else []
    limit, writes = manager.admit(paths, limit, writes)
    devices = device_program(paths, config.linux.resources) if managed else b""
    context = init_context(options, config, host, paths, rootfs)
    context.wait_for_unit = manager.starts_unit
    context.wait_for_limit = manager.starts_unit and limit[0] == 1  # which the launcher would take
    # without a cgroup the record's pid is all that tells of the init: it goes on when that is written
    context.wait_for_record = not paths.directories()
    plan = compile_init(config, host.facts, context)
    return Prepared(config, config_bytes, rootfs, paths, writes, devices, limit, origins, plan)


def complete(config: Config, process: Process, options: CreateOptions) -> Origins:
    """Adds what the bundle does not say: the node's words, and what the caller hands to the process."""
    origins: Origins = {}
    if options.node is not None:
        from corten.runtime import effective

        origins = effective.apply(config, options.node)
    process.env += options.extra_env
    if options.notify is not None:
        options.notify.add(config, process, f"{options.root}/{options.id}")
    return origins


def read_config(bundle: str) -> bytes:
    """The bytes of the bundle's config.json; raises NotFound in runc's words."""
    try:
        return files.read(f"{bundle}/config.json")
    except FileNotFoundError:
        if not files.is_directory(bundle):
            raise NotFound(f"chdir {bundle}: no such file or directory") from None
        raise NotFound("JSON specification file config.json not found") from None
    except NotADirectoryError:
        raise NotFound(f"chdir {bundle}: not a directory") from None


def check_process(process: Process | None) -> Process:
    """The process of a bundle; raises InvalidArgument when there is nothing to execute."""
    if process is None:
        raise InvalidArgument("process property must not be empty")
    if not process.args:
        raise InvalidArgument("args must not be empty")
    return process


def check_console(process: Process, console_fd: int) -> None:
    """A terminal needs somebody to take its master, and a socket for it needs a terminal."""
    if process.terminal and console_fd < 0:
        raise InvalidArgument("cannot allocate tty if corten-runtime will detach without setting console socket")
    if console_fd >= 0 and not process.terminal:
        raise InvalidArgument(NO_CONSOLE)


def warn_of_capabilities(config: Config, process: Process, facts: HostFacts, warn: Callable[[str], None]) -> None:
    """Tells which capabilities are left out, in runc's words: names that nobody knows, and what this host cannot give.

    A user namespace of the container's comes with every capability that the kernel has.
    """
    caps = process.capabilities
    if caps is None:
        return
    known = (1 << facts.cap_last + 1) - 1
    possible = known if config.linux.namespace("user") else known & facts.cap_bounding
    wanted = caps.bounding | caps.effective | caps.permitted | caps.inheritable | caps.ambient
    missing = wanted & ~possible
    if not (caps.unknown or missing):
        return
    from corten.spec.process import CAPABILITIES

    names = sorted((*caps.unknown, *(name for bit, name in enumerate(CAPABILITIES) if missing >> bit & 1)))
    warn(f"ignoring unknown or unavailable capabilities: [{' '.join(names)}]")


def find_rootfs(config: Config, bundle: str) -> str:
    """The absolute path of the root filesystem, without links; raises NotFound when there is no such directory."""
    if config.root is None:
        raise InvalidArgument("root: property must not be empty")
    path = config.root.path if config.root.path.startswith("/") else f"{bundle}/{config.root.path}"
    path = files.absolute(path)
    try:
        posix.stat(f"{path}/")
    except OSError as error:
        raise NotFound(f"invalid rootfs: stat {path}: {files.why(error)}") from error
    return path


def effective_pids_limit(resources: Resources, options: CreateOptions) -> tuple[int, str]:
    """(limit, origin): the bundle's, where it has one (-1 is one: no limit), else the node's default."""
    if resources.pids_limit:
        return max(resources.pids_limit, UNLIMITED), SPEC
    return options.default_pids_limit, options.default_pids_limit_origin


def cgroup_writes(paths: cgroups.CgroupPaths, resources: Resources, pids_limit: int) -> list[Setting]:
    """Every file of a new cgroup that is not left as the kernel made it."""
    effective = resources.replaced(pids_limit=pids_limit)
    if paths.mode != "v2" and effective.unified:
        raise InvalidArgument(cgroup_settings.NO_UNIFIED)
    try:
        return _writes(paths, effective)
    except InvalidArgument as error:
        raise InvalidArgument(f"{managers.SET}: {error}") from error


def _writes(paths: cgroups.CgroupPaths, effective: Resources) -> list[Setting]:
    if paths.mode == "v2":
        return cgroup_settings.version_2(effective)
    policy = cgroup_settings.device_policy(effective.devices)
    return [*cgroup_settings.version_1(effective), *cgroup_settings.devices_1(policy)]


def device_program(paths: cgroups.CgroupPaths, resources: Resources) -> bytes:
    """The program that stands for devices.allow on v2, b'' elsewhere."""
    if paths.mode != "v2":
        return b""
    from corten.sys.devicebpf import compile_rules

    policy = cgroup_settings.device_policy(resources.devices)
    return compile_rules(policy.exceptions, allows_by_default=policy.allows_by_default)


def init_context(
    options: CreateOptions, config: Config, host: Host, paths: cgroups.CgroupPaths, rootfs: str
) -> InitContext:
    """How the launcher is to start this container's init."""
    program, flags, calls = seccomp_program(config, host.seccomp_cache)
    return InitContext(
        options.id,
        options.bundle,
        cgroup_paths=paths.v1,
        cgroup_v2_dir=paths.v2,
        rootfs=rootfs,
        rootfs_fd=options.rootfs_fd >= 0,
        # until it starts, network devices can be taken back: `run` has that moment, too
        wait_for_start=options.wait_for_start or bool(config.linux.net_devices),
        wait_for_idmaps=bool(host.facts.euid) and needs_helpers(config, host.facts),
        cgroup_views=cgroup_views(options, host, paths),
        wait_for_hooks=waits_for_us(config),
        parent=options.parent,
        console=options.console_fd >= 0,
        preserve_fds=options.preserve_fds,
        no_pivot=options.no_pivot,
        new_keyring=not options.no_new_keyring,
        host_namespaces=host_namespaces(config),
        seccomp=program,
        seccomp_flags=flags,
        seccomp_calls=calls,
    )


def host_namespaces(config: Config) -> tuple[str, ...]:
    """What it joins that is this process's own; a configuration that joins nothing costs nothing."""
    if not any(entry.path for entry in config.linux.namespaces):
        return ()
    from corten.runtime import joining

    return joining.host_namespaces(config)


def waits_for_us(config: Config) -> bool:
    """There is something to be done outside while the init waits (`corten.runtime.parentsteps`)."""
    hooks, linux = config.hooks, config.linux
    return bool(hooks.prestart or hooks.create_runtime or linux.net_devices or linux.intel_rdt is not None)


def needs_helpers(config: Config, facts: HostFacts) -> bool:
    """An ordinary user's container maps more ids than his own."""
    from corten.launch.rootless import maps_by_himself

    return not maps_by_himself(config, facts.euid, facts.egid)


def cgroup_views(options: CreateOptions, host: Host, paths: cgroups.CgroupPaths) -> dict[str, str]:
    """What a container sees in place of cgroups that it could not get."""
    if options.manager != managers.ROOTLESS:
        return {}
    from corten.runtime.rootless import views

    return views(host.facts, paths)


def seccomp_program(config: Config, cache_directory: str) -> tuple[bytes, int, int]:
    """The BPF of the bundle's profile, its flags, and what it allows the launcher; (b'', 0, 0) when it has none."""
    if config.linux.seccomp is None:
        return b"", 0, 0
    from corten.launch import seccomp

    return seccomp.program(config.linux.seccomp, cache_directory)
