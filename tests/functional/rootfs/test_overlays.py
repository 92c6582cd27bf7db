# SPDX-License-Identifier: Apache-2.0
"""Overlays: one image for many, what each changes for itself."""

import errno
import fcntl
import os
import shutil
import tempfile
import threading
from pathlib import Path

import pytest

from lxc_userns import IdMaps, rootfs
from lxc_userns.exceptions import NotIdmappableError, RootfsError
from lxc_userns.linux import directory
from lxc_userns.linux.mount_api import FSCONFIG_CMD_CREATE
from lxc_userns.rootfs.views import idmapped, overlay, probe
from tests import system_calls
from tests.functional import guest
from tests.functional.conftest import FilesystemFactory
from tests.functional.descriptors import own_descriptors
from tests.functional.guest import BASE, GID_OFFSET
from tests.functional.rootfs import golden
from tests.functional.rootfs.conftest import Filesystem
from tests.functional.rootfs.golden import ACCESS, CAPABILITY

MAPS = guest.id_maps()
OTHERS = guest.id_maps(guest.OTHER_BASE)
NET_RAW = 1 << 13


@pytest.fixture
def image(any_root: Path) -> Path:
    """An image, on each kind of file system."""
    return make_layer(any_root)


@pytest.fixture
def one_image(root: Path) -> Path:
    """An image on ext4."""
    return make_layer(root)


def make_layer(root: Path) -> Path:
    """Programs with special rights, and files of several kinds."""
    path = root / "image"
    path.mkdir()
    golden.build(path, small=True)
    for name in ("id", "cat"):
        shutil.copy(f"/usr/bin/{name}", path)
    os.chown(path / "id", 1000, 5)
    (path / "id").chmod(0o6755)
    os.setxattr(path / "cat", CAPABILITY, golden.CAPS)
    (path / "secret").write_text("told")
    (path / "secret").chmod(0o600)
    guest.call("setfacl", "-m", "u:500:r", path / "secret")
    (path / "first").write_text("old\n")
    os.link(path / "first", path / "second")
    (path / "gone").touch()
    (path / "etc").mkdir()
    (path / "etc/passwd").touch()
    return path


def check_special_rights(view: Path) -> None:
    """Set-IDs, capabilities and ACLs work for processes of the container."""
    check_set_ids_and_capabilities(view)
    assert guest.out(MAPS, "cat", view / "secret", user=500) == "told"
    denied = guest.run(MAPS, "cat", view / "secret", user=501)
    assert "Permission denied" in denied.stderr


def check_set_ids_and_capabilities(view: Path) -> None:
    assert guest.out(MAPS, view / "id", "-u", user=7) == "1000"
    assert guest.out(MAPS, view / "id", "-g", user=7) == "5"
    status = guest.out(MAPS, view / "cat", "/proc/self/status", user=7)
    assert guest.effective(status) & NET_RAW


def test_many_share_an_image_and_none_sees_another(
    image: Path, reachable_path: Path
) -> None:
    before = golden.snapshot(image)
    three = [guest.id_maps(BASE + number * 2_000_000) for number in range(3)]
    states = [image.parent / f"state{number}" for number in range(3)]
    for again in (False, True):
        for maps, state in zip(three, states, strict=True):
            view = reachable_path / state.name
            view.mkdir(exist_ok=True)
            rootfs.mount_overlay(image, state, view, maps)
            mine = view / "etc/mine"
            if again:  # What was changed is still there.
                assert mine.read_text() == f"{state.name}\n"
                assert not (view / "gone").exists()
            else:
                script = 'echo "$1" > "$0/etc/mine"; rm "$0/gone"'
                guest.out(maps, "sh", "-c", script, view, state.name)
            assert guest.out(maps, "stat", "-c", "%u:%g", mine) == "0:0"
        for state in states:
            rootfs.unmount(reachable_path / state.name)
    assert golden.snapshot(image) == before
    for maps, state in zip(three, states, strict=True):
        owner = (maps.shift_uid(0), maps.shift_gid(0))
        for path in (
            state / "upper",
            state / "work",
            state / "upper/etc/mine",
        ):
            assert (path.stat().st_uid, path.stat().st_gid) == owner
        assert state.stat().st_mode & 0o7777 == 0o700


