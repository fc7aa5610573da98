"""A user of the scripted day (`support.day`) and the lives of its containers, from run to rm.

It knows what must come of each operation.  Where it did not hear of one it asks again (`support.dayline`), and then
allows for both: that it was done once, and twice.
"""

from __future__ import annotations

import os
import random
import signal
from collections import Counter
from contextlib import suppress
from pathlib import Path

from support import images
from support.daybox import ABSENT, KILLED, PAUSED, RUNNING, SCRIPT, TERM_CODE, USR1_CODE, Box, Ending, check
from support.dayline import Heard, Line
from support.process import wait_for

GONE = "no such container|already in progress|is not running"
WAIT_SECONDS = 60.0
CAUGHT = 1 << (signal.SIGUSR1 - 1) | 1 << (signal.SIGUSR2 - 1)
KILLED_BY_CLIENT = Ending(KILLED, "signal", 9, "client")


class Owner:
    """One user and its containers; `chance` is its own."""

    def __init__(self, number: int, boxes: int, line: Line, seed: int, folder: Path) -> None:
        self.label = f"c{number}"
        self.line = line
        self.folder = folder / self.label
        self.folder.mkdir(parents=True)
        self.boxes = [Box(f"{self.label}b{index}", self.folder) for index in range(boxes)]
        self.chance = random.Random(f"day {seed} {number}")
        self.kept: dict[str, str] = {}  # volume → what was written to it last
        self.done: Counter[str] = Counter()
        self.doubts = 0
        self.orphans = 0  # anonymous volumes that their containers have left
        self._number = 0

    def docker(self, *words: str, already: str = "") -> Heard:
        """The docker CLI."""
        return self.noted(self.line.docker(*words, already=already))

    def number(self) -> int:
        """Another one."""
        self._number += 1
        return self._number

    def settle_all(self) -> None:
        """All of them."""
        for box in self.boxes:
            self.settle(box)

    def settle(self, box: Box) -> None:
        """Its policy may start with cortend what was stopped by hand."""
        if box.wakes and box.era != self.line.eras.when_up():
            self.wait_until_ready(box)
            box.started()

    def wait_until_ready(self, box: Box) -> None:
        """Until it runs and catches its signals."""
        wait_for(lambda: self._catches(box), f"running {box.name}, policy {box.policy}", WAIT_SECONDS)

    def _catches(self, box: Box) -> bool:
        shown = self.line.look(box.name)
        check(shown is not None, f"{box.name} is gone")
        assert shown is not None
        pid = shown["State"]["Pid"]
        with suppress(OSError):
            status = Path(f"/proc/{pid}/status").read_text()
            caught = int(status.partition("SigCgt:")[2].split()[0], 16)
            return bool(pid) and caught & CAUGHT == CAUGHT and pid == int(status.partition("\nPid:")[2].split()[0])
        return False

    def ask(self, verb: str, box: Box, *, flags: tuple[str, ...] = (), query: str = "", already: str = "") -> Heard:
        """By the docker CLI or by the API."""
        if self.chance.random() < 0.5:
            heard = self.line.docker(verb, *flags, box.name, already=already)
        else:
            target = f"/containers/{box.name}/{verb}{f'?{query}' if query else ''}"
            heard = self.line.api("POST", target, already=(404, 409, 500) if already else ())
        return self.noted(heard)

    def noted(self, heard: Heard) -> Heard:
        """An answer whose doubts are counted."""
        self.doubts += heard.doubts
        return heard

    # The life of a container.

    def run(self, box: Box) -> None:
        """Another one under the base name, with options by chance."""
        box.begin()
        box.policy = self.chance.choice(["no", "no", "no", "always", "on-failure", "unless-stopped"])
        box.is_transient = box.policy == "no" and self.chance.random() < 0.25
        box.is_deaf, box.has_health = self.chance.random() < 0.3, self.chance.random() < 0.15
        box.port = self.chance.random() < 0.1
        box.volume = f"day-{box.base}" if self.chance.random() < 0.4 else ""
        heard = self.docker("run", "-d", *self._options(box), already="already in use")
        if box.volume:
            self.kept.setdefault(box.volume, "")
        if heard.doubts:  # the first may have come as far as to create it
            self.docker("start", box.name)
        shown = self.line.look(box.name)
        check(shown is not None, f"{box.name} was run and is not there")
        assert shown is not None
        box.id = shown["Id"]
        box.started()
        self.wait_until_ready(box)

    def _options(self, box: Box) -> list[str]:
        words = ["--name", box.name, "--label", f"day={self.label}", "-v", f"{box.witness}:/w"]
        words += ["-e", "DEAF=1"] if box.is_deaf else []
        words += ["--rm"] if box.is_transient else ["--restart", box.policy]
        words += ["-p", "127.0.0.1::80"] if box.port else ["--network", "none"]
        words += ["-v", f"{box.volume}:/data", "-v", "/scratch"] if box.volume else []
        if box.has_health:
            words += ["--health-cmd", "test ! -e /sick", "--health-interval", "1s", "--health-retries", "1"]
        return [*words, images.BUSYBOX_REF, "sh", "-c", SCRIPT]

    def start(self, box: Box) -> None:
        """What had ended."""
        self.ask("start", box)
        box.started()
        self.wait_until_ready(box)

    def stop(self, box: Box) -> None:
        """SIGTERM; a deaf one is killed."""
        if box.is_deaf:
            seconds, ending = self.chance.choice("01"), KILLED_BY_CLIENT
        else:
            seconds, ending = "30", Ending(TERM_CODE, "exited")
        self._end(box, "stop", ("-t", seconds), f"t={seconds}", ending)

    def kill(self, box: Box) -> None:
        """SIGKILL by a client."""
        self._end(box, "kill", ("-s", "KILL"), "signal=KILL", KILLED_BY_CLIENT)

    def _end(self, box: Box, verb: str, flags: tuple[str, ...], query: str, ending: Ending) -> None:
        """By a client, so that no policy starts it again.

        Where one might have, because the client is in doubt, it is started first, so that this is the end.
        """
        heard = self.ask(verb, box, flags=flags, query=query, already=GONE)
        while heard.doubts and box.policy != "no":
            box.most_runs += 2
            if self.line.status(box.name) == "paused":
                self.docker("unpause", box.name, already="not paused")
            self.ask("start", box)
            self.wait_until_ready(box)
            heard = self.ask(verb, box, flags=flags, query=query, already=GONE)
        self._ended(box, ending, heard.era)

    def _ended(self, box: Box, ending: Ending, era: int) -> None:
        want = "absent" if box.is_transient else "exited"
        if box.policy == "no":
            wait_for(lambda: self.line.status(box.name) == want, f"{want} {box.name}", WAIT_SECONDS)
        box.ended(ending)
        box.era = era

    def restart(self, box: Box) -> None:
        """Ended and started.  One with --rm is gone when cortend dies in between, as dockerd's."""
        already = "no such container" if box.is_transient else ""
        heard = self.ask("restart", box, flags=("-t", "1"), query="t=1", already=already)
        if heard.doubts and box.is_transient and self.line.status(box.name) == "absent":
            box.state = ABSENT
            return
        box.most_runs += heard.doubts
        box.started()
        self.wait_until_ready(box)

    def end_itself(self, box: Box) -> None:
        """With a failure, of its own will: nobody has sent it a signal but its own process."""
        runs = len(box.runs())
        heard = self.docker("exec", "-d", box.name, "kill", "-USR1", "1", already=f"{GONE}|is restarting|not running")
        self._failed(box, Ending(USR1_CODE, "exited"), runs, heard)

    def end_from_outside(self, box: Box) -> None:
        """SIGKILL by somebody of whom the engine knows nothing, whether it lives or not."""
        shown = self.line.look(box.name)
        assert shown is not None
        runs, pid = len(box.runs()), shown["State"]["Pid"]
        pidfd = os.pidfd_open(pid)
        try:
            check(box.id in Path(f"/proc/{pid}/cgroup").read_text(), f"{box.name}: {pid} is not its init")
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        finally:
            os.close(pidfd)
        self._failed(box, Ending(KILLED, "signal", 9, "unknown"), runs, None)

    def _failed(self, box: Box, ending: Ending, runs: int, heard: Heard | None) -> None:
        """Its policy starts it, or nobody does."""
        if not box.comes_back:
            self._ended(box, ending, 0)
            return
        wait_for(lambda: len(box.runs()) > runs, f"start of {box.name}, policy {box.policy}", WAIT_SECONDS)
        box.started()
        if heard is not None and heard.doubts:  # it may have been told twice, and be about to end once more
            box.most_runs += 2 * heard.doubts
            self.restart(box)
        self.wait_until_ready(box)

    def remove(self, box: Box) -> None:
        """By force, with its anonymous volumes."""
        self.docker("rm", "-f", "-v", box.name, already=GONE)
        wait_for(lambda: self.line.status(box.name) == "absent", f"removal of {box.name}", WAIT_SECONDS)
        box.state = ABSENT

    def pause(self, box: Box) -> None:
        """Frozen."""
        self.ask("pause", box, already="already paused")
        box.state = PAUSED

    def unpause(self, box: Box) -> None:
        """Thawed."""
        self.ask("unpause", box, already="not paused")
        box.state = RUNNING
