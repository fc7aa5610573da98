"""The flags of cortend that are keys of daemon.json, and how the text behind each becomes what the file would have.

dockerd's names and forms: `--label a=b` is one of the key `labels`, `--log-opt a=b` an entry of `log-opts`.  What a
value means is judged where the file's is (`config.KEYS`).
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from corten.daemon import legacy, networking, resolving
from corten.errors import InvalidArgument
from corten.spec.process import RLIMITS
from corten.spec.words import BOOLEANS


@dataclass(frozen=True, slots=True)
class Flag:
    """`form` makes the file's value of all texts that were given, and raises InvalidArgument with the reason alone.

    `metavar` is empty for a boolean one, whose value may be left out.
    """

    key: str
    names: tuple[str, ...]
    metavar: str
    form: Callable[[Sequence[str]], Any]
    help: str

    @property
    def dest(self) -> str:
        """Its name in argparse's namespace."""
        return self.key.replace("-", "_")


def boolean(text: str) -> bool:
    """As Go reads it; for argparse."""
    if text not in BOOLEANS:
        raise argparse.ArgumentTypeError(f'strconv.ParseBool: parsing "{text}": invalid syntax')
    return BOOLEANS[text]


def integer(text: str) -> int:
    """As Go reads it; for argparse."""
    if not re.fullmatch(r"[+-]?[0-9]+", text):
        raise argparse.ArgumentTypeError(f'strconv.ParseInt: parsing "{text}": invalid syntax')
    return int(text)


def _last(texts: Sequence[Any]) -> Any:
    return texts[-1]


def _labels(texts: Sequence[str]) -> list[str]:
    for text in texts:
        if "=" not in text:
            raise InvalidArgument(f"bad attribute format: {text}")
    return list(texts)


def _options(texts: Sequence[str]) -> dict[str, str]:
    return dict(text.partition("=")[::2] for text in texts)


def _runtimes(texts: Sequence[str]) -> dict[str, dict[str, str]]:
    """`name=path`, each name once."""
    out: dict[str, dict[str, str]] = {}
    for text in texts:
        name, _, path = text.partition("=")
        if not name or not path:
            raise InvalidArgument(f"invalid runtime argument: {text}")
        if name in out:
            raise InvalidArgument(f"runtime '{name}' was already defined")
        out[name] = {"path": path}
    return out


def _ulimits(texts: Sequence[str]) -> dict[str, dict[str, Any]]:
    """`name=soft[:hard]`; of two for one name the last counts."""
    out = {}
    for text in texts:
        name, equals, limits = text.partition("=")
        if not equals:
            raise InvalidArgument(f"invalid ulimit argument: {text}")
        if f"RLIMIT_{name.upper()}" not in RLIMITS:
            raise InvalidArgument(f"invalid ulimit type: {name}")
        parts = limits.split(":")
        if len(parts) > 2:
            raise InvalidArgument(f"too many limit value arguments - {limits}, can only have up to two, `soft[:hard]`")
        soft, hard = _number(parts[0]), _number(parts[-1])
        if hard != -1 and (soft == -1 or soft > hard):
            shown = f"soft: -1 (unlimited), hard: {hard}" if soft == -1 else f"{soft} > {hard}"
            raise InvalidArgument(f"ulimit soft limit must be less than or equal to hard limit: {shown}")
        out[name] = {"Name": name, "Soft": soft, "Hard": hard}
    return out


def _number(text: str) -> int:
    try:
        return integer(text)
    except argparse.ArgumentTypeError as error:
        raise InvalidArgument(str(error)) from None


def _flag(key: str, name: str, metavar: str, help: str, form: Callable[[Sequence[str]], Any] = _last) -> Flag:
    return Flag(key, tuple(name.split()), metavar, form, help)


