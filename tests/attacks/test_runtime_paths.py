"""A hostile root filesystem against mounts, devices, masks and the working directory.

Each attack has a twin: the same attack against a launcher or a plan with the defending step taken out does its harm.
`outside` is a directory of the host that no container was given.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from corten.launch.mountops import Mknod, OpenPty
from corten.launch.ops import Close, Open, OpenDevice, Plan, SendFd, SetControllingTerminal, SetStdio
from corten.launch.spawn import Launcher
from corten.launch.userops import Chdir, ChownStdio
from support import races, summary, weakened
from support.hostile import swapping
from support.launching import DEVPTS_OPTIONS, Machine, Outcome, mount
from support.races import Race, Wanted

O_PATH = os.O_PATH
ROUNDS = 40
pytestmark = races.TIMEOUT
LENGTHS = pytest.mark.parametrize(
    "rounds", [ROUNDS, pytest.param(2000, marks=(pytest.mark.slow, pytest.mark.timeout(1800)))]
)


@pytest.fixture
def machine() -> Iterator[Machine]:
    made = Machine()
    (made.bundle / "outside").mkdir()
    (made.bundle / "outside" / "secret").write_text("of the host\n")
    (made.bundle / "volume").mkdir()
    yield made
    made.close()


@contextmanager
def using(machine: Machine, launcher: Launcher) -> Iterator[None]:
    """The machine with another launcher."""
    own, machine.launcher = machine.launcher, launcher
    try:
        yield
    finally:
        machine.launcher = own


def outside(machine: Machine) -> Path:
    return machine.bundle / "outside"


def host_names(machine: Machine) -> set[str]:
    return {path.name for path in outside(machine).iterdir()} - {"secret"}


def with_bind(machine: Machine, target: str, *command: str) -> dict[str, Any]:
    """A configuration that binds `volume` on `target`."""
    document = machine.config(*(command or ("true",)))
    document["mounts"].append(mount(target, "bind", str(machine.bundle / "volume"), "rbind", "rw"))
    return document


class TestMountTargets:
    """CVE-2019-18837, CVE-2024-45310: a link in the path of a mount point."""

    def attack(self, machine: Machine) -> Outcome:
        (machine.rootfs / "data").symlink_to(outside(machine))
        return machine.run(with_bind(machine, "/data/made"))

    def test_linked_target_is_made_inside_the_root(self, machine: Machine) -> None:
        self.attack(machine)
        assert host_names(machine) == set()
        assert (machine.rootfs / str(outside(machine)).lstrip("/") / "made").is_dir()

    def test_twin_a_launcher_that_follows_links_makes_it_on_the_host(self, machine: Machine) -> None:
        with weakened.launcher(weakened.FOLLOW_LINKS) as weak, using(machine, weak):
            self.attack(machine)
        assert host_names(machine) == {"made"}

    def test_target_that_is_a_magic_link_is_refused(self, machine: Machine) -> None:
        done = self.through_magic(machine)
        assert "too many levels of symbolic links" in done.failure
        assert done.status != 0
        assert host_names(machine) == set()

    def test_twin_without_the_flag_only_the_root_of_the_lookup_stops_a_magic_link(self, machine: Machine) -> None:
        with weakened.launcher(weakened.FOLLOW_MAGIC_LINKS) as weak, using(machine, weak):
            done = self.through_magic(machine)
        assert "cross-device link" in done.failure
        assert host_names(machine) == set()

    def test_twin_a_launcher_that_follows_links_is_led_out_by_a_magic_link(self, machine: Machine) -> None:
        with weakened.launcher(weakened.FOLLOW_LINKS) as weak, using(machine, weak):
            self.through_magic(machine)
        assert host_names(machine) == {"made"}

    def through_magic(self, machine: Machine) -> Outcome:
        """A mount behind a magic link of the container's own /proc, which leads to the host's root."""
        (machine.rootfs / "way").symlink_to("/proc/self/root")
        return machine.run(with_bind(machine, f"/way{outside(machine)}/made"))


class TestLinkToProc:
    """CVE-2019-16884, CVE-2019-19921: a link of the image leads a volume onto the container's /proc."""

    def attack(self, machine: Machine) -> Outcome:
        (machine.bundle / "volume" / "version").write_text("of the attacker\n")
        (machine.rootfs / "data").symlink_to("proc")
        return machine.run(with_bind(machine, "/data", "cat", "/proc/version"))

    def test_volume_never_covers_proc(self, machine: Machine) -> None:
        done = self.attack(machine)
        assert "not of type proc" in done.failure
        assert (done.out, done.status != 0) == ("", True)

    def test_twin_a_launcher_that_does_not_look_covers_it(self, machine: Machine) -> None:
        with weakened.launcher(weakened.UNCHECKED_PROC) as weak, using(machine, weak):
            assert self.attack(machine).out == "of the attacker\n"


