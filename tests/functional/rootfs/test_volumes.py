# SPDX-License-Identifier: Apache-2.0
"""Volumes: what a container sees and can do, and what the host is spared."""

import os
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from lxc_userns.exceptions import (
    ExposedTreeError,
    RootfsError,
)
from lxc_userns.idmap import IdMap, IdMaps
from lxc_userns.rootfs.views import idmapped
from lxc_userns.rootfs.views.strategies import ShiftOptions
from tests.functional.rootfs.volume_host import (
    ALICE,
    BASE,
    HOST_USER,
    LONGEST,
    ONE,
    OTHER,
    OTHER_BASE,
    UNMAPPED,
    Host,
    bind,
    hidden,
    host,
    make_tree,
    open_tree,
    owner,
    refused,
    seen,
)

__all__ = ["hidden", "host", "open_tree"]

pytestmark = pytest.mark.needs("mounts")
NOBODY = "65534:65534"


@pytest.fixture
def tree(any_root: Path) -> Path:
    """A directory that only root can reach, on each kind of file system."""
    return make_tree(any_root)


OWNERS = "stat -c %u:%g root alice other"


def test_idmap_shows_guest_ids_and_keeps_the_disk_as_it_is(
    host: Host, tree: Path
) -> None:
    point = host.mount(f"{tree}:/data")
    assert seen(point, OWNERS).split() == ["0:0", "1000:1000", NOBODY]
    seen(point, "echo new >by-root; chown 1000:5 root")
    tree.chmod(0o777)
    seen(point, "umask 022; mkdir by-alice; cat alice", uid=ALICE)
    assert owner(tree / "by-root") == (0, 0)
    assert owner(tree / "by-alice") == (ALICE, ALICE)
    assert owner(tree / "root") == (1000, 5)
    assert owner(tree / "other") == (UNMAPPED, UNMAPPED)
    assert (tree / "by-root").read_text() == "new\n"
    assert "Permission denied" in refused(point, "echo >>other")


def test_none_shows_nobody_and_lets_no_one_write(
    host: Host, tree: Path
) -> None:
    point = host.mount(f"{tree}:/data:none")
    assert seen(point, OWNERS).split() == [NOBODY] * 3
    assert seen(point, "cat root") == "root"
    assert "Permission denied" in refused(point, "touch new")
    assert "Permission denied" in refused(point, "echo >>root")
    assert "not permitted" in refused(point, "chmod 777 root")


def test_chown_shifts_the_disk(host: Host, tree: Path) -> None:
    point = host.mount(f"{tree}:/data:chown")
    assert owner(tree / "alice") == (BASE + ALICE, BASE + ALICE)
    assert owner(tree / "other") == (UNMAPPED, UNMAPPED)
    assert seen(point, OWNERS).split() == ["0:0", "1000:1000", NOBODY]
    seen(point, "touch new")
    assert owner(tree / "new") == (BASE, BASE)
    host.views.unmount("one")
    # The next instance has other maps.
    point = host.mount(f"{tree}:/data:chown", OTHER, "other")
    assert owner(tree / "new") == (OTHER_BASE, OTHER_BASE)
    assert seen(point, OWNERS, id_maps=OTHER).split()[1] == "1000:1000"
    with pytest.raises(RootfsError, match="shifted twice; unshift it first"):
        host.mount(f"{tree}:/data")


def test_chown_obeys_how_to_shift(host: Host, hidden: Path) -> None:
    options = ShiftOptions(unmapped="error")
    with pytest.raises(RootfsError, match="do not cover: user IDs 70000"):
        host.mount(f"{hidden}:/data:chown", options=options)
    assert owner(hidden / "alice") == (ALICE, ALICE)
    options = ShiftOptions(unmapped="nobody")
    host.mount(f"{hidden}:/data:chown", options=options)
    assert owner(hidden / "other") == (BASE + 65534, BASE + 65534)


def test_chown_to_maps_that_cover_less(host: Host, open_tree: Path) -> None:
    """Then owners would be users of the host, who can get there."""
    host.mount(f"{open_tree}:/data:chown")
    host.views.unmount("one")
    smaller = IdMap.parse(f"0:{OTHER_BASE}:1000")
    maps = IdMaps(smaller, smaller)
    with pytest.raises(
        ExposedTreeError, match=f"chmod 0700 {open_tree.parent}"
    ):
        host.mount(f"{open_tree}:/data:chown", maps, "other")
    assert owner(open_tree / "alice") == (BASE + ALICE, BASE + ALICE)
    open_tree.parent.chmod(0o700)
    host.mount(f"{open_tree}:/data:chown", maps, "other")
    assert owner(open_tree / "alice") == (ALICE, ALICE)


def test_two_instances_share_a_volume(host: Host, tree: Path) -> None:
    one = host.mount(f"{tree}:/data")
    other = host.mount(f"{tree}:/data:idmap", OTHER, "other")
    seen(one, "echo one >one; chown 1000:1000 one")
    seen(other, "echo other >other; rm root", id_maps=OTHER)
    for point, id_maps in ((one, ONE), (other, OTHER)):
        listed = seen(point, "stat -c %n:%u one other; ls", id_maps=id_maps)
        assert listed.split() == [
            *("one:1000", f"other:{HOST_USER}"),
            *("alice", "one", "other"),
        ]
        assert seen(point, "cat one", id_maps=id_maps) == "one"
    assert owner(tree / "one") == (1000, 1000)


