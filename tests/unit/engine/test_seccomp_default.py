"""Our default seccomp profile against the field's own file, resolved for the same hosts."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from corten.engine.defaults import CAPABILITIES
from corten.engine.seccomp import Host, default_profile, parse_profile, resolve
from support import paths, peers

SHARED = paths.REPOSITORY.parent / "shared" / "data" / "seccomp-default.json"
PACKAGE = "golang-github-docker-docker-dev"


def reference() -> Path:
    """Docker's profile: beside the checkout, else in Debian's package."""
    if SHARED.exists():
        return SHARED
    folder = paths.cache("seccomp")
    found = next(folder.rglob("profiles/seccomp/default.json"), None)
    if found is None:
        peers.download_packages("trixie", [PACKAGE], folder / "deb")
        (package,) = (folder / "deb").glob("*.deb")
        subprocess.run(["dpkg-deb", "-x", package, folder / "root"], check=True)
        found = next(folder.rglob("profiles/seccomp/default.json"))
    return found


def allowed(resolved: dict[str, Any]) -> set[tuple[str, str, str]]:
    """(name, action, arguments) of every rule."""
    return {
        (name, rule["action"], repr(rule.get("args") or []) + repr(rule.get("errnoRet")))
        for rule in resolved["syscalls"]
        for name in rule["names"]
    }


@pytest.mark.parametrize("extra", [(), ("CAP_SYS_ADMIN",), ("CAP_SYS_PTRACE", "CAP_BPF", "CAP_SYSLOG")], ids=" ".join)
@pytest.mark.parametrize("kernel", [(4, 4), (6, 1)], ids=str)
def test_default_profile_allows_what_dockers_does(extra: tuple[str, ...], kernel: tuple[int, int]) -> None:
    host = Host("x86_64", kernel, frozenset(CAPABILITIES) | frozenset(extra))
    ours = resolve(default_profile(), host)
    theirs = resolve(parse_profile(reference().read_text()), host)
    if reference() == SHARED:
        assert allowed(ours) == allowed(theirs)
    else:  # Debian's file is older: calls of later kernels may be missing there
        assert allowed(theirs) - allowed(ours) == set()
    assert ours["defaultAction"] == theirs["defaultAction"]
