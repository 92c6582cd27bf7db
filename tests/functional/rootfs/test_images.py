# SPDX-License-Identifier: Apache-2.0
"""Raw disk images: mounted, shared, and freed."""

import base64
import errno
import os
import signal
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from lxc_userns import IdMap, IdMaps, rootfs
from lxc_userns.exceptions import ExposedTreeError, RootfsError
from lxc_userns.linux import mount_api, mounts
from lxc_userns.rootfs.views import source, strategies
from lxc_userns.rootfs.views.source import RootfsSource
from lxc_userns.spec.strategy import Strategy
from tests import system_calls
from tests.functional import guest, images
from tests.functional.capabilities import require
from tests.functional.descriptors import own_descriptors
from tests.functional.guest import BASE, OTHER_BASE
from tests.functional.rootfs.test_locks import held_by

pytestmark = pytest.mark.needs("loop-devices")
MAPS = guest.id_maps()
OTHERS = guest.id_maps(OTHER_BASE)
KINDS = ("ext2", "ext3", "ext4", "xfs", "btrfs")
# The least that mkfs of each makes.
MEGABYTES = {"xfs": 300, "btrfs": 120}


#: As mksquashfs and mkfs.erofs make them of a file of 1000:1000, compressed;
#: the tools are seldom installed.
READ_ONLY = {
    "squashfs": "eNrLKC4sZmKAASYGRiDJyCDIcADIZgGyFaAyD6H0TSj9HwoSofxWKL0eSh+H0"
    "hVKDBW3kpMiDp1gYC1gE5o/8aGusnJIG6cW36KljTMkOxjdshj3ioHUJDQwuGmcPXLgzIRpMyd"
    "zMbBEMS4XaEiAGsMIRgwMc6F8PqgOVg1eBkYBBsXtUHGOhhfMENZ5hlEwCkbBKBgFo2AUjIJRM"
    "ApGwSgYBaNgFEABANEMLSk=",
    "erofs": "eNpjYBgFo2AUjFTw6OHXB73/vHqYgWweBhUGJixqGHFrZ6TUfhYgfuvIxKAN5f8"
    "HAmR5FTjNBGerAtnqULY60Al6enppmTmpOM1f0sgIdyjIfBD7BfMLkJcZKkaTwCgYBaNgFIyCU"
    "TAKRsEoGEEAAGeoFhA=",
}


@pytest.fixture
def place(reachable_path: Path) -> Iterator[Path]:
    """An empty directory, with no disk left in it afterwards."""
    points = [reachable_path / name for name in ("view", "other", "host")]
    for point in points:
        point.mkdir()
    yield reachable_path
    for point in points:
        while guest.mountinfo(point):
            guest.call("umount", point)
    assert guest.loop_devices(reachable_path) == []


def make_filled(kind: str, path: Path) -> Path:
    """An image with a file of 1000:1000."""
    require(kind)
    images.make_image(kind, path, MEGABYTES.get(kind, 16))
    host = path.parent / "host"
    with mounted_by_host(path, host, "loop"):
        (host / "file").write_text("x")
        os.chown(host / "file", 1000, 1000)
        (host / "dir").mkdir()
    return path


@contextmanager
def mounted_by_host(image: Path, point: Path, options: str) -> Iterator[None]:
    """Mount it as an administrator does."""
    guest.call("mount", "-o", options, image, point)
    try:
        yield
    finally:
        guest.call("umount", point)


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_can_be_written_to(place: Path, kind: str) -> None:
    image = make_filled(kind, place / "image")
    with guest.mounted(image, place / "view", MAPS) as view:
        assert (view / "file").stat().st_uid == BASE + 1000
        guest.out(MAPS, "touch", view / "new")
        ((*_, options),) = guest.mountinfo(view)
        assert "nodev" in guest.mountinfo(view)[0][5].split(",")
        assert guest.loop_devices(place) == [str(image)]
        if kind.startswith("ext"):
            assert "errors=remount-ro" in options.split(",")
    assert guest.loop_devices(place) == []
    with mounted_by_host(image, place / "host", "loop"):
        assert (place / "host/new").stat().st_uid == 0


