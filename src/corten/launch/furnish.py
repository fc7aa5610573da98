"""The part of a plan between the container's mounts and its root: what an init of every kind has once all is mounted.

Devices, terminal and working directory; then hooks, which may still need what is hidden from the container; then names,
sysctls, the AppArmor profile and the protections.
"""

from __future__ import annotations

from corten.launch import enter
from corten.launch.checks import sysctl_path
from corten.launch.hooks import hook_ops
from corten.launch.ops import WriteFile
from corten.launch.tail import DEFAULT_UMASK, add_apparmor, needs_apparmor
from corten.launch.userops import SetDomainname, SetHostname, Umask

TYPE_CHECKING = False
if TYPE_CHECKING:
    from corten.launch.builder import Builder
    from corten.launch.context import InitContext
    from corten.launch.filesystem import Filesystem
    from corten.spec.process import Process
    from corten.spec.runtime import Config


def writes_proc(config: Config, process: Process) -> bool:
    """The plan writes to files of the container's procfs."""
    return bool(config.linux.sysctl or process.apparmor_profile or process.oom_score_adj is not None)


def finish_root(fs: Filesystem, process: Process) -> None:
    """Devices, terminal and working directory, when everything is mounted."""
    fs.fill_dev()
    if process.terminal:
        fs.open_terminal(process)
    else:
        fs.reopen_null()
    fs.make_cwd(process)


def wait_for_hooks(b: Builder, context: InitContext) -> None:
    """The host's hooks, then those that run in the container's namespaces; the working directory is the root."""
    b.wait("hooks")
    hooks = hook_ops(b.config, context, "createContainer", b.config.hooks.create_container)
    if hooks:
        b.add(Umask(DEFAULT_UMASK), *hooks, Umask(0))


def furnish(b: Builder, fs: Filesystem, process: Process, *, launcher: bool = False) -> None:
    """Names, sysctls, the AppArmor profile, protections: after the hooks, which may still need what is protected."""
    config = b.config
    if config.hostname:
        b.add(SetHostname(config.hostname))
    if config.domainname:
        b.add(SetDomainname(config.domainname))
    for name, value in config.linux.sysctl.items():
        b.add(WriteFile(fs.private_proc(), sysctl_path(name), value.encode("utf-8", "surrogateescape")))
    if needs_apparmor(b, process):
        # who writes is in the procfs of its own pid namespace alone
        add_apparmor(b, process, enter.HOST_PROC if launcher else fs.private_proc())
    fs.protect()
