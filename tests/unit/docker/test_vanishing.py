"""Clients that go away before they were answered at all."""

from __future__ import annotations

import asyncio
import socket

from unit.docker.raw_client import Harness, eventually


async def test_clients_that_vanish_before_the_head_of_events_leave_nothing(harness: Harness) -> None:
    before = len(asyncio.all_tasks())
    for _ in range(20):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(harness.path)
            client.sendall(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
    await asyncio.sleep(0.1)
    await eventually(lambda: not harness.engine.listeners, "the subscriptions end")
    await eventually(lambda: len(asyncio.all_tasks()) <= before, "their tasks end")
