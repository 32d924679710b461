# SPDX-License-Identifier: GPL-2.0-or-later
from tests.cli.conftest import run  # noqa: F401
from tests.kernel.conftest import _needs, pytest_configure, unprivileged  # noqa: F401
