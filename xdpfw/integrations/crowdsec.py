# SPDX-License-Identifier: GPL-2.0-or-later
"""A CrowdSec local API, as a bouncer asks it: ``GET /v1/decisions/stream`` of its version 1.

Looked at in CrowdSec 1.4.6 (pkg/apiserver/controllers/v1/decisions.go). What is relied on:

- ``startup=true`` asks for every decision in force, ``false`` for what has changed since the bouncer's last question.
- Of several decisions on one value, only the one that lasts longest is told. While one is left, none is ``deleted``.
- ``duration`` is what is left, as Go writes durations; below 0 where the decision is over.
- The ``deleted`` of one answer come before its ``new``.
"""

from __future__ import annotations

import http.client
import json
import re
import ssl
from collections import Counter
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from socket import AF_INET, AF_INET6, inet_pton
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from xdpfw.errors import UsageError, XdpfwError

BAN: Final = "ban"
SCOPES: Final = frozenset({"ip", "range"})
"""Without regard to case: CrowdSec writes ``Ip`` and ``Range``, and other programs that add decisions do not always."""

MAX_ANSWER_BYTES: Final = 1 << 28
"""A decision takes some 150."""

TIMEOUT_S: Final = 60.0
"""For each wait of a connection: an API that reads 200,000 decisions from its data base takes seconds to answer."""

MAX_DURATION_NS: Final = 1 << 62
"""146 years. Something longer might, added to the time of now, not fit into 64 bits: anybody may write anything."""

_UNITS_NS: Final = {
    "ns": 1,
    "us": 1_000,
    "\u00b5s": 1_000,  # the micro sign, which Go writes
    "\u03bcs": 1_000,  # the letter mu
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
_PART: Final = re.compile(r"([0-9]+)(?:\.([0-9]*))?(h|ms|m|s|us|\u00b5s|\u03bcs|ns)")
_DURATION: Final = re.compile(rf"-?(?:{_PART.pattern})+")


_WORD: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,31}")
_LENGTHS: Final = {str(length): length for length in range(129)}


class Network(NamedTuple):
    """``version``: 4 or 6; ``address``: the first one, a host-order integer.

    Of hundreds of thousands, those of the standard library would take a quarter of a minute.
    """

    version: int
    address: int
    bits: int


class ApiRefusedError(XdpfwError):
    """What asking again does not mend: a wrong key, a certificate that is not trusted, another program's answer."""


class ApiUnreachableError(XdpfwError):
    """It may answer later."""


@dataclass(frozen=True, slots=True)
class Changes:
    """An answer: ``new`` is what is left of bans in ns, ``left`` what else there was, and how often."""

    new: dict[Network, int]
    deleted: frozenset[Network]
    left: Counter[str]


class LocalApi:
    """``url`` is ``http://HOST[:PORT]`` or ``https://...``, with or without a path before ``/v1``."""

    def __init__(self, url: str, key: str, *, ca_file: str | None = None) -> None:
        """Raises UsageError where ``url`` or ``key`` cannot be right, or ``ca_file`` has no certificates."""
        self._scheme, self._host, self._port, self._path = _parse_url(url)
        self.url = url
        self._key = _checked_key(key)
        self._context = _tls(ca_file) if self._scheme == "https" else None
        if ca_file is not None and self._context is None:
            raise UsageError(f"--ca-file is for an https URL, and {url} is none")

    @property
    def sends_key_in_the_clear(self) -> bool:
        """Whether others on the way could read the key, and forge answers."""
        return self._context is None and self._host not in ("localhost", "127.0.0.1", "::1")

    def decisions(self, *, startup: bool) -> Changes:
        """What has changed; everything, with ``startup``. Raises ApiRefusedError, ApiUnreachableError.

        By a connection of its own each time, straight to the host: neither proxies nor redirects are followed, as the
        key would go with them.
        """
        connection = self._connection()
        try:
            target = f"{self._path}/v1/decisions/stream?startup={'true' if startup else 'false'}"
            connection.request("GET", target, headers={"X-Api-Key": self._key, "User-Agent": _user_agent()})
            answer = connection.getresponse()
            body = answer.read(MAX_ANSWER_BYTES + 1)
        except ssl.SSLCertVerificationError as error:
            hint = "--ca-file names the certificate of its authority"
            raise ApiRefusedError(f"{self.url}: its certificate: {error.verify_message}", hint=hint) from None
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise ApiUnreachableError(f"{self.url}: {reason}") from None
        finally:
            connection.close()
        self._check_status(answer.status)
        if len(body) > MAX_ANSWER_BYTES:
            raise ApiUnreachableError(f"{self.url}: an answer of more than {MAX_ANSWER_BYTES >> 20} MiB")
        try:
            return parse_changes(json.loads(body))
        except ValueError:
            raise ApiUnreachableError(f"{self.url}: the answer is not that of a CrowdSec local API") from None

    def _connection(self) -> http.client.HTTPConnection:
        if self._context is not None:
            return http.client.HTTPSConnection(self._host, self._port, timeout=TIMEOUT_S, context=self._context)
        return http.client.HTTPConnection(self._host, self._port, timeout=TIMEOUT_S)

    def _check_status(self, status: int) -> None:
        if status in (401, 403):
            hint = "`cscli bouncers add NAME -o raw` makes one"
            raise ApiRefusedError(f"{self.url}: the key is not one of its bouncers'", hint=hint)
        if 300 <= status < 500 and status != 429:
            hint = "the URL is that of `listen_uri` in CrowdSec's config.yaml"
            raise ApiRefusedError(f"{self.url}: HTTP status {status}, not a CrowdSec local API's", hint=hint)
        if status != 200:
            raise ApiUnreachableError(f"{self.url}: HTTP status {status}")


