# SPDX-License-Identifier: GPL-2.0-or-later
"""The policy as the compiler and the reference interpreter see it.

Names are resolved, lists expanded, defaults filled in, precedence fixed. Nothing here knows the YAML that it
came from (but for positions, which error messages need) nor the tables that it becomes. Everything is frozen:
the same policy always lowers to an equal IR.
"""

from __future__ import annotations

import bisect
import enum
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from xdpfw.addresstable import AddressTable
from xdpfw.errors import Position


class Range(NamedTuple):
    """Whole numbers ``low``..``high``, both included, in host order."""

    low: int
    high: int


NO_TAG: Final = -1
"""The value of ``vlan`` and ``inner_vlan`` of a packet without that tag."""

MAX_IP_LENGTH: Final = 65535 + 40
"""The largest ``length``: an IPv6 payload of 65,535 bytes and its header."""


class Family(enum.IntEnum):
    OTHER = 0
    IPV4 = 1
    IPV6 = 2


class Fragment(enum.IntEnum):
    """``NONE``: a whole datagram, which an IPv6 atomic fragment (RFC 6946) is too."""

    NONE = 0
    FIRST = 1
    LATER = 2


class State(enum.IntEnum):
    """What is known of the flow that a whole datagram or first fragment of IP belongs to. Others have no state."""

    NEW = 0
    ESTABLISHED = 1


class Verdict(enum.StrEnum):
    PASS = "pass"
    DROP = "drop"
    TX = "tx"
    REDIRECT = "redirect"


class ActionKind(enum.StrEnum):
    PASS = "pass"
    DROP = "drop"
    TX = "tx"
    REDIRECT = "redirect"
    ROUTE = "route"  # forward by the kernel's FIB; what it can't forward goes up the stack
    CPU = "cpu"  # up the stack, on one of Action.cpus
    COUNT = "count"


class AttachMode(enum.StrEnum):
    AUTO = "auto"
    NATIVE = "native"
    GENERIC = "generic"


@dataclass(frozen=True, slots=True)
class AddressSet:
    """A named prefix set. ``entries`` counts what was written, before ranges were merged; ``file``: where, or None.

    Sets of the same name and addresses are equal: where they are written, and how, changes nothing.
    """

    name: str
    table: AddressTable
    entries: int = field(compare=False)
    file: str | None = field(default=None, compare=False)


class AddressRanges(NamedTuple):
    """Addresses as sorted, disjoint, non-adjacent inclusive ranges of host-order integers, one tuple a family.

    ``sets``: all of these sets' addresses, too. They are those that have a file of their own, which may change without
    the rest of the policy; the entries of other sets are among the ranges. ``dynamic``: names of dynamic sets whose
    members belong to it as well, as they are when a packet comes; ``contains`` knows nothing of these.
    """

    v4: tuple[Range, ...] = ()
    v6: tuple[Range, ...] = ()
    sets: tuple[AddressSet, ...] = ()
    dynamic: tuple[str, ...] = ()

    def contains(self, family: Family, address: int) -> bool:
        """True if ``address`` (host-order integer of 32 or 128 bits) is in one of the ranges or sets."""
        if family is Family.OTHER:
            return False
        ranges, bits = (self.v4, 32) if family is Family.IPV4 else (self.v6, 128)
        found = bisect.bisect_right(ranges, (address, 1 << 128)) - 1
        if found >= 0 and ranges[found].high >= address:
            return True
        return any(each.table.contains(bits, address) for each in self.sets)


class TcpFlags(NamedTuple):
    """Holds for a TCP flag byte (RFC 9293; FIN is bit 0, CWR bit 7) with all of ``set`` and none of ``clear``."""

    set: int
    clear: int


class IcmpMessage(NamedTuple):
    """Holds for an ICMP (``protocol`` 1, in IPv4) or ICMPv6 (58, in IPv6) message of these types and codes."""

    protocol: int
    type: Range
    code: Range


class MacMask(NamedTuple):
    """Holds for a MAC address ``a`` (48 bits, first byte on the wire is the highest) where ``a & mask == value``."""

    value: int
    mask: int


