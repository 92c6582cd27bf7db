# SPDX-License-Identifier: Apache-2.0
"""Fuzz one target, led by what it covers.

usage: python -m tests.fuzz.run TARGET SECONDS

A target is a test of hypothesis, fed by atheris. What was found worth keeping
is in .fuzz/TARGET/ and is where the next run begins. A failure ends the run
with its traceback, exit status 77; hypothesis keeps the input, and SECONDS of
0 replays and reduces it.
"""

import random
import sys
from pathlib import Path

import atheris
from hypothesis import HealthCheck, settings

with atheris.instrument_imports(include=["lxc_userns"]):
    from tests.fuzz.targets import TARGETS

#: Seconds that an input may take, and MiB of memory.
LONGEST_INPUT = 10
MOST_MEMORY = 2048
SEEDS = 32
SEED_SIZE = 1024


def main() -> None:
    """Fuzz a target for a while."""
    name, seconds = sys.argv[1], int(sys.argv[2])
    target = settings(
        deadline=None,
        print_blob=True,
        suppress_health_check=[*HealthCheck],
    )(TARGETS[name])
    if seconds == 0:
        target()
        return
    corpus = Path(".fuzz", name)
    corpus.mkdir(parents=True, exist_ok=True)
    for number in range(SEEDS):
        # Long enough to draw a whole input from.
        seed = random.Random(number).randbytes(SEED_SIZE)  # noqa: S311
        (corpus / f"seed-{number}").write_bytes(seed)
    options = {
        "max_total_time": seconds,
        "max_len": 8192,
        "len_control": 0,
        "timeout": LONGEST_INPUT,
        "rss_limit_mb": MOST_MEMORY,
        "artifact_prefix": f"{corpus}-",
        "print_final_stats": 1,
        "verbosity": 0,
    }
    argv = [sys.argv[0], str(corpus)]
    argv += [f"-{key}={value}" for key, value in options.items()]
    atheris.Setup(argv, target.hypothesis.fuzz_one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
