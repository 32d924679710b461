# SPDX-License-Identifier: GPL-2.0-or-later
"""The map ``tables``: a run of 64-byte blocks that tables of u16, u32, u64 and 16-byte entries are laid into."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from xdpfw.kernel.abi import Layout, Value


def bounds(size_bytes: int) -> Value:
    """``struct xdpfw_bounds`` of a map value of so many bytes, a whole number of blocks."""
    return {
        "u16s": size_bytes // 2,
        "u32s": size_bytes // 4,
        "u64s": size_bytes // 8,
        "entries": size_bytes // (Layout.BLOCK_BYTES // Layout.BLOCK_ENTRIES),
        "half_blocks": size_bytes // (Layout.BLOCK_BYTES // 2),
        "blocks": size_bytes // Layout.BLOCK_BYTES,
    }


class Tables:
    """Grows table by table. Block 0 stays empty, so that base 0 can stand for "no table".

    A base counts elements of the table's own type from the start of the map, as bpf/tables.h reads them.
    """

    def __init__(self) -> None:
        self._parts: list[bytes] = [bytes(Layout.BLOCK_BYTES)]
        self._size = int(Layout.BLOCK_BYTES)

    @property
    def blocks(self) -> int:
        """How many blocks there are so far: the number of the block that the next table starts with."""
        return self._size // Layout.BLOCK_BYTES

    @property
    def size_bytes(self) -> int:
        return self._size

    def add(self, elements: npt.NDArray[np.generic], element_bytes: int | None = None) -> int:
        """Lays a table; returns its base in elements of ``element_bytes`` (default: the array's own)."""
        width = element_bytes or elements.dtype.itemsize
        base = self._size // width
        data = np.ascontiguousarray(elements).tobytes()
        data += bytes(-len(data) % Layout.BLOCK_BYTES)
        self._parts.append(data)
        self._size += len(data)
        return base

    def tobytes(self) -> bytes:
        return b"".join(self._parts)