Ranges = tuple[Range, ...]


@dataclass(frozen=True, slots=True)
class Match:
    """Conditions that must all hold. ``None`` is no condition; a tuple holds if one of its members does.

    A packet that lacks a field (a port, on a later fragment; ``ttl``, on ARP) meets no condition on that field.
    """

    interface: Ranges | None = None  # index in Policy.interfaces
    family: Ranges | None = None  # Family
    ethertype: Ranges | None = None  # behind VLAN tags
    vlan: Ranges | None = None  # 0-4095 or NO_TAG
    inner_vlan: Ranges | None = None  # 0-4095 or NO_TAG
    src_mac: tuple[MacMask, ...] | None = None
    dst_mac: tuple[MacMask, ...] | None = None
    src: AddressRanges | None = None
    dst: AddressRanges | None = None
    proto: Ranges | None = None  # upper-layer protocol of an IP packet, 0-255
    sport: Ranges | None = None
    dport: Ranges | None = None
    tcp_flags: tuple[TcpFlags, ...] | None = None
    icmp: tuple[IcmpMessage, ...] | None = None
    fragment: Ranges | None = None  # Fragment; IP packets only
    length: Ranges | None = None  # IP total length in bytes; IPv6: payload length + 40
    ttl: Ranges | None = None
    dscp: Ranges | None = None
    ip_options: Ranges | None = None  # 0 or 1; IP packets only
    knocked: tuple[str, ...] | None = None  # names of knocks: the source holds a grant of one of them
    state: Ranges | None = None  # State


@dataclass(frozen=True, slots=True)
class Action:
    kind: ActionKind
    interface: str | None = None  # REDIRECT: the target
    src_mac: int | None = None  # REDIRECT: new addresses, 48 bits, or None to leave as they are
    dst_mac: int | None = None
    cpus: tuple[int, ...] = ()  # CPU: a packet goes to one of them, by its flow


class Per(enum.StrEnum):
    """Whose packets share a token bucket."""

    RULE = "rule"
    SRC = "src"  # a source's, or its prefix's
    FLOW = "flow"  # addresses, protocol and ports of one direction


@dataclass(frozen=True, slots=True)
class Limit:
    """A token bucket: ``amount`` packets (or bytes of whole frames) in ``window_ns``, ``burst`` of them at once.

    A bucket begins full. A packet for which not all tokens are there takes none, and meets ``exceed``.
    """

    amount: int
    window_ns: int
    burst: int
    per: Per = Per.RULE
    v4_bits: int = 32  # SRC: of the prefix that shares a bucket
    v6_bits: int = 128
    bytes: bool = False
    exceed: Verdict = Verdict.DROP  # DROP or PASS


@dataclass(frozen=True, slots=True)
class AddTo:
    """Puts the packet's source into a dynamic set: at each match, or (``exceeded``) beyond the limit."""

    set: str
    timeout_ns: int | None = None  # None: as the set has it
    exceeded: bool = False


@dataclass(frozen=True, slots=True)
class Rule:
    name: str
    match: Match
    action: Action
    unless: Match | None = None  # SPEC's ``except``: the rule does not match where all of this holds
    limit: Limit | None = None
    add_to: AddTo | None = None
    log_sample: int = 0  # an event for one in so many matches, drawn at random; 1: for each; 0: none
    comment: str | None = None
    text: str = ""  # the rule in canonical one-line form, for plan and status
    sets: tuple[str, ...] = ()  # names of the sets that it looks at
    position: Position | None = field(default=None, compare=False)


class Step(NamedTuple):
    """One step of a sequence.

    ``protocol`` is TCP (a bare SYN to port ``number``), UDP (a datagram to it), ICMP or ICMPv6 (a message of type
    ``number`` and, unless None, this code). ICMP stands for both families: in IPv6, types 8 and 0 are 128 and 129, and
    other types are never met. ICMPv6 is met in IPv6 only.
    """

    protocol: int
    number: int
    code: int | None = None


class Service(NamedTuple):
    """A port that a knock opens. ``protocol`` is TCP or UDP."""

    protocol: int
    port: int


