# SPDX-License-Identifier: Apache-2.0
"""What is measured with a whole Debian system."""
