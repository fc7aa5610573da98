"""The launch plan of a container that is not started: `corten run --explain`."""

from __future__ import annotations

import os
import tempfile

from corten.engine import oci
from corten.engine.effective import Effective
from corten.engine.oci import Surroundings
from corten.engine.parts import Parts
from corten.engine.start import CONFIG_NAME
from corten.engine.users import User
from corten.launch.facts import HostFacts
from corten.runtime import container, options
from corten.runtime.prepare import Host

_ID = "explain"


def describe(effective: Effective, parts: Parts, facts: HostFacts) -> list[str]:
    """One line per step, cgroup first; nothing is made but a directory for config.json, gone again.  Blocks."""
    with tempfile.TemporaryDirectory(dir=parts.settings.exec_root) as bundle:
        at = Surroundings(
            machine=parts.machine,
            rootfs=f"{bundle}/rootfs",
            cgroup=parts.cgroup_path(_ID),
            user=User(0, 0, (0,)),
            hostname_file="/dev/null",
            hosts_file="/dev/null",
            resolv_file="/dev/null",
            uts=None if effective.host.uts_mode == "host" else "",
            pid=None if effective.host.pid_mode == "host" else "",
            ipc=None if effective.host.ipc_mode == "host" else "",
            network=None if effective.network == "host" else "",
            init_binary=parts.init_binary,
        )
        with open(f"{bundle}/{CONFIG_NAME}", "wb") as file:
            file.write(oci.config_json(effective, at))
        root_fd = os.open(bundle, os.O_PATH | os.O_CLOEXEC)  # stands for the overlay, which is not made
        try:
            wanted = options.CreateOptions(
                _ID,
                bundle,
                bundle,
                rootfs_fd=root_fd,
                console_fd=root_fd if effective.config.tty else -1,
                parent="shim",
            )
            return container.plan(wanted, Host(facts)).describe().rstrip("\n").split("\n")
        finally:
            os.close(root_fd)
