# SPDX-License-Identifier: Apache-2.0
"""Whom a tree can be reached by, and what for."""

import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lxc_userns import rootfs
from lxc_userns.exceptions import ExposedTreeError
from lxc_userns.linux import fuser
from lxc_userns.rootfs import exposure
from tests.functional import guest
from tests.functional.conftest import FilesystemFactory
from tests.functional.descriptors import own_descriptors

MAPS = guest.id_maps()
NET_RAW = 1 << 13


@pytest.fixture
def store(reachable_path: Path) -> Path:
    """A directory that all can reach, with a tree in it."""
    path = reachable_path / "above/store"
    (path / "tree").mkdir(parents=True)
    for each in (path.parent, path, path / "tree"):
        each.chmod(0o755)
    return path


def check(path: Path) -> None:
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        exposure.check_only_root_can_reach(fd, str(path))
    finally:
        os.close(fd)


def refused(path: Path, reason: str) -> None:
    before = own_descriptors()
    with pytest.raises(ExposedTreeError, match=reason) as caught:
        check(path)
    assert caught.value.path == str(path)
    assert own_descriptors() == before


def test_open_and_closed(store: Path) -> None:
    tree = store / "tree"
    fix = f"chmod 0700 {store}, or move it into a directory of mode 0700"
    refused(tree, f"users of the host can reach it, .*; {fix}$")
    with pytest.raises(ExposedTreeError):
        rootfs.mount_idmapped(tree, store.parent, MAPS)
    assert guest.mountinfo(store.parent) == []
    # What the error says helps.
    guest.call(*re.search(r"chmod 0700 [^ ,]+", fix)[0].split())  # type: ignore[index]
    check(tree)


@pytest.mark.parametrize("mode", [0o711, 0o710, 0o701, 0o740, 0o704, 0o702])
def test_any_right_of_others_counts(store: Path, mode: int) -> None:
    store.chmod(mode)
    refused(store / "tree", f"chmod 0700 {store}, or")


def test_the_tree_itself_does_not_count(store: Path) -> None:
    # The container's root changes its mode as it likes.
    (store / "tree").chmod(0o700)
    refused(store / "tree", f"chmod 0700 {store}, or")


@pytest.mark.parametrize("mode", [0o755, 0o777, 0o1777, 0o2770])
def test_what_is_in_a_closed_directory_does_not_count(
    store: Path, mode: int
) -> None:
    store.parent.chmod(0o700)
    store.chmod(mode)
    os.chown(store, 1000, 1000)
    check(store / "tree")


def test_acls_count(store: Path) -> None:
    store.chmod(0o700)
    guest.call("setfacl", "-m", "u:1000:x", store)
    refused(store / "tree", f"chmod 0700 {store}")
    guest.call("setfacl", "-m", "u:1000:-", store)
    check(store / "tree")
    guest.call("setfacl", "-m", "g:1000:x", store)
    refused(store / "tree", f"chmod 0700 {store}")
    # A mask of nothing takes all of it back.
    store.chmod(0o700)
    check(store / "tree")


def test_owners_count(store: Path) -> None:
    store.chmod(0o700)
    os.chown(store, 1000, 1000)
    refused(store / "tree", f"chown root {store} and chmod 0700 {store}, or")
    os.chown(store, 0, 1000)
    check(store / "tree")
    os.chown(store.parent, 1000, 1000)
    refused(
        store / "tree",
        f"its parent {store.parent} belongs to user 1000, who could replace "
        f"it; chown root {store.parent}",
    )


@pytest.mark.parametrize("mode", [0o777, 0o775, 0o757])
def test_who_can_write_to_a_parent_can_replace_it(
    store: Path, mode: int
) -> None:
    store.chmod(0o700)
    store.parent.chmod(mode)
    refused(
        store / "tree",
        f"may write to its parent {store.parent}, .*; chmod go-w "
        f"{store.parent}, or",
    )
    store.parent.chmod(mode | 0o1000)
    check(store / "tree")


@pytest.mark.parametrize("parent", ["/", "/srv", "/var/lib", "/var/tmp"])
def test_directories_of_all_are_not_to_be_closed(
    parent: str, tmp_path: Path
) -> None:
    status = os.stat(parent)
    fixes = list(exposure._fixes(None, parent, status))
    assert fixes == ["move it into a directory of mode 0700"]
    fixes = list(exposure._fixes(None, str(tmp_path), os.stat(tmp_path)))
    assert fixes[0] == f"chmod 0700 {tmp_path}"


def test_links_on_the_way(store: Path) -> None:
    closed = store.parent / "closed"
    closed.mkdir(mode=0o700)
    (closed / "link").symlink_to(store / "tree")
    refused(closed / "link", f"chmod 0700 {store}")
    store.chmod(0o700)
    (store.parent / "open").symlink_to(store / "tree")
    check(store.parent / "open")


