"""AppArmor profiles, enforced: what runc does, and what dockerd's own profile forbids."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from support import images
from support.guestbundle import Lab
from support.guestdocker import Docker

CURRENT = "cat /proc/self/attr/current"
PROFILE = """\
profile corten-test-{name} flags=(attach_disconnected, mediate_deleted) {{
  file,
  capability,
  signal,
  deny /tmp/{shut} w,
}}
"""
WRITE = f"{CURRENT}; for name in a b; do echo x > /tmp/$name && echo wrote $name; done 2>&1; true"
DENIED = "sh: can't create /tmp/{name}: Permission denied\n"


@pytest.fixture(scope="module", autouse=True)
def profiles() -> Iterator[None]:
    """Two profiles in the kernel: one denies writing /tmp/a, the other /tmp/b."""
    text = "".join(PROFILE.format(name=name, shut=name) for name in "ab").encode()
    subprocess.run(["apparmor_parser", "--replace", "--skip-cache"], input=text, check=True)
    yield
    subprocess.run(["apparmor_parser", "--remove"], input=text, check=True)


def test_a_profile_confines_the_process(either: Lab) -> None:
    config = either.configure("sh", "-c", WRITE)
    config["process"]["apparmorProfile"] = "corten-test-a"
    either.write(config)
    assert either.run("run", "c") == f"corten-test-a (enforce)\n{DENIED.format(name='a')}wrote b\n"


def test_without_a_profile_nothing_is_denied(either: Lab) -> None:
    either.configure("sh", "-c", WRITE)
    assert either.run("run", "c") == "unconfined\nwrote a\nwrote b\n"


def test_an_exec_has_the_containers_profile_or_its_own(either: Lab) -> None:
    config = either.configure("sleep", "1000")
    config["process"]["apparmorProfile"] = "corten-test-a"
    either.write(config)
    either.detached("run", "-d", "c")
    inherited = f"corten-test-a (enforce)\n{DENIED.format(name='a')}wrote b\n"
    assert either.run("exec", "c", "sh", "-c", WRITE) == inherited
    shown = either.run("exec", "--apparmor", "corten-test-b", "c", "sh", "-c", WRITE)
    assert shown == f"corten-test-b (enforce)\nwrote a\n{DENIED.format(name='b')}"


def test_a_profile_that_is_not_loaded_fails_the_start(either: Lab) -> None:
    config = either.configure("true")
    config["process"]["apparmorProfile"] = "corten-test-none"
    either.write(config)
    assert "apparmor" in either.run("run", "c", status=1).lower()
    assert either.run("list", "--quiet") == ""


# dockerd

# without what else stands before /proc and mount(2)
BARE = ("--cap-add", "SYS_ADMIN", "--security-opt", "systempaths=unconfined", "--security-opt", "seccomp=unconfined")
# sysrq "h" prints the help of sysrq into the kernel's log
FORBIDDEN = (
    f"{CURRENT}; echo h > /proc/sysrq-trigger && echo triggered; mount -t tmpfs tmpfs /tmp && echo mounted; true"
)


def test_dockers_profile_is_enforced(docker: Docker) -> None:
    check_dockers_profile(docker, "corten")


@pytest.mark.slow
def test_dockers_profile_is_enforced_by_runc_too(docker: Docker) -> None:
    check_dockers_profile(docker, "peer")


def check_dockers_profile(docker: Docker, runtime: str) -> None:
    image = (images.BUSYBOX_REF, "sh", "-c", FORBIDDEN)
    shown = docker.run(*BARE, "--runtime", runtime, *image)
    assert shown.startswith("docker-default (enforce)\n")
    assert "can't create /proc/sysrq-trigger: Permission denied" in shown
    assert "triggered" not in shown
    assert "mounted" not in shown
    free = docker.run(*BARE, "--runtime", runtime, "--security-opt", "apparmor=unconfined", *image)
    assert free == "unconfined\ntriggered\nmounted\n"


@pytest.mark.slow
def test_an_exec_of_docker_is_confined_too(docker: Docker) -> None:
    options = ("--network", "none", "--runtime", "corten", "--name", "confined")
    docker.docker("run", "-d", *options, images.BUSYBOX_REF, "sleep", "1000", check=True, timeout=180)
    try:
        assert docker.docker("exec", "confined", *CURRENT.split(), check=True).stdout == "docker-default (enforce)\n"
    finally:
        docker.docker("rm", "-f", "confined", check=True)