def read_data(image: Path) -> dict[int, bytes]:
    """All that is not a hole, by where it is."""
    found: dict[int, bytes] = {}
    end = 0
    with image.open("rb") as stream:
        size = image.stat().st_size
        while True:
            try:
                start = os.lseek(stream.fileno(), end, os.SEEK_DATA)
            except OSError:
                return found
            end = os.lseek(stream.fileno(), start, os.SEEK_HOLE)
            assert end <= size
            found[start] = os.pread(stream.fileno(), end - start, start)


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_is_shared_by_overlays(place: Path, kind: str) -> None:
    image = make_filled(kind, place / "image")
    before = read_data(image)
    states = [place / "state1", place / "state2"]
    with (
        guest.mounted(image, place / "view", MAPS, states[0]) as one,
        guest.mounted(image, place / "other", OTHERS, states[1]) as two,
    ):
        guest.out(MAPS, "touch", one / "mine")
        assert not (two / "mine").exists()
        assert (two / "file").stat().st_uid == OTHER_BASE + 1000
        assert (one / "file").stat().st_uid == BASE + 1000
        # Whoever writes to it now would spoil it for both.
        refused(image, place / "host", "is in use already")
    assert read_data(image) == before
    with guest.mounted(image, place / "view", MAPS, states[0]) as one:
        assert (one / "mine").exists()
    assert guest.loop_devices(place) == []


@pytest.mark.parametrize("kind", READ_ONLY)
def test_filesystems_that_are_never_written_to(place: Path, kind: str) -> None:
    image = place / "image"
    image.write_bytes(zlib.decompress(base64.b64decode(READ_ONLY[kind])))
    try:
        rootfs.mount_idmapped(image, place / "view", MAPS)
    except RootfsError as err:
        if "no driver" not in str(err):
            raise
        pytest.skip(f"missing on this machine: {kind} (no driver)")
    # So there is no harm in more than one.
    with guest.mounted(image, place / "other", OTHERS, place / "state") as two:
        assert (place / "view/file").stat().st_gid == MAPS.shift_gid(1000)
        done = guest.run(MAPS, "touch", place / "view/file")
        assert "Read-only file system" in done.stderr
        guest.out(OTHERS, "touch", two / "file")
        assert (two / "file").stat().st_gid == OTHERS.shift_gid(1000)
    rootfs.unmount(place / "view")


def refused(
    image: Path, target: Path, reason: str, state: Path | None = None
) -> None:
    """Refused in one line, and no mount, disk or descriptor is left."""
    before = Path("/proc/self/mountinfo").read_text()
    disks = guest.loop_devices(image.parent)
    descriptors = own_descriptors()
    mount = partial(rootfs.mount_idmapped, image, target, MAPS)
    if state is not None:
        mount = partial(rootfs.mount_overlay, image, state, target, MAPS)
    with pytest.raises(RootfsError, match=reason) as caught:
        mount()
    assert "\n" not in str(caught.value)
    assert caught.value.path == str(image)
    assert Path("/proc/self/mountinfo").read_text() == before
    assert guest.loop_devices(image.parent) == disks
    assert own_descriptors() == descriptors


def test_somebody_looks_at_the_disk_while_it_goes(place: Path) -> None:
    # As others do who look whose disk it is.
    image = make_filled("ext4", place / "image")
    with guest.mounted(image, place / "view", MAPS):
        (device,) = (
            name for name, file in guest.disks() if file == str(image)
        )
        look = os.open(f"/dev/{device}", os.O_RDONLY)
    gone: list[str] = []

    def let_go() -> None:
        gone.append(device)
        os.close(look)

    later = threading.Timer(0.3, let_go)
    later.start()
    with guest.mounted(image, place / "view", MAPS):
        assert gone == [device]
        later.join()