def test_a_tree_that_is_a_mount_point(
    store: Path, loop_filesystem: FilesystemFactory
) -> None:
    mounted = loop_filesystem("tmpfs")  # In a closed directory.
    check(mounted)
    guest.call("mount", "--move", mounted, store / "tree")
    try:
        refused(store / "tree", f"chmod 0700 {store}")
        store.chmod(0o700)
        check(store / "tree")
    finally:
        guest.call("mount", "--move", store / "tree", mounted)


def test_another_mount_may_show_it_too(store: Path) -> None:
    """A tree that is closed here is open there."""
    tree = store / "tree"
    closed = store.parent / "closed"
    (closed / "tree").mkdir(parents=True)
    closed.chmod(0o700)
    guest.call("mount", "--bind", tree, closed / "tree")
    refused(
        closed / "tree",
        f"users of the host can reach it at {tree}, .*; unmount it there, or "
        f"chmod 0700 {store}$",
    )
    store.chmod(0o700)
    check(closed / "tree")
    check(tree)


def test_which_other_mounts_count(store: Path) -> None:
    tree, outside = store / "tree", store.parent.parent / "outside"
    outside.mkdir()
    outside.chmod(0o755)
    store.parent.chmod(0o700)
    # What shows more,
    guest.call("mount", "--bind", store, outside)
    refused(tree, f"at {outside}/tree, .*; unmount it there, or chmod 0700 ")
    store.chmod(0o700)
    check(tree)
    guest.call("umount", outside)
    # or a part,
    (tree / "bin").mkdir()
    guest.call("mount", "--bind", tree / "bin", outside)
    refused(tree, f"at {outside}, .*; unmount it there, or chmod 0700 ")
    guest.call("umount", outside)
    # but not its neighbour, and not where another mount hides it.
    (store / "tree2").mkdir()
    guest.call("mount", "--bind", store / "tree2", outside)
    check(tree)
    guest.call("mount", "--bind", tree, outside)
    refused(tree, f"at {outside}, ")
    guest.call("mount", "-t", "tmpfs", "none", outside)
    check(tree)


@pytest.mark.parametrize("option", ["nosuid", "idmapped"])
def test_another_mount_that_harms_no_one(store: Path, option: str) -> None:
    store.chmod(0o700)
    window = store.parent / "window"
    window.mkdir()
    if option == "idmapped":
        rootfs.mount_idmapped(store / "tree", window, MAPS)
    else:
        guest.call("mount", "--bind", store / "tree", window)
        refused(store / "tree", f"at {window}, ")
        guest.call("mount", "-o", "remount,bind,nosuid", window)
    check(store / "tree")


def test_other_mounts_of_a_disk(
    store: Path, loop_filesystem: FilesystemFactory
) -> None:
    """A second mount of a filesystem shows what a closed one hides."""
    for kind in ("ext4", "btrfs"):
        mounted = loop_filesystem(kind)
        tree = mounted / "tree"
        tree.mkdir()
        check(tree)
        ((_, _, _, _, _, *rest),) = guest.mountinfo(mounted)
        device = rest[rest.index("-") + 2]
        options = ["-o", "subvol=/tree"] if kind == "btrfs" else []
        if options:
            tree.rmdir()
            guest.call("btrfs", "subvolume", "create", tree)
        guest.call("mount", *options, device, store / "tree")
        there = store / "tree" if options else store / "tree/tree"
        refused(tree, f"at {there}, ")
        with pytest.raises(ExposedTreeError):
            rootfs.mount_idmapped(device, store, MAPS)
        guest.call("umount", store / "tree")
        check(tree)


def test_single_files(store: Path) -> None:
    file = store / "tree/file"
    file.touch()
    refused(file, "chmod 0700 .*tree")
    (store / "tree").chmod(0o700)
    check(file)
    os.link(file, store / "name")
    refused(file, "the file has 2 names .*; make a copy")
    (store / "name").unlink()
    check(file)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(store / "tree/socket"))
    check(store / "tree/socket")
    fd = os.open(file, os.O_PATH)
    file.rename(store / "moved")
    with pytest.raises(ExposedTreeError, match="chmod 0700"):
        exposure.check_only_root_can_reach(fd, str(file))
    (store / "moved").unlink()
    # What the kernel says of its name then can be the name of another.
    for _ in range(2):
        with pytest.raises(ExposedTreeError, match="renamed or removed"):
            exposure.check_only_root_can_reach(fd, str(file))
        (store / "moved (deleted)").touch()
    os.close(fd)


def test_a_tree_on_a_mount_over_a_file(store: Path) -> None:
    store.chmod(0o700)
    (store / "tree/file").touch()
    window = store.parent / "file"
    window.touch()
    guest.call("mount", "--bind", store / "tree/file", window)
    refused(store / "tree/file", f"at {window}, ")
    refused(store / "tree", f"at {window}, ")


