"""Questions that a container asks its resolver, in words of dnspython's."""

from __future__ import annotations

import socket
import time

import dns.message
import dns.query
import dns.rcode
import dns.rdatatype
import dns.reversename

from support.netlab import Node

RESOLVER = "127.0.0.11"
PATIENCE_S = 60.0


def ask(
    node: Node, name: str, kind: str = "A", *, by_tcp: bool = False, size: int = 0, server: str = RESOLVER
) -> dns.message.Message:
    """The answer.  `size`: of the largest one by UDP, which the question tells by EDNS; 0 for a question without it."""
    query = dns.message.make_query(name, kind, use_edns=0 if size else False, payload=size or None)
    family = socket.AF_INET6 if ":" in server else socket.AF_INET
    sock = node.call(lambda: socket.socket(family, socket.SOCK_STREAM if by_tcp else socket.SOCK_DGRAM))
    with sock:
        if not by_tcp:
            sock.setblocking(False)
            return dns.query.udp(query, server, PATIENCE_S, sock=sock)
        sock.settimeout(PATIENCE_S)
        sock.connect((server, 53))
        sock.setblocking(False)
        return dns.query.tcp(query, server, PATIENCE_S, sock=sock)


def told(answer: dns.message.Message) -> list[str]:
    """The records of an answer in order, or its code where that is an error."""
    if answer.rcode() != dns.rcode.NOERROR:
        return [dns.rcode.to_text(answer.rcode())]
    return [str(one) for row in answer.answer for one in row]


def addresses(node: Node, name: str, kind: str = "A") -> list[str]:
    """Those of a name, sorted."""
    return sorted(told(ask(node, name, kind)))


def name_of(node: Node, address: str) -> list[str]:
    """Of an address."""
    return told(ask(node, str(dns.reversename.from_address(address)), "PTR"))


def await_answer(node: Node, name: str, expected: list[str]) -> float:
    """Seconds until a name is answered so, by a resolver that may be gone for a moment."""
    began = time.monotonic()
    while time.monotonic() < began + PATIENCE_S:
        query = dns.message.make_query(name, "A", use_edns=False)
        with node.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sock:
            sock.settimeout(0.5)
            try:
                sock.connect((RESOLVER, 53))
                sock.send(query.to_wire())
                if sorted(told(dns.message.from_wire(sock.recv(4096)))) == expected:
                    return time.monotonic() - began
            except OSError:
                time.sleep(0.01)
    raise AssertionError(f"{name} is not answered with {expected}")