def parse_changes(answer: Any) -> Changes:
    """Raises ValueError where it is no answer of the stream. A decision that is wrong in itself is left."""
    if not isinstance(answer, dict) or not {"new", "deleted"} <= answer.keys():
        raise ValueError("no stream of decisions")
    new: dict[Network, int] = {}
    left: Counter[str] = Counter()
    for decision in _list(answer["new"]):
        network = _ban(decision, left)
        if network is None:
            continue
        remaining_ns = duration_ns(decision.get("duration"))
        if remaining_ns is None:
            left["duration not understood"] += 1
        elif remaining_ns > 0:
            new[network] = max(remaining_ns, new.get(network, 0))
    networks = (_ban(decision, Counter()) for decision in _list(answer["deleted"]))
    return Changes(new, frozenset(network for network in networks if network is not None), left)


def duration_ns(text: object) -> int | None:
    """What Go's ``time.Duration`` writes, as ``3h59m57.5s`` or ``-11.055029ms``; None for anything else, and for what
    is longer than MAX_DURATION_NS.
    """
    if text == "0":
        return 0
    if not isinstance(text, str) or len(text) > 64 or not _DURATION.fullmatch(text):
        return None
    total_ns = 0
    for whole, fraction, unit in _PART.findall(text):
        length_ns = _UNITS_NS[unit]
        total_ns += int(whole) * length_ns
        if fraction:
            total_ns += int(fraction) * length_ns // 10 ** len(fraction)
    if total_ns > MAX_DURATION_NS:
        return None
    return -total_ns if text[0] == "-" else total_ns


def _ban(decision: Any, left: Counter[str]) -> Network | None:
    """Whom a decision bans. None, and counted in ``left`` by its reason, where it is no ban of addresses."""
    if not isinstance(decision, dict):
        raise ValueError("a decision is an object")
    kind, scope, value = (decision.get(name) for name in ("type", "scope", "value"))
    if not isinstance(kind, str) or kind.lower() != BAN:
        left[f"type {_word(kind)}"] += 1
    elif not isinstance(scope, str) or scope.lower() not in SCOPES:
        left[f"scope {_word(scope)}"] += 1
    elif decision.get("simulated") is True:
        left["simulated"] += 1
    else:
        return _network(value, left)
    return None


def _word(found: object) -> str:
    """What an operator can be shown: whoever may add decisions can give them any text."""
    return found if isinstance(found, str) and _WORD.fullmatch(found) else "unknown"


def _network(value: object, left: Counter[str]) -> Network | None:
    """What an address or a prefix, as ``cscli`` and others write them, stands for."""
    network = parse_network(value) if isinstance(value, str) else None
    if network is None:
        left["no address"] += 1
    elif not network.bits:
        left["every address"] += 1
        return None
    return network


def parse_network(text: str) -> Network | None:
    """None where it is neither an address nor a prefix. Host bits may be set, as ``cscli decisions add --range
    10.0.0.1/8`` passes them on.
    """
    address, slash, length = text.partition("/")
    version, family, full = (6, AF_INET6, 128) if ":" in address else (4, AF_INET, 32)
    bits = _LENGTHS.get(length, full + 1) if slash else full
    if bits > full:
        return None
    try:
        number = int.from_bytes(inet_pton(family, address), "big")
    except (OSError, ValueError):
        return None
    free = full - bits
    return Network(version, number >> free << free, bits)


def _list(found: object) -> list[Any]:
    """Go writes an empty list as null."""
    if found is None:
        return []
    if not isinstance(found, list):
        raise ValueError("a list of decisions is expected")
    return found


def _parse_url(url: str) -> tuple[str, str, int, str]:
    hint = "as in http://127.0.0.1:8080 or https://crowdsec.example.net:8080"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise UsageError(f"--url {url}: {error}", hint=hint) from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"--url {url} is no URL of a local API", hint=hint)
    if parts.username is not None or parts.query or parts.fragment or not url.isascii() or not url.isprintable():
        raise UsageError(f"--url {url} has more than a host, a port and a path", hint=hint)
    path = parts.path.rstrip("/").removesuffix("/v1")
    return parts.scheme, parts.hostname, port or {"http": 80, "https": 443}[parts.scheme], path


def _checked_key(key: str) -> str:
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        hint = "`cscli bouncers add NAME -o raw > FILE` writes one"
        raise UsageError("the key file is not one line with the key of a bouncer", hint=hint)
    return key


def _tls(ca_file: str | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:  # an SSLError is one
        raise UsageError(f"--ca-file {ca_file}: {error.strerror or error}") from None


def _user_agent() -> str:
    """The form that the local API takes apart: what ``cscli bouncers list`` shows as type and version."""
    try:
        return f"xdpfw/{version('xdpfw')}"
    except PackageNotFoundError:
        return "xdpfw/0"