MAPS = [{"containerID": 0, "hostID": 0, "size": 65536}]


def plain_bind(machine: Machine) -> dict[str, Any]:
    """A volume."""
    return with_bind(machine, "/data/made")


def mapped_bind(machine: Machine) -> dict[str, Any]:
    """A volume whose owners are mapped."""
    document = with_bind(machine, "/data/made")
    document["mounts"][-1]["options"].append("idmap")
    document["mounts"][-1].update(uidMappings=MAPS, gidMappings=MAPS)
    return document


def copied_tmpfs(machine: Machine) -> dict[str, Any]:
    """A tmpfs that begins with what is there."""
    document = machine.config("true")
    document["mounts"].append(mount("/data/made", "tmpfs", "tmpfs", "tmpcopyup"))
    return document


def bind_in_a_user_namespace(machine: Machine) -> dict[str, Any]:
    """A volume of a container with a user namespace."""
    return in_user_namespace(with_bind(machine, "/data/made"))


def in_user_namespace(document: dict[str, Any]) -> dict[str, Any]:
    """The configuration with a user namespace whose root is the host's: what it reached it could write."""
    document["linux"]["namespaces"].append({"type": "user"})
    document["linux"].update(uidMappings=MAPS, gidMappings=MAPS)
    return document


SWAPPED = pytest.mark.parametrize("make", [plain_bind, mapped_bind, copied_tmpfs, bind_in_a_user_namespace])


class TestSwappedTargets:
    """CVE-2021-30465: the mount point is swapped for a link while the container starts."""

    def attack(
        self, machine: Machine, make: Callable[[Machine], dict[str, Any]], rounds: int = ROUNDS, wanted: Wanted = "met"
    ) -> Race:
        """Runs in which the link was met, runs whose target was made on the host."""
        inside = machine.rootfs / str(outside(machine)).lstrip("/")
        race = Race()
        (machine.rootfs / "data").mkdir()
        (machine.rootfs / "other").symlink_to(outside(machine))
        with swapping(machine.rootfs / "data", machine.rootfs / "other"):
            for _ in race.until(rounds, wanted):
                inside.mkdir(parents=True, exist_ok=True)
                machine.run(make(machine))
                race.escaped += "made" in host_names(machine)
                race.met += (inside / "made").exists() or "made" in host_names(machine)
                for made in (inside / "made", outside(machine) / "made"):
                    if made.exists():
                        made.rmdir()
        return race

    @LENGTHS
    @SWAPPED
    def test_swapped_target_never_leaves_the_root(
        self, machine: Machine, make: Callable[[Machine], dict[str, Any]], rounds: int
    ) -> None:
        race = self.attack(machine, make, rounds)
        kind = make.__name__.replace("_", " ")
        seen = f"link met in {race.met} of {race.rounds} starts, {race.escaped} escaped"
        summary.add("races", f"swapped target of a {kind}: {seen}")
        assert race.escaped == 0
        assert race.met > 0, races.NEVER

    @SWAPPED
    def test_twin_a_launcher_that_follows_links_is_led_out(
        self, machine: Machine, make: Callable[[Machine], dict[str, Any]]
    ) -> None:
        with weakened.launcher(weakened.FOLLOW_LINKS) as weak, using(machine, weak):
            race = self.attack(machine, make, wanted="escaped")
        kind = make.__name__.replace("_", " ")
        summary.add("races", f"swapped target of a {kind}, twin: {race.escaped} of {race.rounds} starts escaped")
        assert race.escaped > 0, races.NEVER