@dataclass(frozen=True, slots=True)
class Sequence:
    """Steps, no two neighbours alike. ``step_ns`` bounds each gap, ``within_ns`` the way from the first to the last."""

    steps: tuple[Step, ...]
    within_ns: int
    step_ns: int


@dataclass(frozen=True, slots=True)
class Rotation:
    """A sequence of ``length`` steps that changes with each window of ``every_ns``; xdpfw.knock.rotation derives it."""

    secret: bytes = field(repr=False)  # 32 bytes
    every_ns: int
    ports: Range
    length: int
    within_ns: int
    step_ns: int


@dataclass(frozen=True, slots=True)
class SpaKey:
    """``key``: the 32 bytes that tags are made with, already bound to the server. ``nat``: any source may use it."""

    number: int  # 0-65535
    name: str
    key: bytes = field(repr=False)
    nat: bool = False


@dataclass(frozen=True, slots=True)
class Spa:
    """Single packet authorization on a UDP port. Keys of all knocks on the same port differ in number."""

    port: int
    keys: tuple[SpaKey, ...]
    window_ns: int


@dataclass(frozen=True, slots=True)
class Knock:
    """Ports that are closed to all who hold no grant of it. Exactly one of ``way`` earns one; ``close`` ends it.

    A grant is for the source's prefix of ``scope_v4`` or ``scope_v6`` bits and lasts ``for_ns``. ``to``: the
    destinations that it listens on and opens (None: all). Packets for which ``unless`` holds meet the rules instead of
    the closed ports.
    """

    name: str
    way: Sequence | Rotation | Spa
    opens: tuple[Service, ...]
    for_ns: int
    close: Sequence | None = None
    scope_v4: int = 32
    scope_v6: int = 128
    to: AddressRanges | None = None
    unless: Match | None = None
    text: str = ""  # the knock in canonical one-line form, without secrets, for plan and status
    sets: tuple[str, ...] = ()  # names of those that it names, for plan
    position: Position | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Allow:
    arp: bool
    ndp: bool
    dhcp: bool
    icmp_errors: bool
    established: bool
    fragments: bool


@dataclass(frozen=True, slots=True)
class Interface:
    name: str
    mode: AttachMode = AttachMode.AUTO
    position: Position | None = field(default=None, compare=False)


BANS: Final = "bans"
"""The dynamic set that every firewall has, and that is consulted before allowances and rules."""


@dataclass(frozen=True, slots=True)
class DynamicSet:
    """Prefixes that come and go at run time. ``timeout_ns``: how long an entry stays that is put in without one."""

    name: str
    size: int  # entries that there is room for
    timeout_ns: int | None = None  # None: for good


@dataclass(frozen=True, slots=True)
class PortSet:
    name: str
    ranges: Ranges
    entries: int


@dataclass(frozen=True, slots=True)
class TestStep:
    """One packet of a policy test, or a wait before the next one (then ``packet`` is None).

    ``is_sent``: the firewall's own side sends it, and nothing is decided on it; it may make a flow.
    """

    packet: str | None
    expect: Verdict | None = None
    rule: str | None = None
    interface: str | None = None  # None: the policy's first
    wait_ns: int = 0
    is_sent: bool = False
    position: Position | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class TestCase:
    name: str
    steps: tuple[TestStep, ...]
    position: Position | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Policy:
    """One firewall. ``rules`` are the enabled ones, in order of precedence: the first that matches decides.

    ``dynamic_sets`` are those that the policy declares; BANS, if it is not among them, is there all the same.
    ``never_ban``: no ban is for these sources. ``protect_syn``: TCP ports whose SYNs are answered with cookies.
    """

    interfaces: tuple[Interface, ...]
    default: Verdict
    invalid: Verdict
    allow: Allow
    knocks: tuple[Knock, ...] = ()
    rules: tuple[Rule, ...] = ()
    address_sets: tuple[AddressSet, ...] = ()
    port_sets: tuple[PortSet, ...] = ()
    dynamic_sets: tuple[DynamicSet, ...] = ()
    never_ban: AddressRanges | None = None
    protect_syn: Ranges = ()
    tests: tuple[TestCase, ...] = ()
