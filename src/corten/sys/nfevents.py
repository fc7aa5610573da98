"""What the kernel tells of changes to its nftables: one value per transaction.

A transaction's events come first, each with the table that it concerns, then the new generation, which ends them and
says who did it.  A socket that was too slow has lost some (ENOBUFS), and says that.

Sources: netlink(7), include/uapi/linux/netfilter/{nfnetlink,nf_tables}.h, net/netfilter/nf_tables_api.c
(nft_commit_notify, nf_tables_gen_notify).
"""

from __future__ import annotations

import errno
import os
import select
import socket
from collections.abc import Iterator
from dataclasses import dataclass

from corten.sys.netlink import HEADER, NETLINK_NETFILTER, SOL_NETLINK, attributes, string

NFNLGRP_NFTABLES = 7
NFNL_SUBSYS_NFTABLES = 10
NFT_MSG_NEWCHAIN, NFT_MSG_NEWGEN = 3, 15
NFTA_TABLE, NFTA_CHAIN_NAME = 1, 3  # the table's name is attribute 1 of every message but NEWGEN
NFTA_GEN_PROC_NAME = 3
NFPROTO_INET = 1
NETLINK_ADD_MEMBERSHIP = 1
SO_RCVBUFFORCE = 33

_NFGENMSG_BYTES = 4
_RECEIVE_BYTES = 1 << 18
_ROOM_BYTES = 1 << 21  # somebody may load a ruleset of many thousand rules at once


@dataclass(frozen=True, slots=True)
class Commit:
    """A transaction: the netlink port and the program that asked for it, and what it touched.

    `tables`: (family, name); `chains`: names of chains that it made.
    """

    port: int
    program: str
    tables: frozenset[tuple[int, str]]
    chains: frozenset[str]


class Lost(Exception):
    """Events were lost: anything may have changed."""


class Reader:
    """Puts the messages of a transaction together."""

    def __init__(self) -> None:
        self._tables: set[tuple[int, str]] = set()
        self._chains: set[str] = set()

    def taken(self, datagram: bytes) -> Iterator[Commit]:
        """The transactions that end in this datagram."""
        for kind, port, payload in _messages(datagram):
            if kind >> 8 != NFNL_SUBSYS_NFTABLES:
                continue
            found = attributes(payload[_NFGENMSG_BYTES:])
            if kind & 0xFF == NFT_MSG_NEWGEN:
                yield Commit(port, string(found, NFTA_GEN_PROC_NAME), frozenset(self._tables), frozenset(self._chains))
                self.forget()
                continue
            self._tables.add((payload[0], string(found, NFTA_TABLE)))
            if kind & 0xFF == NFT_MSG_NEWCHAIN:
                self._chains.add(string(found, NFTA_CHAIN_NAME))

    def forget(self) -> None:
        """What came so far is no whole transaction."""
        self._tables, self._chains = set(), set()


class Events:
    """A socket of the calling thread's network namespace; `wake` ends a wait from another thread."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER)
        self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, _ROOM_BYTES)
        self._socket.bind((0, 0))
        self._socket.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, NFNLGRP_NFTABLES)
        self._socket.setblocking(False)
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)
        self._poll.register(self._wake_fd, select.POLLIN)
        self._reader = Reader()

    def wait(self, timeout_s: float | None = None) -> list[Commit]:
        """The transactions that ended meanwhile; [] when the time is over or somebody called `wake`.  Raises Lost."""
        self._poll.poll(None if timeout_s is None else timeout_s * 1000)
        found: list[Commit] = []
        while True:
            try:
                datagram = self._socket.recv(_RECEIVE_BYTES)
            except BlockingIOError:
                return found
            except OSError as error:
                if error.errno == errno.ENOBUFS:
                    self._reader.forget()
                    raise Lost from error
                raise
            found += self._reader.taken(datagram)

    def wake(self) -> None:
        """Ends a wait, now and for ever."""
        os.eventfd_write(self._wake_fd, 1)

    def close(self) -> None:
        """Closes the sockets; nobody waits any more."""
        self._socket.close()
        os.close(self._wake_fd)


def _messages(datagram: bytes) -> Iterator[tuple[int, int, bytes]]:
    """(type, port of who asked, payload) of every message; what is cut off is left out."""
    offset = 0
    while offset + HEADER.size <= len(datagram):
        length, kind, _, _, port = HEADER.unpack_from(datagram, offset)
        if length < HEADER.size or offset + length > len(datagram):
            return
        yield kind, port, datagram[offset + HEADER.size : offset + length]
        offset += (length + 3) & ~3