class TestDeviceDirectory:
    """CVE-2026-41579: /dev of the root filesystem is a link, and device nodes are made in it."""

    def attack(self, machine: Machine) -> Outcome:
        shutil.rmtree(machine.rootfs / "dev")
        (machine.rootfs / "dev").symlink_to(outside(machine))
        document = machine.config("true")
        document["mounts"] = [m for m in document["mounts"] if not m["destination"].startswith("/dev")]
        return machine.run(document)

    def test_nodes_stay_inside_the_root(self, machine: Machine) -> None:
        self.attack(machine)
        assert host_names(machine) == set()

    def test_twin_a_launcher_that_follows_links_makes_them_on_the_host(self, machine: Machine) -> None:
        with weakened.launcher(weakened.FOLLOW_LINKS) as weak, using(machine, weak):
            self.attack(machine)
        assert "null" in host_names(machine)
        assert stat.S_ISCHR((outside(machine) / "null").stat().st_mode)


# a user namespace gets its nodes by bind, as an ordinary user's container does
BOUND = pytest.mark.parametrize("userns", [False, True], ids=["made", "bound"])


class TestSwappedDeviceDirectory:
    """CVE-2025-52565, 2025-31133, 2026-41579: /dev changes into a link while pts, nodes, links and console are made."""

    def attack(self, machine: Machine, rounds: int = ROUNDS, wanted: Wanted = "met", *, userns: bool) -> Race:
        """Starts that met the link, starts that made something on the host."""
        inside = machine.rootfs / str(outside(machine)).lstrip("/")
        document = machine.config("true", terminal=True)
        if userns:
            in_user_namespace(document)
        pts = mount("/dev/pts", "devpts", "devpts", *DEVPTS_OPTIONS)
        document["mounts"] = [*(m for m in document["mounts"] if not m["destination"].startswith("/dev")), pts]
        (machine.rootfs / "other").symlink_to(outside(machine))
        race = Race()
        with swapping(machine.rootfs / "dev", machine.rootfs / "other"):
            for _ in race.until(rounds, wanted):
                shutil.rmtree(inside, ignore_errors=True)
                inside.mkdir(parents=True)
                with console_socket() as console:  # one of its own: nobody reads it, and some hundred fill it
                    done = machine.spawn(machine.plan(document, console=True), {"console": console}).finish()
                made = host_names(machine)
                race.escaped += bool(made)
                race.met += bool(made or any(inside.iterdir()) or "too many levels" in done.failure)
                for name in made:
                    remove(outside(machine) / name)
        return race

    @LENGTHS
    @BOUND
    def test_nothing_is_made_on_the_host(self, machine: Machine, userns: bool, rounds: int) -> None:
        race = self.attack(machine, rounds, userns=userns)
        what = f"swapped /dev, {'bound' if userns else 'made'} nodes"
        summary.add("races", f"{what}: link met in {race.met} of {race.rounds} starts, {race.escaped} escaped")
        assert race.escaped == 0
        assert race.met > 0, races.NEVER

    @BOUND
    def test_twin_a_launcher_that_follows_links_makes_it_there(self, machine: Machine, userns: bool) -> None:
        with weakened.launcher(weakened.FOLLOW_LINKS) as weak, using(machine, weak):
            race = self.attack(machine, wanted="escaped", userns=userns)
        what = f"swapped /dev, {'bound' if userns else 'made'} nodes"
        summary.add("races", f"{what}, twin: link met in {race.met} of {race.rounds} starts, {race.escaped} escaped")
        assert race.escaped > 0, races.NEVER


def remove(path: Path) -> None:
    """A file or a directory."""
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


