# SPDX-License-Identifier: GPL-2.0-or-later
"""A loaded generation: the program with the maps of one policy."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple, Self

from xdpfw.errors import CapacityError, KernelError
from xdpfw.kernel import abi
from xdpfw.kernel.image import Image, Knocks
from xdpfw.kernel.libbpf import check, ffi, libbpf
from xdpfw.kernel.loader import Maps, Program, load_object
from xdpfw.kernel.maps import (
    Counter,
    FlowCounter,
    KnockCounter,
    LimitCounter,
)
from xdpfw.kernel.sets import make_set
from xdpfw.kernel.sizes import MASKS, state_sizes_of
from xdpfw.kernel.state import State, boot_ns, present_tai_offset_ns
from xdpfw.kernel.testrun import ETHERNET_HEADER_BYTES, LOOPBACK, START_BOOT_NS, START_WALL_NS, Outcome, Runner

TEST_SECRET: Final = (0x0123456789ABCDEF, 0x5BD1E9955BD1E995)
"""Of a generation that traces, so that its slots are the same each time."""

WINDOWS_PER_ROTATION: Final = 4
"""ROTATION_CACHED of bpf/rotation.h."""

FACTOR_TRIES: Final = 1 << 18

_GOLDEN_RATIO: Final = 0x9E3779B1

_U32: Final = 0xFFFFFFFF

_OTHER_VERSION: Final = "another version of xdpfw loaded it: xdpfw detach, then apply"


class FillLevel(NamedTuple):
    used: int
    capacity: int


_KNOCK_ARRAYS: Final = ("knocks", "sequences", "tokens", "guards", "rotations", "spa_ports", "spa_keys")
"""Maps that take the bytes of Knocks as they are."""


def interface_factor(ifindexes: Sequence[int]) -> int:
    """An odd factor that gives each interface index a slot of its own: ``(u32)(ifindex * factor) >> 24``.

    Always the same for the same indexes. Raises CapacityError if there are more than MAX_INTERFACES of them.
    """
    distinct = set(ifindexes)
    limit = abi.Limit.MAX_INTERFACES
    if len(distinct) > limit:
        raise CapacityError(f"{len(distinct)} interfaces, but a firewall has at most {limit:d}")
    for odd in range(1, FACTOR_TRIES, 2):
        factor = _GOLDEN_RATIO * odd & _U32
        if len({interface_slot(ifindex, factor) for ifindex in distinct}) == len(distinct):
            return factor
    raise CapacityError(f"no factor keeps the interfaces {sorted(distinct)} apart")


def interface_slot(ifindex: int, factor: int) -> int:
    """The slot of the map ``interfaces`` where the program looks for this interface."""
    return (ifindex * factor & _U32) >> 24


class Generation:
    """A policy in the kernel. It stays there while this object is open, it is pinned, or an interface runs it.

    ``state``: the maps that it was loaded with and that outlive it; None where it was opened, or uses none.
    ``egress``: the program that is to see what its interfaces send; None where the policy follows no flows.
    """

    def __init__(self, program: Program, maps: Maps, state: State | None = None, egress: Program | None = None) -> None:
        self.program = program
        self.egress = egress
        self.maps = maps
        self.state = state
        self._config = abi.unpack("config", maps.config.read(0))
        self._runner: Runner | None = None

    @classmethod
    def load(
        cls,
        image: Image,
        *,
        interfaces: Sequence[int],
        targets: Sequence[int],
        number: int = 0,
        state: State | None = None,
        set_slots: Sequence[int] | None = None,
        trace: bool = False,
        full_size: bool | None = None,
        stop_after: abi.Stage = abi.Stage.ALL,
    ) -> Generation:
        """A new generation that nothing runs yet.

        ``interfaces`` are the interface indexes in the policy's order, ``targets`` those of ``image.targets``,
        ``number`` what its events go by. It uses the maps of ``state``, which stays the caller's; None makes new ones.
        ``set_slots``: of dynamic sets, by number, where the caller has a say; those of ``state`` are its to make.
        ``full_size``: new tables of half-done sequences are as large as in force, which they are without ``trace``.
        ``stop_after``: packets come no further, for benchmarks.
        With ``trace``, which ``run`` needs to tell reason and rule, each packet costs some ns more.
        Raises VerifierError, KernelError, CapacityError; nothing is left behind then.
        """
        if len(targets) != len(image.targets):
            raise ValueError(f"{len(image.targets)} redirect targets need as many interfaces, not {len(targets)}")
        config = abi.unpack("config", image.config)
        config.trace = trace
        config.stop_after = stop_after
        config.derives_verdicts = len(interfaces) == 1 and not trace
        config.interface_factor = interface_factor([*interfaces, LOOPBACK] if trace else interfaces)
        config.generation = number
        secret = state.read_shared().hash_secret if state else TEST_SECRET if trace else _random_secret()
        config.hash_secret = secret
        config.word_secrets = _word_secrets(secret)
        slots = list(range(len(image.set_sizes)) if set_slots is None else set_slots)
        config.set_slots = slots
        knocks = image.knocks
        state_sizes = state_sizes_of(config, is_full=not trace if full_size is None else full_size)
        for member, name in MASKS.items():
            setattr(config, member, state_sizes[name] - 1)
        sizes = {
            "actions": image.rule_count + config.knock_rules,
            "targets": len(targets),
            "counters": abi.Reason.COUNT + image.rule_count,
            "windows": config.rotation_count * WINDOWS_PER_ROTATION,
            "filters": config.rotation_count,
            "knock_counters": _count(knocks.knocks, "knock"),
            "limits": config.limit_count,
            "limit_totals": config.limit_count,
            "limit_counters": config.limit_count,
            "cpu_choices": len(image.cpu_choices),
            "cpus": 0 if trace else max(image.cpu_choices, default=0) + 1,
            "reminders": abi.Limit.REMINDER_SLOTS if config.routes else 1,
            "protected_ports": PROTECTED_PORT_WORDS if image.protected_ports else 1,
            "never_ban": _count(image.never_ban_keys, "never_ban_key"),
            **state_sizes,
            **{name: _count(getattr(knocks, name), name.removesuffix("s")) for name in _KNOCK_ARRAYS},
        }
        reused = {}
        if state is not None:
            descriptors = state.descriptors()
            reused = {name: descriptors[name] for name in state.of_sizes(state_sizes)}
        value_sizes = {"tables": len(image.tables), "set_tables": len(image.set_tables) or abi.Layout.BLOCK_BYTES}
        generation = cls(*load_object(abi.to_bytes(config), value_sizes, sizes, reused, has_egress=bool(config.tracks)))
        try:
            if state is None and generation.state is not None:
                generation.state.initialise(secret, 0 if trace else present_tai_offset_ns())
                for slot, size in zip(slots, image.set_sizes, strict=True):
                    make_set(generation.state.set_heads, generation.state.dynamic_sets, slot, size)
            generation._fill(image, interfaces, targets)
        except BaseException:
            generation.close()
            raise
        return generation

    @classmethod
    def open(cls, directory: Path) -> Generation:
        """The generation that was pinned in ``directory``.

        Raises KernelError, for one that another version of xdpfw has loaded and that has other maps among others.
        """
        with contextlib.ExitStack() as opened:
            program = opened.enter_context(Program.open(str(directory / "program")))
            missing = [name for name in Maps.names() if not (directory / name).exists()]
            if missing:
                raise KernelError("read", f"the generation in {directory}", errno.ENOENT, hint=_OTHER_VERSION)
            maps = Maps.collect(lambda name: _open_descriptor(directory / name))
            for map_ in maps.by_name().values():
                opened.enter_context(map_)
            if maps.config.value_size != abi.size_of("config"):
                raise KernelError("read", f"the generation in {directory}", errno.EINVAL, hint=_OTHER_VERSION)
            egress = None
            if abi.unpack("config", maps.config.read(0)).tracks:
                egress = opened.enter_context(Program.open(str(directory / "egress")))
            opened.pop_all()
        return cls(program, maps, egress=egress)

    def pin(self, directory: Path) -> None:
        """Pins the programs and each map by its name; the directory is there and empty."""
        self.program.pin(str(directory / "program"))
        if self.egress is not None:
            self.egress.pin(str(directory / "egress"))
        for name, map_ in self.maps.by_name().items():
            map_.pin(str(directory / name))

    def close(self) -> None:
        """Gives all descriptors back; again is harmless."""
        if self._runner:
            self._runner.close()
            self._runner = None
        self.program.close()
        if self.egress is not None:
            self.egress.close()
        for map_ in self.maps.by_name().values():
            map_.close()
        if self.state is not None:
            self.state.close()
            self.state = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def program_id(self) -> int:
        return self.program.id

    @property
    def rule_count(self) -> int:
        return int(self._config.rule_count)

    def fill_levels(self) -> dict[str, FillLevel]:
        """How much of each of the data plane's limits this policy takes up."""
        config, limit = self._config, abi.Limit
        return {
            "table bytes": FillLevel(config.table_bytes, int(limit.MAX_TABLE_BYTES)),
            "table bytes of sets": FillLevel(config.sets.bytes, int(limit.MAX_TABLE_BYTES)),
            "interfaces": FillLevel(config.interface_count, int(limit.MAX_INTERFACES)),
            "groups of fields": FillLevel(config.group_count, int(limit.MAX_GROUPS)),
            "words of wide rules": FillLevel(config.wide_words, int(limit.MAX_WIDE_WORDS)),
            "words of counting rules": FillLevel(config.count_words, int(limit.MAX_COUNT_WORDS)),
        }

    def tables(self) -> tuple[bytes, bytes]:
        """The constants, those of the loader among them, and the tables of the rules."""
        return self.maps.config.read(0), self.maps.tables.read(0)

    @property
    def memory_bytes(self) -> int:
        """Kernel memory of programs and maps, per-CPU copies included."""
        objects = [self.program, *self.maps.by_name().values(), *([] if self.egress is None else [self.egress])]
        return sum(each.locked_bytes for each in objects)

    def counters(self) -> tuple[list[Counter], list[Counter]]:
        """Packets and bytes by reason (index: ``abi.Reason``; that of RULE is always 0) and by rule."""
        counters = self.maps.counters.read()
        return counters[: abi.Reason.COUNT], counters[abi.Reason.COUNT :][: self.rule_count]

    def limit_counters(self) -> list[LimitCounter]:
        """By number of the limit, in order of the rules that have one."""
        return self.maps.limit_counters.read()[: self._config.limit_count]

    def flow_counter(self) -> FlowCounter:
        return self.maps.flow_counters.read()[0]

    def knock_counters(self) -> list[KnockCounter]:
        """By knock, in the policy's order."""
        return self.maps.knock_counters.read()[: self._knock_count]

    def interface_verdicts(self) -> list[tuple[Counter, ...]]:
        """A row for each of the policy's possible interfaces and, last, one for all others; by ``abi.Verdict``."""
        counters = self.maps.verdicts.read()
        width = abi.Verdict.COUNT
        if self._config.derives_verdicts:
            counters[:width] = map(_sum, counters, self._derived_verdicts())
        return [tuple(counters[start : start + width]) for start in range(0, len(counters), width)]

    def _derived_verdicts(self) -> list[Counter]:
        """Packets of the only interface whose verdicts follow from what decided, by ``abi.Verdict``."""
        found = [Counter(0, 0)] * abi.Verdict.COUNT
        reasons, rules = self.counters()
        for reason in abi.Reason:
            verdict = self._verdict_of(reason)
            found[verdict] = _sum(found[verdict], reasons[reason])
        size = abi.size_of("action")
        actions = self.maps.actions.read_all()[self._config.knock_rules * size :]
        kinds, flags = (actions[abi.offset_of("action", member) :: size] for member in ("kind", "flags"))
        for kind, flag, counter in zip(
            kinds, flags, rules, strict=False
        ):  # a map has an element where there is no rule
            if flag & abi.ActionFlag.ACTION_PLAIN:
                verdict = abi.Verdict.PASS if kind == abi.ActionKind.ACTION_PASS else abi.Verdict.DROP
                found[verdict] = _sum(found[verdict], counter)
        return found

    def _verdict_of(self, reason: abi.Reason) -> int:
        """What becomes of packets that no rule decided."""
        if reason is abi.Reason.DEFAULT:
            return int(self._config.default_verdict)
        if reason is abi.Reason.PROTECT_SYN_COOKIE:
            return abi.Verdict.TX
        group = abi.reason_name(reason).partition(".")[0]
        if group == "invalid":
            return int(self._config.invalid_verdict)
        passes = group == "allow" or reason is abi.Reason.KNOCK_GRANTED
        return abi.Verdict.PASS if passes else abi.Verdict.DROP

    def set_interface(self, ifindex: int, index: int | None) -> None:
        """Says that the interface ``ifindex`` is number ``index`` of the policy, or None: not named there."""
        value = abi.pack("interface", [0, 0] if index is None else [ifindex, index])
        self.maps.interfaces.write(interface_slot(ifindex, self._config.interface_factor), value)

    def run(
        self,
        frame: bytes,
        interface: int | None = 0,
        *,
        repeat: int = 1,
        boot_ns: int = START_BOOT_NS,
        wall_ns: int = START_WALL_NS,
    ) -> Outcome:
        """Decides one frame as if it came in on the policy's interface of this number (None: on another).

        ``boot_ns`` and ``wall_ns`` are the time that a generation with ``trace`` takes it to be: since boot, and since
        1970. The generation must have been loaded with ``trace`` for reason, rule and interface, too; without, the
        frame comes in on ``lo``. Nothing is sent. Counters count. Frames of more than a page take several buffers, as
        on the wire.
        A frame without a whole Ethernet header is answered from the constants and not counted: no driver hands one
        on, and no test run takes one. Raises KernelError, for frames longer than a test run can build among others.
        """
        if len(frame) < ETHERNET_HEADER_BYTES:
            verdict = abi.Verdict(self._config.invalid_verdict).name.lower()
            return Outcome(verdict, abi.reason_name(abi.Reason.INVALID_ETHERNET), None, frame, 0)
        if self._runner is None:
            self._runner = Runner(self.program, self.maps.trace if self.traces else None, self.set_interface)
        return self._runner.run(frame, interface, repeat, boot_ns, wall_ns)

    def send(self, frame: bytes, *, forwarded_from: int = 0, boot_ns: int = START_BOOT_NS) -> None:
        """Takes in a frame as if an interface of the policy sent it. ``boot_ns`` as of ``run``.

        ``forwarded_from``: the number of the interface that it came in at; 0: the host's own.

        Nothing happens where the policy follows no flows. Frames without a whole Ethernet header are never sent.
        Raises KernelError.
        """
        if self.egress is None or len(frame) < ETHERNET_HEADER_BYTES:
            return
        if self._runner is None:
            self._runner = Runner(self.program, self.maps.trace if self.traces else None, self.set_interface)
        self._runner.send(self.egress, frame, forwarded_from, boot_ns)

    def forget(self) -> None:
        """Brings the state of a generation of its own back to the beginning: no grants, no progress, no last times."""
        if self.state is not None:
            self.state.clear()
        self.maps.limit_totals.fill(bytes(self.maps.limit_totals.max_entries * self.maps.limit_totals.value_size))

    @property
    def traces(self) -> bool:
        return bool(self._config.trace)

    def _fill(self, image: Image, interfaces: Sequence[int], targets: Sequence[int]) -> None:
        self.maps.tables.fill(image.tables)
        self.maps.set_tables.fill(image.set_tables)
        self.maps.actions.fill(image.actions)
        for slot, target in enumerate(targets):
            self.maps.targets.write(slot, ffi.buffer(ffi.new("__u32 *", target))[:])
        for index, ifindex in enumerate(interfaces):
            self.set_interface(ifindex, index)
        self.maps.limits.fill(image.limits)
        self.maps.cpu_choices.fill(array("I", image.cpu_choices).tobytes())
        if image.protected_ports:
            self.maps.protected_ports.fill(_port_bits(image.protected_ports))
        keys = image.never_ban_keys
        self.maps.never_ban.put_all(keys, bytes(_count(keys, "never_ban_key") * self.maps.never_ban.value_size))
        for name in _KNOCK_ARRAYS[:-1]:
            getattr(self.maps, name).fill(getattr(image.knocks, name))
        self.maps.spa_keys.fill(self._with_slots(image.knocks))

    def _with_slots(self, knocks: Knocks) -> bytes:
        """``spa_keys``, each key with its place among the last times."""
        assert self.state is not None or not knocks.spa_keys
        size = abi.size_of("spa_key")
        keys = [abi.unpack("spa_key", knocks.spa_keys[at : at + size]) for at in range(0, len(knocks.spa_keys), size)]
        wanted = [fingerprint for fingerprint in knocks.fingerprints if fingerprint is not None]
        if self.state is not None and wanted:
            # Messages from before the key was known here are refused. In test runs, it always was.
            slots = self.state.assign_spa_slots(wanted, 0 if self.traces else boot_ns())
            for key, fingerprint in zip(keys, knocks.fingerprints, strict=True):
                if fingerprint is not None:
                    key.slot = slots[fingerprint]
        return b"".join(map(abi.to_bytes, keys))

    @property
    def _knock_count(self) -> int:
        return int(self._config.knock_count)


