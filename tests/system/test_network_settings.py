"""daemon.json changes the default bridge under a container that runs: it stays until nobody is on it."""

from __future__ import annotations

import json

import pytest

from support import images
from support.engine import CortenEngine

LATER = "network bridge keeps device and subnets while containers are on it"


def address(engine: CortenEngine) -> str:
    return engine.docker("inspect", "one", "-f", "{{.NetworkSettings.IPAddress}}", check=True).stdout.strip()


@pytest.mark.slow
def test_another_bip_waits_until_no_container_is_on_the_bridge() -> None:
    with CortenEngine(config={"bip": "10.7.0.1/24"}) as engine:
        engine.docker("load", "-i", str(images.busybox()), check=True)
        engine.docker("run", "-d", "--name", "one", "-p", "8080:80", images.BUSYBOX_REF, "sleep", "1000", check=True)
        engine.stop()
        engine.config_file.write_text(json.dumps({"bip": "10.8.0.1/24", "mtu": 1400}))
        engine.start()
        engine.docker("restart", "-t", "0", "one", check=True)
        assert (address(engine), engine.log.read_text().count(LATER)) == ("10.7.0.2", 1)
        engine.docker("stop", "-t", "0", "one", check=True)
        engine.stop()
        engine.start()
        engine.docker("start", "one", check=True)
        assert (address(engine), engine.log.read_text().count(LATER)) == ("10.8.0.2", 1)
        assert " mtu 1400 " in engine.docker("exec", "one", "ip", "link", check=True).stdout
        engine.docker("rm", "-f", "one", check=True)
