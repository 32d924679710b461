# SPDX-License-Identifier: GPL-2.0-or-later
"""Loading a generation, running frames through it, keeping it in bpffs."""

from __future__ import annotations

import errno
import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from xdpfw.errors import CapacityError, KernelError, VerifierError
from xdpfw.kernel import abi, loader
from xdpfw.kernel.libbpf import libbpf
from xdpfw.kernel.maps import ArrayMap, Counter, wait_for_programs
from xdpfw.kernel.program import Generation, interface_factor, interface_slot
from xdpfw.kernel.testrun import LOOPBACK, Outcome

pytestmark = pytest.mark.needs("privileges", "data plane")

MAPS_HEADER = Path(__file__).parents[2] / "bpf" / "maps.h"

UNTYPED = bytes(12) + b"\x88\xb5" + bytes(46)
"""A frame of the local experimental ethertype: matched by nothing, invalid in nothing."""


def test_a_frame_meets_the_default(generation: Generation) -> None:
    assert generation.run(UNTYPED)[:4] == Outcome("pass", "default", None, UNTYPED, 0)[:4]


def test_what_cannot_be_parsed_has_its_reason(generation: Generation) -> None:
    outcome = generation.run(bytes(12) + b"\x08\x00" + b"\x42" + bytes(45))
    assert outcome[:3] == ("drop", "invalid.ipv4_ihl", None)


@pytest.mark.parametrize("invalid", [abi.Verdict.DROP, abi.Verdict.PASS])
@pytest.mark.parametrize("length", [0, 1, 13])
def test_less_than_an_ethernet_header_is_answered_without_a_run(
    make_image: Any, invalid: abi.Verdict, length: int
) -> None:
    with Generation.load(make_image(invalid_verdict=invalid), interfaces=[], targets=[], trace=True) as generation:
        assert generation.run(bytes(length)) == Outcome(
            invalid.name.lower(), "invalid.ethernet", None, bytes(length), 0
        )


@pytest.mark.parametrize("length", [14, 3500, 4096, 9014, 65_535])
def test_frames_of_several_buffers_come_back_whole(generation: Generation, length: int) -> None:
    frame = UNTYPED[:14] + random.Random(length).randbytes(length - 14)
    assert generation.run(frame)[:4] == ("pass", "default", None, frame)
    assert generation.counters()[0][abi.Reason.DEFAULT] == Counter(1, length)


def test_a_frame_that_no_test_run_can_build_is_an_error(generation: Generation) -> None:
    with pytest.raises(KernelError, match="test-run a frame of 200000 bytes"):
        generation.run(bytes(200_000))


def test_every_packet_is_in_one_counter_of_each_view(make_image: Any) -> None:
    with Generation.load(make_image(rule_count=3), interfaces=[], targets=[], trace=True) as generation:
        for interface in (0, 2, 2, None):
            generation.run(UNTYPED, interface)
        reasons, rules = generation.counters()
        rows = generation.interface_verdicts()
    assert reasons[abi.Reason.DEFAULT] == Counter(4, 4 * len(UNTYPED))
    assert sum(counter.packets for counter in reasons) == 4
    assert rules == [Counter(0, 0)] * 3
    assert len(rows) == abi.Limit.MAX_INTERFACES + 1
    passed = {index: row[abi.Verdict.PASS].packets for index, row in enumerate(rows) if any(c.packets for c in row)}
    assert passed == {0: 1, 2: 2, abi.Limit.MAX_INTERFACES: 1}


def test_repeating_counts_each_run(generation: Generation) -> None:
    outcome = generation.run(UNTYPED, repeat=1000)
    assert generation.counters()[0][abi.Reason.DEFAULT].packets == 1000
    assert 0 < outcome.duration_ns < 1_000_000


def test_without_a_trace_there_is_a_verdict_and_no_reason(make_image: Any) -> None:
    with Generation.load(make_image(), interfaces=[LOOPBACK], targets=[]) as generation:
        assert not generation.traces
        assert generation.run(UNTYPED)[:4] == ("pass", None, None, UNTYPED)
        assert generation.interface_verdicts()[0][abi.Verdict.PASS].packets == 1


def test_targets_are_needed_one_a_slot(make_image: Any) -> None:
    with pytest.raises(ValueError, match="2 redirect targets need as many interfaces, not 1"):
        Generation.load(make_image(targets=("a", "b")), interfaces=[], targets=[LOOPBACK])


def test_a_pinned_generation_can_be_opened_again(make_image: Any, bpffs: Path) -> None:
    with Generation.load(make_image(rule_count=7), interfaces=[], targets=[], trace=True) as generation:
        generation.run(UNTYPED)
        generation.pin(bpffs)
        identity = generation.program_id
        memory = generation.memory_bytes
    assert {path.name for path in bpffs.iterdir()} == {"program", *generation.maps.by_name()}
    with Generation.open(bpffs) as opened:
        assert (opened.program_id, opened.rule_count, opened.traces) == (identity, 7, True)
        assert opened.memory_bytes == memory > 4096
        assert opened.run(UNTYPED).reason == "default"
        assert opened.counters()[0][abi.Reason.DEFAULT].packets == 2


def test_a_policy_that_follows_flows_has_a_program_for_what_is_sent(make_image: Any, bpffs: Path) -> None:
    with Generation.load(make_image(tracks=1), interfaces=[], targets=[], trace=True) as generation:
        assert generation.egress is not None
        generation.send(UNTYPED)
        generation.send(UNTYPED[:13])
        generation.pin(bpffs)
        identity = generation.egress.id
    assert (bpffs / "egress").exists()
    with Generation.open(bpffs) as opened:
        assert opened.egress is not None
        assert opened.egress.id == identity != opened.program_id
        opened.send(UNTYPED)


