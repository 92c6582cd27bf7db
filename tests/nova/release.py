# SPDX-License-Identifier: Apache-2.0
"""The release of Nova that is installed."""

import importlib.metadata

RELEASE = int(importlib.metadata.version("nova").split(".")[0])
