# SPDX-License-Identifier: GPL-2.0-or-later
"""Addresses and prefixes as arguments of commands."""

from __future__ import annotations

from contextlib import suppress
from ipaddress import IPv4Network, IPv6Network, ip_network

from xdpfw.errors import UsageError


def prefix_of(text: str) -> IPv4Network | IPv6Network:
    """Raises UsageError."""
    try:
        return ip_network(text)
    except ValueError as error:
        hint = "as in 198.51.100.7 or 2001:db8::/32"
        with suppress(ValueError):  # right but for host bits that are set
            hint = f"the prefix is {ip_network(text, strict=False)}; the address alone is {text.partition('/')[0]}"
        raise UsageError(f"{text!r} is no address or prefix: {error}", hint=hint) from None