def test_one_that_is_written_to_is_for_one(place: Path) -> None:
    image = make_filled("ext4", place / "image")
    with guest.mounted(image, place / "view", MAPS):
        refused(image, place / "other", "is in use already, .* for one alone")
        refused(image, place / "other", "is in use already", place / "state")
    # The same from another side: those of the host have no lock.
    with mounted_by_host(image, place / "host", "loop"):
        refused(image, place / "other", "is in use already")
        refused(image, place / "other", "is in use already", place / "state")
    with mounted_by_host(image, place / "host", "loop,ro"):
        refused(image, place / "other", "is in use already")
        with guest.mounted(image, place / "view", MAPS, place / "state"):
            pass
    # By whatever name.
    os.link(image, place / "name")
    with guest.mounted(image, place / "view", MAPS):
        refused(place / "name", place / "other", "is in use already")
    with guest.mounted(place / "name", place / "view", MAPS):
        pass


def test_of_several_at_the_same_time_one_wins(place: Path) -> None:
    image = make_filled("ext4", place / "image")
    points = [place / f"point{number}" for number in range(4)]
    barrier = threading.Barrier(len(points))
    reasons: list[str] = []

    def mount(point: Path) -> bool:
        point.mkdir(exist_ok=True)
        barrier.wait()
        try:
            rootfs.mount_idmapped(image, point, MAPS)
        except RootfsError as err:
            reasons.append(err.reason)
            return False
        return True

    with ThreadPoolExecutor(len(points)) as pool:
        for _ in range(5):
            assert sum(pool.map(mount, points)) == 1
            assert len(guest.loop_devices(place)) == 1
            (made,) = [point for point in points if guest.mountinfo(point)]
            rootfs.unmount(made)
    assert all("is in use already" in reason for reason in reasons)


def test_a_user_of_the_host_cannot_keep_us_from_an_image(
    place: Path,
) -> None:
    image = make_filled("ext4", place / "image")
    image.chmod(0o644)
    with held_by(*guest.HOST_USER, path=image):
        with guest.mounted(image, place / "view", MAPS):
            refused(image, place / "other", "is in use already")
        with guest.mounted(image, place / "view", MAPS, place / "state"):
            pass


def test_a_disk_that_another_mount_namespace_has(place: Path) -> None:
    """The path of its file, if it has one here, is another file's."""
    image = make_filled("ext4", place / "image")
    (place / "hidden").mkdir()
    script = (
        f"mount -t tmpfs tmpfs {place}/hidden && touch {place}/hidden/file && "
        f"mount --bind {image} {place}/hidden/file && "
        f"losetup --find --show {place}/hidden/file"
    )
    device = guest.call("unshare", "--mount", "sh", "-ec", script)
    try:
        refused(image, place / "view", "is in use already")
    finally:
        guest.call("losetup", "--detach", device)
    with guest.mounted(image, place / "view", MAPS):
        pass


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_copies_at_the_same_time(place: Path, kind: str) -> None:
    # They have the same UUID.
    image = make_filled(kind, place / "image")
    copy = place / "copy"
    guest.call("cp", "--sparse=always", image, copy)
    with (
        guest.mounted(image, place / "view", MAPS) as one,
        guest.mounted(copy, place / "other", OTHERS) as two,
    ):
        guest.out(MAPS, "touch", one / "mine")
        assert not (two / "mine").exists()


@pytest.mark.parametrize("kind", ["ext3", "ext4", "xfs"])
def test_an_image_that_was_not_unmounted(place: Path, kind: str) -> None:
    image, copy = make_filled(kind, place / "image"), place / "copy"
    with mounted_by_host(image, place / "host", "loop"):
        (place / "host/file").rename(place / "host/moved")
        # As a crash leaves it: written to the log, and not yet in place.
        fd = os.open(place / "host", os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)
        guest.call("cp", "--sparse=always", image, copy)
    refused(
        copy,
        place / "view",
        "was not unmounted in order, .*; mount it for writing once",
        place / "state",
    )
    with guest.mounted(copy, place / "view", MAPS) as view:
        assert (view / "moved").exists()
    with guest.mounted(copy, place / "view", MAPS, place / "state") as view:
        assert (view / "moved").exists()


