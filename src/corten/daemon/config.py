"""daemon.json and flags → the engine's settings.

The file is Docker's, with Docker's keys.  A key that nobody knows is refused by name, one that dockerd knows and
Corten does not support yet as well; what is given both as a flag and in the file is refused, as by dockerd.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from corten.daemon import flagvalues, keys, legacy, networking, registries, resolving
from corten.daemon.flagvalues import FLAGS
from corten.engine import logoptions, policyfiles
from corten.engine.policyfiles import PolicyFile
from corten.engine.seccomp import check_overrides
from corten.engine.settings import BUILT_IN_RUNTIME, Runtime, Settings
from corten.errors import CortenError, InvalidArgument
from corten.registry.proxies import masked
from corten.runtime.defaults import CONFIG_PATH as NODE_FILE
from corten.runtime.defaults import MASKED_KEY, PIDS_KEY, RLIMITS_KEY, SECCOMP_KEY, Defaults, of_file
from corten.runtime.options import BUILT_IN
from corten.spec.docker import Ulimit
from corten.spec.endpoint import address_port, tcp_endpoint
from corten.spec.process import RLIMITS

DEFAULT_FILE: Final = "/etc/corten/daemon.json"
DEFAULT_DATA_ROOT: Final = "/var/lib/corten"
DEFAULT_EXEC_ROOT: Final = "/run/corten"
SOCKET_NAME: Final = "corten.sock"
DOCKER_CERTS_DIR: Final = "/etc/docker/certs.d"

# What dockerd 28 has (docs of dockerd, "Daemon configuration file") and we do not.
UNSUPPORTED: Final = frozenset({"builder"})
# What a SIGHUP takes over; the rest needs a restart, as with dockerd.
RELOADABLE: Final = (
    "authorization-plugins", "debug", "default-pids-limit", "default-runtime", "features", "insecure-registries",
    "labels", "log-level", "max-concurrent-downloads", "max-concurrent-uploads", "max-download-attempts", "policies",
    "registry-mirrors", "runtimes", "tlscacert", "tlscert", "tlskey",
)  # fmt: skip

_IN_EVENTS: Final = (
    "debug", "default-runtime", "insecure-registries", "labels", "max-concurrent-downloads", "max-concurrent-uploads",
    "max-download-attempts", "registry-mirrors",
)  # fmt: skip

_AS_FILE: Final = frozenset(flag.key for flag in flagvalues.TABLE)

File = Mapping[str, Any]
_U64: Final = (1 << 64) - 1


def _text(key: str, value: Any) -> str:
    if not isinstance(value, str):
        raise _wrong(key, "a string")
    return value


def _boolean(key: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise _wrong(key, "true or false")
    return value


def _texts(key: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise _wrong(key, "a list of strings")
    return tuple(value)


def _text_map(key: str, value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise _wrong(key, "an object with strings")
    return dict(value)


def _wrong(key: str, wanted: str) -> InvalidArgument:
    return InvalidArgument(f"{key}: not {wanted}")


def _limit(key: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or (value <= 0 and value != -1):
        raise _wrong(key, "a number above 0, or -1 for no limit")
    return value


def _live_restore(key: str, value: Any) -> bool:
    if not _boolean(key, value):
        raise InvalidArgument("live-restore: false is not supported: containers always outlive the daemon")
    return True


def _runtimes(key: str, value: Any) -> dict[str, Runtime]:
    """`{"crun": {"path": "/usr/bin/crun", "runtimeArgs": []}}`; the built-in one is always there."""
    if not isinstance(value, dict):
        raise _wrong(key, "an object")
    out = {BUILT_IN_RUNTIME: Runtime(BUILT_IN_RUNTIME)}
    for name, entry in value.items():
        if name == BUILT_IN_RUNTIME:
            raise InvalidArgument(f"{key}: runtime name '{name}' is reserved")
        out[name] = _runtime(f"{key}.{name}", name, entry)
    return out


def _runtime(key: str, name: str, entry: Any) -> Runtime:
    if not isinstance(entry, dict):
        raise _wrong(key, "an object")
    for field in entry:
        if field in ("runtimeType", "options"):
            raise InvalidArgument(f"{key}.{field} is not supported yet")
        if field not in ("path", "runtimeArgs"):
            raise InvalidArgument(f"{key}.{field}: unknown field")
    path = _text(f"{key}.path", entry.get("path", ""))
    if not path:
        raise InvalidArgument(f"{key}: either a runtimeType or a path must be configured")
    return Runtime(name, path, _texts(f"{key}.runtimeArgs", entry.get("runtimeArgs") or []))


def _ulimits(key: str, value: Any) -> dict[str, Ulimit]:
    """`{"nofile": {"Name": "nofile", "Soft": 64, "Hard": 128}}`; -1 is no limit; the key is a missing name."""
    if not isinstance(value, dict):
        raise _wrong(key, "an object")
    out = {}
    for name, entry in value.items():
        try:
            found = msgspec.convert(entry, type=Ulimit, strict=True)
        except msgspec.ValidationError as error:
            raise _wrong(f"{key}.{name}", "an object with Name, Soft and Hard") from error
        if unknown := set(entry) - {"Name", "Soft", "Hard"}:
            raise InvalidArgument(f"{key}.{name}.{min(unknown)}: unknown field")
        out[name] = replace(found, name=found.name or name)
        if out[name].name != name or f"RLIMIT_{name.upper()}" not in RLIMITS:
            raise InvalidArgument(f"{key}.{name}: {out[name].name!r} is not the name of this limit")
        if found.soft & _U64 > found.hard & _U64:
            raise InvalidArgument(f"{key}.{name}: soft limit must not exceed hard limit")
        if twin := next((other for other in out if other != name and other.upper() == name.upper()), None):
            raise InvalidArgument(f"{key}.{name}: the same limit as {twin!r}")
    return out


Parser = Callable[[str, Any], Any]

# key → (attribute of Settings, parser); an empty attribute: checked, and nothing else
KEYS: Final[dict[str, tuple[str, Parser]]] = {
    "allow-nondistributable-artifacts": ("allow_nondistributable_artifacts", _texts),
    "allow-direct-routing": ("allow_direct_routing", _boolean),
    "api-cors-header": ("", legacy.cors_header),
    "bip": ("bip", networking.address4),
    "bip6": ("bip6", networking.address6),
    "bridge": ("bridge", networking.bridge),
    "bridge-accept-fwmark": ("bridge_accept_fwmark", networking.mark),
    "authorization-plugins": ("authorization_plugins", _texts),
    "cdi-spec-dirs": ("cdi_spec_dirs", _texts),
    "cgroup-parent": ("cgroup_parent", _text),
    "cpu-rt-period": ("cpu_rt_period", keys.microseconds),
    "cpu-rt-runtime": ("cpu_rt_runtime", keys.microseconds),
    "data-root": ("data_root", _text),
    "debug": ("debug", _boolean),
    "default-address-pools": ("default_address_pools", networking.address_pools),
    "default-cgroupns-mode": ("default_cgroupns_mode", keys.cgroupns_mode),
    "default-gateway": ("default_gateway", networking.gateway4),
    "default-gateway-v6": ("default_gateway_v6", networking.gateway6),
    "default-ipc-mode": ("default_ipc_mode", keys.ipc_mode),
    "default-network-opts": ("default_network_opts", networking.network_options),
    "default-pids-limit": ("default_pids_limit", _limit),
    "default-runtime": ("default_runtime", _text),
    "default-shm-size": ("default_shm_size", keys.size),
    "default-ulimits": ("default_ulimits", _ulimits),
    "deprecated-key-path": ("", legacy.anything),
    "dns": ("dns", resolving.servers),
    "dns-opts": ("dns_opts", resolving.options),
    "dns-search": ("dns_search", resolving.domains),
    "exec-opts": ("exec_opts", keys.exec_opts),
    "exec-root": ("exec_root", _text),
    "experimental": ("experimental", _boolean),
    "features": ("features", legacy.features),
    "firewall-backend": ("", networking.backend),
    "fixed-cidr": ("fixed_cidr", networking.address4),
    "fixed-cidr-v6": ("fixed_cidr_v6", networking.address6),
    "group": ("group", _text),
    "host-firewall": ("host_firewall", networking.host_firewall),
    "host-gateway-ips": ("host_gateway_ips", resolving.gateways),
    "hosts": ("hosts", _texts),
    "http-proxy": ("http_proxy", registries.proxy),
    "https-proxy": ("https_proxy", registries.proxy),
    "icc": ("icc", _boolean),
    "init": ("init", _boolean),
    "init-path": ("init_path", _text),
    "insecure-registries": ("insecure_registries", registries.insecure),
    "ip": ("ip", networking.host_ip),
    "ip-forward": ("ip_forward", _boolean),
    "ip-forward-no-drop": ("ip_forward_no_drop", _boolean),
    "ip-masq": ("ip_masq", _boolean),
    "ip6tables": ("", networking.always),
    "iptables": ("", networking.always),
    "ipv6": ("ipv6", _boolean),
    "labels": ("labels", _texts),
    "live-restore": ("", _live_restore),
    "log-driver": ("log_driver", _text),
    "log-format": ("log_format", keys.log_format),
    "log-level": ("log_level", keys.log_level),
    "log-opts": ("log_opts", _text_map),
    "max-concurrent-downloads": ("max_concurrent_downloads", registries.limit),
    "max-concurrent-uploads": ("max_concurrent_uploads", registries.limit),
    "max-download-attempts": ("max_download_attempts", registries.limit),
    "metrics-addr": ("metrics_addr", _text),
    "min-api-version": ("min_api_version", legacy.min_api_version),
    "mtu": ("mtu", networking.mtu),
    "no-new-privileges": ("no_new_privileges", _boolean),
    "no-proxy": ("no_proxy", registries.proxy),
    "pidfile": ("pidfile", _text),
    "policies": ("policies", keys.paths),
    "raw-logs": ("raw_logs", _boolean),
    "registry-mirrors": ("registry_mirrors", registries.mirrors),
    "runtimes": ("runtimes", _runtimes),
    "seccomp-profile": ("seccomp_profile", _text),
    "selinux-enabled": ("selinux_enabled", _boolean),
    "shutdown-timeout": ("shutdown_timeout", keys.count),
    "signal-senders": ("signal_senders", _boolean),
    "storage-driver": ("storage_driver", keys.storage_driver),
    "storage-opts": ("storage_opts", keys.storage_opts),
    "tls": ("tls", _boolean),
    "tlscacert": ("tlscacert", _text),
    "tlscert": ("tlscert", _text),
    "tlskey": ("tlskey", _text),
    "tlsverify": ("tlsverify", _boolean),
    "userland-proxy": ("userland_proxy", _boolean),
    "userns-remap": ("userns_remap", _text),
    "validate": ("validate", _boolean),
}


def load(path: str, *, is_required: bool) -> File:
    """The file as an object; a missing one is empty unless somebody named it.  Raises InvalidArgument."""
    try:
        with open(path, "rb") as file:
            text = file.read()
    except FileNotFoundError as error:
        if is_required:
            raise _unable(path, f"open {path}: no such file or directory") from error
        return {}
    except OSError as error:
        raise _unable(path, f"open {path}: {(error.strerror or '').lower()}") from error
    if not text.strip():
        return {}
    try:
        found = msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise _unable(path, str(error)) from error
    if not isinstance(found, dict):
        raise _unable(path, "not a JSON object")
    return found


def _unable(path: str, reason: str) -> InvalidArgument:
    return InvalidArgument(f"unable to configure the daemon with file {path}: {reason}")


def settings(path: str, file: File, flags: Mapping[str, Any]) -> Settings:
    """The settings; `flags` by daemon.json key.  Raises InvalidArgument naming file and key."""
    try:
        file = registries.flat(file)
        _refuse_keys(file, flags)
        file = resolving.migrated(file, flags)
        values: dict[str, Any] = {}
        for key, raw in file.items():
            attribute, parse = KEYS[key]
            parsed = parse(key, raw)
            if attribute:
                values[attribute] = parsed
    except InvalidArgument as error:
        raise _unable(path, error.text) from error
    for key, value in flags.items():
        parsed = _of_flag(key, value)
        if KEYS[key][0]:
            values[KEYS[key][0]] = parsed
    origins = dict.fromkeys(file, "daemon.json") | dict.fromkeys(flags, "flag")
    given = {name: value for name, value in values.items() if value is False or value not in ("", (), 0)}
    if "min_api_version" not in given and (found := legacy.min_api_version_of()):
        given["min_api_version"] = found
        origins["min-api-version"] = legacy.MIN_API_VARIABLE
    made = Settings(**(given | _paths(given)), certs_dirs=_certs_dirs(path), origins=origins)
    try:
        made = replace(made, seccomp_text=keys.seccomp_text(made.seccomp_profile))
    except InvalidArgument as error:
        if made.origin("seccomp-profile") == "flag":
            raise InvalidArgument(f"{FLAGS['seccomp-profile']}: {error.text}") from error
        raise _unable(path, error.text) from error
    for key, check in _CHECKS.items():
        try:
            check(made)
        except CortenError as error:
            if made.origin(key) != "flag":
                raise _unable(path, f"{key}: {error.text}" if key in _NAMED else error.text) from error
            raise InvalidArgument(f"{FLAGS[key]}: {error.text}") from error
    return made


def node_defaults(path: str) -> Defaults:
    """What the node's file says; an empty path is the usual one, which may be missing.  Raises InvalidArgument."""
    where = path or NODE_FILE
    try:
        found = of_file(where, required=bool(path))
        if found.node is not None:
            check_overrides(found.node.seccomp, f"{where}.seccomp")
    except CortenError as error:
        raise InvalidArgument(f"unable to configure the daemon with node defaults: {error.text}") from error
    except OSError as error:
        raise _unable(where, f"open {where}: {(error.strerror or '').lower()}") from error
    return found


