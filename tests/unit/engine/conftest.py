"""A machine, settings and requests for tests of what is pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from corten.core import dataroot
from corten.core.content import ContentStore
from corten.core.images import ImageStore
from corten.core.journal import Journal
from corten.core.metadata import Database
from corten.core.snapshots import Overlay
from corten.engine import defaults, effective, oci
from corten.engine.effective import Effective
from corten.engine.host import Host
from corten.engine.oci import Surroundings
from corten.engine.settings import Runtime, Settings
from corten.engine.users import User
from corten.spec.docker_parse import parse_create
from corten.spec.image import RunConfig

ID = "5ba0fd821058cb18385a92df3042871275754eb848fe6d0d15df2310419c0531"
Json = dict[str, Any]
Decide = Callable[..., Effective]


@pytest.fixture
def machine() -> Host:
    """Two CPUs, hybrid cgroups, every capability."""
    return Host(
        machine="x86_64",
        kernel=(6, 18),
        kernel_release="6.18.0",
        hostname="vm",
        cpu_count=2,
        cpus="0-1",
        mems="0",
        cgroup_mode="hybrid",
        v1_controllers=frozenset({"cpu", "memory", "pids"}),
        capabilities=frozenset(defaults.ALL_CAPABILITIES),
        memory_bytes=1 << 34,
    )


@pytest.fixture
def settings() -> Settings:
    """As without a daemon.json, and runc beside the built-in runtime."""
    return Settings(
        data_root="/data",
        exec_root="/exec",
        runtimes={"corten": Runtime("corten"), "runc": Runtime("runc", "/usr/sbin/runc")},
    )


@pytest.fixture
def decide(machine: Host, settings: Settings) -> Decide:
    """`decide(HostConfig={…}, User=…)`: the effective configuration of a request; `image` is a RunConfig."""

    def run(image: RunConfig | None = None, **body: Any) -> Effective:
        request = parse_create(msgspec.json.encode({"Image": "busybox", "Cmd": ["true"], **body}))
        return effective.decide(request, image or RunConfig(), settings, machine, container_id=ID)[0]

    return run


@pytest.fixture
def spec(decide: Decide, machine: Host) -> Callable[..., Json]:
    """The same as the object in config.json."""

    def run(image: RunConfig | None = None, surroundings: Json | None = None, **body: Any) -> Json:
        given: Json = {"user": User(0, 0, (0,)), "rootfs": "/rootfs", "cgroup": f"/corten/{ID}"} | (surroundings or {})
        at = Surroundings(machine=machine, **given)
        made: Json = msgspec.json.decode(oci.config_json(decide(image, **body), at))
        return made

    return run


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ImageStore]:
    """A store of images in a temporary folder."""
    root = dataroot.open_data_root(str(tmp_path / "data"))
    database = Database(root.join("corten.db"))
    overlay = Overlay(root.join("snapshots"), database, Journal(database))
    yield ImageStore(database, ContentStore(root.join("content")), overlay)
    database.close()
    root.close()
