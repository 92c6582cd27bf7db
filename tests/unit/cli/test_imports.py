# SPDX-License-Identifier: Apache-2.0
"""Modules that commands load: none that they have no use for."""

import subprocess
import sys
from pathlib import Path

import pytest

#: In a new interpreter: modules that are not to be there, and a libvirtd
#: without domains for those who may ask it.
PROGRAM = """
import sys
from types import ModuleType, SimpleNamespace

blocked, *arguments = sys.argv[1:]
for name in blocked.split(","):
    sys.modules[name] = None
if "libvirt" not in sys.modules:
    made = sys.modules["libvirt"] = ModuleType("libvirt")
    made.libvirtError = type("libvirtError", (Exception,), {})
    made.registerErrorHandler = lambda *_: None
    connection = SimpleNamespace(isAlive=lambda: 1, listAllDomains=lambda: [])
    made.open = lambda _uri: connection

from lxc_userns.cli.main import main

code = main(arguments)
print(*sys.modules)
sys.exit(code)
"""
MAPS = ("--uid-map", "0:100000:65536", "--gid-map", "0:100000:65536")
#: What oslo.config, cliff and we load only where it is used.
UNUSED = {"asyncio", "libvirtmod", "netaddr.core", "rfc3986.misc", "tqdm"}
UNUSED |= {"lxc_userns.cli.exec_arguments", "lxc_userns.linux.journal"}
VIEWS = {
    f"lxc_userns.rootfs.views.{name}"
    for name in ("overlay", "image", "source", "strategies", "volumes")
}
ARCHIVES = {"lxc_userns.rootfs.archive.tar"}
SHIFTS = {"lxc_userns.rootfs.shifting.worker_pool"}
DOMAIN = {"lxc_userns.domain.document"}
CHECKS = {
    "lxc_userns.verification.compare",
    "lxc_userns.resources.enforcement",
}


def run(tmp_path: Path, blocked: str, *command: str) -> set[str]:
    """Run a command; return the modules that it has loaded."""
    config = tmp_path / "lxc-userns.conf"
    config.write_text(
        f"[lxc_userns]\nstate_path = {tmp_path}/state\n"
        f"run_path = {tmp_path}/run\n"
    )
    done = subprocess.run(
        [
            *(sys.executable, "-W", "error", "-c", PROGRAM, blocked),
            *("--config-file", str(config), *command),
        ],
        capture_output=True,
        check=False,
        text=True,
        timeout=300,
    )
    # Not even an error, as of a module that is not there.
    assert "error" not in done.stderr
    return {*done.stdout.splitlines()[-1].split()}


@pytest.mark.allow_subprocess
@pytest.mark.parametrize(
    ("blocked", "command", "unused"),
    [
        pytest.param(
            "libvirt,lxml",
            ("lease", "list"),
            UNUSED | VIEWS | ARCHIVES | SHIFTS | DOMAIN | CHECKS,
            id="lease list",
        ),
        pytest.param(
            "lxml,sqlite3",
            ("container", "list"),
            UNUSED | VIEWS | ARCHIVES | SHIFTS | DOMAIN | CHECKS,
            id="container list",
        ),
        pytest.param(
            "libvirt,lxml",
            ("rootfs", "shift", *MAPS),
            UNUSED | VIEWS | ARCHIVES | DOMAIN | CHECKS,
            id="rootfs shift",
        ),
        pytest.param(
            "libvirt,lxml,sqlite3",
            ("config", "check"),
            UNUSED | VIEWS | ARCHIVES | DOMAIN | CHECKS,
            id="config check",
        ),
        pytest.param(
            "libvirt,lxml,sqlite3",
            ("--version",),
            UNUSED | {"lxc_userns.exceptions", "oslo_config.cfg"},
            id="version",
        ),
    ],
)
def test_a_command_loads_what_it_uses(
    tmp_path: Path, blocked: str, command: tuple[str, ...], unused: set[str]
) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    if command[0] == "rootfs":
        command = (*command, "--dry-run", str(tree))
    loaded = run(tmp_path, blocked, *command)
    assert "lxc_userns.cli.main" in loaded
    # By wrapt, which oslo.config has until 10.
    others = {"asyncio"} if "wrapt" in loaded else set()
    assert loaded & unused <= others
