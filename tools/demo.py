"""`make demo`: one container from `run` to the kernel and back, in a network namespace of its own.

Starts a private engine in a temporary folder, makes an image from Debian's busybox-static, runs commands in it, shows
what the kernel shows of the container and the launch plan with the time of each step, and removes everything.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
COMMANDS = REPOSITORY / ".venv" / "bin"
IMAGE = "demo/busybox:latest"
NAMESPACES = ("mnt", "uts", "ipc", "pid", "net", "cgroup", "user")
CAPABILITY_SETS = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp")
# file of the cgroup v1 hierarchy and of v2 that shows a limit
LIMITS = (
    ("memory", "memory.limit_in_bytes", "memory.max"),
    ("cpu", "cpu.cfs_quota_us", "cpu.max"),
    ("pids", "pids.max", "pids.max"),
)


def title(text: str) -> None:
    """A heading of the demo."""
    print(f"\n\033[1m== {text}\033[0m" if sys.stdout.isatty() else f"\n== {text}", flush=True)


class Demo:
    """A private engine below `folder`, in the network namespace `netns`."""

    def __init__(self, folder: Path, netns: str) -> None:
        self.folder = folder
        self.enter = ["nsenter", f"--net=/run/netns/{netns}", "--"]
        self.host = f"unix://{folder}/corten.sock"
        self.cortend = [
            *(str(COMMANDS / "cortend"), "--data-root", f"{folder}/data", "--exec-root", f"{folder}/exec"),
            *("--host", self.host, "--pidfile", f"{folder}/pid", "--config", f"{folder}/daemon.json"),
        ]

    def start(self) -> subprocess.Popen[bytes]:
        """Starts cortend and waits for its socket."""
        (self.folder / "daemon.json").write_text("{}")
        with (self.folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [*self.enter, *self.cortend], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + 20
        while self.corten("version", quiet=True, check=False).returncode != 0:
            if process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"demo: cortend did not start:\n{(self.folder / 'log').read_text()}")
            time.sleep(0.05)
        return process

    def corten(self, *args: str, quiet: bool = False, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Runs the corten CLI, showing the command line and its output unless `quiet`."""
        if not quiet:
            print(f"$ corten {' '.join(args)}", flush=True)
        done = subprocess.run(
            [str(COMMANDS / "corten"), "-H", self.host, *args], check=False, capture_output=True, text=True
        )
        if not quiet:
            print(done.stdout + done.stderr, end="", flush=True)
        if check and done.returncode != 0:
            sys.exit(f"demo: corten {' '.join(args)}: exit code {done.returncode}: {done.stderr}")
        return done

    def destroy(self) -> None:
        """Removes everything of this engine."""
        subprocess.run([*self.enter, *self.cortend, "--destroy"], check=True)


@contextmanager
def network_namespace(name: str) -> Iterator[str]:
    """A network namespace with lo up."""
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        subprocess.run(["nsenter", f"--net=/run/netns/{name}", "--", "ip", "link", "set", "lo", "up"], check=True)
        yield name
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=True)


def show_kernel(pid: int) -> None:
    """What /proc and the cgroup file systems say of the process."""
    own, other = Path("/proc/self/ns"), Path(f"/proc/{pid}/ns")
    for name in NAMESPACES:
        mine, its = os.readlink(own / name), os.readlink(other / name)
        print(f"  namespace {name:<7} {its:<24} {'the host’s' if mine == its else 'its own'}")
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        key, _, value = line.partition(":")
        if key in CAPABILITY_SETS:
            print(f"  {key:<17} {value.strip()}")
    for name, v1_file, v2_file in LIMITS:
        path = limit_file(pid, name, v1_file, v2_file)
        print(f"  cgroup {v1_file if path.name == v1_file else v2_file:<22} {path.read_text().strip()}")
    mounts = Path(f"/proc/{pid}/mountinfo").read_text().splitlines()
    shown = [line for line in mounts if not line.split()[4].startswith("/sys/fs/cgroup/")]
    print(f"  {len(mounts)} mounts, among them:")
    for line in shown[:14]:
        fields, _, rest = line.partition(" - ")
        print(f"    {fields.split()[4]:<24} {rest.split()[0]:<10} {fields.split()[5]}")


def limit_file(pid: int, controller: str, v1_file: str, v2_file: str) -> Path:
    """The file with a process's limit, on cgroup v1 or v2."""
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, names, inside = line.split(":", 2)
        if controller in names.split(","):
            return Path(f"/sys/fs/cgroup/{controller}{inside}/{v1_file}")
        unified = Path(f"/sys/fs/cgroup{inside}/{v2_file}")
        if not names and unified.exists():
            return unified
    sys.exit(f"demo: process {pid} is in no {controller} cgroup")


def run(demo: Demo) -> None:
    """The demo itself."""
    title("The engine starts")
    started = time.monotonic()
    demo.start()
    print(f"cortend answers after {(time.monotonic() - started) * 1000:.0f} ms")
    title("An image, made offline from Debian's busybox-static")
    archive = demo.folder / "image.tar"
    subprocess.run(
        [sys.executable, "-I", str(REPOSITORY / "tools" / "mkimage.py"), "--ref", IMAGE, "--output", str(archive)],
        check=True,
    )
    demo.corten("load", "-i", str(archive))
    demo.corten("images")
    title("A command in a container")
    demo.corten("run", "--rm", IMAGE, "sh", "-c", "echo hello from $(hostname), pid $$, $(id)")
    code = demo.corten("run", "--rm", IMAGE, "sh", "-c", "exit 42", check=False).returncode
    print(f"its exit code comes back: {code}")
    title("A container with limits, and what the kernel shows of it")
    limits = ("--memory", "64m", "--cpus", "0.5", "--pids-limit", "50")
    demo.corten("run", "-d", "--name", "steel", *limits, IMAGE, "sleep", "1000")
    demo.corten("ps")
    pid = int(demo.corten("inspect", "--format", "{{.State.Pid}}", "steel", quiet=True).stdout)
    show_kernel(pid)
    title("Its launch plan, with the time of each step")
    demo.corten("trace", "--order", "steel")
    title("Clean-up")
    demo.corten("rm", "-f", "steel")
    demo.corten("rmi", IMAGE)


def main() -> int:
    """Runs the demo, and removes what it made in any case."""
    if os.geteuid() != 0:
        print("demo: needs root: namespaces, mounts and cgroups", file=sys.stderr)
        return 1
    folder = Path(tempfile.mkdtemp(prefix="corten-demo-"))
    with network_namespace(folder.name) as netns:
        demo = Demo(folder, netns)
        try:
            run(demo)
        finally:
            demo.destroy()
            left = leftovers(folder)
            print("cortend --destroy: nothing of this engine is left" if not left else f"demo: left: {left}")
    shutil.rmtree(folder)
    return 1 if left else 0


def leftovers(folder: Path) -> Sequence[str]:
    """Mounts and processes that still name the engine's folder."""
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    found = [line for line in mounts if str(folder) in line]
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if f"{folder}/exec".encode() in command and path.parent.name != str(os.getpid()):
            found.append(f"process {path.parent.name}")
    return found


if __name__ == "__main__":
    sys.exit(main())
