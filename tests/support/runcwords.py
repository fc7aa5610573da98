"""The command line of runc 1.1 to 1.4: its flags by verb, and the release that brought each.

Sources: `runc VERB --help` of 1.1 (compared with this table by system/test_runtime_words.py), man/*.8.md and
CHANGELOG.md of 1.2 to 1.4.  A short form is written behind a comma, "=" marks a flag that takes a value.
"""

from __future__ import annotations

_BUNDLE = "bundle,b="
_SPAWN = f"{_BUNDLE} console-socket= pid-file= no-pivot no-new-keyring preserve-fds="
_CRIU = "image-path= work-path= tcp-established ext-unix-sk shell-job lazy-pages file-locks manage-cgroups-mode="
_CRIU += " empty-ns= auto-dedup"
_LIMITS = "blkio-weight= cpu-period= cpu-quota= cpu-share= cpu-rt-period= cpu-rt-runtime= cpuset-cpus= cpuset-mems="
_LIMITS += " memory= memory-reservation= memory-swap= pids-limit= l3-cache-schema= mem-bw-schema="

# verb, '' for the program itself: flags of 1.1
FIRST: dict[str, str] = {
    "": "debug log= log-format= root= criu= systemd-cgroup rootless= help,h version,v",
    "checkpoint": f"{_CRIU} parent-path= leave-running status-fd= page-server= pre-dump",
    "create": _SPAWN,
    "delete": "force,f",
    "events": "interval= stats",
    "exec": "console-socket= cwd= env,e= tty,t user,u= additional-gids,g= process,p= detach,d pid-file= process-label="
    " apparmor= no-new-privs cap,c= preserve-fds= cgroup= ignore-paused",
    "features": "",
    "kill": "all,a",
    "list": "format,f= quiet,q",
    "pause": "",
    "ps": "format,f=",
    "restore": f"{_CRIU} {_BUNDLE} console-socket= detach,d pid-file= no-subreaper no-pivot lsm-profile="
    " lsm-mount-context=",
    "resume": "",
    "run": f"{_SPAWN} detach,d keep no-subreaper",
    "spec": f"{_BUNDLE} rootless",
    "start": "",
    "state": "",
    "update": f"resources,r= {_LIMITS}",
}
# not in any help of 1.1, and taken all the same
HIDDEN: dict[str, str] = {
    "exec": "no-subreaper",
    "update": "kernel-memory= kernel-memory-tcp=",
}
# 1.2: pidfds, CFS bursts, SCHED_IDLE; 1.3 and 1.4 brought none but those of checkpoint and restore
LATER: dict[str, str] = {
    "create": "pidfd-socket=",
    "run": "pidfd-socket=",
    "exec": "pidfd-socket=",
    "update": "cpu-burst= cpu-idle=",
    "checkpoint": "link-remap",
    "restore": "link-remap",
}


def flags(text: str) -> dict[str, tuple[str, bool]]:
    """Long name: (short name, whether it takes a value)."""
    found = {}
    for word in text.split():
        long, _, short = word.rstrip("=").partition(",")
        found[long] = (short, word.endswith("="))
    return found
