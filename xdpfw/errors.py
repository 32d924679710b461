# SPDX-License-Identifier: GPL-2.0-or-later
"""Everything that xdpfw raises for a user to read.

XdpfwError                  exit status 3
├── UsageError              exit status 2   the command line is wrong
├── PolicyError             exit status 2   the policy, a capture or a packet is wrong; has a position
├── CapacityError           exit status 2   the policy is larger than a limit of the data plane
└── KernelError             exit status 3   the system refused; has the operation, the object and errno
    ├── VerifierError                       the kernel's verifier refused the program
    └── AttachError                         an interface could not be taken or given back
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Position:
    """A place in a file that the user wrote. Lines and columns count from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


class XdpfwError(Exception):
    """The root: catching it catches all that a user can be told.

    ``position``, where it is known, is the place in the policy that asks for what went wrong.
    """

    exit_status = 3

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.position: Position | None = None

    def __str__(self) -> str:
        text = f"{self.message} ({self.hint})" if self.hint else self.message
        return f"{self.position}: {text}" if self.position else text


class UsageError(XdpfwError):
    """The command line asks for something that does not exist or does not fit together."""

    exit_status = 2


class PolicyError(XdpfwError):
    """Input that is wrong.

    ``position`` is where, ``hint`` what would be right, and ``others`` further errors that were found in the
    same run, so that a user mends them all at once.
    """

    exit_status = 2

    def __init__(
        self,
        message: str,
        position: Position | None = None,
        *,
        hint: str | None = None,
        others: Sequence[PolicyError] = (),
    ) -> None:
        super().__init__(message, hint=hint)
        self.position = position
        self.others = tuple(others)


class CapacityError(PolicyError):
    """A policy that is right but larger than a limit of the data plane."""


class KernelError(XdpfwError):
    """A system call that failed: ``operation`` on ``object`` with ``errno``."""

    def __init__(self, operation: str, object: str, errno: int, *, hint: str | None = None) -> None:
        super().__init__(f"{operation} {object}: {os.strerror(errno)}", hint=hint)
        self.operation = operation
        self.object = object
        self.errno = errno


class VerifierError(KernelError):
    """The verifier's refusal, with the last telling lines of its log."""

    def __init__(self, object: str, errno: int, log: str, *, kept_lines: int = 12) -> None:
        super().__init__("load", object, errno)
        lines = [line for line in log.splitlines() if line.strip()]
        self.log = log
        omitted = len(lines) - kept_lines
        shown = lines[-kept_lines:]
        if omitted > 0:
            shown.insert(0, f"... ({omitted} lines left out)")
        self.message = "\n".join([self.message, *shown])


class AttachError(KernelError):
    """An interface that could not be taken: busy, missing, of the wrong kind or without native XDP."""