def with_node(made: Settings, node: Defaults) -> Settings:
    """The settings with the node's words; a limit in daemon.json goes before the node's."""
    made = replace(made, node=node.node)
    if PIDS_KEY in made.origins or node.pids_limit_origin == BUILT_IN:
        return made
    return replace(made, default_pids_limit=node.pids_limit, origins={**made.origins, PIDS_KEY: node.pids_limit_origin})


def policy_files(made: Settings) -> tuple[PolicyFile, ...]:
    """What the files of `policies` say.  Raises InvalidArgument naming the setting and the file."""
    try:
        return policyfiles.load(made.policies)
    except InvalidArgument as error:
        raise InvalidArgument(f"{named(made, 'policies')}: {error.text}") from error


def named(made: Settings, key: str) -> str:
    """Where a setting was given, for a message about its value."""
    return FLAGS[key] if made.origin(key) == "flag" and key in FLAGS else f"{key} ({made.origin(key)})"


def _refuse_keys(file: File, flags: Mapping[str, Any]) -> None:
    known = {*KEYS, *UNSUPPORTED, *legacy.ABSENT, resolving.GATEWAY}
    unknown = [key for key in file if key not in known]
    if unknown:
        raise InvalidArgument(f"the following directives don't match any configuration option: {', '.join(unknown)}")
    for key in file:
        if key in UNSUPPORTED:
            raise InvalidArgument(f"{key} is not supported yet")
        if key in legacy.ABSENT:
            raise InvalidArgument(f"{key} is not supported: {legacy.ABSENT[key]}")
    both = [
        f"{key}: (from flag: {_told(key, flags[key])}, from file: {_told(key, file[key])})"
        for key in file
        if key in flags
    ]
    if both:
        text = "the following directives are specified both as a flag and in the configuration file"
        raise InvalidArgument(f"{text}: {', '.join(both)}")


