"""A scripted day: clients with containers of their own, who do what users do, while cortend is killed again and again.

Each client takes its operations by a seed, from a table by the state of the container that they are about.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from pathlib import Path

from support.daybox import ABSENT, EXITED, PAUSED, RUNNING, Box, check
from support.dayline import Eras, Line
from support.daywork import Worker
from support.engine import CortenEngine
from support.process import wait_for

TABLE: dict[str, dict[str, int]] = {
    ABSENT: {"run": 20, "brief": 2, "broken": 1, "hungry": 1},
    RUNNING: {
        "execute": 8,
        "execute_api": 4,
        "stop": 5,
        "kill": 5,
        "restart": 5,
        "end_itself": 4,
        "end_from_outside": 3,
        "pause": 4,
        "update": 4,
        "rename": 4,
        "copy": 5,
        "logs": 5,
        "follow": 3,
        "burst": 4,
        "sicken": 2,
        "commit": 2,
        "keep": 4,
        "brief": 3,
        "tag": 3,
        "volume": 2,
        "listed": 2,
        "remove": 3,
        "stats": 2,
    },
    PAUSED: {"unpause": 10, "kill": 2, "remove": 1, "update": 1, "logs": 1, "rename": 1},
    EXITED: {
        "start": 12,
        "remove": 3,
        "logs": 3,
        "copy": 2,
        "rename": 1,
        "prune": 1,
        "commit": 1,
        "why": 3,
        "listed": 1,
    },
}


class Client(Worker):
    """One user; `operate` does one operation, chosen by its own chance."""

    def morning(self) -> None:
        """All its containers."""
        for box in self.boxes:
            self.act("run", box)

    def operate(self) -> None:
        """One operation."""
        box = self.chance.choice(self.boxes)
        self.settle(box)
        table = TABLE[box.state]
        self.act(self.chance.choices(list(table), list(table.values()))[0], box)

    def act(self, name: str, box: Box) -> None:
        """This operation; what fails says of which it was."""
        box.story.append(
            f"{name} of {box.name or box.base}, {box.state}, policy {box.policy}, era {self.line.eras.number}"
        )
        doubts = self.doubts
        try:
            getattr(self, name)(box)
        except Exception as error:
            error.add_note("\n".join(["what it had before:", *box.story[-12:]]))
            raise
        box.story[-1] += f": {self.doubts - doubts} doubts, now {box.state}, era {self.line.eras.number}"
        self.done[name] += 1


class Day:
    """Clients at work, and who kills cortend meanwhile."""

    def __init__(self, engine: CortenEngine, folder: Path, *, clients: int, boxes: int, seed: int) -> None:
        self.engine = engine
        self.eras = Eras(engine)
        self.seed = seed
        self.clients = [Client(number, boxes, Line(engine, self.eras), seed, folder) for number in range(clients)]
        self._left = 0
        self._lock = threading.Lock()
        self._failures: list[Exception] = []

    @property
    def boxes(self) -> list[Box]:
        """All containers."""
        return [box for client in self.clients for box in client.boxes]

    def each(self, work: Callable[[Client], None], meanwhile: Callable[[], None] = lambda: None) -> None:
        """All clients at once; the first failure ends the day."""
        threads = [threading.Thread(target=self._guarded, args=(work, client)) for client in self.clients]
        for thread in threads:
            thread.start()
        try:
            meanwhile()
        finally:
            for thread in threads:
                thread.join()
        if self._failures:
            failures, self._failures = self._failures, []
            raise failures[0]

    def _guarded(self, work: Callable[[Client], None], client: Client) -> None:
        try:
            work(client)
        except Exception as error:  # raised again in the thread of the test
            self._failures.append(error)

    def live(self, operations: int, *, kills: int) -> None:
        """So many operations by all together, and kills of cortend spread over them."""
        self._left = operations
        self.each(self._work, lambda: self._kill(operations, kills))

    def _work(self, client: Client) -> None:
        while not self._failures:
            with self._lock:
                if self._left == 0:
                    return
                self._left -= 1
            client.operate()

    def _kill(self, operations: int, kills: int) -> None:
        chance = random.Random(f"kills {self.seed}")
        for left in sorted((chance.randrange(operations) for _ in range(kills)), reverse=True):
            wait_for(lambda: self._left <= left or bool(self._failures), "next operation", 600)  # noqa: B023
            if self._failures:
                return
            time.sleep(0.1 * chance.random())
            self.eras.kill(chance, quiet_s=1.0)

    # The end of it.

    def judge(self) -> None:
        """What is shown against what must be, of everything that the clients had."""
        self.each(Client.settle_all)
        self.each(judge_client)
        listed = self.clients[0].line.docker("ps", "-a", "--format", "{{.Names}} {{.State}}").stdout
        expected = sorted(line for client in self.clients for line in client.expected_list())
        check(sorted(listed.splitlines()) == expected, f"ps shows {listed}, and there must be {expected}")

    def remove(self) -> None:
        """Everything that is left, and the volumes; then nothing of the day may be there."""
        self.each(end_client)
        orphans = self.engine.docker("volume", "ls", "-q", check=True).stdout.split()
        expected = sum(client.orphans for client in self.clients)
        check(len(orphans) == expected, f"{expected} anonymous volumes must be left by prune, and there are {orphans}")
        self.engine.docker("volume", "prune", "-f", check=True)
        for command in (("volume", "ls", "-q"), ("ps", "-aq"), ("images", "-q", "--filter", "dangling=true")):
            left = self.engine.docker(*command, check=True).stdout
            check(not left, f"docker {' '.join(command)}: {left}")


def judge_client(client: Client) -> None:
    """All its containers."""
    for box in client.boxes:
        box.check_state(client.line.look(box.name or box.base))
        if box.state == ABSENT:
            continue
        box.check_runs()
        client.check_log(box)
        if box.state in (RUNNING, PAUSED) and box.pids:
            check_limit(client, box)
        if box.state == RUNNING and box.has_health:
            client.wait_for_health(box, "healthy")
        if box.token:
            back = client.folder / "back"
            client.docker("cp", f"{box.name}:/token", str(back))
            check(back.read_text() == box.token, f"{box.name}: /token is {back.read_text()!r}, not {box.token!r}")
    for volume, text in client.kept.items():
        found = client.line.api("GET", f"/volumes/{volume}").answer
        path = Path(found["Mountpoint"]) / "kept"
        check((path.read_text() if path.exists() else "") == text, f"volume {volume} has not {text!r}")


def check_limit(client: Client, box: Box) -> None:
    """What the kernel says."""
    shown = client.line.look(box.name)
    assert shown is not None
    lines = Path(f"/proc/{shown['State']['Pid']}/cgroup").read_text().splitlines()
    by_name = {name: path for _, names, path in (line.split(":", 2) for line in lines) for name in names.split(",")}
    folder = f"/sys/fs/cgroup/pids{by_name['pids']}" if "pids" in by_name else f"/sys/fs/cgroup{by_name['']}"
    found = Path(folder, "pids.max").read_text().strip()
    check(found == str(box.pids), f"{box.name}: the kernel's pids.max is {found}, not {box.pids}")


def end_client(client: Client) -> None:
    """Killed, read once more, and removed."""
    for box in client.boxes:
        if box.state == PAUSED:
            client.unpause(box)
        if box.state == RUNNING and not box.is_transient:
            client.stop(box)
            client.check_log(box)
        if box.state != ABSENT:
            client.remove(box)
    for volume in client.kept:
        client.docker("volume", "rm", volume, already="no such volume")
    client.docker("image", "prune", "-f")
