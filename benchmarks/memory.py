# SPDX-License-Identifier: Apache-2.0
"""Highest resident memory of a shift, and the time of a second one.

A process of its own, for other measurements take memory as well; so do their
modules, of which it has none.
"""

import json
import os
import re
import sys
import time
from pathlib import Path

from lxc_userns.idmap import IdMap, IdMaps
from lxc_userns.linux.processes import children
from lxc_userns.rootfs.shifting.shift import shift


def main(path: str, id_map: str) -> None:
    """Shift, look at the workers meanwhile, and shift again."""
    id_maps = IdMaps(IdMap.parse(id_map), IdMap.parse(id_map))
    workers: dict[int, float] = {}

    def look(_inodes: int) -> None:
        for pid in children(os.getpid()):
            # One that has ended has no memory any more.
            workers[pid] = max(workers.get(pid, 0), _highest(pid))

    shift(path, id_maps, progress=look)
    peak = _highest(os.getpid())
    begin = time.perf_counter()
    shift(path, id_maps)
    found = {
        "caller_MiB": peak,
        "workers_MiB": sum(workers.values()),
        "processes": len(workers),
        "again_ms": (time.perf_counter() - begin) * 1000,
    }
    print(json.dumps(found))


def _highest(pid: int) -> float:
    """Return the highest resident memory of a process until now, in MiB."""
    # Not ru_maxrss, which a process inherits from the one that executed it.
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"^VmHWM:\s*(\d+)", status, re.MULTILINE)
    return int(found[1]) / 1024 if found else 0.0


if __name__ == "__main__":
    main(*sys.argv[1:])