def _told(key: str, value: Any) -> str:
    return masked(_shown(value)) if key in registries.PROXIES else _shown(value)


def _of_flag(key: str, value: Any) -> Any:
    """The value of a flag, checked as the file's is unless the command line's own reading is enough."""
    if key in _AS_FILE:
        try:
            return KEYS[key][1](key, value)
        except InvalidArgument as error:
            raise InvalidArgument(f"{FLAGS[key]}: {error.text.removeprefix(f'{key}: ')}") from error
    if key not in registries.FLAGS:
        return value
    parse = KEYS[key][1]
    for part, given in [(one, (one,)) for one in value] if isinstance(value, tuple) else [(value, value)]:
        try:
            parse(key, given)
        except InvalidArgument as error:
            text = error.text.removeprefix(f"{key}: ")
            raise InvalidArgument(f'invalid argument "{_told(key, part)}" for "{FLAGS[key]}" flag: {text}') from error
    return parse(key, value)


def _certs_dirs(path: str) -> tuple[str, ...]:
    """Where certificates and hosts.toml of registries are looked for: beside daemon.json, then at Docker's place."""
    own = os.path.join(os.path.dirname(os.path.abspath(path)), "certs.d")
    return (own, DOCKER_CERTS_DIR)


def _shown(value: Any) -> str:
    """As Go prints it."""
    if isinstance(value, list | tuple):
        return f"[{' '.join(map(str, value))}]"
    if isinstance(value, dict):
        return f"map[{' '.join(f'{key}:{_shown(one)}' for key, one in sorted(value.items()))}]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _paths(values: Mapping[str, Any]) -> dict[str, Any]:
    """Absolute roots, and the socket of an engine that was given none.  What is empty counts as not given."""
    exec_root = os.path.abspath(values.get("exec_root", DEFAULT_EXEC_ROOT))
    data_root = os.path.abspath(values.get("data_root", DEFAULT_DATA_ROOT))
    hosts = values.get("hosts", (f"unix://{exec_root}/{SOCKET_NAME}",))
    return {"exec_root": exec_root, "data_root": data_root, "hosts": hosts}


