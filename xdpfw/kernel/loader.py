# SPDX-License-Identifier: GPL-2.0-or-later
"""The object file: opened, sized and loaded; the programs and maps that come of it."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import mmap
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Self

from xdpfw.errors import KernelError, VerifierError
from xdpfw.kernel.constants import with_constants
from xdpfw.kernel.libbpf import BpfObject, check, ffi, libbpf, object_info, options, take_log
from xdpfw.kernel.maps import (
    ArrayMap,
    CounterMap,
    FlowCounterMap,
    HashMap,
    KnockCounterMap,
    LimitCounterMap,
    Map,
)
from xdpfw.kernel.state import State

OBJECT: Final = Path(__file__).with_name("xdpfw.bpf.o")

PROGRAM: Final = "xdpfw"

EGRESS: Final = "xdpfw_egress"
"""The program that sees what is sent, of a policy that follows flows."""

LOG_BYTES: Final = 16 << 20
"""Room for the verifier's log; its pages are touched only where it writes one."""


def object_digest() -> str:
    """SHA-256, in hex, of the object file that generations are loaded from. Raises OSError where it is not built."""
    return hashlib.sha256(OBJECT.read_bytes()).hexdigest()


class Program(BpfObject):
    """A program, ours or found in bpffs."""

    @classmethod
    def by_id(cls, number: int) -> Self:
        """Raises KernelError, with ENOENT where it is gone."""
        return cls(check(libbpf().bpf_prog_get_fd_by_id(number), "open", f"program {number}"))

    @property
    def id(self) -> int:
        return int(object_info(self._fd, "bpf_prog_info").id)


@dataclasses.dataclass(frozen=True, slots=True)
class Maps:
    """The maps of bpf/maps.h, by their names there; ``config`` is the program's read-only data."""

    tables: ArrayMap
    set_tables: ArrayMap
    actions: ArrayMap
    interfaces: ArrayMap
    targets: ArrayMap
    counters: CounterMap
    verdicts: CounterMap
    trace: ArrayMap
    knocks: ArrayMap
    sequences: ArrayMap
    tokens: ArrayMap
    guards: ArrayMap
    rotations: ArrayMap
    windows: ArrayMap
    filters: ArrayMap
    spa_ports: ArrayMap
    spa_keys: ArrayMap
    knock_counters: KnockCounterMap
    limits: ArrayMap
    limit_totals: ArrayMap
    cpu_choices: ArrayMap
    protected_ports: ArrayMap
    limit_counters: LimitCounterMap
    flow_counters: FlowCounterMap
    routes: HashMap
    stations: ArrayMap
    reminders: ArrayMap
    cpus: HashMap
    never_ban: HashMap
    config: ArrayMap

    @classmethod
    def collect(cls, descriptor: Callable[[str], int]) -> Self:
        """All maps; ``descriptor`` opens one by name. Where it raises, those opened before are closed."""
        with contextlib.ExitStack() as opened:
            maps = cls(
                **{
                    field.name: opened.enter_context(_MAP_CLASSES.get(field.name, ArrayMap)(descriptor(field.name)))
                    for field in dataclasses.fields(cls)
                }
            )
            opened.pop_all()
        return maps

    @classmethod
    def names(cls) -> list[str]:
        return [field.name for field in dataclasses.fields(cls)]

    def by_name(self) -> dict[str, Map]:
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}


_MAP_CLASSES: Final[dict[str, Any]] = {
    "counters": CounterMap,
    "verdicts": CounterMap,
    "knock_counters": KnockCounterMap,
    "limit_counters": LimitCounterMap,
    "flow_counters": FlowCounterMap,
    "routes": HashMap,
    "cpus": HashMap,
    "never_ban": HashMap,
}


