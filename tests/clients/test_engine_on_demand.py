"""`corten` without an engine on the default socket starts one, and says so.

/run, /var/lib and /var/log are empty file systems of the test's own mount namespace: nothing of the machine is touched.
"""

from __future__ import annotations

import subprocess

from support import paths
from support.netns import NetNs

PRIVATE = "for place in /run /var/lib /var/log; do mount -t tmpfs tmpfs $place; done; cd /"


def test_default_socket_without_an_engine_gets_one() -> None:
    corten, cortend = paths.COMMANDS / "corten", paths.COMMANDS / "cortend"
    script = f"{PRIVATE}; {corten} ps; {corten} version -f '{{{{.Server.Version}}}}'; {cortend} --destroy"
    with NetNs() as netns:
        done = subprocess.run(
            [*netns.enter, "unshare", "--mount", "--propagation", "private", "sh", "-c", script],
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
            stdin=subprocess.DEVNULL,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        )
    assert done.returncode == 0, done.stderr
    said = (
        f"corten: no engine answers at unix:///run/corten/corten.sock: starting {cortend} (log: /var/log/cortend.log)"
    )
    assert done.stderr.splitlines()[0] == said
    assert done.stderr.count("no engine answers") == 1
    assert done.stdout.splitlines()[0].startswith("CONTAINER ID")
    assert done.stdout.splitlines()[1] == "0.1.0"
