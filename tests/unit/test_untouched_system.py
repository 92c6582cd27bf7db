# SPDX-License-Identifier: Apache-2.0
"""The guard of the unit tests holds."""

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lxc_userns.linux import loop, mount_api, mounts, user_namespaces


@pytest.fixture(autouse=True)
def touched(untouched_system: None) -> type[BaseException]:
    conftest = sys.modules["tests.unit.conftest"]
    error: type[BaseException] = conftest.SystemTouchedError
    return error


def test_no_program(touched: type[BaseException]) -> None:
    with pytest.raises(touched, match=r"subprocess\.Popen"):
        subprocess.run(["true"])
    with pytest.raises(touched, match=r"os\.system"):
        os.system("true")  # noqa: S605 - it must not run


def test_no_process(touched: type[BaseException]) -> None:
    with pytest.raises(touched, match=r"os\.fork"):
        os.fork()
    spawn = multiprocessing.get_context("spawn")
    with pytest.raises(touched):
        spawn.Process(target=print).start()


def test_no_owner(touched: type[BaseException], tmp_path: Path) -> None:
    with pytest.raises(touched, match=r"os\.chown"):
        os.chown(tmp_path, -1, -1)
    with pytest.raises(touched, match=r"os\.chown"):
        os.lchown(tmp_path, -1, -1)
    descriptor = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(touched, match=r"os\.chown"):
        os.fchown(descriptor, -1, -1)
    os.close(descriptor)


def test_no_mount(touched: type[BaseException], tmp_path: Path) -> None:
    image = os.open(tmp_path / "image", os.O_CREAT | os.O_RDWR)
    options = {"lowerdir": "/"}
    for forbidden in (
        lambda: mounts.unmount(-1, "nowhere"),
        lambda: mount_api.clone_mount(-1),
        lambda: mount_api.set_attributes(-1, 0),
        lambda: mount_api.attach(-1, -1),
        lambda: mount_api.mount("overlay", options, 0),
        lambda: loop.attached(image, "image", readonly=True).__enter__(),
        lambda: user_namespaces.create([], []).__enter__(),
    ):
        with pytest.raises(touched):
            forbidden()
    os.close(image)


def test_every_system_call_is_found() -> None:
    conftest = sys.modules["tests.unit.conftest"]
    found = {name for _, name in conftest.SYSTEM_CALLS}
    assert {"_mount", "_umount2", "_move_mount", "_fsopen"} <= found


@pytest.mark.allow_subprocess
# Without descriptors to close, Python 3.11 starts it by os.posix_spawn.
@pytest.mark.parametrize("close_fds", [True, False])
def test_marked(close_fds: bool) -> None:
    argv = [sys.executable, "-c", "print('fresh')"]
    output = subprocess.check_output(argv, close_fds=close_fds)
    assert output == b"fresh\n"


@given(st.integers())
def test_property(number: int) -> None:
    assert number + 0 == number
