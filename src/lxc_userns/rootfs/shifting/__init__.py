# SPDX-License-Identifier: Apache-2.0
"""Shift of the owners of a tree on disk."""
