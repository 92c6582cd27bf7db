# SPDX-License-Identifier: Apache-2.0
"""Volumes that users of the host could get at."""

import socket
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from lxc_userns.exceptions import (
    ExposedTreeError,
)
from lxc_userns.linux import directory, mount_api
from lxc_userns.rootfs.views import idmapped
from tests.functional.rootfs.volume_host import (
    HOST_USER,
    LONGEST,
    ONE,
    Host,
    bind,
    hidden,
    host,
    open_tree,
    owner,
    refused,
    seen,
)

__all__ = ["hidden", "host", "open_tree"]

pytestmark = pytest.mark.needs("mounts")


# What the container's root leaves for a user of the host.
ATTACK = "cat /usr/bin/id >trap; chmod 4755 trap"


def attack(path: Path) -> str:
    """The user that somebody on the host becomes by it, or why not."""
    # By a shell: setpriv has capabilities until it executes something.
    argv = ["setpriv", f"--reuid={HOST_USER}", f"--regid={HOST_USER}"]
    argv += ["--clear-groups", "sh", "-c", f"exec {path} -u"]
    done = subprocess.run(
        argv, capture_output=True, text=True, timeout=LONGEST
    )
    return done.stdout.strip() or done.stderr


def test_without_protection_a_volume_makes_users_of_the_host_root(
    host: Host, open_tree: Path
) -> None:
    def mount(parent: int, name: str) -> None:
        with (
            directory.opened(open_tree) as fd,
            idmapped.idmapped_mount(
                fd, str(open_tree), ONE, mount_api.MOUNT_ATTR_NOSUID
            ) as view,
            directory.opened_in(parent, name) as target,
        ):
            mount_api.attach(view, target)

    host.views.mount("one", "volume0", ONE, mount)
    seen(Path(host.views.path("one", "volume0")), ATTACK)
    assert owner(open_tree / "trap") == (0, 0)
    assert attack(open_tree / "trap") == "0"


def test_a_volume_that_users_of_the_host_reach_is_refused(
    host: Host, open_tree: Path
) -> None:
    with pytest.raises(ExposedTreeError) as raised:
        host.mount(f"{open_tree}:/data")
    told = str(raised.value)
    assert told.startswith(f"{open_tree}: users of the host can reach it")
    assert f"chmod 0700 {open_tree.parent}" in told
    assert "mount it nosuid on the host" in told
    assert "give the volume the option ro or none" in told
    # Its own mode is the container's to change.
    open_tree.chmod(0o700)
    with pytest.raises(ExposedTreeError):
        host.mount(f"{open_tree}:/data")


def test_each_fix_keeps_users_of_the_host_from_root(
    host: Host, open_tree: Path
) -> None:
    trap = open_tree / "trap"
    told = refused(host.mount(f"{open_tree}:/data:ro"), ATTACK)
    assert "Read-only file system" in told
    told = refused(host.mount(f"{open_tree}:/data:none"), ATTACK)
    assert "Permission denied" in told
    open_tree.parent.chmod(0o700)
    seen(host.mount(f"{open_tree}:/data"), ATTACK)
    assert "Permission denied" in attack(trap)
    open_tree.parent.chmod(0o755)
    host.views.unmount("one")
    bind(open_tree, open_tree, "nosuid")
    seen(host.mount(f"{open_tree}:/data"), f"rm trap; {ATTACK}")
    assert trap.stat().st_mode & 0o7777 == 0o4755
    assert attack(trap) == str(HOST_USER)
    open_tree.parent.chmod(0o755)


def test_a_readonly_source_may_be_reached(host: Host, open_tree: Path) -> None:
    bind(open_tree, open_tree, "ro")
    point = host.mount(f"{open_tree}:/data")
    # That is for good too.
    remount = ["mount", "-o", "remount,bind,rw", open_tree]
    subprocess.run([*map(str, remount)], check=True)
    (open_tree / "new").touch()
    assert "Read-only file system" in refused(point, ATTACK)


def test_nosuid_at_one_place_does_not_do_for_another(
    host: Host, open_tree: Path
) -> None:
    elsewhere = open_tree.parent / "elsewhere"
    elsewhere.mkdir()
    bind(open_tree, elsewhere, "nosuid")
    with pytest.raises(ExposedTreeError, match=f"can reach it at {open_tree}"):
        host.mount(f"{elsewhere}:/data")
    open_tree.parent.chmod(0o700)
    point = host.mount(f"{elsewhere}:/data")
    # What is as the kernel has bound it is nosuid there.
    seen(point, ATTACK)
    assert seen(point, "stat -c %a trap") == "4755"


def test_a_file_that_users_of_the_host_reach_is_refused(
    host: Host, open_tree: Path, hidden: Path
) -> None:
    with pytest.raises(ExposedTreeError, match="can reach it"):
        host.mount(f"{open_tree / 'root'}:/data")
    host.mount(f"{open_tree / 'root'}:/data:ro")
    host.mount(f"{open_tree / 'root'}:/data:none")
    host.mount(f"{hidden / 'root'}:/data")
    # It has a name where they can go.
    (hidden / "second").hardlink_to(hidden / "root")
    with pytest.raises(ExposedTreeError, match="has 2 names"):
        host.mount(f"{hidden / 'root'}:/data")


def test_a_socket_that_users_of_the_host_reach_is_none_of_their_rights(
    host: Host, open_tree: Path
) -> None:
    with closing(socket.socket(socket.AF_UNIX)) as listener:
        listener.bind(str(open_tree / "socket"))
        point = host.mount(f"{open_tree / 'socket'}:/run/socket")
        assert point.is_socket()
