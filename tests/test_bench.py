# SPDX-License-Identifier: GPL-2.0-or-later
"""What the benchmark takes from files and writes to them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench import run, traces, written
from bench.report import JSON, MARKDOWN, Report, Table
from tests import filtersets
from tests.filtersets import Filter, FilterSet, Packet
from tests.policies import prefix
from xdpfw.compiler.ir import Range
from xdpfw.compiler.lower import lower
from xdpfw.packet.capture import read_capture
from xdpfw.packet.decode import EXTENSION_HEADERS
from xdpfw.policy.load import load
from xdpfw.policy.source import Sources

V4 = Filter(prefix(0xC6336400, 24), prefix(0xCB007101, 32), Range(0, 65535), Range(22, 80), Range(6, 6))
ANY_V4 = Filter(prefix(0, 0), prefix(0, 0), Range(0, 65535), Range(0, 65535), Range(0, 255))
HOST_V4 = Filter(prefix(0, 0), prefix(0xCB007101, 31), Range(53, 53), Range(0, 65535), Range(17, 17))
PORT_V6 = Filter(prefix(1 << 64, 33, 128), prefix(7, 128, 128), Range(5, 9), Range(80, 80), Range(17, 17))
V6 = Filter(prefix(1 << 64, 64, 128), prefix(7, 128, 128), Range(0, 65535), Range(0, 65535), Range(0, 255))


def test_a_trace_is_read_in_its_order(tmp_path: Path) -> None:
    path = tmp_path / "trace.gz"
    path.write_bytes(gzip.compress(b"2490207092\t1123659087\t0\t1712\t6\t4294967295\t3\n7 8 53 53 17 0 1\n"))
    assert filtersets.read_trace(path, 32) == [Packet(2490207092, 1123659087, 0, 1712, 6), Packet(7, 8, 53, 53, 17)]


def test_an_ipv6_address_of_a_trace_is_its_halves_in_decimals(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    path.write_text("300000000000000000005 18446744073709551615 1 2 6 0 1\n")
    assert filtersets.read_trace(path, 128) == [Packet((3 << 64) + 5, (1 << 64) - 1, 1, 2, 6)]


def test_a_header_lies_in_each_filter() -> None:
    filters = FilterSet(32, [V4] * 5)
    found = traces.within(filters)
    assert len(found) == 5
    for header in found:
        assert all(
            span.low <= value <= span.high
            for span, value in zip(
                (V4.src, V4.dst, V4.sport, V4.dport, V4.proto),
                (header.src, header.dst, header.sport, header.dport, header.proto),
                strict=True,
            )
        )


def test_an_extension_header_is_no_protocol_of_a_trace() -> None:
    assert {header.proto for header in traces.within(FilterSet(128, [V6] * 2000))}.isdisjoint(EXTENSION_HEADERS)


@pytest.mark.parametrize("inverted", [None, 1])
@pytest.mark.parametrize("filters", [FilterSet(32, [V4, ANY_V4, HOST_V4]), FilterSet(128, [V6, V6, PORT_V6])])
def test_a_filter_set_is_written_as_the_policy_that_it_is(filters: FilterSet, inverted: int | None) -> None:
    text = written.yaml(filters, "fw0", inverted=inverted)
    policy = lower(load("policy.yaml", Sources.from_bundle({"policy.yaml": text})))
    expected = filters.policy()
    assert [interface.name for interface in policy.interfaces] == ["fw0"]
    assert (policy.default, policy.allow) == (expected.default, expected.allow)
    for number, (found, meant) in enumerate(zip(policy.rules, expected.rules, strict=True)):
        assert (found.name, found.match) == (meant.name, meant.match)
        assert (found.action == meant.action) == (number != inverted)


def test_a_filter_is_written_as_a_rule_of_nftables() -> None:
    assert written.nft_rules(FilterSet(32, [V4, ANY_V4, HOST_V4]), 2) == [
        "ip saddr 198.51.100.0/24 ip daddr 203.0.113.1/32 meta l4proto 6 th dport 22-80 drop",
        "drop",
    ]
    assert written.nft_rules(FilterSet(32, [HOST_V4]), 5) == [
        "ip daddr 203.0.113.0/31 meta l4proto 17 th sport 53 drop"
    ]


def test_frames_are_spread_over_the_trace_and_distinct() -> None:
    frames = [bytes([i // 2]) for i in range(200)]
    found = traces.spread(frames, 10)
    assert found == [bytes([i]) for i in range(0, 100, 10)]
    assert traces.spread(frames, 1000) == [bytes([i]) for i in range(100)]


def test_what_is_replayed_is_a_capture(tmp_path: Path) -> None:
    path = tmp_path / "trace.pcap"
    traces.write_pcap(path, [b"\x01" * 14, b"\x02" * 100])
    assert [each.frame for each in read_capture(path)] == [b"\x01" * 14 + bytes(46), b"\x02" * 100]


def test_a_report_is_written_for_people_and_programs(tmp_path: Path) -> None:
    table = Table("Warm", "In ns.", ("policy", "ns"), [("a|b", 41.25), ("c", None), ("d", 12345.6)])
    report = Report({"kernel": "6.1"}, [table], ["cold: no data"])
    report.write(tmp_path)
    lines = (tmp_path / MARKDOWN).read_text().splitlines()
    assert "| a\\|b | 41.2 |" in lines
    assert "| c | - |" in lines
    assert "| d | 12,346 |" in lines
    assert "- left out: cold: no data" in lines
    found = json.loads((tmp_path / JSON).read_text())
    assert found["machine"] == {"kernel": "6.1"}
    assert found["missing"] == ["cold: no data"]
    assert found["tables"][0]["rows"][0] == {"policy": "a|b", "ns": 41.25}


@pytest.mark.parametrize("option", ["--rounds", "--repeat"])
@pytest.mark.parametrize("number", ["0", "-1", "few"])
def test_numbers_that_measure_nothing_are_refused(option: str, number: str) -> None:
    ran = CliRunner().invoke(run.main, [option, number])
    assert ran.exit_code == 2
    assert f"Invalid value for '{option}': " in ran.output
