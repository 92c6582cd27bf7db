# SPDX-License-Identifier: Apache-2.0
"""The raw kernel interface: what the standard library lacks."""
