# SPDX-License-Identifier: GPL-2.0-or-later
"""What all tests share."""

import signal

import pytest
from hypothesis import settings

# Bounded, and the same each time; --hypothesis-profile=thorough draws new cases, and many of them.
settings.register_profile("bounded", derandomize=True, database=None)
settings.register_profile("thorough", max_examples=5000)
settings.load_profile("bounded")


def pytest_configure() -> None:
    # In the background of a shell, or behind nohup, signals are ignored, and so in all that tests start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write what comes out as what is expected")
