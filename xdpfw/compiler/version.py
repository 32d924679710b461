# SPDX-License-Identifier: GPL-2.0-or-later
"""Which compiler this is."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path


@functools.cache
def compiler_digest() -> str:
    """SHA-256, in hex, of the compiler itself: what another one has made is not taken over."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
