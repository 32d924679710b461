# SPDX-License-Identifier: GPL-2.0-or-later
"""What a policy would do with packets, with no interface touched."""