def test_special_rights_work_before_and_after_copy_up(
    image: Path, reachable_path: Path
) -> None:
    before = golden.snapshot(image)
    state = image.parent / "state"
    check = check_special_rights
    if image.parent.parent.name == "xfs" and not keeps_acls(image.parent):
        check = check_set_ids_and_capabilities
    with guest.mounted(image, reachable_path / "view", MAPS, state) as view:
        check_special_rights(view)
        # This changes nothing but times, and so copies all the rest.
        names = [view / name for name in ("id", "cat", "secret")]
        guest.out(MAPS, "touch", *names)
        assert (state / "upper/id").exists()
        check(view)
    upper = state / "upper"
    # A set-user-ID file there is one for an ID of the container.
    assert (upper / "id").stat().st_uid == BASE + 1000
    assert (upper / "id").stat().st_gid == BASE + GID_OFFSET + 5
    assert os.getxattr(upper / "cat", CAPABILITY) == golden.caps3(BASE)
    with guest.mounted(image, reachable_path / "view", MAPS, state) as view:
        check(view)
    assert golden.snapshot(image) == before


def keeps_acls(directory: Path) -> bool:
    """Whether this kernel copies ACLs between layers that are both on XFS."""
    return probe.check_overlay(str(directory))


def test_names_of_one_file_stay_together(
    image: Path, reachable_path: Path
) -> None:
    state = image.parent / "state"
    with guest.mounted(image, reachable_path / "view", MAPS, state) as view:
        script = 'echo new >> "$0/first"'
        guest.out(MAPS, "sh", "-c", script, view)
        assert (view / "second").read_text() == "old\nnew\n"
        assert os.path.samefile(view / "first", view / "second")
        assert (view / "second").stat().st_nlink == 2
    assert (image / "second").read_text() == "old\n"


def test_directories_can_be_removed_and_made_again(
    image: Path, reachable_path: Path
) -> None:
    state = image.parent / "state"
    script = 'rm -r "$0/etc" && mkdir "$0/etc" && touch "$0/etc/new"'
    with guest.mounted(image, reachable_path / "view", MAPS, state) as view:
        guest.out(MAPS, "sh", "-c", script, view)
    with guest.mounted(image, reachable_path / "view", MAPS, state) as view:
        assert [path.name for path in (view / "etc").iterdir()] == ["new"]
    assert (image / "etc/passwd").exists()


def test_device_nodes_cannot_be_opened(
    one_image: Path, reachable_path: Path
) -> None:
    state = one_image.parent / "state"
    with (
        guest.mounted(one_image, reachable_path / "v", MAPS, state) as view,
        pytest.raises(PermissionError),
    ):
        os.open(view / "char", os.O_RDONLY)


def test_the_root_directory_keeps_mode_and_acl(
    one_image: Path, reachable_path: Path
) -> None:
    one_image.chmod(0o750)
    guest.call("setfacl", "-m", "u:500:rwx,g::r,d:u:7:r", one_image)
    state = one_image.parent / "state"
    with guest.mounted(one_image, reachable_path / "v", MAPS, state) as view:
        shown = guest.out(MAPS, "getfacl", "-np", view).splitlines()[1:]
        stored = guest.call("getfacl", "-np", one_image)
        assert shown == stored.splitlines()[1:]
    os.setxattr(one_image, ACCESS, golden.FULL_ACL)
    with pytest.raises(RootfsError, match="an ACL that cannot be had"):
        rootfs.mount_overlay(
            one_image, one_image.parent / "new", reachable_path / "v", MAPS
        )


@pytest.mark.parametrize(
    "name", ["a,b", "a:b", "a\\b", "a b", "a,:\\ \n", "é"]
)
def test_state_directories_of_any_name(
    one_image: Path, reachable_path: Path, name: str
) -> None:
    state = one_image.parent / name
    with guest.mounted(one_image, reachable_path / "v", MAPS, state) as view:
        guest.out(MAPS, "touch", view / "new")
    assert (state / "upper/new").exists()


def test_an_image_of_any_name(root: Path, reachable_path: Path) -> None:
    image = root / "a,lowerdir=b:c\\ d"
    image.mkdir()
    (image / "file").touch()
    state = root / "state"
    with guest.mounted(image, reachable_path / "v", MAPS, state) as view:
        assert (view / "file").exists()