def test_a_policy_that_follows_no_flows_has_none(generation: Generation) -> None:
    assert generation.egress is None
    generation.send(UNTYPED)


def test_opening_what_is_half_there_leaves_nothing_open(
    generation: Generation, bpffs: Path, open_descriptors: Callable[[], set[str]]
) -> None:
    generation.pin(bpffs)
    (bpffs / "trace").unlink()
    before = open_descriptors()
    with pytest.raises(KernelError, match=f"read the generation in {bpffs}: No such file") as raised:
        Generation.open(bpffs)
    assert raised.value.hint == "another version of xdpfw loaded it: xdpfw detach, then apply"
    assert open_descriptors() == before


def test_a_generation_with_other_constants_is_refused(
    generation: Generation, bpffs: Path, open_descriptors: Callable[[], set[str]]
) -> None:
    generation.pin(bpffs)
    (bpffs / "config").unlink()
    with ArrayMap.create("other", abi.size_of("config") + 8, 1) as other:
        other.pin(str(bpffs / "config"))
    before = open_descriptors()
    with pytest.raises(KernelError, match="Invalid argument") as raised:
        Generation.open(bpffs)
    assert raised.value.hint
    assert "detach" in raised.value.hint
    assert open_descriptors() == before


def test_closing_leaves_nothing_in_the_kernel(make_image: Any, open_descriptors: Callable[[], set[str]]) -> None:
    before = open_descriptors()
    generation = Generation.load(make_image(), interfaces=[], targets=[], trace=True)
    generation.run(UNTYPED)
    identity = generation.program_id
    generation.close()
    generation.close()
    assert open_descriptors() == before
    wait_for_programs()
    assert libbpf().bpf_prog_get_fd_by_id(identity) == -errno.ENOENT


def test_a_failure_after_the_load_leaves_nothing_open(
    make_image: Any, open_descriptors: Callable[[], set[str]]
) -> None:
    before = open_descriptors()
    with pytest.raises(KernelError, match=r"write map targets\[0\]: Invalid argument"):
        Generation.load(make_image(targets=("gone",)), interfaces=[], targets=[(1 << 31) - 1])
    assert open_descriptors() == before


def compiled(directory: Path, source: str) -> Path:
    """An object file of a program that stands in for ours."""
    text = f'#include "{MAPS_HEADER}"\n{source}\nchar _license[] SEC("license") = "GPL";\n'
    (directory / "other.bpf.c").write_text(text)
    includes = [f"-idirafter{path}" for path in Path("/usr/include").glob("*-linux-gnu")]
    command = ["clang-16", "-target", "bpf", "-mcpu=v3", "-O2", "-g", *includes, "-c", "other.bpf.c"]
    subprocess.run([*command, "-o", "other.bpf.o"], cwd=directory, check=True, timeout=60)
    return directory / "other.bpf.o"


@pytest.mark.skipif(not shutil.which("clang-16"), reason="needs clang-16: make setup installs it")
def test_the_verifiers_refusal_is_told_in_its_words(
    make_image: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: Any,
    open_descriptors: Callable[[], set[str]],
) -> None:
    source = """
    SEC("xdp.frags") int xdpfw(struct xdp_md *ctx)
    {
        __u32 key = ctx->rx_queue_index + config.trace;
        struct xdpfw_trace *last = bpf_map_lookup_elem(&trace, &key);
        void *all[] = { &tables, &actions, &interfaces, &targets, &counters, &verdicts };
        for (int i = 0; i < 6; i++)
            asm volatile("" :: "r"(all[i]));
        return last->rule;
    }
    SEC("tc") int xdpfw_egress(struct __sk_buff *skb)
    {
        return skb->len;
    }"""
    monkeypatch.setattr(loader, "OBJECT", compiled(tmp_path, source))
    before = open_descriptors()
    with pytest.raises(VerifierError, match="invalid mem access 'map_value_or_null'") as caught:
        Generation.load(make_image(), interfaces=[], targets=[])
    assert caught.value.errno == errno.EACCES
    assert open_descriptors() == before
    assert capfd.readouterr().err == ""


def test_a_missing_object_file_names_what_makes_it(
    make_image: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "OBJECT", tmp_path / "xdpfw.bpf.o")
    with pytest.raises(KernelError, match=r"open .*/xdpfw.bpf.o: No such file or directory \(.*make bpf"):
        Generation.load(make_image(), interfaces=[], targets=[])


def test_without_privileges_it_says_what_it_takes(make_image: Any, unprivileged: None) -> None:
    with pytest.raises(KernelError, match="this takes root, or the capabilities CAP_BPF") as caught:
        Generation.load(make_image(), interfaces=[], targets=[])
    assert caught.value.errno in (errno.EPERM, errno.EACCES)


@pytest.mark.parametrize("count", [1, 2, 16, 64])
def test_interfaces_never_share_a_slot(count: int) -> None:
    for seed in range(5):
        ifindexes = random.Random(seed).sample(range(1, 10_000), count)
        factor = interface_factor(ifindexes)
        assert factor % 2 == 1
        assert len({interface_slot(ifindex, factor) for ifindex in ifindexes}) == count
        assert factor == interface_factor(list(reversed(ifindexes)))


def test_more_interfaces_than_the_data_plane_tells_apart_are_refused() -> None:
    with pytest.raises(CapacityError, match="65 interfaces, but a firewall has at most 64"):
        interface_factor(range(1, 66))
