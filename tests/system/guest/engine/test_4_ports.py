"""Published ports of sctp, which the machine of the other tests has not."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from support.engine import CortenEngine
from support.guestlook import IMAGE, inspect, run
from support.netlab import Node, TcpServer, ask_tcp

SCTP = socket.IPPROTO_SCTP
GATEWAY = "172.17.0.1"


@pytest.mark.slow
def test_an_sctp_port_is_published_held_and_given_back(engine: CortenEngine) -> None:
    run("modprobe", "sctp")
    engine.docker("run", "-d", "--name", "signals", "-p", "8097:80/sctp", IMAGE, "sleep", "1000", check=True)
    found = inspect(engine, "signals")
    assert found["NetworkSettings"]["Ports"] == {"80/sctp": [{"HostIp": "0.0.0.0", "HostPort": "8097"}]}
    inside = Path(f"/proc/{found['State']['Pid']}/ns/net")
    with Node("host", Path("/proc/self/ns/net")) as host, Node("signals", inside) as node:
        with TcpServer(node, 80, protocol=SCTP):
            assert ask_tcp(host, "127.0.0.1", 8097, protocol=SCTP) == GATEWAY
            assert ask_tcp(host, GATEWAY, 8097, protocol=SCTP) == GATEWAY
            assert ask_tcp(node, GATEWAY, 8097, protocol=SCTP) == GATEWAY, "its own port (hairpin)"
        ours = engine.docker("run", "--rm", "-p", "8097:80/sctp", IMAGE, "true")
        assert "Bind for 0.0.0.0:8097 failed: port is already allocated" in ours.stderr
        theirs = host.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM, SCTP))
        with theirs:
            with pytest.raises(OSError, match="in use"):
                theirs.bind(("0.0.0.0", 8097))
            engine.docker("rm", "-f", "signals", check=True)
            theirs.bind(("0.0.0.0", 8097))
            theirs.listen()
            late = engine.docker("run", "--rm", "-p", "8097:80/sctp", IMAGE, "true")
        assert "Error starting userland proxy: address already in use" in late.stderr
