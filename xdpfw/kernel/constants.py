# SPDX-License-Identifier: GPL-2.0-or-later
"""The constants of a policy, put into the program's instructions before it is loaded: see bpf/constants.h.

A 64-bit immediate (``BPF_LD | BPF_IMM | BPF_DW``, linux/bpf.h) takes two instructions of 8 bytes: code, registers, a
16-bit offset of 0 and the lower half; then 4 bytes of 0 and the upper half.
"""

from __future__ import annotations

import re
import struct
from typing import Final

from xdpfw.kernel.abi import Mark

_INSTRUCTION_BYTES: Final = 8
_LOAD_IMMEDIATE: Final = rb"\x18[\x00-\x0a]\x00\x00(?P<offset>.{4})\x00\x00\x00\x00(?P<mark>%s)"
_MARKED: Final = re.compile(_LOAD_IMMEDIATE % b"|".join(re.escape(struct.pack("<I", mark)) for mark in Mark), re.DOTALL)


def with_constants(code: bytes, config: bytes) -> bytes:
    """The object file ``code`` with the members of ``config``, a struct xdpfw_config, where it has marks for them."""
    found = bytearray(code)
    for match in _MARKED.finditer(code):
        if match.start() % _INSTRUCTION_BYTES:
            continue
        (offset,) = struct.unpack("<I", match["offset"])
        if struct.unpack("<I", match["mark"])[0] == Mark.WORD:
            value, rest = config[offset : offset + 4], bytes(4)
        else:
            value, rest = config[offset : offset + 4], config[offset + 4 : offset + 8]
        found[match.start("offset") : match.end("offset")] = value
        found[match.start("mark") : match.end("mark")] = rest
    return bytes(found)