def refused(
    image: Path, state: Path, view: Path, reason: str, maps: IdMaps = MAPS
) -> None:
    """Nothing is mounted, then or in passing."""
    before = Path("/proc/self/mountinfo").read_text()
    with pytest.raises(RootfsError, match=reason) as caught:
        rootfs.mount_overlay(image, state, view, maps)
    assert "/proc/" not in str(caught.value)
    assert Path("/proc/self/mountinfo").read_text() == before


def test_a_state_directory_is_for_one_image_and_one_pair_of_maps(
    image: Path, reachable_path: Path
) -> None:
    state, view = image.parent / "state", reachable_path / "view"
    with guest.mounted(image, view, MAPS, state):
        guest.out(MAPS, "touch", view / "new")
        (reachable_path / "other").mkdir()
        refused(
            image,
            state,
            reachable_path / "other",
            f"its overlay in {state} is mounted already",
        )
    refused(
        image,
        state,
        view,
        f"{state}: holds what was changed on {image} with the ID maps "
        f"0:{BASE}:65536 .*, not 0:{guest.OTHER_BASE}:65536",
        maps=OTHERS,
    )
    another = image.parent / "another"
    another.mkdir()
    refused(another, state, view, "another image than what")
    with guest.mounted(image, view, MAPS, state):
        assert (view / "new").exists()
        assert (view / "first").read_text() == "old\n"


def test_state_directories_that_are_not_ours(
    one_image: Path, reachable_path: Path
) -> None:
    view = reachable_path / "view"
    view.mkdir()
    state = one_image.parent / "state"
    state.mkdir(mode=0o755)
    state.chmod(0o755)
    refused(one_image, state, view, "mode 0755, it may have 0700")
    state.chmod(0o700)
    os.chown(state, 1000, 1000)
    refused(one_image, state, view, "belongs to user 1000")
    os.chown(state, 0, 0)
    (state / "work").mkdir()
    (state / "upper").mkdir()
    (state / "upper/file").touch()
    refused(one_image, state, view, "state/upper: is not empty")
    shutil.rmtree(state)
    state.symlink_to(one_image)
    refused(one_image, state, view, "is a symbolic link")
    state.unlink()
    state.touch()
    refused(one_image, state, view, "Not a directory|File exists")


def test_what_a_crash_leaves_is_cleared_away(
    one_image: Path, reachable_path: Path
) -> None:
    state, view = one_image.parent / "state", reachable_path / "view"
    with guest.mounted(one_image, view, MAPS, state):
        pass
    for _ in range(2):
        guest.call("mount", "-t", "tmpfs", "none", state / "lower")
    with guest.mounted(one_image, view, MAPS, state):
        assert (view / "etc/passwd").exists()
        assert guest.mountinfo(state / "lower") == []