@pytest.mark.parametrize("owners", ["idmap", "none", "chown"])
def test_readonly_is_for_good(host: Host, hidden: Path, owners: str) -> None:
    hidden.chmod(0o777)
    point = host.mount(f"{hidden}:/data:{owners},ro")
    assert "Read-only file system" in refused(point, "touch new")
    # As the container's root with mounts of its own, where it may remount.
    remount = "mount -o remount,bind,rw ."
    own = f"exec unshare --mount sh -c 'cd $PWD; {remount}; touch new'"
    told = refused(point, own)
    assert "permission denied" in told
    assert "Read-only file system" in told
    assert not (hidden / "new").exists()


PROGRAM, DEVICE = "./id -u", "cat null"


@pytest.mark.parametrize(
    ("options", "uid", "opens"),
    [
        ("idmap", "1000", False),
        ("none", "1000", False),
        ("idmap,suid", "0", False),
        ("idmap,dev", "1000", True),
        ("none,dev", "1000", True),
        ("ro,suid,dev", "0", True),
    ],
)
def test_set_user_id_and_devices(
    host: Host, hidden: Path, options: str, uid: str, opens: bool
) -> None:
    shutil.copy("/usr/bin/id", hidden / "id")
    (hidden / "id").chmod(0o4755)
    os.mknod(hidden / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    (hidden / "null").chmod(0o666)
    point = host.mount(f"{hidden}:/data:{options}")
    assert seen(point, PROGRAM, uid=ALICE) == uid
    if opens:
        assert seen(point, DEVICE) == ""
    else:
        assert "Permission denied" in refused(point, DEVICE)


def test_what_the_source_forbids_stays_forbidden(
    host: Host, hidden: Path
) -> None:
    bind(hidden, hidden, "ro,nosuid,nodev,noexec")
    for options in ("rw,suid,dev", "none,suid,dev"):
        point = host.mount(f"{hidden}:/data:{options}")
        flags = os.statvfs(point).f_flag
        assert flags & os.ST_RDONLY
        assert flags & os.ST_NOSUID
        assert flags & os.ST_NODEV
        assert flags & os.ST_NOEXEC


def test_a_single_file(host: Host, tree: Path) -> None:
    point = host.mount(f"{tree / 'alice'}:/etc/alice")
    parent = point.parent
    assert seen(parent, "stat -c %u:%g volume0; cat volume0").split() == [
        "1000:1000",
        "alice",
    ]
    seen(parent, "echo more >>volume0; chown 5:5 volume0")
    assert (tree / "alice").read_text() == "alice\nmore\n"
    assert owner(tree / "alice") == (5, 5)
    point = host.mount(f"{tree / 'root'}:/etc/root:ro")
    told = refused(point.parent, "echo x >volume0")
    assert "Read-only file system" in told
    point = host.mount(f"{tree / 'root'}:/etc/root:none")
    assert seen(point.parent, "stat -c %u:%g volume0") == NOBODY


CONNECT = """
import socket, sys
peer = socket.socket(socket.AF_UNIX)
peer.connect(sys.argv[1])
print(peer.recv(64).decode())
"""


@pytest.fixture
def server(hidden: Path) -> Iterator[socket.socket]:
    """A socket that only root may connect to."""
    with closing(socket.socket(socket.AF_UNIX)) as listener:
        listener.bind(str(hidden / "socket"))
        (hidden / "socket").chmod(0o600)
        listener.listen()
        listener.settimeout(LONGEST)
        yield listener


def test_a_socket(host: Host, server: socket.socket, hidden: Path) -> None:
    point = host.mount(f"{hidden / 'socket'}:/run/socket")
    assert point.is_socket()
    # The virtual environment may be where only root can go.
    python = Path(sys.executable).resolve()
    connect = f"{python} -I -c '{CONNECT}' volume0"
    with idmapped.user_namespace(ONE) as fd:
        argv = ["nsenter", f"--user=/proc/self/fd/{fd}", "--setuid=0"]
        argv += ["--setgid=0", "sh", "-c", connect]
        with subprocess.Popen(
            argv, cwd=point.parent, pass_fds=[fd], stdout=subprocess.PIPE
        ) as client:
            peer, _ = server.accept()
            with peer:
                credentials = peer.getsockopt(
                    socket.SOL_SOCKET, socket.SO_PEERCRED, 12
                )
                peer.sendall(b"hello")
            out, _ = client.communicate(timeout=LONGEST)
            assert out == b"hello\n"
            _, *client_ids = memoryview(credentials).cast("i")
    # To the server the container's root is no one special.
    assert client_ids == [BASE, BASE]
    # Whom it lets in is not the container's to say.
    for change in ("chmod 666 volume0", "chown 1000 volume0"):
        told = refused(point.parent, change)
        assert "Read-only file system" in told
    assert (hidden / "socket").stat().st_mode & 0o7777 == 0o600
    none = host.mount(f"{hidden / 'socket'}:/run/socket:none")
    assert "Permission denied" in refused(none.parent, connect)


def test_without_id_maps_it_is_shown_as_it_is(
    host: Host, open_tree: Path
) -> None:
    for owners in ("idmap", "chown", "none"):
        point = host.mount(f"{open_tree}:/data:{owners}", None)
        assert owner(point / "alice") == owner(open_tree / "alice")
        assert owner(point / "alice") == (ALICE, ALICE)
