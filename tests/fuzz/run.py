# SPDX-License-Identifier: Apache-2.0
"""Fuzz targets, led by what they cover.

usage: python -m tests.fuzz.run SECONDS [TARGET...]

SECONDS are for each of the targets, one after the other; all of them if none
is named. A target is a test of hypothesis, fed by atheris. The inputs that
covered something new are in .fuzz/TARGET/ and are where its next run begins.
A failure ends the run with its traceback, exit status 1; hypothesis keeps the
input, and SECONDS of 0 replays and reduces it.
"""

import multiprocessing
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


def make_corpus(name: str) -> Path:
    """Make the directory of a target's inputs, with some to begin with."""
    corpus = Path(".fuzz", name)
    corpus.mkdir(parents=True, exist_ok=True)
    for number in range(SEEDS):
        # Long enough to draw a whole input from.
        seed = random.Random(number).randbytes(SEED_SIZE)  # noqa: S311
        (corpus / f"seed-{number}").write_bytes(seed)
    return corpus


def fuzz(name: str, seconds: int) -> None:
    """Fuzz a target, and end the process; or replay what it failed on."""
    target = settings(
        deadline=None,
        print_blob=True,
        suppress_health_check=[*HealthCheck],
    )(TARGETS[name])
    if seconds == 0:
        target()
        return
    corpus = make_corpus(name)
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


def main() -> int:
    """Fuzz one target after the other."""
    seconds, names = int(sys.argv[1]), sys.argv[2:] or [*TARGETS]
    for name in names:
        print(f"fuzzing {name}", flush=True)
        # Each in a process of its own, which the fuzzer ends.
        process = multiprocessing.Process(target=fuzz, args=(name, seconds))
        process.start()
        process.join()
        if process.exitcode:
            print(f"{name} failed; replay it by SECONDS=0 TARGET={name}")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