def test_two_at_the_same_time(one_image: Path, reachable_path: Path) -> None:
    state, view = one_image.parent / "state", reachable_path / "view"
    state.mkdir(mode=0o700)
    view.mkdir()
    lock = os.open(state, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    refused(one_image, state, view, "mounted with it just now; try again")
    os.close(lock)
    # However they meet, one comes through, with the image below.
    points = [reachable_path / f"view{number}" for number in range(4)]
    for point in points:
        point.mkdir()

    def mount(point: Path) -> None:
        try:
            rootfs.mount_overlay(one_image, state, point, MAPS)
        except RootfsError as err:
            failed.append(err.reason)

    for _ in range(5):
        failed: list[str] = []
        threads = [
            threading.Thread(target=mount, args=(point,)) for point in points
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        (made,) = [point for point in points if guest.mountinfo(point)]
        assert (made / "etc/passwd").exists()
        assert (made / "etc").stat().st_uid == BASE
        rootfs.unmount(made)
        assert len(failed) == 3
        for reason in failed:
            assert "mounted already" in reason or "just now" in reason


def test_what_an_image_says_to_overlayfs_does_not_count(
    one_image: Path, reachable_path: Path
) -> None:
    # With redirects followed, a directory of an image could show any other.
    victim = one_image / "acl-directory"
    (victim / "inside").touch()
    (one_image / "decoy").mkdir()
    name = "trusted.overlay."
    os.setxattr(one_image / "decoy", name + "redirect", b"/acl-directory")
    os.setxattr(one_image / "secret", name + "metacopy", b"")
    state = one_image.parent / "state"
    with guest.mounted(one_image, reachable_path / "v", MAPS, state) as view:
        assert list((view / "decoy").iterdir()) == []
        guest.out(MAPS, "mv", "-T", view / "etc", view / "etc2")
        assert (view / "etc2/passwd").exists()
    assert not [
        attribute
        for path in (state / "upper").rglob("*")
        for attribute in os.listxattr(path, follow_symlinks=False)
        if "redirect" in attribute or "metacopy" in attribute
    ]


def test_another_file_system_for_the_upper_layer(
    one_image: Path,
    reachable_path: Path,
    loop_filesystem: FilesystemFactory,
) -> None:
    for kind in ("ext3", "xfs", "tmpfs"):
        state = loop_filesystem(kind) / "state"
        view = reachable_path / "view"
        with guest.mounted(one_image, view, MAPS, state):
            guest.out(MAPS, "touch", view / "etc/new")
            check_special_rights(view)
        assert (state / "upper/etc/new").exists()


@pytest.mark.parametrize(
    ("lower", "upper"), [("xfs", "ext4"), ("ext4", "xfs")]
)
def test_acls_are_kept_where_only_one_layer_is_on_xfs(
    filesystem: Filesystem, reachable_path: Path, lower: str, upper: str
) -> None:
    image, states = (
        Path(tempfile.mkdtemp(dir=filesystem(kind))) for kind in (lower, upper)
    )
    make_layer(image)
    state, view = states / "state", reachable_path / "view"
    with guest.mounted(image / "image", view, MAPS, state):
        guest.out(MAPS, "touch", view / "secret")
        check_special_rights(view)
    assert (state / "upper/secret").exists()


def test_no_upper_layer_on_an_overlay(
    one_image: Path, reachable_path: Path
) -> None:
    place = one_image.parent
    view = reachable_path / "view"
    for path in (view, *(place / each for each in ("lower", "upper", "work"))):
        path.mkdir()
    options = ",".join(
        f"{each}dir={place}/{each}" for each in ("lower", "upper", "work")
    )
    merged = place / "merged"
    merged.mkdir()
    guest.call("mount", "-t", "overlay", "none", "-o", options, merged)
    try:
        inner = merged / "state"
        inner.mkdir(mode=0o700)
        reason = f"its upper layer in {inner} can be made: "
        refused(one_image, inner, view, reason)
    finally:
        guest.call("umount", merged)


def test_kernels_without_it(one_image: Path, reachable_path: Path) -> None:
    opened: list[object] = []

    def refuse(_context: int, command: int, *_: object) -> None:
        if (opened[-1], command) == (b"overlay", FSCONFIG_CMD_CREATE):
            # What Linux before 5.19 says to an idmapped layer.
            text = "idmapped layers are currently not supported"
            raise OSError(errno.EINVAL, text)

    (reachable_path / "view").mkdir()
    with (
        system_calls.acting(
            system_calls.FSOPEN, lambda kind, _: opened.append(kind)
        ),
        system_calls.acting(system_calls.FSCONFIG, refuse),
        pytest.raises(NotIdmappableError, match=r"5\.19 .*not supported"),
    ):
        rootfs.mount_overlay(
            one_image,
            one_image.parent / "state",
            reachable_path / "view",
            MAPS,
        )
    assert guest.mountinfo(one_image.parent / "state/lower") == []


def test_no_descriptor_is_left(one_image: Path, reachable_path: Path) -> None:
    state, view = one_image.parent / "state", reachable_path / "view"
    with guest.mounted(one_image, view, MAPS, state):
        pass
    before = own_descriptors()
    with guest.mounted(one_image, view, MAPS, state):
        with pytest.raises(RootfsError):
            rootfs.mount_overlay(one_image, state, view, MAPS)
        with pytest.raises(RootfsError):
            rootfs.mount_overlay(one_image, state, view, OTHERS)
    assert own_descriptors() == before
    with (
        directory.opened(one_image) as tree,
        directory.opened(state) as fd,
        idmapped.idmapped_mount(tree, "image", MAPS, 0) as lower,
        overlay.overlay_mount(lower, "image", fd, MAPS) as root,
    ):
        assert "secret" in os.listdir(f"/proc/self/fd/{root}")
    # Mounted nowhere, it is gone.
    with guest.mounted(one_image, view, MAPS, state):
        pass
