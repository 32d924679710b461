# SPDX-License-Identifier: GPL-2.0-or-later
"""The contract with the data plane, ``bpf/abi.h``: its enums and structs. No other module knows an offset.

The enums are generated: ``enum xdpfw_reason`` is ``Reason``, ``XDPFW_REASON_INVALID_IPV4_IHL`` its member
``INVALID_IPV4_IHL``. A ``COUNT`` is a plain integer of its class, so that walking over the class leaves it out.

Structs go by their C names without the prefix: ``pack("row", [rule, predicate, other, last])``. Byte order is the
host's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from xdpfw.kernel import _bindings
from xdpfw.kernel._enums import *  # noqa: F403
from xdpfw.kernel._enums import Reason

ffi: Final[Any] = _bindings.ffi

Value = int | bytes | Sequence["Value"] | Mapping[str, "Value"]
"""What initialises a C value: members by name or in their order, arrays as sequences, byte arrays as bytes too."""


def size_of(struct: str) -> int:
    """Bytes of ``struct xdpfw_<struct>``."""
    return int(ffi.sizeof(f"struct xdpfw_{struct}"))


def offset_of(struct: str, member: str) -> int:
    """Bytes from the start of ``struct xdpfw_<struct>`` to its member."""
    return int(ffi.offsetof(f"struct xdpfw_{struct}", member))


def pack(struct: str, value: Value) -> bytes:
    """One ``struct xdpfw_<struct>``; members that ``value`` does not name are zero.

    Raises ``OverflowError`` where a number does not fit its member, ``KeyError`` for an unknown member.
    """
    return bytes(ffi.buffer(ffi.new(f"struct xdpfw_{struct} *", value)))


def pack_array(struct: str, values: Iterable[Value]) -> bytes:
    """An array of ``struct xdpfw_<struct>``, one element a value."""
    return bytes(ffi.buffer(ffi.new(f"struct xdpfw_{struct}[]", list(values))))


def unpack(struct: str, data: bytes) -> Any:
    """A copy of ``data`` as ``struct xdpfw_<struct>``: members are attributes, and may be assigned.

    Raises ``ValueError`` if the length is not that of the struct.
    """
    value = ffi.new(f"struct xdpfw_{struct} *")
    ffi.buffer(value)[:] = data
    return value


def to_bytes(value: Any) -> bytes:
    """What ``unpack`` was given, with the changes that were made since."""
    return bytes(ffi.buffer(value))


def reason_name(reason: int) -> str:
    """The name that users see: ``rule``, ``default``, ``allow.arp``, ``invalid.ipv4_ihl``."""
    return _REASON_NAMES[reason]


def _reason_name(member: str) -> str:
    group, _, rest = member.lower().partition("_")
    return f"{group}.{rest}" if rest else group


_REASON_NAMES: Final = {int(reason): _reason_name(reason.name) for reason in Reason}
