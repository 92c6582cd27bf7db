# SPDX-License-Identifier: Apache-2.0
"""A service in whose process eventlet has taken away what it replaces."""

import subprocess
import sys

PROGRAM = """\
import os
import pkgutil
import select
import sys

for name in ("poll", "epoll"):
    delattr(select, name)

import lxc_userns

for module in pkgutil.walk_packages(lxc_userns.__path__, "lxc_userns."):
    # Nova is not here, and a program begins where it is imported.
    if ".nova" not in module.name and not module.name.endswith("__main__"):
        __import__(module.name)

from lxc_userns.linux.fd import wait_readable
from lxc_userns.linux.process import Process

read, write = os.pipe()
assert wait_readable(read, timeout=0.01) == set()
os.write(write, b"x")
assert wait_readable(read) == {read}
pid = os.fork()
if not pid:
    os.read(read, 1)
    os._exit(not os.read(read, 1))
with Process(pid) as process:
    assert not process.wait(0.01)
    os.write(write, b"x")
    assert process.wait(60)
"""


def test_all_modules_and_what_waits() -> None:
    argv = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
