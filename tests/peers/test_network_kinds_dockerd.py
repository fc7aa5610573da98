"""Networks without a bridge, internal ones and configuration-only ones, beside dockerd 26.1."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from support import images
from support.networld import World

LAN = "network create -d macvlan -o parent=world --subnet 192.0.2.0/24 --ip-range 192.0.2.64/26 --gateway 192.0.2.9"
CONF = "network create --config-only --subnet 10.8.0.0/24 --label a=b -o com.docker.network.bridge.enable_icc=false"
LOOK = """--format '{{range .NetworkSettings.Networks}}{{.IPAddress}} {{.Gateway}}|{{.MacAddress}}{{end}}'"""
SHAPE = (
    "--format '{{.Driver}} {{.Scope}} {{.ConfigOnly}} {{.ConfigFrom.Network}} {{.Internal}} {{.Options}} {{.Labels}}'"
)
SCRIPT = f"""
{LAN} lan
network create -d macvlan -o parent=world --subnet 10.7.0.0/24 lan2
network create -d macvlan -o parent=lo lan2
network create -d macvlan -o parent=nope lan2
network create -d macvlan -o parent=nope.5 lan2
network create -d macvlan -o parent=world.x lan2
network create -d macvlan -o parent=world.5.6 lan2
network create -d macvlan -o parent=world.5000 lan2
network create -d macvlan -o macvlan_mode=foo lan2
network create -d ipvlan -o ipvlan_mode=foo lan2
network create -d ipvlan -o ipvlan_flag=foo lan2
network create -d ipvlan -o parent=lo lan2
network create -d overlay ov
network create -d nope ov
network create -d host ov
network create -d null ov
network create --scope swarm ov
network create --ingress ov
network create --attachable att
network rm att
{CONF} conf
network create --config-only --internal conf2
network create --config-only --scope local conf2
network create --config-only --attachable conf2
network create --config-from conf --subnet 10.9.0.0/24 made
network create --config-from conf -o a=b made
network create --config-from conf --label a=b made
network create --config-from nope made
network create --config-from conf --config-only made
network create --config-from conf made
network rm conf
network inspect conf made lan {SHAPE}
run -d --name c1 --network lan -p 80:80 IMAGE sleep 600
inspect c1 {LOOK}
inspect c1 --format '{{{{json .NetworkSettings.Ports}}}}'
exec c1 ip route
exec c1 cat /proc/sys/net/ipv6/conf/eth0/disable_ipv6
run --rm --network conf IMAGE true
network connect conf c1
network connect made c1
exec c1 ip route
network disconnect lan c1
exec c1 ip route
network rm lan
rm -f c1
network rm made
network rm conf
network create --internal --subnet 10.6.0.0/24 inn
run -d --name c2 --network inn IMAGE sleep 600
inspect c2 {LOOK}
exec c2 ip route
rm -f c2
network rm inn
network create -d ipvlan --subnet 10.7.0.0/24 -o parent=world ipv
run --rm --name c3 --network ipv --mac-address 02:00:00:00:00:01 IMAGE true
network rm ipv
run --rm --network host --network made IMAGE true
network create host
network create none
network rm host
"""


@contextmanager
def _engine(kind: str) -> Iterator[Any]:
    with World() as world, world.corten() if kind == "corten" else world.dockerd() as engine:
        yield engine


def _answers(kind: str) -> list[str]:
    """Each command with its status and what it said, without ids."""
    found = []
    with _engine(kind) as engine:
        for line in SCRIPT.strip().splitlines():
            words = [images.BUSYBOX_REF if word == "IMAGE" else word for word in shlex.split(line)]
            done = engine.docker(*words)
            said = re.sub(r"[0-9a-f]{64}|dm-[0-9a-f]{12}", "ID", f"{done.stdout.strip()} {done.stderr.strip()}")
            found.append(f"$ {line}\n{done.returncode} {said}")
    return found


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_networks_of_all_kinds_answer_as_dockerds() -> None:
    assert _answers("corten") == _answers("dockerd")
