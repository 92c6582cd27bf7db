# SPDX-License-Identifier: Apache-2.0
"""Volumes: what a container sees and can do, and what the host is spared."""

import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

import libvirt
import pytest

from lxc_userns import domain, rootfs
from lxc_userns.exceptions import (
    NotIdmappableError,
    ReachableError,
    RootfsError,
)
from lxc_userns.idmap import IdMap, IdMaps
from lxc_userns.libvirtd.client import Guests
from lxc_userns.linux import directory, mount_api, mounts
from lxc_userns.rootfs.views import idmapped, mountpoints, volumes
from lxc_userns.rootfs.views.strategies import ShiftOptions
from lxc_userns.spec.volume import Volume
from tests.functional import guest, images
from tests.functional.conftest import FilesystemFactory, remove_tree

pytestmark = pytest.mark.needs("mounts")

BASE, OTHER_BASE = 1_900_000_000, 1_950_000_000
ONE, OTHER = (
    IdMaps(id_map, id_map)
    for id_map in (
        IdMap.parse(f"0:{base}:65536") for base in (BASE, OTHER_BASE)
    )
)
ALICE, UNMAPPED, HOST_USER = 1000, 70000, 65534
NOBODY = "65534:65534"
LONGEST = 60


class Host:
    """Where views are mounted for the test."""

    def __init__(self, path: Path) -> None:
        self.views = mountpoints.Views(str(path))

    def mount(
        self,
        volume: str,
        id_maps: IdMaps | None = ONE,
        instance: str = "one",
        options: ShiftOptions | None = None,
    ) -> Path:
        """Mount a volume as an instance's only one."""
        with volumes.opened(Volume.parse(volume)) as source:
            return self.mount_source(source, id_maps, instance, options)

    def mount_source(
        self,
        source: volumes.Source,
        id_maps: IdMaps | None = ONE,
        instance: str = "one",
        options: ShiftOptions | None = None,
    ) -> Path:
        """Mount what is open already."""
        self.views.mount(
            instance,
            "volume0",
            id_maps,
            partial(source.mount, id_maps, options=options),
            is_directory=source.is_directory,
        )
        return Path(self.views.path(instance, "volume0"))


@pytest.fixture
def host(reachable_path: Path) -> Host:
    """Views that the mapped root of a container can reach."""
    return Host(reachable_path / "run")


@pytest.fixture
def tree(any_root: Path) -> Path:
    """A directory that only root can reach, on each kind of file system."""
    return make_tree(any_root)


@pytest.fixture
def hidden() -> Iterator[Path]:
    """A directory that only root can reach."""
    parent = Path(tempfile.mkdtemp(prefix="lxc-userns-", dir="/var/tmp"))
    yield make_tree(parent / "tree")
    remove_tree(parent)


@pytest.fixture
def open_tree(reachable_path: Path) -> Path:
    """A directory that everybody can reach."""
    parent = reachable_path / "open"
    parent.mkdir()
    return make_tree(parent / "tree")


def make_tree(path: Path) -> Path:
    path.mkdir(exist_ok=True)
    for name, owner in (("root", 0), ("alice", ALICE), ("other", UNMAPPED)):
        (path / name).write_text(f"{name}\n")
        os.chown(path / name, owner, owner)
    return path


def seen(point: Path, script: str, uid: int = 0, id_maps: IdMaps = ONE) -> str:
    """Return what a script prints there that succeeds."""
    done = guest.run(id_maps, "sh", "-c", script, user=uid, cwd=point)
    assert done.returncode == 0, done
    return done.stdout.strip()


def refused(
    point: Path, script: str, uid: int = 0, id_maps: IdMaps = ONE
) -> str:
    """Return what a script says there that fails."""
    done = guest.run(id_maps, "sh", "-c", script, user=uid, cwd=point)
    assert done.returncode != 0, done
    return done.stdout + done.stderr


def owner(path: Path) -> tuple[int, int]:
    status = path.lstat()
    return status.st_uid, status.st_gid


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