def _open_descriptor(path: Path) -> int:
    return check(libbpf().bpf_obj_get(os.fsencode(path)), "open", str(path))


def _sum(one: Counter, other: Counter) -> Counter:
    return Counter(one.packets + other.packets, one.bytes + other.bytes)


PROTECTED_PORT_WORDS: Final = 1 << 10
"""64 ports each."""


def _port_bits(ranges: Sequence[tuple[int, int]]) -> bytes:
    bits = sum(((1 << high - low + 1) - 1) << low for low, high in ranges)
    return bits.to_bytes(PROTECTED_PORT_WORDS * 8, "little")


def _word_secrets(secret: tuple[int, int]) -> list[int]:
    """A secret for each word that is hashed, as many as a flow's key has; the same for all generations."""
    key = b"".join(word.to_bytes(8, "little") for word in secret)
    derived = hashlib.blake2b(key=key, person=b"xdpfw flows", digest_size=abi.size_of("flow_key")).digest()
    return [int.from_bytes(derived[at : at + 8], "little") for at in range(0, len(derived), 8)]


def _random_secret() -> tuple[int, int]:
    return secrets.randbits(64), secrets.randbits(64)


def _count(data: bytes, struct: str) -> int:
    """How many elements of a struct there are."""
    return len(data) // abi.size_of(struct)
