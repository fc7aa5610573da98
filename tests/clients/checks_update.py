"""`docker update`: limits and policies of containers that run, that do not, and what is refused."""

from __future__ import annotations

from typing import Any

from clients.compare import IMAGE, Side, check
from support.stripdoor import Act, Body

Json = Any

UPDATE = "/containers/*/update"
FIELDS = (
    *("Memory", "MemorySwap", "MemoryReservation", "CpuShares", "NanoCpus", "CpuPeriod", "CpuQuota", "CpusetCpus"),
    *("CpusetMems", "PidsLimit", "RestartPolicy"),
)


def sleeper(side: Side, *options: str, verb: str = "run", name: str = "box") -> Json:
    """A container that does nothing."""
    return side.docker(verb, *(("-d",) if verb == "run" else ()), "--name", name, *options, IMAGE, "sleep", "600")


def limits(side: Side, name: str = "box") -> Json:
    """What inspect says, and what the kernel does."""
    files = (
        *("memory/memory.limit_in_bytes", "memory/memory.memsw.limit_in_bytes", "memory/memory.soft_limit_in_bytes"),
        *("cpu/cpu.shares", "cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us", "cpuset/cpuset.cpus"),
        *("memory.max", "memory.swap.max", "memory.low", "cpu.weight", "cpu.max", "cpuset.cpus"),
    )
    script = f"cd /sys/fs/cgroup; for f in {' '.join(files)}; do test -e $f && echo $f $(cat $f); done; true"
    asked = side.inspect(name, *(f"HostConfig.{field}" for field in FIELDS))
    return [asked, side.docker("exec", name, "sh", "-c", script)["stdout"].splitlines()]


def updated(side: Side, *options: str, of: tuple[str, ...] = ()) -> Json:
    """A running container, updated."""
    sleeper(side, *of)
    return [side.docker("update", *options, "box"), limits(side)]


@check("update -m", Body("Memory", UPDATE))
def memory(side: Side) -> Json:
    return updated(side, "-m", "100m", of=("-m", "64m"))


@check("update -m above the swap limit", Body("Memory", UPDATE))
def memory_above_swap(side: Side) -> Json:
    return updated(side, "-m", "200m", of=("-m", "64m"))


@check("update -m of a container without a limit", Body("Memory", UPDATE), is_slow=True)
def memory_without_limit(side: Side) -> Json:
    return updated(side, "-m", "100m")


@check("update --memory-swap", Body("MemorySwap", UPDATE), is_slow=True)
def memory_swap(side: Side) -> Json:
    return updated(side, "-m", "200m", "--memory-swap", "300m", of=("-m", "64m"))


@check("update --memory-swap -1", Body("MemorySwap", UPDATE), is_slow=True)
def memory_swap_without_limit(side: Side) -> Json:
    """What is said of it; dockerd leaves the kernel's limit as it was, which test_field_values.py knows."""
    return updated(side, "--memory-swap", "-1", of=("-m", "64m"))[1][0]


@check("update --memory-reservation", Body("MemoryReservation", UPDATE), is_slow=True)
def reservation(side: Side) -> Json:
    return updated(side, "--memory-reservation", "32m", of=("-m", "64m"))


@check("update --cpu-shares", Body("CpuShares", UPDATE), is_slow=True)
def shares(side: Side) -> Json:
    return updated(side, "--cpu-shares", "512")


@check("update --cpus", Body("NanoCpus", UPDATE), is_slow=True)
def cpus(side: Side) -> Json:
    return updated(side, "--cpus", "1.5", of=("--cpus", "1"))


@check("update --cpu-period --cpu-quota", Body("CpuQuota", UPDATE), is_slow=True)
def quota(side: Side) -> Json:
    return updated(side, "--cpu-period", "50000", "--cpu-quota", "25000")


@check("update --cpus of a container with a period", Body("NanoCpus", UPDATE), is_slow=True)
def cpus_after_period(side: Side) -> Json:
    return updated(side, "--cpus", "1", of=("--cpu-period", "50000"))


@check("update --cpus of a container with a quota", Body("NanoCpus", UPDATE), is_slow=True)
def cpus_after_quota(side: Side) -> Json:
    return updated(side, "--cpus", "1", of=("--cpu-quota", "50000"))


@check("update --cpu-quota of a container with cpus", Body("CpuQuota", UPDATE), is_slow=True)
def quota_after_cpus(side: Side) -> Json:
    return updated(side, "--cpu-quota", "50000", of=("--cpus", "1"))


@check("update --cpu-period of a container with cpus", Body("CpuPeriod", UPDATE), is_slow=True)
def period_after_cpus(side: Side) -> Json:
    return updated(side, "--cpu-period", "50000", of=("--cpus", "1"))


@check("update --cpuset-cpus", Body("CpusetCpus", UPDATE), is_slow=True)
def cpuset(side: Side) -> Json:
    return updated(side, "--cpuset-cpus", "0", "--cpuset-mems", "0")


