# SPDX-License-Identifier: GPL-2.0-or-later
"""The language: which keys there are, and which notation each takes.

Values come out parsed (a port is a Span, a MAC address an int), so nothing behind these models looks at notation
again. What spans several keys or names something elsewhere in the policy is checked in ``consistency``.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    GetCoreSchemaHandler,
    PlainValidator,
    Tag,
    model_validator,
)
from pydantic_core import core_schema

from xdpfw.knock import steps
from xdpfw.policy import names, rates, services, values
from xdpfw.policy.addresses import V4_BITS, V6_BITS, Addresses, address
from xdpfw.policy.values import Flags, Mac, NotationError, Protocol, SetName, Span

LANGUAGE_VERSION = 1
MAX_STEPS = steps.MAX_STEPS
MAX_SERVICES = 16
SECOND_NS = 1_000_000_000
DEFAULT_WITHIN_NS = 10 * SECOND_NS
MAX_CPU = 4095
MAX_SET_SIZE = 1 << 20

_MAX_REMEMBERED = 1 << 17

T = TypeVar("T")


def _not_empty(value: object) -> object:
    if isinstance(value, list) and not value:
        raise NotationError("is an empty list", hint="write one entry or more")
    return value


def _one_or_more(value: object) -> object:
    return _not_empty(value) if isinstance(value, list) else (value,)


def _one_or_none(value: object) -> object:
    """As lists at the top level may be: without a value, they are empty."""
    return [] if value is None else value if isinstance(value, list) else (value,)


def _given(value: object) -> object:
    values.refuse_none(value)
    return value


def _version(value: object) -> int:
    if values.text_of(value) == str(LANGUAGE_VERSION):
        return LANGUAGE_VERSION
    raise NotationError(f"{values.shown(value)} is not supported", hint=f"this xdpfw reads version {LANGUAGE_VERSION}")


def _choice(*allowed: str) -> PlainValidator:
    return PlainValidator(lambda value: values.choice(value, allowed))


def _duration(shortest: str, longest: str) -> PlainValidator:
    return PlainValidator(lambda value: values.duration_between(value, shortest, longest))


def _stay(without: str) -> PlainValidator:
    """How long entries of a set stay; ``without``: what holds where nothing says so."""

    def validate(value: object) -> int:
        if value in values.FOR_GOOD:
            raise NotationError(f"{value} is not a duration such as 10m or 7d", hint=f"leave it out: {without}")
        return values.duration_ns(value)

    return PlainValidator(validate)


def _verb(value: object) -> str:
    """Raises NotationError, which names the form of an action that has parameters where that is meant."""
    text = values.text_of(value)
    meant = {
        "route": "{route: fib}",
        "fib": "{route: fib}",
        "cpu": "{cpu: [0]}",
        "redirect": "{redirect: INTERFACE}",
    }.get(text)
    if meant is not None:
        raise NotationError(f"{text} is no action by itself", hint=f"write {meant}")
    return values.choice(value, ("pass", "drop", "tx", "count"))


def _at_most(limit: int, what: str) -> BeforeValidator:
    def check(value: object) -> object:
        if isinstance(value, list) and len(value) > limit:
            raise NotationError(f"has {len(value)} {what}, and {limit} are the most", hint="leave some out")
        return value

    return BeforeValidator(check)


def _span(low: int, high: int) -> PlainValidator:
    return PlainValidator(lambda value: values.span(value, low, high))


def _bits(family_bits: int) -> PlainValidator:
    return PlainValidator(lambda value: values.number(value, 1, family_bits))


def _no_cpu_twice(spans: tuple[Span, ...]) -> tuple[Span, ...]:
    seen: set[int] = set()
    for low, high in spans:
        for cpu in range(low, high + 1):
            if cpu in seen:
                raise NotationError(f"has {cpu} twice")
            seen.add(cpu)
    return spans


OneOrMore: TypeAlias = Annotated[tuple[T, ...], BeforeValidator(_one_or_more)]
Given: TypeAlias = Annotated[T | None, BeforeValidator(_given)]
"""None only where the key is not there: a key without a value would else be a condition that is silently missing."""


class _Remembered:
    """Of single values, each is validated once: a policy repeats few of them many times.

    What is wrong is not remembered, so that each place gets its error.
    """

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        known: dict[str | int, object] = {}

        def validate(value: object, validator: core_schema.ValidatorFunctionWrapHandler) -> object:
            if type(value) is not str and type(value) is not int:  # for a dictionary, True is 1
                return validator(value)
            if (result := known.get(value)) is None:
                if len(known) >= _MAX_REMEMBERED:
                    known.clear()
                result = known[value] = validator(value)
            return result

        return core_schema.no_info_wrap_validator_function(validate, handler(source))


Values: TypeAlias = Annotated[Given[OneOrMore[T]], _Remembered()]
"""Of a condition: one value, or a list of them."""

Duration: TypeAlias = Annotated[int, PlainValidator(values.duration_ns)]
Boolean: TypeAlias = Annotated[bool, PlainValidator(values.boolean)]
Text: TypeAlias = Annotated[str, PlainValidator(values.text)]
FileName: TypeAlias = Annotated[str, PlainValidator(values.path)]
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

KnockStep: TypeAlias = Annotated[steps.Step, PlainValidator(services.step)]
KnockSteps: TypeAlias = Annotated[OneOrMore[KnockStep], _at_most(MAX_STEPS, "steps")]
Service: TypeAlias = Annotated[services.Service, PlainValidator(services.service)]
Services: TypeAlias = Annotated[OneOrMore[Service], _at_most(MAX_SERVICES, "ports")]


class Model(BaseModel):
    # Most commands need few of the models: none is built before it is.
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


class Interface(Model):
    mode: Annotated[Literal["auto", "native", "generic"], _choice("auto", "native", "generic")] = "auto"

    @model_validator(mode="before")
    @classmethod
    def _may_be_left_empty(cls, data: Any) -> Any:
        return {} if data is None else data


class Allow(Model):
    """None: as ``default`` has it."""

    arp: Given[Boolean] = None
    ndp: Given[Boolean] = None
    dhcp: Given[Boolean] = None
    icmp_errors: Given[Boolean] = None
    established: Given[Boolean] = None
    fragments: Given[Boolean] = None


class Set(Model):
    """``elements`` stay as they are written: what they may be depends on ``type``."""

    type: Annotated[Literal["prefix", "port"], _choice("prefix", "port")]
    elements: Given[tuple[Any, ...]] = None
    file: Given[FileName] = None
    dynamic: Boolean = False
    size: Given[Annotated[int, PlainValidator(lambda value: values.number(value, 1, MAX_SET_SIZE))]] = None
    timeout: Given[Annotated[int, _stay("without a timeout, entries stay for good")]] = None

    @model_validator(mode="after")
    def _has_one_source(self) -> Set:
        if self.dynamic:
            self._check_dynamic()
            return self
        for key in ("size", "timeout"):
            if getattr(self, key) is not None:
                hint = "add dynamic: true, or leave it out"
                raise NotationError(f"has a {key}, which only dynamic sets have", hint=hint)
        if self.elements is None and self.file is None:
            hint = "write elements: [] for an empty set, dynamic: true for one that is filled at run time"
            raise NotationError("has neither elements nor a file", hint=hint)
        if self.elements is not None and self.file is not None:
            raise NotationError("has both elements and a file", hint="make it two sets; a rule can name both")
        if self.file is not None and self.type == "port":
            raise NotationError("is of type port and has a file", hint="list the ports under elements")
        return self

    def _check_dynamic(self) -> None:
        if self.type == "port":
            raise NotationError("is of type port and dynamic", hint="only sets of type prefix are filled at run time")
        for key, what in (("elements", "elements"), ("file", "a file")):
            if getattr(self, key) is not None:
                hint = "make it two sets; a rule can name both"
                raise NotationError(f"is dynamic and has {what}", hint=hint)


class Match(Model):
    """The fields of ``match`` and ``except``; None where one is not given, else values of which one must hold."""

    interface: Values[InterfaceName] = None
    family: Values[Annotated[str, _choice("ipv4", "ipv6", "other")]] = None
    ethertype: Values[Annotated[Span, PlainValidator(values.ethertype)]] = None
    vlan: Values[Vlan] = None
    inner_vlan: Values[Vlan] = None
    src_mac: Values[Annotated[Mac, PlainValidator(values.mac_mask)]] = None
    dst_mac: Values[Annotated[Mac, PlainValidator(values.mac_mask)]] = None
    src: Values[Address] = None
    dst: Values[Address] = None
    proto: Values[Annotated[Protocol, PlainValidator(values.protocol)]] = None
    sport: Values[Port] = None
    dport: Values[Port] = None
    tcp_flags: Values[Annotated[Flags, PlainValidator(values.tcp_flags)]] = None
    icmp_type: Values[IcmpType] = None
    icmp_code: Values[IcmpCode] = None
    fragment: Values[Annotated[str, _choice("first", "later", "any", "none")]] = None
    length: Values[Annotated[Span, _span(0, values.MAX_IP_LENGTH)]] = None
    ttl: Values[Annotated[Span, _span(0, 255)]] = None
    dscp: Values[Annotated[Span, PlainValidator(values.dscp)]] = None
    ip_options: Given[Boolean] = None
    state: Values[Annotated[str, _choice("established", "new")]] = None
    knocked: Values[Name] = None


class Redirect(Model):
    interface: InterfaceName
    src_mac: Given[MacAddress] = None
    dst_mac: Given[MacAddress] = None

    @model_validator(mode="before")
    @classmethod
    def _may_be_a_name(cls, data: Any) -> Any:
        return data if isinstance(data, dict) else {"interface": data}


class Forward(Model):
    """An action that has parameters."""

    redirect: Given[Redirect] = None
    route: Given[Annotated[Literal["fib"], _choice("fib")]] = None
    cpu: Given[Annotated[OneOrMore[Annotated[Span, _span(0, MAX_CPU)]], AfterValidator(_no_cpu_twice)]] = None

    @model_validator(mode="after")
    def _is_one(self) -> Forward:
        given = [key for key in ("redirect", "route", "cpu") if getattr(self, key) is not None]
        if not given:
            hint = "pass, drop, tx, count, {redirect: INTERFACE}, {route: fib} or {cpu: [0, 1]}"
            raise NotationError("has no verdict", hint=hint)
        if len(given) > 1:
            raise NotationError(f"has {' and '.join(given)}", hint="a packet goes one way: write one of them")
        return self


Verb: TypeAlias = Annotated[Literal["pass", "drop", "tx", "count"], PlainValidator(_verb)]
Action: TypeAlias = Annotated[
    Annotated[Verb, Tag("verb")] | Annotated[Forward, Tag("forward")],
    Discriminator(lambda value: "forward" if isinstance(value, dict | Forward) else "verb"),
]


class Log(Model):
    sample: Annotated[int, PlainValidator(values.one_in)]


class Prefixes(Model):
    """Bits of the prefixes that share a bucket."""

    v4: Annotated[int, _bits(V4_BITS)] = V4_BITS
    v6: Annotated[int, _bits(V6_BITS)] = rates.WIDE_V6_BITS

    @model_validator(mode="after")
    def _says_something(self) -> Prefixes:
        if not self.model_fields_set:
            raise NotationError("is empty", hint="write {v4: 24, v6: 64}")
        return self


class Limit(Model):
    rate: Annotated[rates.Rate, PlainValidator(rates.rate)]
    burst: Given[Annotated[int, PlainValidator(rates.amount)]] = None
    per: Annotated[
        Annotated[rates.Per, PlainValidator(rates.per), Tag("word")] | Annotated[Prefixes, Tag("prefixes")],
        Discriminator(lambda value: "prefixes" if isinstance(value, dict | Prefixes) else "word"),
    ] = rates.Per("rule")
    bytes: Boolean = False
    exceed: Annotated[Literal["drop", "pass"], _choice("drop", "pass")] = "drop"


class AddTo(Model):
    """``when`` None: beyond the limit where the rule has one, else at each match."""

    set: Annotated[str, PlainValidator(values.bare_set_name)]
    timeout: Given[
        Annotated[int, _stay("an entry stays as long as the set says, which is for good where it has no timeout")]
    ] = None
    when: Given[Annotated[Literal["match", "exceed"], _choice("match", "exceed")]] = None


class Rule(Model):
    name: Given[Name] = None
    match: Match = Field(default_factory=Match)
    unless: Given[Match] = Field(default=None, alias="except")
    action: Action
    limit: Given[Limit] = None
    log: Given[
        Annotated[
            Annotated[Boolean, Tag("each")] | Annotated[Log, Tag("sample")],
            Discriminator(lambda value: "sample" if isinstance(value, dict | Log) else "each"),
        ]
    ] = None
    add_to: Given[AddTo] = None
    enabled: Boolean = True
    comment: Given[Text] = None


class Spa(Model):
    port: Annotated[int, PlainValidator(lambda value: values.number(value, 1, values.MAX_PORT))]
    keys: FileName
    window: Annotated[int, _duration("1s", "1d")] = 30 * SECOND_NS


class Rotate(Model):
    secret: FileName
    every: Annotated[int, _duration("1s", "7d")] = 30 * SECOND_NS
    ports: Annotated[Span, _span(1, values.MAX_PORT)]
    length: Annotated[int, PlainValidator(lambda value: values.number(value, 1, MAX_STEPS))] = 4


class Scope(Model):
    """Bits of the prefix that a grant is for."""

    v4: Annotated[int, _bits(V4_BITS)] = V4_BITS
    v6: Annotated[int, _bits(V6_BITS)] = V6_BITS

    @model_validator(mode="before")
    @classmethod
    def _may_be_a_word(cls, data: Any) -> Any:
        if isinstance(data, dict):
            if not data:
                raise NotationError("is empty", hint="write scope: address, or {v4: 24, v6: 64}")
            return data
        if values.text_of(data) != "address":
            hint = "write address, or a prefix as in {v4: 24, v6: 64}"
            raise NotationError(f"{values.shown(data)} is not a scope", hint=hint)
        return {"v4": V4_BITS, "v6": V6_BITS}


class Knock(Model):
    """Exactly one of ``sequence``, ``spa`` and ``rotate``. ``step`` is as long as ``within`` where it is not given."""

    sequence: Given[KnockSteps] = None
    spa: Given[Spa] = None
    rotate: Given[Rotate] = None
    within: Given[Annotated[int, _duration("1ms", "1d")]] = None
    step: Given[Annotated[int, _duration("1ms", "1d")]] = None
    opens: Services
    lasts: Duration = Field(default=30 * SECOND_NS, alias="for")
    close: Given[KnockSteps] = None
    scope: Scope = Field(default_factory=lambda: Scope(v4=V4_BITS, v6=V6_BITS))
    to: Given[OneOrMore[Address]] = None
    unless: Given[Match] = Field(default=None, alias="except")

    @model_validator(mode="after")
    def _has_one_way(self) -> Knock:
        ways = [key for key in ("sequence", "spa", "rotate") if getattr(self, key) is not None]
        if not ways:
            raise NotationError(
                "has none of sequence, spa and rotate", hint="as in sequence: [7000/tcp, 9000/udp, 8000/tcp]"
            )
        if len(ways) > 1:
            raise NotationError(
                f"has {' and '.join(ways)}", hint="make them knocks of their own; several may open the same port"
            )
        return self


class Step(Model):
    packet: Given[Text] = None
    expect: Given[Annotated[str, _choice("pass", "drop", "tx", "redirect")]] = None
    rule: Given[Name] = None
    interface: Given[InterfaceName] = None
    wait: Given[Duration] = None
    sent: Given[Text] = None

    @model_validator(mode="after")
    def _sends_or_waits(self) -> Step:
        if self.wait is not None:
            if self.packet or self.expect or self.rule or self.interface or self.sent:
                raise NotationError("waits and does more", hint="make wait a step of its own")
        elif self.sent is not None:
            if self.packet or self.expect or self.rule:
                hint = "what this host sends is not decided on: make sent a step of its own"
                raise NotationError("sends and does more", hint=hint)
        elif self.packet is None:
            raise NotationError("has no packet")
        elif self.expect is None and self.rule is None:
            raise NotationError("expects nothing", hint="add expect: pass, drop, tx or redirect")
        return self


class Test(Model):
    """A test of a single step may have the step's keys as its own."""

    name: Given[Text] = None
    steps: Annotated[tuple[Step, ...], BeforeValidator(_not_empty)]

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


class Protect(Model):
    """``syn``: TCP ports whose SYNs are answered with cookies."""

    syn: Given[OneOrMore[Port]] = None


class PolicyFile(Model):
    """One file. Rules, sets, knocks and tests are validated one by one, so an error in one hides none in another."""

    version: Annotated[int, PlainValidator(_version)]
    include: tuple[FileName, ...] | None = None
    interfaces: dict[str, Any] | None = None
    default: Given[Annotated[Literal["pass", "drop"], _choice("pass", "drop")]] = None
    invalid: Given[Annotated[Literal["pass", "drop"], _choice("pass", "drop")]] = None
    allow: Allow | None = None
    sets: dict[str, Any] | None = None
    knocks: dict[str, Any] | None = None
    rules: tuple[Any, ...] | None = None
    tests: tuple[Any, ...] | None = None
    never_ban: Annotated[tuple[Address, ...], BeforeValidator(_one_or_none)] = ()
    protect: Protect | None = None
