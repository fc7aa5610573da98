"""What killed test runs left behind: told by the pid in its name, removed by the next run."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from support import netns, paths, process

_NAME = re.compile(rf"{paths.PREFIX}(\d+)-\S+")
_PLACES = (Path("/tmp"), netns.RUN, *process.CGROUPS.glob("*"))


def remove() -> list[str]:
    """Ends processes, unmounts, removes cgroups, namespaces and folders of dead runs; their names."""
    names = sorted(
        {path.name for place in _PLACES for path in place.glob(f"{paths.PREFIX}*") if is_abandoned(path.name)}
    )
    for name in names:
        process.kill_all(name)
        process.kill(process.holders(name))
        for mark in (name, *process.engines_below(Path("/tmp", name))):
            process.remove_cgroups(mark)
        process.unmount_below(Path("/tmp", name))
        # what another checkout's run sweeps at the same time, and ends as it would an abandoned process, is no failure
        if (netns.RUN / name).exists():
            subprocess.run(["ip", "netns", "delete", name], check=False)
        subprocess.run(["rm", "-rf", "--one-file-system", Path("/tmp", name)], check=False)  # any depth
    return names


def is_abandoned(name: str) -> bool:
    """Whether the run that made a thing of this name is no more."""
    match = _NAME.fullmatch(name)
    return match is not None and not Path("/proc", match.group(1)).exists()
