# SPDX-License-Identifier: GPL-2.0-or-later
"""From a policy to the bytes of the maps."""