# Those whose values `arguments` does not make by itself.
TABLE: Final = (
    _flag("allow-direct-routing", "--allow-direct-routing", "", "published ports at containers' own addresses too"),
    _flag("allow-nondistributable-artifacts", "--allow-nondistributable-artifacts", "HOST", "without effect", list),
    _flag("api-cors-header", "--api-cors-header", "HEADERS", "removed by Docker, and refused"),
    _flag("authorization-plugins", "--authorization-plugin", "NAME", "asked about every request", list),
    _flag("bip", "--bip", "CIDR", "address of the default bridge"),
    _flag("bip6", "--bip6", "CIDR", "IPv6 address of the default bridge"),
    _flag("bridge", "-b --bridge", "NAME", "a bridge to use as the default one"),
    _flag("bridge-accept-fwmark", "--bridge-accept-fwmark", "MARK", "of packets that are let into networks"),
    _flag("cdi-spec-dirs", "--cdi-spec-dir", "DIR", "of CDI devices (/etc/cdi and /var/run/cdi)", list),
    _flag("cgroup-parent", "--cgroup-parent", "PATH", "of containers that name none"),
    _flag("cpu-rt-period", "--cpu-rt-period", "US", "real-time period of the containers' parent cgroup (v1)"),
    _flag("cpu-rt-runtime", "--cpu-rt-runtime", "US", "real-time of each period for all containers (v1)"),
    _flag(
        "default-address-pools",
        "--default-address-pool",
        "base=CIDR,size=N",
        "where subnets of networks come from",
        networking.pools_of_flag,
    ),
    _flag("default-cgroupns-mode", "--default-cgroupns-mode", "MODE", "host or private"),
    _flag("default-gateway", "--default-gateway", "ADDRESS", "of containers on the default bridge"),
    _flag("default-gateway-v6", "--default-gateway-v6", "ADDRESS", "of containers on the default bridge"),
    _flag("default-ipc-mode", "--default-ipc-mode", "MODE", "shareable or private (private)"),
    _flag(
        "default-network-opts",
        "--default-network-opt",
        "DRIVER=NAME=VALUE",
        "option of new networks",
        networking.options_of_flag,
    ),
    _flag("default-pids-limit", "--default-pids-limit", "N", "of containers that have none; -1 is no limit (500)"),
    _flag("default-runtime", "--default-runtime", "NAME", "of containers that name none (corten)"),
    _flag("default-shm-size", "--default-shm-size", "SIZE", "of containers that name none (64M)"),
    _flag("default-ulimits", "--default-ulimit", "NAME=SOFT[:HARD]", "of containers that name none", _ulimits),
    _flag("dns", "--dns", "ADDRESS", "server of containers that name none", resolving.address_of_flag),
    _flag("dns-opts", "--dns-opt", "OPTION", "of resolv.conf of containers that name none", list),
    _flag("dns-search", "--dns-search", "DOMAIN", "of containers that name none", resolving.domain_of_flag),
    _flag("exec-opts", "--exec-opt", "NAME=VALUE", "native.cgroupdriver=cgroupfs, the only one", list),
    _flag("experimental", "--experimental", "", "shown by info and version"),
    _flag("features", "--feature", "NAME[=BOOL]", "turn one of dockerd's features on or off", legacy.features_of_flag),
    _flag("firewall-backend", "--firewall-backend", "NAME", "nftables, the only one"),
    _flag("fixed-cidr", "--fixed-cidr", "CIDR", "where addresses on the default bridge come from"),
    _flag("fixed-cidr-v6", "--fixed-cidr-v6", "CIDR", "where IPv6 addresses on the default bridge come from"),
    _flag("group", "-G --group", "GROUP", "of unix sockets (docker)"),
    _flag("host-firewall", "--host-firewall", "WORD", "respect: the host's input chains guard published ports"),
    _flag("host-gateway-ips", "--host-gateway-ip", "ADDRESS", "what host-gateway is", resolving.gateway_of_flag),
    _flag("icc", "--icc", "", "containers on the default bridge reach each other (true)"),
    _flag("init", "--init", "", "an init in every container whose request is silent"),
    _flag("init-path", "--init-path", "FILE", "that init"),
    _flag("ip", "--ip", "ADDRESS", "where ports are published that name no address"),
    _flag("ip-forward", "--ip-forward", "", "turn on forwarding where it is needed (true)"),
    _flag("ip-forward-no-drop", "--ip-forward-no-drop", "", "and let through what is not of a network of ours"),
    _flag("ip-masq", "--ip-masq", "", "the default bridge has the host's address outside (true)"),
    _flag("ip6tables", "--ip6tables", "", "true is the only way there is"),
    _flag("iptables", "--iptables", "", "true is the only way there is"),
    _flag("ipv6", "--ipv6", "", "IPv6 on the default bridge"),
    _flag("labels", "--label", "NAME=VALUE", "shown by info; may be given several times", _labels),
    _flag("live-restore", "--live-restore", "", "true is the only way there is"),
    _flag("log-driver", "--log-driver", "NAME", "of containers that name none (json-file)"),
    _flag("log-format", "--log-format", "FORMAT", "of cortend's log: text or json (text)"),
    _flag("log-level", "-l --log-level", "LEVEL", "of cortend's log: debug, info, warn, error or fatal (info)"),
    _flag("log-opts", "--log-opt", "NAME=VALUE", "of --log-driver; may be given several times", _options),
    _flag("mtu", "--mtu", "BYTES", "of the default bridge (1500)"),
    _flag("no-new-privileges", "--no-new-privileges", "", "in every container whose request is silent"),
    _flag("policies", "--policy", "FILE", "asked about every container; may be given several times", list),
    _flag("raw-logs", "--raw-logs", "", "taken: the log has no colours"),
    _flag("runtimes", "--add-runtime", "NAME=PATH", "a further runtime; may be given several times", _runtimes),
    _flag("seccomp-profile", "--seccomp-profile", "FILE", "of containers that name none; builtin or unconfined"),
    _flag("selinux-enabled", "--selinux-enabled", "", "taken where the host has no SELinux"),
    _flag("signal-senders", "--signal-senders", "", "record who sends signals to containers"),
    _flag("shutdown-timeout", "--shutdown-timeout", "SECONDS", "taken: containers outlive the daemon"),
    _flag("storage-driver", "-s --storage-driver", "NAME", "overlay2, the only one"),
    _flag("storage-opts", "--storage-opt", "NAME=VALUE", "overlay2.size=SIZE: of containers that name none", list),
    _flag("userland-proxy", "--userland-proxy", "", "shims relay what NAT cannot lead to a container (true)"),
    _flag(
        "userns-remap", "--userns-remap", "USER", "containers have the ids of this user's ranges; default: dockremap"
    ),
)
_NUMBERS: Final = ("cpu-rt-period", "cpu-rt-runtime", "default-pids-limit", "mtu", "shutdown-timeout")

