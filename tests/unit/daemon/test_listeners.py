"""The engine's sockets."""

from __future__ import annotations

import pytest

from corten.cli.transport import connect
from corten.daemon.listeners import listen


@pytest.mark.parametrize("host", ["tcp://:0", "tcp://[]:0"])
def test_a_host_without_an_address_listens_on_this_machine_alone(host: str) -> None:
    with listen(host) as listener:
        address, port = listener.getsockname()
        assert address.startswith("127.")
        connect(f"tcp://:{port}").close()