def _check_hosts(made: Settings) -> None:
    for host in made.hosts:
        scheme, colon, rest = host.partition("://")
        if not colon or scheme not in ("unix", "tcp", "fd"):
            raise InvalidArgument(f"{host!r}: only unix://, tcp:// and fd:// are supported")
        if scheme == "unix" and not rest.startswith("/"):
            raise InvalidArgument(f"{host!r}: give unix:///path of the socket")
        if scheme == "tcp":
            try:
                tcp_endpoint(rest)
            except ValueError:
                raise InvalidArgument(f"{host!r}: give tcp://address:port") from None


def _check_metrics(made: Settings) -> None:
    if made.metrics_addr:
        try:
            address_port(made.metrics_addr)
        except ValueError:
            raise InvalidArgument(f"{made.metrics_addr!r}: give address:port") from None


def _check_default_runtime(made: Settings) -> None:
    if made.default_runtime not in made.runtimes:
        raise InvalidArgument(f"specified default runtime '{made.default_runtime}' does not exist")


def _check_labels(made: Settings) -> None:
    for label in made.labels:
        if "=" not in label:
            raise InvalidArgument(f"bad attribute format: {label}")


# What is checked when all values are known; the key says whose fault it is.
_CHECKS: Final[dict[str, Callable[[Settings], None]]] = {
    "default-runtime": _check_default_runtime,
    "log-driver": lambda made: logoptions.check(made.log_driver, made.log_opts),
    "hosts": _check_hosts,
    "labels": _check_labels,
    "metrics-addr": _check_metrics,
    **{key: partial(networking.check, key) for key in networking.CHECKED},
    "selinux-enabled": legacy.check_selinux,
}