def processes(side: Side) -> Json:
    """The kernel's limit of them."""
    return side.docker("exec", "box", "sh", "-c", "cat /sys/fs/cgroup/pids/pids.max || cat /sys/fs/cgroup/pids.max")


@check("update --pids-limit", Body("PidsLimit", UPDATE), is_slow=True)
def pids(side: Side) -> Json:
    return [updated(side, "--pids-limit", "77", of=("--pids-limit", "50")), processes(side)]


@check("update --pids-limit -1", Body("PidsLimit", UPDATE), is_slow=True)
def pids_without_limit(side: Side) -> Json:
    return [updated(side, "--pids-limit", "-1", of=("--pids-limit", "50")), processes(side)]


@check("update --restart", Body("RestartPolicy", UPDATE), is_slow=True)
def policy(side: Side) -> Json:
    return updated(side, "--restart", "on-failure:3")


@check("update --restart of a --rm container", Body("RestartPolicy", UPDATE), is_slow=True)
def policy_of_transient(side: Side) -> Json:
    return updated(side, "--restart", "always", of=("--rm",))


@check("update --restart that takes effect at the next exit", Body("RestartPolicy", UPDATE), is_slow=True)
def policy_counts(side: Side) -> Json:
    script = "test -e /again && exec sleep 600; touch /again; until test -e /go; do sleep 0.1; done"
    side.docker("run", "-d", "--name", "box", IMAGE, "sh", "-c", script)
    side.docker("update", "--restart", "always", "box")
    side.docker("exec", "box", "touch", "/go")
    side.until(
        lambda: side.inspect("box", "RestartCount", "State.Status") == {"RestartCount": 1, "State.Status": "running"}
    )
    return side.inspect("box", "RestartCount", "State.Status")


@check("update --restart no ends restarts", Body("RestartPolicy", UPDATE), is_slow=True)
def policy_ends(side: Side) -> Json:
    script = "until test -e /go; do sleep 0.1; done"
    side.docker("run", "-d", "--name", "box", "--restart", "always", IMAGE, "sh", "-c", script)
    side.docker("update", "--restart", "no", "box")
    side.docker("exec", "box", "touch", "/go")
    side.until(lambda: side.inspect("box", "State.Running")["State.Running"] is False)
    return side.inspect("box", "RestartCount", "State.Status")


@check("update of a container that does not run", Act(UPDATE, status="200 OK"), is_slow=True)
def not_running(side: Side) -> Json:
    sleeper(side, "-m", "64m", verb="create")
    seen = side.docker("update", "-m", "100m", "--cpus", "1", "box")
    side.docker("start", "box")
    return [seen, limits(side)]


@check("update of a paused container", Act(UPDATE, status="200 OK"), is_slow=True)
def paused(side: Side) -> Json:
    sleeper(side, "-m", "64m")
    side.docker("pause", "box")
    seen = side.docker("update", "-m", "100m", "box")
    side.docker("unpause", "box")
    return [seen, limits(side)]


@check("update of several containers", Act(UPDATE, status="200 OK"), is_slow=True)
def several(side: Side) -> Json:
    sleeper(side, "-m", "64m", verb="create")
    sleeper(side, "-m", "64m", verb="create", name="two")
    return [side.docker("update", "-m", "100m", "box", "nosuch", "two"), side.inspect("two", "HostConfig.Memory")]


WRONG: tuple[dict[str, Any], ...] = (
    {"Memory": 1},
    {"Memory": -1},
    {"MemoryReservation": 1},
    {"NanoCpus": 10**12},
    {"NanoCpus": -1},
    {"CpuPeriod": 1},
    {"CpuQuota": 1},
    {"CpusetCpus": "77"},
    {"CpusetCpus": "x"},
    {"NanoCpus": 10**9, "CpuPeriod": 10**5},
    {"PidsLimit": 0},
    {"RestartPolicy": {"Name": "what"}},
    {"RestartPolicy": {"Name": "always", "MaximumRetryCount": 3}},
    {"RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": -1}},
    {"RestartPolicy": {"MaximumRetryCount": 3}},
    {},
    {"Frobnicate": 1},
    {"KernelMemory": 10**8},
)


@check("update with values that cannot be", Act(UPDATE, status="204 No Content"))
def wrong(side: Side) -> Json:
    sleeper(side, "-m", "64m")
    return [[body, side.api("POST", "/containers/box/update", body)] for body in WRONG] + [limits(side)]


@check("update tells an event", Act(UPDATE, status="200 OK"), is_slow=True)
def event(side: Side) -> Json:
    sleeper(side, verb="create")
    side.docker("update", "--restart", "always", "box")
    box = side.inspect("box", "Id")["Id"]

    def seen() -> list[str]:
        filters = ("--filter", "type=container", "--filter", f"container={box}", "--format", "{{.Action}}")
        rows: list[str] = side.docker("events", "--since", "600s", "--until", "0s", *filters)["stdout"].split()
        return rows

    side.until(lambda: "update" in seen())
    return seen()
