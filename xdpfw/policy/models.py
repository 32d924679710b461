# SPDX-License-Identifier: GPL-2.0-or-later
"""The language: which keys there are, and which notation each takes.

Values come out parsed (a port is a Span, a MAC address an int), so nothing behind these models looks at notation
again. What spans several keys or names something elsewhere in the policy is checked in ``consistency``.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, PlainValidator, Tag, model_validator

from xdpfw.policy import names, values
from xdpfw.policy.addresses import Addresses, address
from xdpfw.policy.values import Flags, Mac, NotationError, Protocol, SetName, Span

LANGUAGE_VERSION = 1

T = TypeVar("T")


class UnsupportedKeyError(NotationError):
    """A problem with a key itself rather than its value."""


def _one_or_more(value: object) -> object:
    if isinstance(value, list) and not value:
        raise NotationError("is an empty list")
    return value if isinstance(value, list) else (value,)


def _maybe_empty(value: object) -> object:
    return [] if value is None else value


def _later(value: object) -> None:
    raise UnsupportedKeyError("is not supported yet", hint="leave it out")


def _version(value: object) -> int:
    if values.text_of(value) == str(LANGUAGE_VERSION):
        return LANGUAGE_VERSION
    raise NotationError(f"{values.shown(value)} is not supported", hint=f"this xdpfw reads version {LANGUAGE_VERSION}")


def _choice(*allowed: str) -> PlainValidator:
    return PlainValidator(lambda value: values.choice(value, allowed))


def _span(low: int, high: int) -> PlainValidator:
    return PlainValidator(lambda value: values.span(value, low, high))


OneOrMore: TypeAlias = Annotated[tuple[T, ...], BeforeValidator(_one_or_more)]
List: TypeAlias = Annotated[tuple[T, ...], BeforeValidator(_maybe_empty)]
Named: TypeAlias = Annotated[dict[str, T], BeforeValidator(_maybe_empty)]

Later: TypeAlias = Annotated[None, PlainValidator(_later)]
Boolean: TypeAlias = Annotated[bool, PlainValidator(values.boolean)]
Text: TypeAlias = Annotated[str, PlainValidator(values.text)]
Name: TypeAlias = Annotated[str, PlainValidator(values.name)]
InterfaceName: TypeAlias = Annotated[str, PlainValidator(values.interface)]
MacAddress: TypeAlias = Annotated[int, PlainValidator(values.mac)]
Address: TypeAlias = Annotated[Addresses | SetName, PlainValidator(address)]
Port: TypeAlias = Annotated[Span | SetName, PlainValidator(values.port)]
Vlan: TypeAlias = Annotated[Span, PlainValidator(values.vlan)]
IcmpType: TypeAlias = Annotated[
    Span | str, PlainValidator(lambda value: values.icmp(value, names.ICMP_TYPES, "ICMP type"))
]
IcmpCode: TypeAlias = Annotated[
    Span | str, PlainValidator(lambda value: values.icmp(value, names.ICMP_CODES, "ICMP code"))
]


class Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Interface(Model):
    mode: Annotated[Literal["auto", "native", "generic"], _choice("auto", "native", "generic")] = "auto"

    @model_validator(mode="before")
    @classmethod
    def _may_be_left_empty(cls, data: Any) -> Any:
        return {} if data is None else data


class Allow(Model):
    """None: as ``default`` has it."""

    arp: Boolean | None = None
    ndp: Boolean | None = None
    dhcp: Boolean | None = None
    icmp_errors: Boolean | None = None
    established: Boolean | None = None
    fragments: Boolean | None = None


class Set(Model):
    """``elements`` stay as they are written: what they may be depends on ``type``."""

    type: Annotated[Literal["prefix", "port"], _choice("prefix", "port")]
    elements: tuple[Any, ...] | None = None
    file: Text | None = None
    dynamic: Later = None
    size: Later = None
    timeout: Later = None

    @model_validator(mode="after")
    def _has_one_source(self) -> Set:
        if self.elements is None and self.file is None:
            raise NotationError("has neither elements nor a file", hint="write elements: [] for an empty set")
        if self.elements is not None and self.file is not None:
            raise NotationError("has both elements and a file", hint="make it two sets; a rule can name both")
        if self.file is not None and self.type == "port":
            raise NotationError("is of type port and has a file", hint="list the ports under elements")
        return self


class Match(Model):
    """The fields of ``match`` and ``except``; None where one is not given, else values of which one must hold."""

    interface: OneOrMore[InterfaceName] | None = None
    family: OneOrMore[Annotated[str, _choice("ipv4", "ipv6", "other")]] | None = None
    ethertype: OneOrMore[Annotated[Span, PlainValidator(values.ethertype)]] | None = None
    vlan: OneOrMore[Vlan] | None = None
    inner_vlan: OneOrMore[Vlan] | None = None
    src_mac: OneOrMore[Annotated[Mac, PlainValidator(values.mac_mask)]] | None = None
    dst_mac: OneOrMore[Annotated[Mac, PlainValidator(values.mac_mask)]] | None = None
    src: OneOrMore[Address] | None = None
    dst: OneOrMore[Address] | None = None
    proto: OneOrMore[Annotated[Protocol, PlainValidator(values.protocol)]] | None = None
    sport: OneOrMore[Port] | None = None
    dport: OneOrMore[Port] | None = None
    tcp_flags: OneOrMore[Annotated[Flags, PlainValidator(values.tcp_flags)]] | None = None
    icmp_type: OneOrMore[IcmpType] | None = None
    icmp_code: OneOrMore[IcmpCode] | None = None
    fragment: OneOrMore[Annotated[str, _choice("first", "later", "any", "none")]] | None = None
    length: OneOrMore[Annotated[Span, _span(0, values.MAX_IP_LENGTH)]] | None = None
    ttl: OneOrMore[Annotated[Span, _span(0, 255)]] | None = None
    dscp: OneOrMore[Annotated[Span, PlainValidator(values.dscp)]] | None = None
    ip_options: Boolean | None = None
    state: Later = None
    knocked: Later = None


class Redirect(Model):
    interface: InterfaceName
    src_mac: MacAddress | None = None
    dst_mac: MacAddress | None = None

    @model_validator(mode="before")
    @classmethod
    def _may_be_a_name(cls, data: Any) -> Any:
        return data if isinstance(data, dict) else {"interface": data}


class Forward(Model):
    """An action that has parameters."""

    redirect: Redirect | None = None
    route: Later = None
    cpu: Later = None

    @model_validator(mode="after")
    def _is_one(self) -> Forward:
        if self.redirect is None:
            raise NotationError("has no verdict", hint="pass, drop, tx, count or {redirect: INTERFACE}")
        return self


Verb: TypeAlias = Annotated[Literal["pass", "drop", "tx", "count"], _choice("pass", "drop", "tx", "count")]
Action: TypeAlias = Annotated[
    Annotated[Verb, Tag("verb")] | Annotated[Forward, Tag("forward")],
    Discriminator(lambda value: "forward" if isinstance(value, dict | Forward) else "verb"),
]


class Rule(Model):
    name: Name | None = None
    match: Match = Match()
    unless: Match | None = Field(default=None, alias="except")
    action: Action
    limit: Later = None
    log: Later = None
    add_to: Later = None
    enabled: Boolean = True
    comment: Text | None = None


class Step(Model):
    packet: Text | None = None
    expect: Annotated[str, _choice("pass", "drop", "tx", "redirect")] | None = None
    rule: Name | None = None
    interface: InterfaceName | None = None
    wait: Annotated[int, PlainValidator(values.duration_ns)] | None = None

    @model_validator(mode="after")
    def _sends_or_waits(self) -> Step:
        if self.wait is not None:
            if self.packet or self.expect or self.rule or self.interface:
                raise NotationError("waits and does more", hint="make wait a step of its own")
        elif self.packet is None:
            raise NotationError("has no packet")
        elif self.expect is None and self.rule is None:
            raise NotationError("expects nothing", hint="add expect: pass, drop, tx or redirect")
        return self


class Test(Model):
    """A test of a single step may have the step's keys as its own."""

    name: Text | None = None
    steps: OneOrMore[Step]

    @model_validator(mode="before")
    @classmethod
    def _may_be_one_step(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        own = {key: value for key, value in data.items() if key in cls.model_fields}
        step = {key: value for key, value in data.items() if key not in cls.model_fields}
        if "steps" not in own:
            return {**own, "steps": [step]}
        if stray := next((key for key in step if key in Step.model_fields), None):
            raise NotationError(f"has steps, and {stray} beside them", hint=f"{stray} belongs in a step")
        return data


class PolicyFile(Model):
    """One file. Rules, sets and tests are validated one by one, so an error in one hides none in another."""

    version: Annotated[int, PlainValidator(_version)]
    include: List[Text] = ()
    interfaces: Named[Any] | None = None
    default: Annotated[Literal["pass", "drop"], _choice("pass", "drop")] | None = None
    invalid: Annotated[Literal["pass", "drop"], _choice("pass", "drop")] | None = None
    allow: Allow | None = None
    sets: Named[Any] = Field(default_factory=dict)
    rules: List[Any] = ()
    tests: List[Any] = ()
    knocks: Later = None
    never_ban: Later = None
    protect: Later = None