_NAMED: Final = ("hosts", "metrics-addr", "selinux-enabled", *networking.CHECKED)  # whose texts do not say the key


def reloaded(before: Settings, after: Settings) -> Settings:
    """What a SIGHUP makes of it: the reloadable keys and the node's words of `after`, the rest as it was."""
    origins = {key: value for key, value in before.origins.items() if key not in RELOADABLE}
    origins |= {key: value for key, value in after.origins.items() if key in RELOADABLE}
    values = {KEYS[key][0]: getattr(after, KEYS[key][0]) for key in RELOADABLE}
    return replace(before, origins=origins, node=after.node, **values)


def event_attributes(made: Settings) -> dict[str, str]:
    """What dockerd's event `reload` says of the settings that it takes over: texts, all else as JSON."""
    values = {key: getattr(made, KEYS[key][0]) for key in _IN_EVENTS}
    values |= {"live-restore": True, "runtimes": " ".join(name for name, one in made.runtimes.items() if one.path)}
    return {key: one if isinstance(one, str) else msgspec.json.encode(one).decode() for key, one in values.items()}


def shown(made: Settings) -> str:
    """The whole configuration as one line of JSON, with daemon.json's keys."""
    out: dict[str, Any] = {**networking.FIXED, "live-restore": True}
    for key, (attribute, _) in KEYS.items():
        if attribute:
            out[key] = getattr(made, attribute)
    out["runtimes"] = {
        name: {"path": runtime.path, "runtimeArgs": runtime.args}
        for name, runtime in made.runtimes.items()
        if runtime.path
    }
    if made.node is not None:
        limits = [{"type": name, "soft": soft, "hard": hard} for name, soft, hard in made.node.rlimits]
        words = {RLIMITS_KEY: limits, MASKED_KEY: made.node.masked_paths, SECCOMP_KEY: made.node.seccomp}
        out[made.node.origin] = {key: value for key, value in words.items() if value}
    return msgspec.json.encode(registries.shown(out)).decode()
