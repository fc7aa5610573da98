"""A client that asks a service again and again, from a namespace, and counts what fails.

It is a program of its own: nothing that the test does keeps it waiting.
"""

from __future__ import annotations

import json
import subprocess
from types import TracebackType

from support import process
from support.netns import NetNs

ANSWER = "untouched"
PATIENCE_S = 60

# an answer that takes longer is a failure; a packet that was lost once is not
_PROGRAM = f"""
import json, socket, sys, threading, time
address, port = sys.argv[1], int(sys.argv[2])
done, failed = 0, []
def ask():
    with socket.create_connection((address, port), timeout={PATIENCE_S}) as connection:
        connection.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
        answer = b""
        while data := connection.recv(4096):
            answer += data
    if not answer.endswith(b"{ANSWER}\\n"):
        raise OSError(f"answer {{answer!r}}")
def load():
    global done
    while True:
        try:
            ask()
            done += 1
        except OSError as error:
            failed.append(f"after {{done}}: {{error}}")
        time.sleep(0.002)
threading.Thread(target=load, daemon=True).start()
for line in sys.stdin:
    print(json.dumps([done, len(failed), failed[:3]]), flush=True)
"""


class SteadyLoad:
    """One client of `address:port` in a namespace, one request after the other until it is closed."""

    def __init__(self, netns: NetNs, address: str, port: int) -> None:
        self.name = f"{address}:{port}"
        argv = [*netns.enter, "/usr/bin/python3", "-I", "-c", _PROGRAM, address, str(port)]
        self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def seen(self) -> tuple[int, int, list[str]]:
        """How many requests were answered, how many failed, and what the first of those said."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        done, count, failed = json.loads(self._process.stdout.readline())
        return done, count, failed

    def go_on(self, count: int = 20) -> None:
        """Waits until so many more were answered; raises AssertionError when one has failed."""
        wanted = self.seen()[0] + count

        def is_there() -> bool:
            done, failures, failed = self.seen()
            assert not failures, f"{self.name}: {failures} requests failed: {failed}"
            return done >= wanted

        process.wait_for(is_there, f"{count} answers of {self.name}", timeout=2 * PATIENCE_S)

    def close(self) -> None:
        """Ends it."""
        self._process.kill()
        self._process.communicate()

    def __enter__(self) -> SteadyLoad:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
