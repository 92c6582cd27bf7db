# SPDX-License-Identifier: Apache-2.0
"""Subordinate IDs, and the owners of host IDs."""