def load_object(
    config: bytes,
    value_sizes: Mapping[str, int],
    sizes: Mapping[str, int],
    reused: Mapping[str, int],
    *,
    has_egress: bool,
) -> tuple[Program, Maps, State, Program | None]:
    """Opens the object file, sizes its maps, sets its constants and has the kernel verify it.

    ``reused``: descriptors of maps that are there already, by name. ``has_egress``: the program that sees what is sent
    is wanted, too.
    """
    library = libbpf()
    take_log()
    name = ffi.new("char[]", PROGRAM.encode())
    with mmap.mmap(-1, LOG_BYTES) as log, ffi.from_buffer(log) as log_buffer:
        open_options = options(
            "bpf_object_open_opts",
            object_name=name,
            kernel_log_buf=ffi.cast("char *", log_buffer),
            kernel_log_size=LOG_BYTES,
        )
        code = with_constants(_object_code(), config)
        bpf_object = library.bpf_object__open_mem(ffi.from_buffer(code), len(code), open_options)
        if not bpf_object:
            check(-ffi.errno, "open", str(OBJECT))
        try:
            for name, entries in sizes.items():
                result = library.bpf_map__set_max_entries(_find_map(bpf_object, name), max(entries, 1))
                check(result, "size", f"map {name}")
            for name, descriptor in reused.items():
                result = library.bpf_map__reuse_fd(_find_map(bpf_object, name), descriptor)
                check(result, "reuse", f"map {name}")
            for name, value_bytes in value_sizes.items():
                result = library.bpf_map__set_value_size(_find_map(bpf_object, name), value_bytes)
                check(result, "size", f"map {name}")
            result = library.bpf_map__set_initial_value(_find_map(bpf_object, "config"), config, len(config))
            check(result, "set", f"constants of {OBJECT.name}")
            result = library.bpf_program__set_autoload(_find_program(bpf_object, EGRESS), has_egress)
            check(result, "choose", f"program {EGRESS}")
            result = library.bpf_object__load(bpf_object)
            verdict = ffi.string(ffi.cast("char *", log_buffer)).decode(errors="replace")
            if result < 0 and verdict:
                raise VerifierError(OBJECT.name, -result, verdict)
            check(result, "load", OBJECT.name)
            return _take(bpf_object, has_egress)
        finally:
            library.bpf_object__close(bpf_object)


def _object_code() -> bytes:
    try:
        return OBJECT.read_bytes()
    except OSError as error:
        hint = "the BPF object is missing: make bpf builds it" if error.errno == errno.ENOENT else None
        raise KernelError("open", str(OBJECT), error.errno or errno.EIO, hint=hint) from None


def _take(bpf_object: Any, has_egress: bool) -> tuple[Program, Maps, State, Program | None]:
    """Programs and maps of a loaded object, with descriptors of their own."""
    library = libbpf()

    def duplicate(name: str) -> int:
        return os.dup(library.bpf_map__fd(_find_map(bpf_object, name)))

    with contextlib.ExitStack() as opened:
        program = opened.enter_context(_take_program(bpf_object, PROGRAM))
        egress = opened.enter_context(_take_program(bpf_object, EGRESS)) if has_egress else None
        state = opened.enter_context(State.collect(duplicate))
        maps = Maps.collect(duplicate)
        opened.pop_all()
    return program, maps, state, egress


def _take_program(bpf_object: Any, name: str) -> Program:
    return Program(os.dup(libbpf().bpf_program__fd(_find_program(bpf_object, name))))


def _find_program(bpf_object: Any, name: str) -> Any:
    found = libbpf().bpf_object__find_program_by_name(bpf_object, name.encode())
    if not found:
        raise KernelError("find", f"program {name} in {OBJECT.name}", errno.ENOENT)
    return found


def _find_map(bpf_object: Any, name: str) -> Any:
    section = ".rodata" if name == "config" else name
    found = libbpf().bpf_object__find_map_by_name(bpf_object, section.encode())
    if not found:
        raise KernelError("find", f"map {section} in {OBJECT.name}", errno.ENOENT)
    return found
