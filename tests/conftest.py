# SPDX-License-Identifier: GPL-2.0-or-later
import pytest
from hypothesis import settings

# Bounded, and the same each time; --hypothesis-profile=thorough draws new cases, and many of them.
settings.register_profile("bounded", derandomize=True, database=None)
settings.register_profile("thorough", max_examples=5000)
settings.load_profile("bounded")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write what comes out as what is expected")
