# SPDX-License-Identifier: Apache-2.0
"""A service that calls its privileged helper, as a process of its own.

usage: python -m tests.functional.privileged_call CONFIG

Reads a JSON list of calls from each line of its standard input; makes them
at the same time: a verb, and its arguments by name, a request by its fields.
Writes a line for each with a JSON list of what the helper gives, by its
fields, or the class, the text and the attributes of an error. Ends with its
input, and the helper with it.
"""

import json
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from oslo_config import cfg

from lxc_userns import InstanceRequest, Requirements, Volume, privileged
from lxc_userns.privileged import wire


def main() -> None:
    """Call the helper."""
    cfg.CONF(["--config-file", sys.argv[1]], project="service")
    with ThreadPoolExecutor() as pool:
        for line in sys.stdin:
            answers = [*pool.map(call, json.loads(line))]
            sys.stdout.write(f"{json.dumps(answers)}\n")
            sys.stdout.flush()
    privileged.CONTEXT.stop()


def call(verb_and_arguments: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    """Call one verb."""
    verb, arguments = verb_and_arguments
    try:
        if isinstance(arguments.get("request"), Mapping):
            arguments["request"] = request(**arguments["request"])
        result = getattr(privileged, verb)(**arguments)
    except Exception as err:
        kind, attributes = type(err).__name__, vars(err)
        return {"error": kind, "text": str(err), "attributes": attributes}
    return {"result": wire.encode(result)}


def request(**fields: Any) -> InstanceRequest:
    """Make a request of its fields, of which some are written as text."""
    volumes = map(Volume.parse, fields.pop("volumes", ()))
    needs = Requirements(**fields.pop("needs", {}))
    return InstanceRequest(volumes=tuple(volumes), needs=needs, **fields)


if __name__ == "__main__":
    main()
