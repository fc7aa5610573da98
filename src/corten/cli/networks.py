"""`corten network`: connect, create, disconnect, inspect (in `system`), ls, prune, rm."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, TypeVar

import click

from corten import errors
from corten.cli import ipam
from corten.cli.command import Command, Failure, confirmed, daemon_error, operands
from corten.cli.flags import Integer, Switch, Value
from corten.cli.networkflag import option_pair
from corten.cli.pruning import dry_query, dry_run_flag, title
from corten.cli.session import Session, pass_session
from corten.cli.table import FORMAT, filter_flag, filters, raw_template, write_rows
from corten.cli.values import label as check_label
from corten.cli.values import link as check_link
from corten.cli.volumes import natural

Json = Mapping[str, Any]
_Function = TypeVar("_Function", bound=Callable[..., Any])

_COLUMNS: Final = (("ID", "NETWORK ID"), ("Name", "NAME"), ("Driver", "DRIVER"), ("Scope", "SCOPE"))
_HEADINGS: Final = {
    **{"IPv4": "IPV4", "IPv6": "IPV6", "Internal": "INTERNAL", "Labels": "LABELS", "CreatedAt": "CREATED AT"},
}
_RAW: Final = (("network_id", "ID"), ("name", "Name"), ("driver", "Driver"), ("scope", "Scope"))
_SHORT_ID: Final = 12
_WRONG_OPTION: Final = "invalid key/value pair format in driver options"
_TIME: Final = re.compile(r"(\S+)T([\d:]+)(\.\d+)?(Z|[+-]\d\d:\d\d)")


def _several(*names: str, text: str) -> Callable[[_Function], _Function]:
    """An option that may stand several times, or once with commas."""
    return click.option(*names, multiple=True, type=Value(ipam.split), help=text)


def _split(given: Iterable[str]) -> list[str]:
    return [word for text in given for word in ipam.split(text)]


def _map(words: Iterable[str]) -> dict[str, str]:
    """`name=value` words; without `=` the value is empty."""
    return dict(word.partition("=")[::2] for word in words)


@click.command("create", cls=Command, operands="[OPTIONS] NETWORK", at_least=1, at_most=1, help="Create a network")
@click.option("--attachable", is_flag=True, help="Enable manual container attachment")
@click.option("--aux-address", multiple=True, help="Auxiliary IPv4 or IPv6 addresses used by Network driver")
@click.option("--config-from", default="", help="The network from which to copy the configuration")
@click.option("--config-only", is_flag=True, help="Create a configuration only network")
@click.option("-d", "--driver", default="bridge", help='Driver to manage the Network (default "bridge")')
@_several("--gateway", text="IPv4 or IPv6 Gateway for the master subnet")
@click.option("--ingress", is_flag=True, help="Create swarm routing-mesh network")
@click.option("--internal", is_flag=True, help="Restrict external access to the network")
@_several("--ip-range", text="Allocate container ip from a sub-range")
@click.option("--ipam-driver", default="default", help='IP Address Management Driver (default "default")')
@click.option("--ipam-opt", multiple=True, help="Set IPAM driver specific options")
@click.option("--ipv4/--no-ipv4", cls=Switch, default=None, help="Enable or disable IPv4 address assignment")
@click.option("--ipv6/--no-ipv6", cls=Switch, default=None, help="Enable or disable IPv6 address assignment")
@click.option("--label", multiple=True, type=Value(check_label), help="Set metadata on a network")
@click.option("-o", "--opt", multiple=True, help="Set driver specific options")
@click.option("--scope", default="", help="Control the network's scope")
@_several("--subnet", text="Subnet in CIDR format that represents a network segment")
@operands()
@pass_session
def create(session: Session, /, operands: tuple[str, ...], **given: Any) -> None:
    """Makes a network and prints its id."""
    body = create_request(operands[0], given)
    print(session.client.json("POST", "/networks/create", body=body)["Id"])


def create_request(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The body of NetworkCreate.  Raises `InvalidArgument` in the words of Docker's CLI."""
    subnets, ranges, gateways = (_split(given[flag]) for flag in ("subnet", "ip_range", "gateway"))
    config = ipam.configs(subnets, ranges, gateways, _map(given["aux_address"]))
    said = {"EnableIPv4": given["ipv4"], "EnableIPv6": given["ipv6"]}
    return {
        "Name": name,
        "Driver": given["driver"],
        "Scope": given["scope"],
        **{key: value for key, value in said.items() if value is not None},
        "IPAM": {"Driver": given["ipam_driver"], "Options": _map(given["ipam_opt"]), "Config": config},
        "Internal": given["internal"],
        "Attachable": given["attachable"],
        "Ingress": given["ingress"],
        "ConfigOnly": given["config_only"],
        "ConfigFrom": {"Network": given["config_from"]} if given["config_from"] else None,
        "Options": _map(given["opt"]),
        "Labels": _map(given["label"]),
    }