def tried(path: Path) -> str:
    """Return what a user gets by a program, "" if it cannot be run."""
    argv = [*guest.HOST_USER, str(path), PROGRAMS[path.name]]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    if done.returncode:
        assert "Permission denied" in done.stderr
    return done.stdout


def is_privileged(path: Path) -> bool:
    """Whether a program makes a user of the host more than that."""
    text = tried(path)
    if path.name == "id":
        return text == "0\n"
    return bool(text and guest.effective(text) & NET_RAW)


#: Programs that show what they have, and their arguments for that.
PROGRAMS = {"id": "-u", "cat": "/proc/self/status"}


def make_privileged(view: Path) -> None:
    """Do what root of a container does to gain something on the host."""
    for name in PROGRAMS:
        guest.out(MAPS, "cp", f"/usr/bin/{name}", view)
    guest.out(MAPS, "chmod", "4755", view / "id")
    guest.out(MAPS, "setcap", "cap_net_raw=ep", view / "cat")
    guest.out(MAPS, "chmod", "0777", view)
    # In the container they are what they look like.
    assert guest.out(MAPS, view / "id", "-u", user=7) == "0"
    status = guest.out(MAPS, view / "cat", "/proc/self/status", user=7)
    assert guest.effective(status) & NET_RAW


def test_what_the_container_makes_is_of_no_use_on_the_host(
    store: Path,
) -> None:
    tree, view = store / "tree", store.parent / "view"
    view.mkdir()
    with pytest.raises(ExposedTreeError):
        rootfs.mount_idmapped(tree, view, MAPS)
    store.chmod(0o700)
    with guest.mounted(tree, view, MAPS):
        make_privileged(view)
        assert (tree / "id").stat().st_mode & 0o7777 == 0o4755
        assert (tree / "id").stat().st_uid == 0
        for name in PROGRAMS:
            # By the view, it is a program of nobody's.
            assert tried(view / name)
            assert not is_privileged(view / name)
            # By the store, no one gets there.
            assert tried(tree / name) == ""
        # And this is why.
        store.chmod(0o755)
        for name in PROGRAMS:
            assert is_privileged(tree / name)


def test_an_upper_layer_gives_nothing_either(store: Path) -> None:
    store.chmod(0o700)
    state, view = store / "state", store.parent / "view"
    with guest.mounted(store / "tree", view, MAPS, state):
        make_privileged(view)
        for name in PROGRAMS:
            assert tried(view / name)
            assert not is_privileged(view / name)
            assert tried(state / "upper" / name) == ""
        # Even if it could be reached: its owners are the container's.
        store.chmod(0o755)
        state.chmod(0o755)
        for name in PROGRAMS:
            assert tried(state / "upper" / name)
            assert not is_privileged(state / "upper" / name)