def test_none_shows_nobody_and_lets_nobody_write(
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


def test_chown_heeds_how_to_shift(host: Host, hidden: Path) -> None:
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
    with pytest.raises(ReachableError, match=f"chmod 0700 {open_tree.parent}"):
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


def bind(source: Path, target: Path, options: str = "") -> None:
    subprocess.run(["mount", "--bind", source, target], check=True)
    if options:
        remount = f"remount,bind,{options}"
        subprocess.run(["mount", "-o", remount, target], check=True)


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
    # To the server the container's root is nobody special.
    assert client_ids == [BASE, BASE]
    # Whom it lets in is not the container's to say.
    for change in ("chmod 666 volume0", "chown 1000 volume0"):
        told = refused(point.parent, change)
        assert "Read-only file system" in told
    assert (hidden / "socket").stat().st_mode & 0o7777 == 0o600
    none = host.mount(f"{hidden / 'socket'}:/run/socket:none")
    assert "Permission denied" in refused(none.parent, connect)


def test_a_source_that_is_replaced_is_not_followed(
    host: Host, hidden: Path
) -> None:
    victim = make_tree(hidden.parent / "victim")
    (hidden.parent / "file").touch()
    for name, kind in (("tree", "chown"), ("file", "none")):
        path = hidden.parent / name
        with volumes.opened(Volume.parse(f"{path}:/data:{kind}")) as source:
            path.rename(path.with_name("moved"))
            path.symlink_to("victim")
            point = host.mount_source(source)
            assert os.path.samefile(point, path.with_name("moved"))
        host.views.unmount("one")
        path.with_name("moved").rename(path.with_name(f"{name}-done"))
    assert owner(victim) == (0, 0)
    assert owner(victim / "alice") == (ALICE, ALICE)


def test_no_link_is_followed(hidden: Path) -> None:
    link = hidden.parent / "link"
    link.symlink_to(hidden.name)
    (hidden / "inner").mkdir()
    for source in (link, link / "inner"):
        for options in ("ro", "none", "owned"):
            volume = Volume.parse(f"{source}:/data:{options}")
            with (
                pytest.raises(RootfsError, match=f"{link} is a symbolic link"),
                volumes.opened(volume),
            ):
                pytest.fail("was opened")


def test_what_is_mounted_in_a_source_is_left_out(
    host: Host, hidden: Path
) -> None:
    # As everything is shared where systemd runs.
    subprocess.run(["mount", "-t", "tmpfs", "none", hidden], check=True)
    subprocess.run(["mount", "--make-shared", hidden], check=True)
    try:
        for name in ("before", "after"):
            (hidden / name).mkdir()
        mount = ["mount", "-t", "tmpfs", "none"]
        subprocess.run([*mount, hidden / "before"], check=True)
        (hidden / "before/file").touch()
        points = [
            host.mount(f"{hidden}:/data:{owners},ro", instance=owners)
            for owners in ("idmap", "none")
        ]
        subprocess.run([*mount, hidden / "after"], check=True)
        (hidden / "after/file").touch()
        for point in points:
            assert not any((point / "before").iterdir())
            assert not any((point / "after").iterdir())
    finally:
        # Not --recursive, which takes off what lies below that as well.
        for name in ("before", "after", "."):
            subprocess.run(["umount", hidden / name], check=True)


def test_without_id_maps_it_is_shown_as_it_is(
    host: Host, open_tree: Path
) -> None:
    for owners in ("idmap", "chown", "none"):
        point = host.mount(f"{open_tree}:/data:{owners}", None)
        assert owner(point / "alice") == owner(open_tree / "alice")
        assert owner(point / "alice") == (ALICE, ALICE)


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
    with pytest.raises(ReachableError) as raised:
        host.mount(f"{open_tree}:/data")
    told = str(raised.value)
    assert told.startswith(f"{open_tree}: users of the host can reach it")
    assert f"chmod 0700 {open_tree.parent}" in told
    assert "mount it nosuid on the host" in told
    assert "give the volume the option ro or none" in told
    # Its own mode is the container's to change.
    open_tree.chmod(0o700)
    with pytest.raises(ReachableError):
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
    with pytest.raises(ReachableError, match=f"can reach it at {open_tree}"):
        host.mount(f"{elsewhere}:/data")
    open_tree.parent.chmod(0o700)
    host.mount(f"{elsewhere}:/data")


def test_a_file_that_users_of_the_host_reach_is_refused(
    host: Host, open_tree: Path, hidden: Path
) -> None:
    with pytest.raises(ReachableError, match="can reach it"):
        host.mount(f"{open_tree / 'root'}:/data")
    host.mount(f"{open_tree / 'root'}:/data:ro")
    host.mount(f"{open_tree / 'root'}:/data:none")
    host.mount(f"{hidden / 'root'}:/data")
    # It has a name where they can go.
    (hidden / "second").hardlink_to(hidden / "root")
    with pytest.raises(ReachableError, match="has 2 names"):
        host.mount(f"{hidden / 'root'}:/data")


def test_a_socket_that_users_of_the_host_reach_is_none_of_their_rights(
    host: Host, open_tree: Path
) -> None:
    with closing(socket.socket(socket.AF_UNIX)) as listener:
        listener.bind(str(open_tree / "socket"))
        host.mount(f"{open_tree / 'socket'}:/run/socket")


def test_what_cannot_be_idmapped(host: Host, hidden: Path) -> None:
    subprocess.run(["mount", "-t", "ramfs", "none", hidden], check=True)
    hidden.chmod(0o755)
    make_tree(hidden)
    cannot = "ramfs cannot be idmapped by this kernel; give the volume"
    with pytest.raises(NotIdmappableError) as raised:
        host.mount(f"{hidden}:/data")
    assert f"{cannot} the option none or chown" in str(raised.value)
    with pytest.raises(NotIdmappableError) as raised:
        host.mount(f"{hidden / 'root'}:/data")
    assert str(raised.value).endswith(f"{cannot} the option none")
    assert seen(host.mount(f"{hidden}:/data:none"), "cat alice") == "alice"


@pytest.mark.needs("ext4")
def test_ext3_can_be_idmapped_as_ext4(
    host: Host, loop_filesystem: FilesystemFactory, tmp_path: Path
) -> None:
    root = loop_filesystem("ext4")
    image = tmp_path / "ext3.image"
    images.make_image("ext3", image, 16)
    point = root / "point"
    point.mkdir()
    mount = ["mount", "-t", "ext3", "-o", "loop"]
    subprocess.run([*mount, image, point], check=True)
    try:
        with pytest.raises(NotIdmappableError, match="with type ext4"):
            host.mount(f"{point}:/data")
    finally:
        subprocess.run(["umount", point], check=True)


def make_fifo(path: Path) -> str:
    os.mkfifo(path / "fifo")
    return f"{path}/fifo"


def make_device(path: Path) -> str:
    os.mknod(path / "device", 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    return f"{path}/device"


def make_link(path: Path) -> str:
    (path / "link").symlink_to("/proc/self/fdinfo")
    return f"{path}/link"


def make_loop(path: Path) -> str:
    (path / "loop").symlink_to("loop")
    return f"{path}/loop"


NO_KIND = "is neither a directory nor a regular file nor a socket"


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: f"{path}/nothing", "No such file or directory"),
        (lambda path: f"{path}/root/x", "Not a directory"),
        (make_loop, "loop is a symbolic link, to 'loop'"),
        (make_fifo, NO_KIND),
        (make_device, NO_KIND),
        (lambda _: "/dev/null", NO_KIND),
        (lambda _: "/proc", "is on proc, which shows the kernel's state"),
        (lambda _: "/proc/1/status", "is on proc"),
        (lambda _: "/proc/self/status", "self is a symbolic link"),
        (lambda _: "/sys/kernel", "is on sysfs"),
        (make_link, "link is a symbolic link, to '/proc/self/fdinfo'"),
        (lambda _: "/proc/1/ns/mnt", "mnt is a symbolic link"),
        (lambda path: f"{path}/root:/x:chown", "only those are shifted"),
    ],
)
def test_sources_that_are_refused(
    hidden: Path, make: Callable[[Path], str], reason: str
) -> None:
    source, _, rest = make(hidden).partition(":")
    before = len(os.listdir("/proc/self/fd"))
    volume = Volume.parse(f"{source}:{rest or '/data'}")
    with (
        pytest.raises(RootfsError, match=reason) as raised,
        volumes.opened(volume),
    ):
        pytest.fail("was opened")
    assert raised.value.path == source
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_failure_leaves_nothing(host: Host, hidden: Path) -> None:
    known = [mount.number for mount in mounts.read_mounts()]
    before = len(os.listdir("/proc/self/fd"))
    with (
        volumes.opened(Volume.parse(f"{hidden}:/data")) as source,
        directory.opened(hidden.parent) as parent,
    ):
        # It is a file; the mount point would have to be a directory.
        (hidden.parent / "point").touch()
        with pytest.raises(RootfsError, match="Invalid argument"):
            source.mount(ONE, parent, "point")
        (hidden.parent / "link").symlink_to("tree")
        with pytest.raises(RootfsError):
            source.mount(ONE, parent, "link")
    assert [mount.number for mount in mounts.read_mounts()] == known
    assert len(os.listdir("/proc/self/fd")) == before


