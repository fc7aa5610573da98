"""Restores by CRIU 3.17: what corten-runtime makes of its own checkpoints and of runc's."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.guestbundle import CGROUP, CORTEN, RUNC, Lab
from support.guestcounter import COUNT, STEP, ConsoleSocket, Counter, echo, processes, wait_until

NAMESPACE_FILES = {"network": "net", "ipc": "ipc", "uts": "uts"}


@pytest.fixture
def counter(lab: Lab) -> Iterator[Counter]:
    made = Counter(lab)
    yield made
    made.close()


@pytest.fixture(params=[CORTEN, RUNC], ids=["by-corten", "by-runc"])
def dumped(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Counter]:
    """A counter whose first life is the one runtime's or the other's; `lab` restores it."""
    made = Counter(Lab(tmp_path, request.param))
    yield made
    made.close()
    ours(made.lab).__exit__()


def ours(lab: Lab) -> Lab:
    """corten-runtime over the same bundle, with another state root."""
    other = lab.peer()
    other.runtime = [str(CORTEN), "--root", f"{lab.folder}/restored"]
    return other


def hooks(lab: Lab, *names: str, also: str = "true") -> dict[str, Any]:
    """Hooks that write their name and the status that they are told to `hooks`."""
    told = f"{lab.folder}/told"
    line = f"sed 's/.*status\":\"\\([a-z]*\\).*/\\1/' > {told}; echo $0 $(cat {told}) >> {lab.folder}/hooks; {also}"
    return {name: [{"path": "/bin/sh", "args": ["sh", "-c", line, name]}] for name in names}


def mount_table(pid: int) -> list[str]:
    """mountinfo without its numbers, sorted: device, peer groups and ids are new after a restore.

    Masked files are external to CRIU, as with runc: they come back as the host's /dev/null.
    """
    rows = []
    for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines():
        before, after = line.split(" - ")
        words = before.split()
        if words[3] == "/null":
            rows.append(f"masked {words[4]}")
            continue
        tags = [word.partition(":")[0] for word in words[6:]]
        rows.append(" ".join((*words[3:6], *tags, "-", after)))
    return sorted(rows)


def status_of(pid: int) -> list[str]:
    """What proc_pid_status(5) and the limits say, as far as it does not change by itself."""
    kept = re.compile(r"(Name|Umask|Uid|Gid|Groups|Sig|Shd|Cap|NoNewPrivs|Seccomp|Cpus_allowed_list)\b")
    rows = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if kept.match(line)]
    rows += Path(f"/proc/{pid}/limits").read_text().splitlines()
    rows += [f"fd {fd}" for fd in "012" if Path(f"/proc/{pid}/fd/{fd}").is_symlink()]  # others come and go in a shell
    return [row for row in rows if not row.startswith(("SigQ", "SigPnd", "SigBlk"))]


def nothing_is_left(lab: Lab) -> None:
    assert not CGROUP.exists()
    assert os.listdir(lab.runtime[2]) == []
    assert not processes("criu")
    assert "criu-root" not in Path("/proc/self/mountinfo").read_text()


def test_a_restored_container_goes_on(counter: Counter) -> None:
    counter.start()
    number = counter.stop()
    lab = counter.lab
    (lab.folder / "work").symlink_to(counter.images)  # as in containerd's bundles
    counter.restore(lab, "--pid-file", f"{lab.folder}/pid", "--work-path", f"{lab.folder}/work")
    state = lab.state()
    assert (state["status"], str(state["pid"])) == ("running", (lab.folder / "pid").read_text())
    counter.goes_on(number)
    clocks = os.readlink(f"/proc/{state['pid']}/ns/time")
    assert clocks != os.readlink("/proc/self/ns/time")
    assert clocks in lab.run("exec", "c", "sh", "-c", "ls -l /proc/self/ns/time")
    lab.run("kill", "c", "KILL")
    wait_until(lambda: lab.state()["status"] == "stopped", "it lives")
    lab.run("delete", "c")
    nothing_is_left(lab)


@pytest.mark.slow
def test_a_restored_container_is_as_it_was(dumped: Counter) -> None:
    lab = dumped.lab
    config = dumped.configure()
    config["linux"]["resources"] |= {"pids": {"limit": 2}, "memory": {"limit": 64 << 20}}
    config["hooks"] = hooks(lab, "prestart", "createRuntime", "poststart", "poststop")
    lab.write(config)
    dumped.start()
    pid = lab.state()["pid"]
    before = mount_table(pid), status_of(pid)
    number = dumped.stop()
    (lab.folder / "hooks").unlink()
    other = ours(lab)
    dumped.restore(other)
    dumped.goes_on(number)
    pid = other.state()["pid"]
    table = mount_table(pid)
    if lab.runtime[0] == str(CORTEN):
        assert table == before[0]
    assert [row for row in status_of(pid) if row not in before[1]] == ["NoNewPrivs:\t0"]  # CRIU 3.17 cannot
    assert "does not restore no_new_privs" in os.read(dumped.ends[0], 4096).decode()
    assert (other.file("pids.max"), other.file("memory.max")) == ("2", str(64 << 20))
    assert (lab.folder / "hooks").read_text() == "prestart creating\ncreateRuntime creating\n"
    assert "criu-root" not in Path("/proc/self/mountinfo").read_text()
    assert sorted(os.listdir(f"{lab.folder}/restored/c")) == ["config.json", "state.json"]
    net = subprocess.run(["nsenter", f"-t{pid}", "-n", "ip", "addr"], capture_output=True, text=True, check=True)
    assert "<LOOPBACK,UP" in net.stdout
    other.run("pause", "c")
    assert other.state()["status"] == "paused"
    other.run("resume", "c")
    other.run("delete", "--force", "c")
    assert (lab.folder / "hooks").read_text().endswith("poststop stopped\n")
    nothing_is_left(other)


@pytest.mark.slow
def test_a_terminal_is_restored(dumped: Counter, tmp_path: Path) -> None:
    lab = dumped.lab
    config = lab.configure("sh")
    config["process"]["terminal"] = True
    lab.write(config)
    console = ConsoleSocket(tmp_path / "console")
    lab.detached("run", "-d", "--console-socket", str(console.path), "c")
    master = console.take()
    echo(master, "before")
    os.write(master, b"kept=here\n")
    dumped.checkpoint()
    os.close(master)
    lab.write({**config, "process": {**config["process"], "terminal": False}})
    words = ("restore", "-d", "--image-path", str(dumped.images), "c")
    assert "the images have a terminal, and process.terminal" in ours(lab).run(*words, status=1)
    lab.write(config)
    dumped.restore(ours(lab), "--console-socket", str(console.path))
    master = console.take()
    echo(master, "after$kept", "afterhere")
    os.close(master)
    console.close()


@pytest.mark.slow
def test_a_terminal_needs_a_console(counter: Counter) -> None:
    config = counter.lab.configure("sh")
    config["process"]["terminal"] = True
    counter.lab.write(config)
    counter.images.mkdir()
    (counter.images / "descriptors.json").write_text("[]")
    words = ("restore", "-d", "--image-path", str(counter.images), "c")
    assert "cannot allocate tty if" in counter.lab.run(*words, status=1)
    assert "cannot allocate tty if" in counter.lab.peer().run(*words, status=1)


@pytest.mark.slow
def test_a_restore_in_the_foreground_has_the_status_of_its_process(either: Lab) -> None:
    counter = Counter(either)
    script = f"i=0; while [ ! -e /tmp/end ]; do {STEP}; done; echo bye; exit 7"
    either.configure("sh", "-c", script)
    counter.start()
    number = counter.stop()
    argv = [*either.runtime, "restore", "--image-path", str(counter.images), "c"]
    run = subprocess.Popen(argv, cwd=either.folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    counter.goes_on(number)
    (either.rootfs / "tmp/end").touch()
    assert (run.communicate(timeout=60)[0], run.returncode) == ("bye\n", 7)
    assert not CGROUP.exists()
    assert "does not exist" in either.run("state", "c", status=1)
    counter.close()


@pytest.mark.slow
def test_namespaces_by_path_are_joined_again(dumped: Counter) -> None:
    lab = dumped.lab
    holder = subprocess.Popen(["unshare", "--net", "--ipc", "--uts", "sleep", "1000"])
    try:
        wait_until(lambda: "sleep" in Path(f"/proc/{holder.pid}/comm").read_text(), "unshare waits")
        config = dumped.configure()
        del config["hostname"]
        for entry in config["linux"]["namespaces"]:
            if entry["type"] in NAMESPACE_FILES:
                entry["path"] = f"/proc/{holder.pid}/ns/{NAMESPACE_FILES[entry['type']]}"
        lab.write(config)
        dumped.start()
        number = dumped.stop()
        other = ours(lab)
        dumped.restore(other)
        dumped.goes_on(number)
        pid = other.state()["pid"]
        for name in NAMESPACE_FILES.values():
            assert os.readlink(f"/proc/{pid}/ns/{name}") == os.readlink(f"/proc/{holder.pid}/ns/{name}")
    finally:
        holder.kill()
        holder.wait()


@pytest.mark.slow
def test_binds_are_of_the_new_bundle_and_their_points_are_made(dumped: Counter, tmp_path: Path) -> None:
    lab = dumped.lab
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        (folder / "deep").mkdir(parents=True)
        (folder / "deep/file").write_text(folder.name)
    (lab.rootfs / "run").symlink_to("/tmp/run")
    (lab.rootfs / "tmp/run").mkdir()

    def bind(folder: Path) -> None:
        config = dumped.configure()
        rows = (("/run/in", folder), ("/run/in/more", folder / "deep"), ("/point/file", folder / "deep/file"))
        config["mounts"] += [
            {"destination": to, "source": str(of), "type": "bind", "options": ["bind"]} for to, of in rows
        ]
        lab.write(config)

    bind(first)
    dumped.start()
    number = dumped.stop()
    for path in ("tmp/run/in", "point"):
        subprocess.run(["rm", "-r", lab.rootfs / path], check=True)
    bind(second)
    other = ours(lab)
    dumped.restore(other)
    dumped.goes_on(number)
    assert other.run("exec", "c", "cat", "/run/in/more/file", "/point/file", "/tmp/run/in/deep/file") == "second" * 3
    assert str(second) not in Path("/proc/self/mountinfo").read_text()


@pytest.mark.slow
def test_a_container_may_come_back_under_another_id_in_another_cgroup(counter: Counter) -> None:
    """runc leaves the processes in the first cgroup: on cgroup v2 CRIU is not told of the new one."""
    lab = counter.lab
    counter.start()
    number = counter.stop()
    config = counter.configure()
    config["linux"]["cgroupsPath"] = "/box/other"
    lab.write(config)
    for mode in ("soft", "ignore"):
        try:
            counter.restore(lab, "--manage-cgroups-mode", mode, id="d")
            counter.goes_on(number)
            found = lab.run("exec", "d", "true"), (CGROUP.parent / "other/cgroup.procs").read_text().split()[0]
            assert found == ("", re.findall(r'"pid": (\d+)', lab.run("state", "d"))[0])
            assert not CGROUP.exists()
        finally:
            lab.run("delete", "--force", "d")
        counter.file.write_text(f"{number}\n")
    assert not (CGROUP.parent / "other").exists()


@pytest.mark.slow
def test_a_restored_container_is_checkpointed_again(counter: Counter) -> None:
    counter.start()
    for _ in range(2):
        number = counter.stop()
        counter.restore(counter.lab)
        counter.goes_on(number)
        counter.images = counter.images.with_name(counter.images.name + "2")


@pytest.mark.slow
def test_a_user_namespace_is_restored(dumped: Counter) -> None:
    config = dumped.configure()
    config["linux"]["namespaces"].append({"type": "user"})
    for name in ("uidMappings", "gidMappings"):
        config["linux"][name] = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    dumped.lab.write(config)
    subprocess.run(["chown", "-R", "100000:100000", dumped.lab.rootfs], check=True)
    for folder in (dumped.lab.folder, *dumped.lab.folder.parents):
        folder.chmod(0o755)
    dumped.start()
    number = dumped.stop()
    subprocess.run(["chmod", "-R", "a+rX", dumped.images], check=True)  # CRIU reads them as the container's root
    other = ours(dumped.lab)
    dumped.restore(other)
    dumped.goes_on(number)
    assert "Uid:\t100000\t" in Path(f"/proc/{other.state()['pid']}/status").read_text()
    assert other.run("exec", "c", "sh", "-c", "cat /proc/self/uid_map").split() == ["0", "100000", "65536"]


# failures


@pytest.mark.slow
def test_what_cannot_be_restored_leaves_nothing(counter: Counter) -> None:
    lab = counter.lab
    counter.start()
    counter.stop()
    words = ("restore", "--image-path", str(counter.images), "c")
    assert "descriptors.json: no such file or directory" in lab.run("restore", "--image-path", "no", "c", status=1)
    config = counter.configure()
    config["hooks"] = hooks(lab, "createRuntime", "poststop", also="exit 9")
    lab.write(config)
    assert "error running hook #0: error running hook: exit status 9" in lab.run(*words, status=1)
    nothing_is_left(lab)
    assert (lab.folder / "hooks").read_text() == "createRuntime creating\npoststop stopped\n"
    config["hooks"] = {}
    config["mounts"].append({"destination": "/in", "source": "/nowhere", "type": "bind", "options": ["bind"]})
    lab.write(config)
    assert "prepare the root filesystem: /proc/self/fd/" in lab.run(*words, status=1)
    nothing_is_left(lab)
    config["mounts"][-1] |= {"source": "/tmp", "options": ["bind", "idmap"]}
    config["mounts"][-1] |= {
        name: [{"containerID": 0, "hostID": 1, "size": 1}] for name in ("uidMappings", "gidMappings")
    }
    lab.write(config)
    assert "id-mapped mount at /in: CRIU knows no such mounts" in lab.run(*words, status=1)
    counter.configure()
    (counter.images / "pstree.img").write_bytes(b"x" * 8)
    shown = lab.run(*words, status=1)
    assert f"criu failed: type RESTORE errno 0\\nlog file: {counter.images}/restore.log" in shown
    nothing_is_left(lab)


@pytest.mark.slow
def test_an_id_in_use_is_refused(either: Lab) -> None:
    counter = Counter(either)
    counter.start()
    counter.checkpoint("--leave-running")
    shown = either.run("restore", "--image-path", str(counter.images), "c", status=1)
    assert "container with given ID already exists" in shown
    assert either.state()["status"] == "running"
    counter.close()


@pytest.mark.slow
def test_a_restore_that_is_killed_is_removed_from_its_record(counter: Counter) -> None:
    """The hook holds it in the middle; CRIU and what it has restored so far end with it."""
    lab = counter.lab
    counter.start()
    counter.stop()
    config = counter.configure()
    config["hooks"] = hooks(lab, "createRuntime", also=f"echo $$ > {lab.folder}/hook; exec sleep 1000")
    lab.write(config)
    argv = [*lab.runtime, "restore", "--image-path", str(counter.images), "c"]
    run = subprocess.Popen(
        argv, cwd=lab.folder, stdin=subprocess.DEVNULL, stdout=counter.ends[1], stderr=counter.ends[1]
    )
    wait_until((lab.folder / "hook").exists, "the hook runs")
    assert lab.state()["status"] == "creating"
    assert processes("criu")
    run.kill()
    run.wait()
    lab.run("delete", "--force", "c")
    wait_until(lambda: not processes("criu"), "criu lives")
    nothing_is_left(lab)
    os.kill(int((lab.folder / "hook").read_text()), signal.SIGKILL)


@pytest.mark.slow
def test_a_restore_may_be_killed_at_any_time(counter: Counter) -> None:
    lab = counter.lab
    counter.start()
    counter.stop()
    argv = [*lab.runtime, "restore", "-d", "--image-path", str(counter.images), "c"]
    for delay_s in (0.3, 0.8, 1.2, 2.0):
        run = subprocess.Popen(
            argv, cwd=lab.folder, stdin=subprocess.DEVNULL, stdout=counter.ends[1], stderr=counter.ends[1]
        )
        time.sleep(delay_s)
        run.kill()
        run.wait()
        lab.run("delete", "--force", "c")
        wait_until(lambda: not processes("criu"), "criu lives")
        nothing_is_left(lab)
    counter.restore(lab)


@pytest.mark.slow
def test_a_dump_of_a_restored_counter_is_runcs_too(counter: Counter) -> None:
    """Back and forth: ours, runc's restore, runc's checkpoint, ours."""
    counter.start()
    number = counter.stop()
    other = counter.restore_with_runc()
    number = counter.goes_on(number)
    second = counter.lab.folder / "second"
    other.run("checkpoint", "--image-path", str(second), "c")
    number = counter.number()
    counter.images = second
    counter.restore(counter.lab)
    counter.goes_on(number)
    assert COUNT in Path(f"/proc/{counter.lab.state()['pid']}/cmdline").read_text()
