# SPDX-License-Identifier: Apache-2.0
"""A service that calls its privileged helper, as a process of its own.

usage: python -m tests.functional.privileged_call CONFIG

Reads calls from its standard input, one a line in JSON: a verb, its arguments
by name, and a request by its fields. Writes a line of JSON for each: what the
helper gives, by its fields, or the class and the text of an error. Ends with
its input; the helper ends with it.
"""

import json
import sys
from collections.abc import Mapping
from typing import Any

from oslo_config import cfg

from lxc_userns import InstanceRequest, Requirements, Volume, privileged
from lxc_userns.privileged import wire


def main() -> None:
    """Call the helper."""
    cfg.CONF(["--config-file", sys.argv[1]], project="service")
    for line in sys.stdin:
        verb, arguments = json.loads(line)
        print(json.dumps(call(verb, arguments)), flush=True)
    privileged.CONTEXT.stop()


def call(verb: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Call one verb."""
    if isinstance(arguments.get("request"), Mapping):
        arguments = {**arguments, "request": request(arguments["request"])}
    try:
        result = getattr(privileged, verb)(**arguments)
    except Exception as err:
        return {"error": type(err).__name__, "text": str(err)}
    return {"result": wire.encode(result)}


def request(values: dict[str, Any]) -> InstanceRequest:
    """Make a request of its fields."""
    made = {**values}
    if "volumes" in made:
        made["volumes"] = tuple(map(Volume.parse, made["volumes"]))
    if "needs" in made:
        made["needs"] = Requirements(**made["needs"])
    return InstanceRequest(**made)


if __name__ == "__main__":
    main()