# Targets.


@pytest.fixture
def image(hidden: Path) -> Path:
    """A root filesystem with links of all kinds."""
    root = hidden.parent / "image"
    for name in (".oldroot/tmp", "dev", "etc", "proc/self", "run", "srv/a",
                 "var"):  # fmt: skip
        (root / name).mkdir(parents=True)
    (root / "etc/file").touch()
    os.mkfifo(root / "etc/fifo")
    links = {
        "var/run": "/run",
        "var/relative": "../run",
        "var/up": "../../../../run",
        "old": "/.oldroot/tmp",
        "old2": ".oldroot",
        "old3": "srv/../../.oldroot/tmp",
        "proc/self/root": "/srv",
        "through": "/proc/self/root/a",
        "processes": "/proc",
        "devices": "../dev",
        "system": "/sys/fs",
        "top": "/",
        "top2": "srv/..",
        "dangling": "/nothing",
        "dangling2": "/nothing/at/all",
        "file": "etc/file",
        "loop": "loop",
        "chain0": "/srv",
    }
    links |= {f"chain{n}": f"chain{n - 1}" for n in range(1, 60)}
    for name, link in links.items():
        (root / name).symlink_to(link)
    return root


def check(image: Path, *requests: str, hidden: Path) -> None:
    """Check the targets of directories, or of files after ``f:``."""
    with ExitStack() as stack:
        sources = []
        for request in requests:
            kind, _, target = request.rpartition(":")
            source = hidden / "root" if kind == "f" else hidden
            volume = Volume(str(source), target)
            sources.append(stack.enter_context(volumes.opened(volume)))
        root = stack.enter_context(directory.opened(image))
        volumes.check_targets(root, sources)