@click.command("ls", cls=Command, operands="[OPTIONS]", at_most=0, help="List networks")
@filter_flag("-f", "--filter")
@click.option("--format", "form", default="", help=FORMAT)
@click.option("--no-trunc", is_flag=True, help="Do not truncate the output")
@click.option("-q", "--quiet", is_flag=True, help="Only display network IDs")
@operands()
@pass_session
def ls(
    session: Session,
    /,
    operands: tuple[str, ...],
    filter_: tuple[str, ...],
    form: str,
    no_trunc: bool,
    quiet: bool,
) -> None:
    """Lists networks by name."""
    answer = session.client.json("GET", "/networks", query={"filters": filters(filter_)})
    found = sorted(answer or (), key=lambda one: natural(one["Name"]))
    rows = [network_row(one, no_trunc=no_trunc) for one in found]
    if quiet and not form:
        for row in rows:
            print(row["ID"])
        return
    if form == "raw":
        form = "network_id: {{.ID}}" if quiet else raw_template(_RAW)
    write_rows(rows, _COLUMNS, form=form, headings=_HEADINGS, kind="network.networkContext")


def network_row(one: Json, *, no_trunc: bool) -> dict[str, Any]:
    """A network with all its values as Docker writes them."""
    labels = one.get("Labels") or {}
    return {
        "ID": one["Id"] if no_trunc else one["Id"][:_SHORT_ID],
        "Name": one["Name"],
        "Driver": one["Driver"],
        "Scope": one["Scope"],
        **{name: _boolean(one.get(f"Enable{name}")) for name in ("IPv4", "IPv6")},
        "Internal": _boolean(one.get("Internal")),
        "Labels": ",".join(f"{key}={value}" for key, value in sorted(labels.items())),
        "Label": lambda name: labels.get(name, ""),
        "CreatedAt": go_time(one.get("Created", "")),
    }


def _boolean(value: Any) -> str:
    return "true" if value else "false"


def go_time(text: str) -> str:
    """RFC 3339 as Go's Time.String shows it: `2024-01-02 03:04:05.5 +0000 UTC`."""
    found = _TIME.fullmatch(text)
    if found is None:
        return text
    day, clock, fraction, zone = found.groups()
    offset = "+0000 UTC" if zone == "Z" else " ".join([zone.replace(":", "")] * 2)
    return f"{day} {clock}{(fraction or '').rstrip('0').rstrip('.')} {offset}"


@click.command("rm", cls=Command, operands="NETWORK [NETWORK...]", at_least=1, help="Remove one or more networks")
@click.option("-f", "--force", is_flag=True, help="Do not error if the network does not exist")
@operands()
@pass_session
def rm(session: Session, /, operands: tuple[str, ...], force: bool) -> None:
    """Removes networks."""
    failed = []
    for name in operands:
        try:
            _named("network", name)
            session.client.json("DELETE", f"/networks/{name}")
        except errors.CortenError as error:
            if not (force and isinstance(error, errors.NotFound)):
                failed.append(daemon_error(error).message)
            continue
        print(name, flush=True)
    if failed:
        raise Failure("\n".join([*failed, "exit status 1"]))


