# SPDX-License-Identifier: GPL-2.0-or-later
"""The host that is knocked at: one address of it, so that all steps and what is verified meet the same."""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass
from ipaddress import ip_address
from socket import AF_INET, AF_INET6, AddressFamily
from typing import Final, TypeAlias

from xdpfw.errors import UsageError, XdpfwError

_WITH_PORT: Final = re.compile(r"(?:\[(?P<v6>[^\[\]]+)\]|(?P<host>[^:\[\]]+)):[0-9]+")

SocketAddress: TypeAlias = tuple[str, int] | tuple[str, int, int, int]


@dataclass(frozen=True, slots=True)
class Target:
    """``address`` is numeric, ``scope`` the number of the interface that a link-local address is on."""

    host: str
    family: AddressFamily
    address: str
    scope: int = 0

    def socket_address(self, port: int) -> SocketAddress:
        return (self.address, port, 0, self.scope) if self.family == AF_INET6 else (self.address, port)

    def __str__(self) -> str:
        return self.address if self.host.partition("%")[0] == self.address else f"{self.host} ({self.address})"


def resolve(host: str, family: AddressFamily | None = None) -> Target:
    """The first address of ``host`` in the order of getaddrinfo (RFC 6724), of this family where one is given.

    An IPv6 address may stand in brackets. Raises UsageError where it has none, or is link-local and names no interface;
    XdpfwError where nobody could be asked.
    """
    if not host:
        raise UsageError("a host is expected, and this is empty", hint="perhaps a shell variable is not set")
    if behind := _WITH_PORT.fullmatch(host):
        hint = f"write {behind['host'] or behind['v6']}; the port that is to open goes behind --verify"
        raise UsageError(f"{host} has a port, and a host to knock at has none", hint=hint)
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    wanted = {None: 0, AF_INET: AF_INET, AF_INET6: AF_INET6}[family]
    try:
        found = socket.getaddrinfo(host, None, wanted, socket.SOCK_DGRAM)
    except socket.gaierror as error:
        kind = {None: "", AF_INET: "an IPv4 address of ", AF_INET6: "an IPv6 address of "}[family]
        message = f"cannot find {kind}{host!r}: {error.strerror}"
        if error.errno in (socket.EAI_AGAIN, socket.EAI_SYSTEM, socket.EAI_MEMORY):
            raise XdpfwError(message) from None
        raise UsageError(message) from None
    except (UnicodeError, ValueError):
        raise UsageError(f"{host!r} is neither an address nor the name of a host") from None
    chosen, *_, address = found[0]
    scope = address[3] if len(address) == 4 else 0
    if chosen == AF_INET6 and not scope and ip_address(address[0]).is_link_local:
        hint = f"write {host}%eth0, with the interface that it is on"
        raise UsageError(f"{host} is a link-local address, and does not say on which interface", hint=hint)
    return Target(host, chosen, str(address[0]).partition("%")[0], int(scope))
