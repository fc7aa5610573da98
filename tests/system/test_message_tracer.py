"""The tracer of the kill points lets go of what it traced as if it had never been there."""

from __future__ import annotations

import signal
import subprocess
import sys

from support.killpoints import NamedTrace

ROUNDS = 40
ANSWERS = """
import signal, time
signal.signal(signal.SIGUSR1, lambda signum, frame: print("seen", flush=True))
print("ready", flush=True)
while True:
    time.sleep(0.0001)
"""


def test_no_signal_goes_with_a_tracer_that_is_ended() -> None:
    """It is ended while a signal is on its way to a tracee that goes from one stop to the next."""
    with subprocess.Popen([sys.executable, "-c", ANSWERS], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            for _ in range(ROUNDS):
                with NamedTrace(process.pid) as trace:
                    process.send_signal(signal.SIGUSR1)
                    trace.end()
                assert process.stdout.readline() == "seen\n", process.poll()
        finally:
            process.kill()
