# SPDX-License-Identifier: GPL-2.0-or-later
"""What holds for all tests, whatever tree they are in.

A run in which every test of the kernel was skipped has not tested the firewall, and says so. Skipping is right on a
laptop. In CI, and as root, where those tests can run, a layer of which nothing ran fails the session.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import settings

# No test is timed: a busy machine is no bug. All else is as hypothesis has it, its own profile for CI included.
settings.register_profile("untimed", settings.default, deadline=None)
settings.load_profile("untimed")

KERNEL_LAYERS = ("tests/kernel/", "netns-tests/")


class SkippedLayers:
    """Counts outcomes by layer, of tests and of modules that skip as a whole."""

    def __init__(self) -> None:
        self.skipped: Counter[str] = Counter()
        self.ran: Counter[str] = Counter()

    def record(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        layer = next((layer for layer in KERNEL_LAYERS if report.nodeid.startswith(layer)), None)
        if layer is None:
            return
        if report.skipped:
            self.skipped[layer] += 1
        elif isinstance(report, pytest.TestReport) and report.when == "call":
            self.ran[layer] += 1

    pytest_runtest_logreport = record
    pytest_collectreport = record

    def untested(self) -> Iterator[str]:
        return (layer for layer in self.skipped if not self.ran[layer])

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if any(self.untested()) and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        for layer in self.untested():
            terminalreporter.write_line(
                f"{layer}: all {self.skipped[layer]} skipped, none ran: this session fails (reasons: -rs)", red=True
            )


def pytest_configure(config: pytest.Config) -> None:
    if os.environ.get("CI") == "true" or os.geteuid() == 0:
        config.pluginmanager.register(SkippedLayers(), "skipped-layers")
