"""What a user of the scripted day (`support.day`) does with a container, and beside it, while it lives."""

from __future__ import annotations

import subprocess

from support import images, peers
from support.daybox import ABSENT, EXITED, KILLED, Box, Json, Untrue, check, lines_of_runs
from support.daylife import GONE, WAIT_SECONDS, Owner
from support.dockerd import client_environment
from support.process import wait_for


class Worker(Owner):
    """Operations by their names, each about one container."""

    # What is changed.

    def update(self, box: Box) -> None:
        """Another limit."""
        box.pids = self.chance.randrange(50, 500)
        if self.chance.random() < 0.5:
            self.docker("update", "--pids-limit", str(box.pids), box.name)
        else:
            self.noted(self.line.api("POST", f"/containers/{box.name}/update", {"PidsLimit": box.pids}))

    def rename(self, box: Box) -> None:
        """Another name."""
        name = f"{box.base}-{self.number()}"
        self.docker("rename", box.name, name, already="no such container")
        box.name = name

    def copy(self, box: Box) -> None:
        """A file in and out again."""
        box.token = f"{box.base} {self.number()}\n"
        token, back = self.folder / "token", self.folder / "back"
        token.write_text(box.token)
        self.docker("cp", str(token), f"{box.name}:/token")
        self.docker("cp", f"{box.name}:/token", str(back))
        check(back.read_text() == box.token, f"{box.name}: copied back {back.read_text()!r}, not {box.token!r}")

    def keep(self, box: Box) -> None:
        """Something in its volume, which outlives it."""
        if box.volume:
            text = f"kept {self.number()}"
            self.docker("exec", box.name, "sh", "-c", f"echo {text} > /data/kept")
            self.kept[box.volume] = f"{text}\n"

    def burst(self, box: Box) -> None:
        """200 lines at once."""
        self.docker("exec", "-d", box.name, "kill", "-USR2", "1")

    # What is asked.

    def execute(self, box: Box) -> None:
        """Output and exit code."""
        code = self.chance.randrange(3, 100)
        heard = self.line.docker("exec", box.name, "sh", "-c", f"echo $((6*7)); exit {code}", codes=(code,))
        check(self.noted(heard).stdout == "42\n", f"exec in {box.name}: {heard.stdout!r}")

    def execute_api(self, box: Box) -> None:
        """Detached, and looked at until it has ended: also across a death of cortend."""
        code = self.chance.randrange(3, 100)
        body = {"Cmd": ["sh", "-c", f"exit {code}"]}
        while True:
            made = self.noted(self.line.api("POST", f"/containers/{box.name}/exec", body))
            target = f"/exec/{made.answer['Id']}"
            try:
                begun = self.noted(self.line.api("POST", f"{target}/start", {"Detach": True}, already=(404, 409)))
            except Untrue:
                if self.line.eras.number == made.era:
                    raise
                continue  # what was not started is forgotten with its cortend, as dockerd forgets it
            if not made.doubts and not begun.doubts:
                break
        wait_for(lambda: not self._exec(target).get("Running", True), f"end of an exec in {box.name}", WAIT_SECONDS)
        check(self._exec(target)["ExitCode"] == code, f"exec in {box.name}: {self._exec(target)}, not {code}")

    def _exec(self, target: str) -> Json:
        found: Json = self.line.api("GET", f"{target}/json").answer
        return found

    def logs(self, box: Box) -> None:
        """Everything that its witness has seen, once its container does not write."""
        self.check_log(box)

    def check_log(self, box: Box) -> None:
        """The log against the witness; a line may be on its way while it runs."""
        least = box.runs()
        wait_for(lambda: self._has(box, least), f"lines of {box.name}, of which there are {least}", WAIT_SECONDS)
        text = self.log_of(box)
        box.check_log(text, least, box.runs())

    def _has(self, box: Box, least: list[int]) -> bool:
        counts = lines_of_runs(self.log_of(box), box.name)
        return box.state == EXITED or all(counts.get(run, 0) >= lines for run, lines in enumerate(least))

    def log_of(self, box: Box) -> str:
        """What `docker logs` shows."""
        return self.noted(self.line.docker("logs", box.name)).stdout

    def follow(self, box: Box) -> None:
        """`docker logs -f` until it ends; a client whose engine dies has a part without a gap."""
        era, path = self.line.eras.when_up(), self.folder / "followed"
        with path.open("wb") as stream:
            words = [str(peers.docker_cli()), "-H", self.line.engine.host, "logs", "-f", box.name]
            follower = subprocess.Popen(words, stdout=stream, stderr=subprocess.DEVNULL, env=client_environment())
        try:
            wait_for(lambda: path.stat().st_size > 0 or follower.poll() is not None, "line of a follower", WAIT_SECONDS)
            (self.stop if self.chance.random() < 0.5 else self.kill)(box)
            follower.wait(WAIT_SECONDS)
        finally:
            follower.kill()
            follower.wait()
        if self.line.eras.number != era:
            lines_of_runs(path.read_text(), box.name)
        else:
            check(follower.returncode == 0, f"docker logs -f {box.name}: {follower.returncode}")
            box.check_log(path.read_text(), box.runs(), box.runs())

    def why(self, box: Box) -> None:
        """Its verdict, as inspect shows it."""
        shown = self.line.look(box.name)
        self.settle(box)
        if box.state == EXITED:
            box.check_state(shown)

    def stats(self, box: Box) -> None:
        """Its processes are counted."""
        found = self.line.api("GET", f"/containers/{box.name}/stats?stream=0&one-shot=1").answer
        check(found["pids_stats"]["current"] > 0, f"stats of {box.name}: {found['pids_stats']}")

    def sicken(self, box: Box) -> None:
        """A health check that fails, and later does not."""
        if box.has_health:
            for command, health in ((("touch", "/sick"), "unhealthy"), (("rm", "-f", "/sick"), "healthy")):
                self.docker("exec", box.name, *command)
                self.wait_for_health(box, health)

    def wait_for_health(self, box: Box, health: str) -> None:
        """Of one that runs."""

        def shown() -> bool:
            found = self.line.look(box.name)
            return found is not None and found["State"]["Health"]["Status"] == health

        wait_for(shown, f"{health} {box.name}", WAIT_SECONDS)

    def listed(self, box: Box) -> None:
        """All of this client's containers, as ps shows them; with a kill meanwhile policies may have begun."""
        self.settle_all()
        era = self.line.eras.when_up()
        words = ("ps", "-a", "--filter", f"label=day={self.label}", "--format", "{{.Names}} {{.State}}")
        shown = sorted(self.line.docker(*words).stdout.splitlines())
        if self.line.eras.number == era and all(one.era == era for one in self.boxes if one.wakes):
            check(shown == self.expected_list(), f"ps shows {shown}, and there must be {self.expected_list()}")

    def expected_list(self) -> list[str]:
        """Names and states."""
        return sorted(f"{box.name} {box.state}" for box in self.boxes if box.state != ABSENT)

    # What comes and goes.

    def brief(self, box: Box) -> None:
        """`run --rm` to its end, with output and exit code; with a volume of this client."""
        code, name = self.chance.randrange(0, 100), f"{box.base}-brief{self.number()}"
        volume = self.chance.choice(sorted(self.kept)) if self.kept else ""
        words = ["--rm", "--name", name, "--network", "none", *(["-v", f"{volume}:/data"] if volume else [])]
        script = f"cat /data/kept 2>/dev/null; exit {code}"
        run = ("run", *words, images.BUSYBOX_REF, "sh", "-c", script)
        heard = self.noted(self.line.docker(*run, codes=(code,), between=lambda: self._bury(name)))
        text = self.kept.get(volume, "")
        check(heard.stdout == text, f"run --rm {name}: {heard.stdout!r}, not {text!r}")
        self._bury(name)

    def _bury(self, name: str) -> None:
        """What ended is gone; what its client has not started in time stays created."""
        if self.line.status(name) == "created":
            self.line.docker("rm", name, already=GONE)
        wait_for(lambda: self.line.status(name) == "absent", f"end of {name}, which is --rm", WAIT_SECONDS)

    def broken(self, box: Box) -> None:
        """A program that is not there."""
        name = f"{box.base}-broken{self.number()}"
        run = ("run", "-d", "--name", name, "--network", "none", images.BUSYBOX_REF, "/no/such/program")
        gone = ("rm", "-f", name)
        self.noted(self.line.docker(*run, codes=(127,), between=lambda: self.line.docker(*gone, codes=(0, 1))))
        shown = self.line.look(name)
        assert shown is not None
        seen = (shown["State"]["Status"], shown["State"]["ExitCode"], shown["Corten"]["Verdict"]["Cause"])
        check(seen == ("created", 127, "not-started"), f"{name}: {seen}")
        self.docker(*gone, already=GONE)

    def hungry(self, box: Box) -> None:
        """More memory than it may have; where the kernel left lines out, the counter alone is known."""
        name = f"{box.base}-hungry{self.number()}"
        run = ["run", "-d", "--name", name, "--network", "none", "-m", "16m", images.BUSYBOX_REF]
        heard = self.docker(*run, "sh", "-c", "exec tail -c 200m /dev/zero >/dev/null", already="already in use")
        if heard.doubts and self.line.status(name) == "created":
            self.docker("start", name)
        wait_for(lambda: self.line.status(name) == "exited", f"end of {name}", WAIT_SECONDS)
        shown = self.line.look(name)
        assert shown is not None
        verdict = shown["Corten"]["Verdict"]
        seen = (shown["State"]["ExitCode"], verdict["Signal"], verdict["Memory"]["OomKills"])
        check(seen == (KILLED, 9, 1) and verdict["Cause"] in ("oom", "signal"), f"{name}: {verdict}")
        self.docker("rm", name, already=GONE)

    def tag(self, box: Box) -> None:
        """Another name of the image, and away with it."""
        name = f"day/{self.label}:{self.number()}"
        self.docker("tag", images.BUSYBOX_REF, name)
        self.docker("image", "inspect", name)
        self.docker("rmi", name, already="no such image")

    def commit(self, box: Box) -> None:
        """What it has in its files, as an image that runs."""
        name = f"day/{self.label}:{self.number()}"
        self.docker("commit", box.name, name)
        brief = f"{box.base}-commit{self.number()}"
        run = ("run", "--rm", "--name", brief, "--network", "none", name, "sh", "-c", "cat /token 2>/dev/null; exit 9")
        heard = self.noted(self.line.docker(*run, codes=(9,), between=lambda: self._bury(brief)))
        check(heard.stdout == box.token, f"commit of {box.name}: {heard.stdout!r}, not {box.token!r}")
        self._bury(brief)
        self.docker("rmi", name, already="no such image")

    def volume(self, box: Box) -> None:
        """Made, filled, read and removed."""
        name = f"day-{self.label}-{self.number()}"
        self.docker("volume", "create", "--label", f"day={self.label}", name)
        found = self.line.api("GET", f"/volumes/{name}").answer
        check(found["Labels"] == {"day": self.label}, f"volume {name}: {found}")
        self.docker("volume", "rm", name, already="no such volume")

    def prune(self, box: Box) -> None:
        """All of this client's that have ended."""
        self.settle_all()
        self.docker("container", "prune", "-f", "--filter", f"label=day={self.label}")
        for one in self.boxes:
            if one.state == EXITED:
                if one.wakes and self.line.status(one.name) != "absent":
                    self.wait_until_ready(one)  # a new cortend was faster
                    one.started()
                else:
                    status = self.line.status(one.name)
                    check(status == "absent", f"{one.name} was not pruned, and is {status}: {one.story[-5:]}")
                    one.state = ABSENT
                    self.orphans += bool(one.volume)  # prune leaves anonymous volumes, as dockerd's