class TestSwappedNull:
    """CVE-2025-31133 as a race: the mask is the container's own /dev/null, which is swapped for a file."""

    def attack(
        self, machine: Machine, rounds: int, wanted: Wanted = "met", take: Callable[[Any], Any] = lambda op: op
    ) -> Race:
        """Starts that met the file, starts in which the container read it instead of nothing, after which it ends."""
        null, fake = machine.rootfs / "dev" / "null", machine.rootfs / "dev" / "fake"
        os.mknod(null, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        fake.write_text("of the attacker\n")
        document = machine.config("cat", "/proc/keys")
        document["mounts"] = [m for m in document["mounts"] if not m["destination"].startswith("/dev")]
        plan = machine.plan(document)
        race = Race()
        with swapping(null, fake):
            for _ in race.until(rounds, wanted):
                done = machine.spawn(plan, transform=lambda plan: replaced(plan, OpenDevice, take)).finish()
                race.escaped += "attacker" in done.out
                race.met += "null" in done.failure or "attacker" in done.out
                if race.escaped:
                    break
        return race

    @LENGTHS
    def test_only_the_null_device_hides_a_path(self, machine: Machine, rounds: int) -> None:
        race = self.attack(machine, rounds)
        seen = f"file met in {race.met} of {race.rounds} starts, shown in {race.escaped}"
        summary.add("races", f"swapped /dev/null: {seen}")
        assert race.escaped == 0
        assert race.met > 0, races.NEVER

    def test_twin_an_unchecked_device_shows_the_file(self, machine: Machine) -> None:
        null = str(machine.rootfs / "dev" / "null")
        race = self.attack(machine, ROUNDS, "escaped", lambda op: Open(op.slot, null, O_PATH))
        seen = f"file met in {race.met} of {race.rounds} starts, shown in {race.escaped}"
        summary.add("races", f"swapped /dev/null, twin: {seen}")
        assert race.escaped > 0, races.NEVER


class TestMasks:
    """CVE-2025-31133: what hides a path is taken from the container's own /dev/null.

    Whose plan has no node of it, as if the file had been put there since.
    """

    def document(self, machine: Machine) -> dict[str, Any]:
        (machine.rootfs / "dev" / "null").write_text("of the attacker\n")
        document = machine.config("sh", "-c", "cat /proc/keys")
        document["mounts"] = [m for m in document["mounts"] if not m["destination"].startswith("/dev")]
        return document

    def without_node(self, plan: Plan) -> Plan:
        ops = [op for op in plan.ops if not (isinstance(op, Mknod) and op.path == "/dev/null")]
        return Plan(tuple(ops), plan.inputs, plan.preserve_fds)

    def test_file_that_was_there_before_is_refused(self, machine: Machine) -> None:
        assert machine.run(self.document(machine)).failure.startswith("mknod /dev/null: file exists")

    def test_file_that_is_put_there_later_is_refused(self, machine: Machine) -> None:
        done = machine.spawn(machine.plan(self.document(machine)), transform=self.without_node).finish()
        assert "check 1:3" in done.failure

    def test_twin_an_unchecked_mask_shows_the_attacker_s_file(self, machine: Machine) -> None:
        fake = machine.rootfs / "dev" / "null"

        def unchecked(plan: Plan) -> Plan:
            return replaced(self.without_node(plan), OpenDevice, lambda op: Open(op.slot, str(fake), O_PATH))

        done = machine.spawn(machine.plan(self.document(machine)), transform=unchecked).finish()
        assert done.out == "of the attacker\n"


class TestNullOfTheHost:
    """What hides a path has an owner and a mode, which root in the container may change: they are not the host's."""

    def is_touched(self, machine: Machine, change: Callable[[Plan], Plan]) -> bool:
        """Whether the host's node changed; it gets the mode that it has."""
        before = os.stat("/dev/null")
        script = f"chmod {stat.S_IMODE(before.st_mode):o} /proc/keys && chown {before.st_uid} /proc/keys && echo done"
        done = machine.spawn(machine.plan(machine.config("sh", "-c", script)), transform=change).finish()
        assert done.out == "done\n", done
        return os.stat("/dev/null").st_ctime_ns != before.st_ctime_ns

    def test_a_mask_is_the_containers_own(self, machine: Machine) -> None:
        assert not self.is_touched(machine, lambda plan: plan)

    def test_twin_a_mask_of_the_host_is_changed_there(self, machine: Machine) -> None:
        def of_the_host(plan: Plan) -> Plan:
            return replaced(plan, OpenDevice, lambda op: OpenDevice(op.slot, "", op.path, op.major, op.minor))

        assert self.is_touched(machine, of_the_host)


class TestConsole:
    """CVE-2025-52565: /dev/pts/N is swapped before it is bound on /dev/console."""

    def plan(self, machine: Machine) -> Plan:
        (machine.rootfs / "dev" / "pts").mkdir()
        (machine.rootfs / "dev" / "pts" / "ptmx").write_text("")
        (machine.rootfs / "dev" / "pts" / "0").write_text("of the attacker\n")
        document = machine.config("sh", "-c", "cat /dev/console", terminal=True)
        document["mounts"] = [m for m in document["mounts"] if not m["destination"].startswith("/dev")]
        return machine.plan(document, console=True)

    def test_file_that_is_no_terminal_is_refused(self, machine: Machine) -> None:
        with console_socket() as console:
            done = machine.spawn(self.plan(machine), {"console": console}).finish()
        assert "ptmx" in done.failure
        assert "attacker" not in done.out

    def test_twin_a_terminal_taken_by_its_path_is_the_attacker_s(self, machine: Machine) -> None:
        fake = machine.rootfs / "dev" / "pts" / "0"

        def by_path(plan: Plan) -> Plan:
            found = next(op for op in plan.ops if isinstance(op, OpenPty))
            return without_terminal(replaced(plan, OpenPty, lambda op: Open(op.slave, str(fake), os.O_RDWR)), found)

        with console_socket() as console:
            plan = self.plan(machine)
            done = machine.spawn(plan, {"console": console}, transform=by_path).finish()
        assert done.out == "of the attacker\n"


@contextmanager
def console_socket() -> Iterator[int]:
    """A connected socket that nobody reads."""
    import socket

    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield theirs.fileno()


def without_terminal(plan: Plan, pty: OpenPty) -> Plan:
    """The plan without the steps that need a real pty: its master's journey, stdio and the controlling terminal."""
    ops = [op for op in plan.ops if not isinstance(op, SendFd | SetControllingTerminal | SetStdio | ChownStdio)]
    kept = [op for op in ops if not (isinstance(op, Close) and pty.master in op.slots)]
    return Plan(tuple(kept), plan.inputs, plan.preserve_fds)


class TestWorkingDirectory:
    """CVE-2024-21626: the working directory is a descriptor that leads to the host."""

    @pytest.mark.parametrize("number", range(3, 20))
    def test_descriptor_as_working_directory_leads_nowhere(self, machine: Machine, number: int) -> None:
        done = machine.run(machine.config("sh", "-c", "cat ../../../../etc/os-release", cwd=f"/proc/self/fd/{number}"))
        # of a number that is the launcher's own, the target cannot be made; of others there is none
        refusals = (f"error during container init: mkdir /proc/self/fd/{number}: ", "chdir to cwd (")
        assert done.failure.startswith(refusals)
        assert (done.out, done.status) == ("", 1)

    def leaking(self, machine: Machine) -> Plan:
        """A plan that has a descriptor of the host open, and goes there."""
        plan = machine.plan(machine.config("cat", "secret"))
        leak = Open("leak", str(outside(machine)), os.O_PATH | os.O_DIRECTORY)
        return Plan((leak, *plan.ops), plan.inputs, plan.preserve_fds)

    def attack(self, machine: Machine) -> list[Outcome]:
        """One start for each number that the leaked descriptor may have."""
        plan = self.leaking(machine)

        def at(number: int) -> Plan:
            return replaced(plan, Chdir, lambda op: with_path(op, f"/proc/self/fd/{number}"))

        return [machine.spawn(at(number)).finish() for number in range(3, 16)]

    def test_leaked_descriptor_is_no_way_out(self, machine: Machine) -> None:
        assert not [done for done in self.attack(machine) if "of the host" in done.out]

    def test_twin_without_the_check_the_host_is_read(self, machine: Machine) -> None:
        with weakened.launcher(weakened.UNCHECKED_CWD) as weak, using(machine, weak):
            assert [done for done in self.attack(machine) if done.out == "of the host\n"]


def with_path(op: Chdir, path: str) -> Chdir:
    """The same step with another path."""
    import copy

    changed = copy.copy(op)
    changed.path = path
    return changed


def replaced(plan: Plan, kind: type, make: Callable[[Any], Any]) -> Plan:
    """The plan with every op of a kind replaced; at least one is there."""
    assert any(isinstance(op, kind) for op in plan.ops)
    ops = tuple(make(op) if isinstance(op, kind) else op for op in plan.ops)
    return Plan(ops, plan.inputs, plan.preserve_fds)