def _named(kind: str, name: str) -> None:
    """Raises InvalidArgument for no name at all."""
    if not name.strip():
        raise errors.InvalidArgument(f"invalid {kind} name or ID: value is empty")


@click.command("prune", cls=Command, operands="[OPTIONS]", at_most=0, help="Remove all unused networks")
@filter_flag("--filter")
@click.option("-f", "--force", is_flag=True, help="Do not prompt for confirmation")
@dry_run_flag
@operands()
@pass_session
def prune(session: Session, /, operands: tuple[str, ...], filter_: tuple[str, ...], force: bool, dry_run: bool) -> None:
    """Removes networks that no container is on."""
    warning = "This will remove all custom networks not used by at least one container."
    if not force and not dry_run and not confirmed(warning):
        return
    query = {"filters": filters(filter_), **dry_query(session.client, dry_run)}
    answer = session.client.json("POST", "/networks/prune", query=query)
    found = answer.get("NetworksDeleted") or ()
    if found:
        print(title("Networks", dry_run), *found, "", sep="\n")


@click.command(
    "connect",
    cls=Command,
    operands="[OPTIONS] NETWORK CONTAINER",
    at_least=2,
    at_most=2,
    help="Connect a container to a network",
)
@_several("--alias", text="Add network-scoped alias for the container")
@_several("--driver-opt", text="driver options for the network")
@click.option(
    "--gw-priority",
    type=Integer(),
    default=0,
    help="Highest gw-priority provides the default gateway. Accepts positive and negative values.",
)
@click.option("--ip", default="", help='IPv4 address (e.g., "172.30.100.104")')
@click.option("--ip6", default="", help='IPv6 address (e.g., "2001:db8::33")')
@click.option("--link", multiple=True, type=Value(check_link), help="Add link to another container")
@_several("--link-local-ip", text="Add a link-local address for the container")
@operands()
@pass_session
def connect(session: Session, /, operands: tuple[str, ...], **given: Any) -> None:
    """Joins a container, running or not."""
    body = {"Container": operands[1], "EndpointConfig": endpoint_request(given)}
    _named("network", operands[0])
    _named("container", operands[1])
    session.client.json("POST", f"/networks/{operands[0]}/connect", body=body)


def endpoint_request(given: Mapping[str, Any]) -> dict[str, Any]:
    """EndpointSettings as Docker's CLI sends them.  Raises `InvalidArgument`."""
    options: dict[str, str] = {}
    for text in _split(given["driver_opt"]):
        options |= option_pair(text, _WRONG_OPTION)
    addresses = {
        "IPv4Address": given["ip"],
        "IPv6Address": given["ip6"],
        "LinkLocalIPs": _split(given["link_local_ip"]),
    }
    return {
        "IPAMConfig": {key: value for key, value in addresses.items() if value},
        "Links": list(given["link"]) or None,
        "Aliases": _split(given["alias"]),
        "DriverOpts": options,
        "GwPriority": given["gw_priority"],
    }


@click.command(
    "disconnect",
    cls=Command,
    operands="[OPTIONS] NETWORK CONTAINER",
    at_least=2,
    at_most=2,
    help="Disconnect a container from a network",
)
@click.option("-f", "--force", is_flag=True, help="Force the container to disconnect from a network")
@operands()
@pass_session
def disconnect(session: Session, /, operands: tuple[str, ...], force: bool) -> None:
    """Takes a container off a network."""
    network, container = operands
    _named("network", network)
    _named("container", container)
    session.client.json("POST", f"/networks/{network}/disconnect", body={"Container": container, "Force": force})