@pytest.mark.parametrize(
    "requests",
    [
        ["/srv"],
        ["/srv/a/new/deep"],
        ["/new"],
        ["/var/run/new"],
        ["/var/relative/new"],
        ["/var/up/new"],
        ["/chain39/a"],
        ["f:/etc/file"],
        ["f:/etc/fifo"],
        ["f:/etc/new"],
        ["f:/file"],
        ["f:/var/run/new"],
        # What is there is libvirt's, whatever the image has.
        ["/dev/shm"],
        ["f:/dev/log"],
        ["f:/dev/new/log"],
        # One within another.
        ["/srv", "/srv/new"],
        ["/srv/a", "/srv"],
        ["/new", "/new/within", "f:/new/root"],
        ["/a/b/c", "f:/a/b/c/alice"],
        ["/srv", "/var/run/srv", "/run/other"],
    ],
)
def test_targets(image: Path, hidden: Path, requests: list[str]) -> None:
    check(image, *requests, hidden=hidden)


LED = "a link in the root filesystem leads"


@pytest.mark.parametrize(
    ("requests", "reason"),
    [
        (["/old"], f"{LED} to /.oldroot/tmp, where libvirt mounts"),
        (["/old/new"], f"{LED} to /.oldroot/tmp/new, where"),
        (["/old2/tmp/new"], f"{LED} to /.oldroot/tmp/new, where"),
        (["/old3/new"], f"{LED} to /.oldroot/tmp/new, where"),
        (["f:/old/new"], f"{LED} to /.oldroot/tmp/new, where"),
        # What is there now is not what will be.
        (["/through"], f"{LED} to /proc/self/root/a, where"),
        (["/through/new"], f"{LED} to /proc/self/root/a/new, where"),
        (["/processes"], f"{LED} to /proc, where"),
        (["/devices/shm"], f"{LED} to /dev/shm, where"),
        (["/system/cgroup"], f"{LED} to /sys/fs/cgroup, where"),
        (["/top"], f"{LED} to the root directory"),
        (["/top2"], f"{LED} to the root directory"),
        (["/dangling"], f"{LED} to /nothing, which is not there"),
        (["/dangling/new"], f"{LED} to /nothing, which is not there"),
        (["f:/dangling"], f"{LED} to /nothing, which is not there"),
        (["/dangling2"], f"{LED} to /nothing, which is not there"),
        (["/loop"], f"{LED} on and on"),
        (["/chain41"], f"{LED} on and on"),
        (["/etc/file/new"], "/etc/file in it is no directory"),
        (["/file/new"], "/etc/file in it is no directory"),
        (["/etc/file"], "is no directory in the root filesystem, and"),
        (["f:/srv"], "is a directory in the root filesystem, and"),
        (["f:/new/file"], "its directory is not in the root filesystem"),
        (["f:/srv/new/file"], "its directory is not in the root filesystem"),
        (["/srv", "/srv"], "would hide the volume on /srv"),
        (["/run/x", "/var/run"], "would hide the volume on /run/x"),
        (["/srv", "/srv/evil/new"], f"{LED} to /.oldroot/tmp/new, where"),
        (["/new", "/new/evil/new"], f"{LED} to /.oldroot/tmp/new, where"),
        (["/new", "/new/root/x"], "/new/root in it is no directory"),
        (["/" + "x" * 256], "File name too long"),
    ],
)  # fmt: skip
def test_targets_that_are_refused(
    image: Path, hidden: Path, requests: list[str], reason: str
) -> None:
    (hidden / "evil").symlink_to("/.oldroot/tmp")
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(RootfsError) as raised:
        check(image, *requests, hidden=hidden)
    assert reason in raised.value.reason
    assert raised.value.path == requests[-1].rpartition(":")[2]
    assert len(os.listdir("/proc/self/fd")) == before


