# SPDX-License-Identifier: Apache-2.0
"""The parts that ``tools/in-vm`` and ``tools/in-release`` share."""