def test_an_image_that_asks_for_panic(place: Path) -> None:
    image = make_filled("ext4", place / "image")
    guest.call("tune2fs", "-e", "panic", image)
    with guest.mounted(image, place / "view", MAPS) as view:
        ((*_, options),) = guest.mountinfo(view)
        assert "errors=remount-ro" in options.split(",")
    state = place / "state"
    with (
        source.open_source(str(image), readonly=True) as tree,
        tree.idmapped(MAPS) as lower,
    ):
        # What an overlay has below cannot be seen in the list of mounts.
        state.mkdir()
        point = os.open(state, os.O_RDONLY)
        mount_api.attach(lower, point)
        os.close(point)
    ((*_, options),) = guest.mountinfo(state)
    assert {"ro", "errors=remount-ro"} <= set(options.split(","))
    guest.call("umount", state)


def partitioned(image: Path) -> None:
    with image.open("r+b") as stream:
        stream.truncate(1 << 20)
        stream.seek(446)
        stream.write(b"\x80\0\0\0\x83" + bytes(11) + bytes(48) + b"\x55\xaa")


def truncated(image: Path) -> None:
    os.truncate(image, 64 << 10)


def damaged(image: Path) -> None:
    with image.open("r+b") as stream:
        stream.seek(0x420)
        stream.write(b"\xff" * 16)


def ambiguous(image: Path) -> None:
    with image.open("r+b") as stream:
        stream.seek(0x10040)
        stream.write(b"_BHRfS_M")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda path: path.write_bytes(b""), "is no raw image of ext2, ext3"),
        (lambda path: path.write_bytes(b"garbage" * 99999), "is no raw image"),
        (
            lambda path: path.write_bytes(b"QFI\xfb" + bytes(1 << 20)),
            "is a qcow2 image, and no raw image of",
        ),
        (partitioned, "its partition 1 is not within it"),
        (truncated, "its ext4 cannot be mounted: "),
        (damaged, "its ext4 cannot be mounted: "),
        (ambiguous, "has signatures of btrfs and ext4; .* see wipefs"),
    ],
)
def test_what_is_no_image_of_a_filesystem(
    place: Path, spoil: Callable[[Path], object], reason: str
) -> None:
    image = place / "image"
    if spoil in (truncated, damaged, ambiguous):
        make_filled("ext4", image)
    else:
        image.touch()
    if spoil is partitioned:
        image.write_bytes(b"")
    spoil(image)
    refused(image, place / "view", reason)
    refused(image, place / "view", reason, place / "state")


def test_an_image_that_cannot_be_written_to(place: Path) -> None:
    image = make_filled("ext4", place / "image")
    guest.call("mount", "--bind", "-o", "ro", image, image)
    try:
        refused(image, place / "view", "Read-only file system")
        with guest.mounted(image, place / "view", MAPS, place / "state"):
            pass
    finally:
        guest.call("umount", image)


PROGRAM = """
import sys, time
from lxc_userns.rootfs.views import source
from tests.functional import guest
from tests.functional.rootfs.test_locks import held_by
with source.open_source(sys.argv[1]) as tree:
    with tree.idmapped(guest.id_maps()):
        print("ready", flush=True)
        time.sleep(1000)
"""


def test_a_killed_process_leaves_no_disk(place: Path) -> None:
    image = make_filled("ext4", place / "image")
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(image)],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[3],
        env={**os.environ, "PYTHONPATH": "."},
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        assert guest.loop_devices(place) == [str(image)]
        process.send_signal(signal.SIGKILL)
    guest.wait_for_no_disk(place)
    with guest.mounted(image, place / "view", MAPS):
        pass


def test_a_disk_goes_with_the_last_that_uses_it(place: Path) -> None:
    image = make_filled("ext4", place / "image")
    rootfs.mount_idmapped(image, place / "view", MAPS)
    fd = os.open(place / "view", os.O_RDONLY)
    guest.call("umount", "--lazy", place / "view")
    # It can still be written to.
    refused(image, place / "other", "is in use already")
    os.close(fd)
    guest.wait_for_no_disk(place)
    for _ in range(20):
        with guest.mounted(image, place / "view", MAPS):
            pass
    assert guest.loop_devices(place) == []