def test_another_name_for_what_libvirt_mounts(
    image: Path, hidden: Path
) -> None:
    # A stand-in for the case of letters, which ext4 can ignore.
    (image / "PROC").mkdir()
    bind(image / "proc", image / "PROC")
    (image / "alias").symlink_to("PROC/self")
    with pytest.raises(RootfsError, match="leads to /PROC/self, where"):
        check(image, "/alias", hidden=hidden)


@pytest.mark.needs("containers")
def test_libvirt_mounts_where_the_check_says(
    host: Host,
    busybox_rootfs: Path,
    hidden: Path,
    libvirt_connection: libvirt.virConnect,
) -> None:
    rootfs.shift(busybox_rootfs, ONE)
    (busybox_rootfs / "run").mkdir()
    (busybox_rootfs / "run").chmod(0o777)
    (busybox_rootfs / "var").mkdir()
    (busybox_rootfs / "var/run").symlink_to("../run")
    requests = ["/new/deep/within", "/new/deep", "f:/new/deep/alice",
                "/var/run/new", "f:/run/file", "/dev/shm",
                "f:/dev/log"]  # fmt: skip
    (hidden / "within").mkdir()
    check(busybox_rootfs, *requests, hidden=hidden)
    with directory.opened(busybox_rootfs) as root:
        host.views.mount("one", "root", ONE, partial(mounts.bind, root))
    made = domain.Domain(
        name="volumes",
        memory_mib=64,
        init=domain.Init("/bin/sleep", ["1000"]),
        id_maps=ONE,
        filesystems=[
            domain.Filesystem.mount(host.views.path("one", "root"), "/"),
            *mount_all(host, requests, hidden),
        ],
    )
    container = libvirt_connection.createXML(made.to_xml())
    try:
        with Guests().init_process("volumes") as init:
            pid = init.pid
        lines = Path(f"/proc/{pid}/mountinfo").read_text().splitlines()
        found = [line.split()[4:6] for line in lines]
        ours = [(point, options) for point, options in found
                if "idmapped" in options]  # fmt: skip
    finally:
        container.destroy()
    assert [point for point, _ in ours] == [
        *("/new/deep", "/run/file", "/dev/shm", "/dev/log"),
        *("/new/deep/within", "/new/deep/alice", "/run/new"),
    ]
    assert all("nosuid,nodev" in options for _, options in ours)
    assert owner(busybox_rootfs / "new/deep") == (BASE, BASE)


def mount_all(
    host: Host, requests: list[str], hidden: Path
) -> Iterator[domain.Filesystem]:
    """Mount the same volumes, and say so for a domain."""
    for number, request in enumerate(requests):
        kind, _, target = request.rpartition(":")
        source = hidden / "root" if kind == "f" else hidden
        name = f"volume{number}"
        with volumes.opened(Volume(str(source), target)) as opened:
            host.views.mount(
                "one",
                name,
                ONE,
                partial(opened.mount, ONE),
                is_directory=opened.is_directory,
            )
        yield domain.Filesystem.mount(host.views.path("one", name), target)