# key → its flag
FLAGS: Final = {
    "data-root": "--data-root",
    "debug": "--debug",
    "exec-root": "--exec-root",
    "hosts": "--host",
    "http-proxy": "--http-proxy",
    "https-proxy": "--https-proxy",
    "insecure-registries": "--insecure-registry",
    "max-concurrent-downloads": "--max-concurrent-downloads",
    "max-concurrent-uploads": "--max-concurrent-uploads",
    "max-download-attempts": "--max-download-attempts",
    "metrics-addr": "--metrics-addr",
    "no-proxy": "--no-proxy",
    "pidfile": "--pidfile",
    "registry-mirrors": "--registry-mirror",
    "tls": "--tls",
    "tlscacert": "--tlscacert",
    "tlscert": "--tlscert",
    "tlskey": "--tlskey",
    "tlsverify": "--tlsverify",
    **{flag.key: flag.names[-1] for flag in TABLE},
}


def add(parser: argparse.ArgumentParser) -> None:
    """The flags of TABLE."""
    for flag in TABLE:
        options: dict[str, Any] = {"dest": flag.dest, "help": flag.help, "action": "append"}
        if flag.metavar:
            options |= {"metavar": flag.metavar, "type": integer if flag.key in _NUMBERS else str}
        else:
            options |= {"metavar": "BOOL", "nargs": "?", "const": True, "type": boolean}
        parser.add_argument(*flag.names, **options)


def given(arguments: argparse.Namespace) -> dict[str, Any]:
    """What was given of TABLE, as the file would have it.  Raises InvalidArgument that names the flag."""
    out = {}
    for flag in TABLE:
        texts = getattr(arguments, flag.dest)
        if texts is None:
            continue
        try:
            out[flag.key] = flag.form(texts)
        except InvalidArgument as error:
            shown = next((text for text in texts if not _is_right(flag, text)), texts[-1])
            raise InvalidArgument(f'invalid argument "{shown}" for "{FLAGS[flag.key]}" flag: {error.text}') from error
    return out


def _is_right(flag: Flag, text: str) -> bool:
    try:
        flag.form([text])
    except InvalidArgument:
        return False
    return True
