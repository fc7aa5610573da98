"""Rows of ContainerConfig."""

from __future__ import annotations

import socket
import time

from clients.compare import Side
from clients.fields import OTHER, SERVE, Seen, env_of, has, published, seen

seen("Hostname", "marble", config=("hostname", "marble"), script="hostname", expect="marble")
seen(
    "Domainname",
    "quarry.example",
    config=(lambda config: config["linux"].get("sysctl", {}).get("kernel.domainname"), "quarry.example"),
    script="cat /proc/sys/kernel/domainname",
    expect="quarry.example",
)
seen("User", "1000:50", config=("process/user/uid", 1000), script="id -u; id -g", expect="1000\n50")
ATTACHED = "a wish to the client that asks for it: docker run attaches by its own flags, "


def spoken(container: Seen) -> tuple[str, str]:
    """What `docker start -a` prints of the container's second run: (stdout, stderr)."""
    container.api.ok("POST", f"/containers/{container.id}/wait")
    done = container.engine.docker("start", "-a", container.id, timeout=60)
    return done.stdout.strip(), done.stderr.strip()


for part in ("AttachStdout", "AttachStderr"):
    seen(
        part,
        True,
        look=spoken,
        expect=("out\n--end--", "err"),
        also={"Cmd": ["sh", "-c", "echo out; echo err >&2; echo --end--"]},
        keep_command=True,
        same_kernel=True,
        why=ATTACHED + "docker start -a attaches to both outputs; looked at with the docker CLI",
    )


def repeated(container: Seen) -> str:
    """What `docker attach` prints of a container that repeats a line; its stdin stays open, as a person's does."""
    side = Side(container.engine.socket, container.engine.folder, tuple(container.engine.netns.enter))
    return str(side.speak("typed\n", "attach", container.id)["stdout"]).strip()


seen(
    "AttachStdin",
    True,
    look=repeated,
    expect="typed",
    also={"OpenStdin": True, "Cmd": ["sh", "-c", "echo --end--; head -n 1"]},
    keep_command=True,
    same_kernel=True,
    why=ATTACHED + "docker attach attaches to stdin where OpenStdin is set; looked at with the docker CLI",
)
seen(
    "ExposedPorts",
    {"81/tcp": {}},
    look=published,
    expect="served",
    also={"HostConfig.PublishAllPorts": True, **SERVE},
    keep_command=True,
    why="nothing in config.json: publishing is the engine's",
)
seen(
    "Tty",
    True,
    config=("process/terminal", True),
    script="test -t 0 && test -t 1 && echo terminal",
    expect="terminal",
)
seen(
    "OpenStdin",
    True,
    script="stat -L -c %F /proc/self/fd/0",
    expect="fifo",
    why="nothing in config.json: stdin is the shim's",
)


def ends_with_its_client(container: Seen) -> bool:
    """Whether `cat` ends when the one attached client leaves."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(container.engine.socket))
        target = f"/v1.51/containers/{container.id}/attach?stream=1&stdin=1&stdout=1"
        client.sendall(f"POST {target} HTTP/1.1\r\nHost: d\r\nUpgrade: tcp\r\nConnection: Upgrade\r\n\r\n".encode())
        client.settimeout(60)
        client.recv(4096)
    deadline = time.monotonic() + 6
    while time.monotonic() < deadline:
        if not container.inspect["State"]["Running"]:
            return True
        time.sleep(0.02)
    return False


seen(
    "StdinOnce",
    True,
    look=ends_with_its_client,
    expect=True,
    also={"OpenStdin": True, "Cmd": ["sh", "-c", "echo --end--; exec cat"]},
    keep_command=True,
    why="nothing in config.json: stdin is the shim's",
)
seen(
    "Env",
    ["A=b c"],
    inspect=("Config/Env", has("A=b c")),
    config=(env_of, has("A=b c")),
    script="echo $A",
    expect="b c",
)
seen(
    "Cmd",
    ["echo", "one", "two"],
    config=("process/args", ["/bin/busybox", "echo", "one", "two"]),
    look=lambda container: container.api.logs(container.id).strip(),
    expect="one two",
    also={"Entrypoint": ["/bin/busybox"]},
    keep_command=True,
)
for part in ("Test", "Interval", "Timeout", "StartPeriod", "StartInterval", "Retries"):
    given = ["CMD", "true"] if part == "Test" else 10**10
    why = "nothing in config.json: the check is the shim's (checks_health)"
    seen(f"Healthcheck.{part}", given, inspect=(f"Config/Healthcheck/{part}", given), why=why)
seen("ArgsEscaped", True, why="of Windows: images carry it, and nothing is done with it")
seen(
    "Image",
    OTHER,
    inspect=("Config/Image", OTHER),
    script="cat /marker",
    expect="other image",
    why="config.json names no image",
)
seen(
    "Volumes",
    {"/data": {}},
    config=(lambda spec: [one["type"] for one in spec["mounts"] if one["destination"] == "/data"], ["bind"]),
    script="grep -c ' /data ' /proc/self/mountinfo",
    expect="1",
)
seen("WorkingDir", "/var/tmp", config=("process/cwd", "/var/tmp"), script="pwd", expect="/var/tmp")
seen(
    "Entrypoint",
    ["/bin/echo", "entered"],
    config=("process/args", ["/bin/echo", "entered", "x"]),
    look=lambda container: container.api.logs(container.id).strip(),
    expect="entered x",
    also={"Cmd": ["x"]},
    keep_command=True,
)
seen(
    "NetworkDisabled",
    True,
    script="ls /sys/class/net",
    expect="lo",
    why="config.json has a network namespace in both cases",
)
seen(
    "MacAddress",
    "02:42:ac:11:77:01",
    inspect=("NetworkSettings/Networks/bridge/MacAddress", "02:42:ac:11:77:01"),
    script="cat /sys/class/net/eth0/address",
    expect="02:42:ac:11:77:01",
    why="nothing in config.json: the link is the engine's",
)
seen("OnBuild", ["RUN true"], why="metadata of an image that is built from the container")
seen(
    "Labels",
    {"quarry": "one"},
    look=lambda container: len(container.api.ok("GET", '/containers/json?all=1&filters={"label":["quarry=one"]}')),
    expect=1,
    why="nothing in config.json: labels are for filters",
)


def stopped_by(container: Seen) -> str:
    container.api.ok("POST", f"/containers/{container.id}/stop?t=1")
    return container.api.logs(container.id).partition("--end--")[2].strip()


TRAP = "trap 'echo got USR1; exit' USR1; echo --end--; while :; do sleep 0.05; done"
seen(
    "StopSignal",
    "SIGUSR1",
    look=stopped_by,
    expect="got USR1",
    also={"Cmd": ["sh", "-c", TRAP]},
    keep_command=True,
    why="nothing in config.json: the engine sends it",
)


def seconds_of_stop(container: Seen) -> float:
    before = time.monotonic()
    container.api.ok("POST", f"/containers/{container.id}/stop")
    return time.monotonic() - before


seen(
    "StopTimeout",
    1,
    look=seconds_of_stop,
    expect=lambda seconds: 0.9 < seconds < 9,  # ten without it
    also={"Cmd": ["sh", "-c", "trap '' TERM; echo --end--; while :; do sleep 0.05; done"]},
    keep_command=True,
    why="nothing in config.json: the engine waits",
)
seen("Shell", ["/bin/sh", "-x"], why="metadata of an image that is built from the container")