def test_the_host_sees_an_image_as_it_is(place: Path) -> None:
    """Before and after it has been tried whether it can be idmapped."""
    image = make_filled("ext4", place / "image")
    with source.open_source(str(image)) as tree:
        for _ in range(2):
            choice = strategies.choose(Strategy.AUTO, tree, MAPS)
            assert choice.strategy == Strategy.IDMAPPED
            assert os.stat("file", dir_fd=tree.fd).st_uid == 1000
            # As for what libvirt needs there.
            source.add_oldroot(tree, (0, 0))
        strategy = strategies.STRATEGIES[choice.strategy]
        strategy.prepare_tree(tree, MAPS, strategies.ShiftOptions())
        parent = os.open(place, os.O_RDONLY)
        strategy.mount(tree, MAPS, strategies.MountTarget(parent, "view", ""))
        os.close(parent)
        assert (place / "view/.oldroot").stat().st_uid == BASE
        assert os.stat(".oldroot", dir_fd=tree.fd).st_uid == 0
    rootfs.unmount(place / "view")


def test_an_image_goes_to_maps_that_cover_less(place: Path) -> None:
    """No one gets to its mount, though the file is open to all."""
    image = make_filled("ext4", place / "image")
    smaller = IdMap.parse(f"0:{OTHER_BASE}:1000")
    for maps, wanted in (
        (MAPS, BASE + 1000),
        (IdMaps(smaller, smaller), 1000),
    ):
        with source.open_source(str(image)) as tree:
            chown = strategies.STRATEGIES[Strategy.CHOWN]
            chown.prepare_tree(tree, maps, strategies.ShiftOptions())
            assert os.stat("file", dir_fd=tree.fd).st_uid == wanted


def refuse_detached(fd: int, *_: object) -> None:
    """Refuse what the kernel refuses before Linux 6.15."""
    if mounts.find_mount(fd) is None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))


@pytest.mark.parametrize(
    "strategy", [Strategy.CHOWN, Strategy.IDMAPPED, Strategy.OVERLAY]
)
def test_a_mount_that_is_nowhere_cannot_be_copied(
    place: Path, strategy: Strategy
) -> None:
    image = make_filled("ext4", place / "image")
    parent = os.open(place, os.O_RDONLY)
    there = strategies.MountTarget(parent, "view", str(place / "state"))
    with system_calls.acting(system_calls.OPEN_TREE, refuse_detached):
        readonly = strategy.traits.shares_source
        with source.open_source(str(image), readonly=readonly) as tree:
            chosen = strategies.STRATEGIES[strategy]
            chosen.prepare_tree(tree, MAPS, strategies.ShiftOptions())
            chosen.mount(tree, MAPS, there)
    os.close(parent)
    assert (place / "view/file").stat().st_uid == BASE + 1000
    guest.call("umount", place / "view")


def test_a_plain_image(place: Path) -> None:
    image = make_filled("ext4", place / "image")
    parent = os.open(place, os.O_RDONLY)
    with source.open_source(str(image)) as tree:
        assert isinstance(tree, RootfsSource)
        tree.bind(parent, "view")
    os.close(parent)
    assert (place / "view/file").stat().st_uid == 1000
    guest.call("umount", place / "view")


def test_a_block_device(place: Path) -> None:
    """A logical volume, say."""
    image = make_filled("ext4", place / "image")
    device = Path(guest.call("losetup", "--find", "--show", image))
    try:
        with guest.mounted(device, place / "view", MAPS) as view:
            assert (view / "file").stat().st_uid == BASE + 1000
            assert guest.mountinfo(view)[0][-2] == str(device)
            with guest.mounted(device, place / "other", OTHERS) as other:
                guest.out(OTHERS, "touch", other / "new")
                assert (view / "new").stat().st_uid == BASE
        # Where it is mounted, others can get at what is made in a view.
        with (
            mounted_by_host(device, place / "host", "defaults"),
            pytest.raises(
                ExposedTreeError, match=f"at {place}/host, .* unmou"
            ),
        ):
            rootfs.mount_idmapped(device, place / "view", MAPS)
        node = place / "node"
        os.mknod(node, 0o60600, device.stat().st_rdev)
        refused(node, place / "view", "give it by its path below /dev")
        node.unlink()
    finally:
        guest.call("losetup", "--detach", device)
    guest.wait_for_no_disk(place)
