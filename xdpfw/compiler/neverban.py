# SPDX-License-Identifier: GPL-2.0-or-later
"""Addresses that no ban is for, as the keys of a longest prefix match."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from xdpfw.compiler import ir
from xdpfw.kernel import abi

FAMILY_BITS: Final = 32
"""That come before the address in a key."""

_ADDRESS_BYTES: Final = 16
_BITS: Final = {abi.Family.IPV4: 32, abi.Family.IPV6: 128}


def never_ban_keys(policy: ir.Policy) -> bytes:
    """Elements of ``struct xdpfw_never_ban_key``: the policy's prefixes, and those of its sets that are not dynamic."""
    never = policy.never_ban or ir.AddressRanges()
    ranges: dict[abi.Family, list[tuple[int, int]]] = {
        abi.Family.IPV4: [*never.v4],
        abi.Family.IPV6: [*never.v6],
    }
    for family, own in ranges.items():
        for each in never.sets:
            own += each.table.spans(_BITS[family])
    # Ranges of several sets may hold the same prefix, and each key is in the map once.
    found = {
        (family, prefix, length): None
        for family, own in ranges.items()
        for low, high in own
        for prefix, length in prefixes(low, high, _BITS[family])
    }
    return abi.pack_array("never_ban_key", (_key(*each) for each in found))


def prefixes(low: int, high: int, bits: int) -> Iterator[tuple[int, int]]:
    """The prefixes, first address and length, that a range of addresses of so many bits is made of."""
    while low <= high:
        free = min((low & -low).bit_length() - 1 if low else bits, (high - low + 1).bit_length() - 1)
        yield low, bits - free
        low += 1 << free


def _key(family: abi.Family, prefix: int, length: int) -> abi.Value:
    address = prefix.to_bytes(_BITS[family] // 8, "big").ljust(_ADDRESS_BYTES, b"\0")
    return {"prefix_bits": FAMILY_BITS + length, "family": int(family), "address_be": address}
