# SPDX-License-Identifier: GPL-2.0-or-later
"""Packets as bytes: how frames are read, written down and found in captures."""
