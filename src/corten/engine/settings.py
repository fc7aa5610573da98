"""The engine's settings as one value: what daemon.json, flags and built-in defaults came to.

Made by `daemon.config`, read by everyone; a reload makes a new one.
"""

from __future__ import annotations

import os
from typing import Final

import msgspec

from corten.core.owners import IdMap
from corten.engine import defaults
from corten.registry.proxies import Proxies, from_environment
from corten.runtime.effective import Node
from corten.spec.docker import Ulimit

BUILT_IN_RUNTIME: Final = "corten"


class Runtime(msgspec.Struct, frozen=True):
    """A runtime by name; an empty path is the built-in one, in process in the shim."""

    name: str
    path: str = ""
    args: tuple[str, ...] = ()


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """`origins` maps a daemon.json key to where its value is from: "flag", "daemon.json" or the node's file."""

    data_root: str
    exec_root: str
    hosts: tuple[str, ...] = ()
    pidfile: str = ""
    tls: bool = False  # of tcp:// sockets: corten.daemon.tls
    tlsverify: bool = False
    tlscacert: str = ""
    tlscert: str = ""
    tlskey: str = ""
    metrics_addr: str = ""  # address:port; empty: no metrics
    debug: bool = False
    signal_senders: bool = False  # engine.senders
    runtimes: dict[str, Runtime] = msgspec.field(default_factory=lambda: {BUILT_IN_RUNTIME: Runtime(BUILT_IN_RUNTIME)})
    default_runtime: str = BUILT_IN_RUNTIME
    default_pids_limit: int = defaults.PIDS_LIMIT
    default_ulimits: dict[str, Ulimit] = {}
    node: Node | None = None  # what the node's file says beside it: corten.runtime.defaults
    log_driver: str = "json-file"
    log_opts: dict[str, str] = {}
    registry_mirrors: tuple[str, ...] = ()
    insecure_registries: tuple[str, ...] = ()
    max_concurrent_downloads: int = defaults.CONCURRENT_DOWNLOADS
    max_concurrent_uploads: int = defaults.CONCURRENT_UPLOADS
    max_download_attempts: int = defaults.DOWNLOAD_ATTEMPTS
    http_proxy: str = ""
    https_proxy: str = ""
    no_proxy: str = ""
    certs_dirs: tuple[str, ...] = ()  # where a registry's certificates and hosts.toml are looked for, in this order
    labels: tuple[str, ...] = ()
    cgroup_parent: str = ""
    default_cgroupns_mode: str = ""
    default_ipc_mode: str = "private"
    default_shm_size: int = defaults.SHM_SIZE
    init: bool = False
    init_path: str = ""
    no_new_privileges: bool = False
    seccomp_profile: str = ""  # "builtin", "unconfined", or a path
    seccomp_text: str = ""  # as in corten.engine.security.Security
    dns: tuple[str, ...] = ()  # of resolv.conf, where a container names none
    dns_opts: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    userland_proxy: bool = True  # a shim relays what NAT cannot lead to its container: network.published
    host_gateway_ips: tuple[str, ...] = ()  # of --add-host NAME:host-gateway; empty: the default bridge's address
    # networks: daemon.networking
    allow_direct_routing: bool = False
    bip: str = ""
    bip6: str = ""
    bridge: str = ""
    bridge_accept_fwmark: str = ""
    default_address_pools: tuple[tuple[str, int], ...] = ()  # (range, length of the prefix of each subnet)
    default_gateway: str = ""
    default_gateway_v6: str = ""
    default_network_opts: dict[str, dict[str, str]] = {}
    fixed_cidr: str = ""
    fixed_cidr_v6: str = ""
    host_firewall: str = ""  # "respect": network.admission
    icc: bool = True
    ip: str = ""
    ip_forward: bool = True
    ip_forward_no_drop: bool = False
    ip_masq: bool = True
    ipv6: bool = False
    mtu: int = 0
    cpu_rt_period: int = 0  # microseconds, of the cgroups that containers are below
    cpu_rt_runtime: int = 0
    authorization_plugins: tuple[str, ...] = ()  # asked about every request: docker.authz
    policies: tuple[str, ...] = ()  # files, in the order in which they are asked: engine.policyfiles
    userns_remap: str = ""
    id_map: IdMap | None = None  # what it means: corten.daemon.remap
    experimental: bool = False
    features: dict[str, bool] = {}
    cdi_spec_dirs: tuple[str, ...] = ("/etc/cdi", "/var/run/cdi")  # [""]: none
    min_api_version: str = ""  # "": the oldest that there is
    group: str = ""  # of unix sockets
    log_format: str = "text"
    log_level: str = "info"
    # What Docker's files have and there is one way of here: logs without colours, containers that outlive the daemon.
    raw_logs: bool = False
    shutdown_timeout: int = 15
    storage_driver: str = "overlay2"
    storage_opts: tuple[str, ...] = ()  # engine.storage
    exec_opts: tuple[str, ...] = ()
    allow_nondistributable_artifacts: tuple[str, ...] = ()
    selinux_enabled: bool = False
    validate: bool = False  # check the configuration and exit
    origins: dict[str, str] = {}

    def origin(self, key: str) -> str:
        """Where the value of a daemon.json key is from."""
        return self.origins.get(key, "built-in")

    @property
    def cdi_directories(self) -> tuple[str, ...]:
        """Where specifications of CDI devices are; none where the feature is turned off."""
        is_off = self.cdi_spec_dirs == ("",) or not self.features.get("cdi", True)
        return () if is_off else self.cdi_spec_dirs

    @property
    def proxies(self) -> Proxies:
        """The proxies to use: where the settings are silent, the environment's."""
        found = from_environment(os.environ)
        return Proxies(self.http_proxy or found.http, self.https_proxy or found.https, self.no_proxy or found.no_proxy)