@contextmanager
def user_process(script: str, *arguments: object) -> Iterator[int]:
    """A process of an ordinary user that has done something, and waits."""
    process = subprocess.Popen(
        [
            *guest.HOST_USER,
            "sh",
            "-c",
            f"{script}\necho ready; read line",
            "sh",
            *map(str, arguments),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd="/",
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process.pid
    finally:
        process.communicate("\n", timeout=30)


HOLDS = {
    "working directory": 'cd "$1/tree"',
    "working directory below": 'cd "$1/tree/below"',
    "working directory above": 'cd "$1"',
    "descriptor of a directory": 'exec 7< "$1/tree/below"',
    "descriptor of a file": 'exec 7< "$1/tree/file"',
    "descriptor of a deleted file": (
        'exec 7< "$1/tree/gone"; rm "$1/tree/gone"'
    ),
    "descriptor of the directory above": 'exec 7< "$1"',
}


@pytest.mark.parametrize("script", HOLDS.values(), ids=HOLDS)
def test_who_is_inside_already(store: Path, script: str) -> None:
    tree = store / "tree"
    (tree / "below").mkdir()
    (tree / "file").touch()
    (tree / "gone").touch()
    tree.chmod(0o777)
    with user_process(script, store) as pid:
        store.chmod(0o700)
        refused(
            tree,
            rf"process {pid} \(.*\) of user 1000 has it, or a directory on "
            "the way to it, open: its .*; end that process",
        )
        with pytest.raises(ExposedTreeError, match=f"process {pid} "):
            rootfs.mount_idmapped(tree, store.parent, MAPS)
        assert guest.mountinfo(store.parent) == []
    check(tree)


def test_a_program_that_runs(store: Path) -> None:
    program = store / "tree/busybox"
    shutil.copy("/bin/busybox", program)
    program.chmod(0o755)
    with user_process('exec "$1" sh -c "echo ready; read line"', program):
        store.chmod(0o700)
        refused(store / "tree", "open: the program that it runs")


def test_a_file_that_is_mapped(store: Path) -> None:
    file = store / "tree/file"
    file.write_bytes(bytes(4096))
    code = (
        "import mmap, os, sys;"
        "fd = os.open(sys.argv[1], os.O_RDONLY);"
        "held = mmap.mmap(fd, 4096, prot=mmap.PROT_READ); os.close(fd);"
        "os.closerange(3, 20);"
        "print('ready', flush=True); sys.stdin.readline()"
    )
    script = 'exec python3 -c "$1" "$2"'
    with user_process(script, code, file):
        store.chmod(0o700)
        refused(store / "tree", "open: a mapping of a file")


def test_a_thread_with_a_working_directory_of_its_own(store: Path) -> None:
    code = (
        "import ctypes, os, sys, threading\n"
        "done, end = threading.Event(), threading.Event()\n"
        "def enter():\n"
        "    assert ctypes.CDLL(None).unshare(0x200) == 0\n"
        "    os.chdir(sys.argv[1]); done.set(); end.wait()\n"
        "threading.Thread(target=enter).start(); done.wait()\n"
        "print('ready', flush=True); sys.stdin.readline(); end.set()\n"
    )
    script = 'exec python3 -c "$1" "$2"'
    with user_process(script, code, store / "tree"):
        store.chmod(0o700)
        refused(store / "tree", "open: its working directory")


@pytest.mark.parametrize("place", ["store", "store/tree", "store/tree/below"])
def test_a_mount_of_their_own(store: Path, place: str) -> None:
    (store / "tree/below").mkdir()
    script = (
        "exec unshare --user --map-root-user --mount sh -c '"
        'mount --bind "$1" /mnt && echo ready && read line\' sh "$1"'
    )
    with user_process(script, store.parent / place):
        store.chmod(0o700)
        refused(store / "tree", "open: a mount of its own, /mnt")
    check(store / "tree")


def test_others_are_not_in_the_way(store: Path) -> None:
    (store / "other").mkdir()
    (store / "other").chmod(0o755)
    script = (
        'cd "$1"; exec unshare --user --map-root-user --mount sh -c '
        "'echo ready; read line'"
    )
    # Beside the tree, above what is closed, and in namespaces of their own.
    with (
        user_process('cd "$1"', store / "other"),
        user_process('cd "$1"', store.parent),
        user_process(script, store.parent),
    ):
        store.chmod(0o700)
        check(store / "tree")


def test_who_is_in_an_idmapped_view(store: Path) -> None:
    # Through it, nothing runs as root.
    store.chmod(0o700)
    view = store.parent / "view"
    view.mkdir()
    view.chmod(0o755)
    with (
        guest.mounted(store / "tree", view, MAPS),
        user_process('cd "$1"', view),
    ):
        check(store / "tree")


def test_processes_are_looked_at_when_a_directory_was_opened(
    store: Path,
) -> None:
    empty: dict[str, fuser.Closed] = {}
    tree = store / "tree"

    def look() -> None:
        fd = os.open(tree, os.O_PATH | os.O_CLOEXEC)
        try:
            exposure.check_only_root_can_reach(fd, str(tree), empty)
        finally:
            os.close(fd)

    store.chmod(0o700)
    # What has changed just now might change once more unseen.
    look()
    assert empty == {}
    deadline = time.monotonic() + 30
    while not empty:
        assert time.monotonic() < deadline
        time.sleep(0.2)
        look()
    known = dict(empty)
    look()
    assert empty == known
    store.chmod(0o755)
    with user_process('cd "$1"', tree) as pid:
        store.chmod(0o700)
        with pytest.raises(ExposedTreeError, match=f"process {pid} "):
            look()
        assert empty == known
    look()
    assert empty == {}


def other_root(script: str) -> str:
    """Return the command by which a user's shell has another root directory.

    The one that it had before is not mounted any more for it.
    """
    inner = (
        "set -e; mount -t tmpfs none /mnt; cd /mnt; mkdir old; "
        "for each in bin lib lib64 usr proc; do "
        "mkdir $each; mount --rbind /$each $each; done; "
        f"{script}; pivot_root . old; cd /; umount -l /old; echo ready; "
        "read line"
    )
    return (
        "exec unshare --user --map-root-user --mount sh -c "
        f"'{inner}' sh \"$1\""
    )


def test_who_has_another_root_directory(store: Path) -> None:
    (store / "other").mkdir()
    (store / "other").chmod(0o755)
    with user_process(other_root('exec 7< "$1"'), store / "other"):
        store.chmod(0o700)
        check(store / "tree")
    store.chmod(0o755)
    with user_process(other_root('exec 7< "$1"'), store / "tree") as pid:
        store.chmod(0o700)
        refused(store / "tree", f"process {pid} .* open: its descriptor 7")
