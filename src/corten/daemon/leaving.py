"""The end of cortend: nothing on the way out waits without limit.

tasks     cancelled, and waited for a moment
threads   those that may be at work below the data root are waited for a moment
at rest   the stores are closed, the lock on the data root last
else      the process ends as it is, which is no worse than any other death (design.md §5): the database stays open
          and the lock is held until the kernel has ended the last thread, so no second cortend is ever beside one
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from corten.daemon.wiring import Stores
from corten.engine.threads import OwnThread

log = logging.getLogger("corten.daemon")

REST_S: Final = 1.0
_LOOK_S: Final = 0.01


def set_up_pool() -> ThreadPoolExecutor:
    """The running loop's pool, for `leave`; as large as the loop would make it."""
    pool = ThreadPoolExecutor(thread_name_prefix="pool")
    asyncio.get_running_loop().set_default_executor(pool)
    return pool


async def leave(stores: Stores, pool: ThreadPoolExecutor) -> None:
    """Close the stores; does not return when somebody may still be at work in them."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    left = (await asyncio.wait(others, timeout=REST_S))[1] if others else set()
    pool.shutdown(wait=False, cancel_futures=True)  # so that those of its threads that have nothing to do end
    await _rest()
    names = sorted({task.get_name() for task in left} | {thread.name for thread in _at_work()})
    if names:
        log.warning("left to the next start: %s", ", ".join(names))
        logging.shutdown()
        os._exit(0)
    stores.close()


async def _rest() -> None:
    loop = asyncio.get_running_loop()
    until = loop.time() + REST_S
    while _at_work() and loop.time() < until:
        await asyncio.sleep(_LOOK_S)


def _at_work() -> list[threading.Thread]:
    """All but daemons that write nothing, such as looks at files of containers: no end waits for those."""
    others = (thread for thread in threading.enumerate() if thread is not threading.current_thread())
    return [thread for thread in others if isinstance(thread, OwnThread) or not thread.daemon]
