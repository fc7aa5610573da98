"""The engine's nft commands on a machine without /etc/protocols, which not every machine has."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")

SCRIPT = """
from support.netlab import MemoryJournal, MemoryStore
from corten.network.bridge import BridgeDriver
from corten.network.host import Host
host = Host()
driver = BridgeDriver("0123abcd", store=MemoryStore(), journal=MemoryJournal(), host=host)
driver.ensure()
"""


def test_the_table_is_made_without_names_of_protocols() -> None:
    hide = 'mount --bind /dev/null /etc/protocols && exec "$@"'
    argv = ["unshare", "--net", "--mount", "sh", "-c", hide, "sh", sys.executable, "-c", SCRIPT]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=60, env=environment)
    assert done.returncode == 0, done.stderr
