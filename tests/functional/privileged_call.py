# SPDX-License-Identifier: Apache-2.0
"""A service that calls its privileged helper, as a process of its own.

usage: python -m tests.functional.privileged_call CONFIG CALLS

``CALLS`` is a JSON list of calls, each a list of a verb and its arguments.
Writes a JSON list of what the helper gives, or the class and the text of an
error.
"""

import json
import sys
from typing import Any

from oslo_config import cfg

from lxc_userns import privileged


def main() -> None:
    """Call the helper."""
    config, calls = sys.argv[1:]
    cfg.CONF(["--config-file", config], project="service")
    json.dump([call(*each) for each in json.loads(calls)], sys.stdout)
    privileged.CONTEXT.stop()


def call(verb: str, *arguments: object) -> dict[str, Any]:
    """Call one verb."""
    try:
        return {"result": getattr(privileged, verb)(*arguments)}
    except Exception as err:
        return {"error": type(err).__name__, "text": str(err)}


if __name__ == "__main__":
    main()
