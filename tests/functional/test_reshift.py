# SPDX-License-Identifier: Apache-2.0
"""Instances that get another range than their files were shifted for."""

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path

import libvirt
import pytest

from lxc_userns import IdMap, IdMaps, add_id_maps, rootfs
from lxc_userns.exceptions import RootfsError
from lxc_userns.instances.prepared import PreparedInstance
from lxc_userns.linux import directory
from lxc_userns.rootfs.views import overlay
from lxc_userns.spec.request import InstanceRequest
from tests.functional.command_line import BASE, CommandLine
from tests.functional.guest import ask, call, enter
from tests.functional.lease_host import (
    HostFiles,
    configure,
    mounted_host_files,
)
from tests.functional.rootfs.kill import run_and_kill
from tests.waiting import wait_for

SLEEP = "/bin/sleep 1000"
STRATEGIES = ("idmapped", "overlay", "chown")
ALICE, WHOLE = 1000, 65536
POOL = 1_800_000_000
MADE = """
set -e
mkdir /data
echo alice >/data/alice
chown alice:alice /data/alice
cp /bin/su /data/su
chmod 4755 /data/su
touch /data/acl /data/capable
ln /data/alice /data/linked
ln -s /etc/passwd /data/link
rm /etc/hostname
echo more >>/etc/group
"""


@pytest.fixture
def host_files(
    libvirt_connection: libvirt.virConnect, tmp_path: Path
) -> Iterator[HostFiles]:
    with mounted_host_files(tmp_path / "etc") as files:
        files.give(f"lxc-userns:{POOL}:{4 * WHOLE}")
        yield files


@pytest.fixture
def cli(
    host_files: HostFiles, tmp_path: Path, reachable_path: Path
) -> Iterator[CommandLine]:
    """The program; its containers are destroyed at the end."""
    made = CommandLine.make(tmp_path, reachable_path / "run")
    yield made
    for each in made.json("container", "list"):
        if each["init_pid"]:
            os.kill(each["init_pid"], signal.SIGKILL)
        assert made("container", "destroy", each["name"]).code == 0
    assert made.mounts() == []
    assert made.json("lease", "list") == []


def change_as_root_of(pid: int, view: Path) -> None:
    """Change what busybox has no programs for, as the container's root."""
    as_root = partial(call, *enter(pid, "--user"))
    as_root("setfacl", "-m", f"u:{ALICE}:r,g:{ALICE}:rw", view / "data/acl")
    as_root("setcap", "cap_net_raw+ep", view / "data/capable")


def check_view(view: Path, root: int) -> None:
    """All that was made belongs to the range that starts here."""

    def owner(name: str) -> tuple[int, int]:
        status = (view / name).lstat()
        return status.st_uid - root, status.st_gid - root

    assert owner("data") == owner("data/link") == owner("etc/group") == (0, 0)
    assert owner("data/alice") == owner("data/linked") == (ALICE, ALICE)
    assert (view / "data/alice").stat().st_nlink == 2
    assert (view / "data/su").stat().st_mode & 0o7777 == 0o4755
    assert owner("data/su") == (0, 0)
    acl = subprocess.check_output(
        ["getfacl", "-pn", view / "data/acl"], text=True
    )
    assert f"user:{root + ALICE}:r--" in acl
    assert f"group:{root + ALICE}:rw-" in acl
    caps = subprocess.check_output(
        ["getcap", "-n", view / "data/capable"], text=True
    )
    assert caps.strip().endswith(f"cap_net_raw=ep [rootid={root}]")
    assert not (view / "etc/hostname").exists()
    assert (view / "etc/group").read_text().endswith("more\n")
    found = {path.lstat().st_uid for path in view.rglob("*")}
    assert found <= set(range(root, root + WHOLE))


def prepare(
    cli: CommandLine, image: Path, strategy: str, uuid: str
) -> PreparedInstance:
    """Prepare as a compute service does before each start."""
    request = InstanceRequest("web", uuid, str(image), strategy=strategy)
    return cli.manager().prepare(request)


@pytest.mark.needs("containers")
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_from_one_range_for_all_to_a_lease(
    cli: CommandLine,
    busybox_rootfs: Path,
    libvirt_connection: libvirt.virConnect,
    strategy: str,
) -> None:
    shown = cli.json(
        "container", "run", "web", "--rootfs", str(busybox_rootfs),
        "--init", SLEEP, "--strategy", strategy,
    )  # fmt: skip
    view, pid = Path(shown["view"]), shown["init_pid"]
    ask(pid, MADE)
    change_as_root_of(pid, view)
    check_view(view, BASE)
    os.kill(pid, signal.SIGKILL)
    domain = libvirt_connection.lookupByName("web")
    xml = domain.XMLDesc()
    # Its view is still there; it is not stopped by us.
    assert cli("container", "stop", "web").code == 0

    configure(cli, size=WHOLE)
    prepared = prepare(cli, busybox_rootfs, strategy, shown["uuid"])
    assert str(prepared.id_maps) == " ".join([f"0:{POOL}:{WHOLE}"] * 2)
    check_view(view, POOL)
    # Again costs nothing, and changes nothing.
    again = prepare(cli, busybox_rootfs, strategy, shown["uuid"])
    # That no user of the host was found is kept once the directories on the
    # way are at rest, as another run of the tests may keep them from being.
    assert replace(again.record, empty={}) == replace(
        prepared.record, empty={}
    )
    check_view(view, POOL)

    assert prepared.id_maps is not None
    libvirt_connection.defineXML(add_id_maps(xml, prepared.id_maps))
    domain.create()
    found = cli.manager().verify("web", started=False)
    assert found.uid_map == f"0:{POOL}:{WHOLE}"
    assert ask(found.pid, "stat -c '%u %a' /data/alice /data/su") == (
        f"{ALICE} 644\n0 4755"
    )
    ask(found.pid, "echo >>/data/alice; rm /data/linked; touch /made")
    assert (view / "made").stat().st_uid == POOL
    os.kill(found.pid, signal.SIGKILL)


@pytest.mark.needs("containers")
def test_a_view_that_is_left_mounted(
    cli: CommandLine, busybox_rootfs: Path
) -> None:
    """A layer is never shifted below an overlay that shows it."""
    shown = cli.json(
        "container", "run", "web", "--rootfs", str(busybox_rootfs),
        "--init", SLEEP, "--strategy", "overlay",
    )  # fmt: skip
    ask(shown["init_pid"], MADE)
    change_as_root_of(shown["init_pid"], Path(shown["view"]))
    os.kill(shown["init_pid"], signal.SIGKILL)
    wait_for(
        lambda: cli.json("container", "show", "web")["state"] == "stopped"
    )
    assert cli.mounts() == [shown["view"]]
    configure(cli, size=WHOLE)
    prepare(cli, busybox_rootfs, "overlay", shown["uuid"])
    assert cli.mounts() == [shown["view"]]
    check_view(Path(shown["view"]), POOL)


A, B = (
    IdMaps(IdMap.parse(text), IdMap.parse(text))
    for text in (f"0:{BASE}:{WHOLE}", f"0:{POOL}:{WHOLE}")
)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "closed/image"
    path.mkdir(parents=True)
    path.parent.chmod(0o700)
    path.chmod(0o755)
    for name in ("linked", "suid", "plain"):
        (path / name).write_text(name)
        (path / name).chmod(0o644)
    os.link(path / "linked", path / "other-name")
    (path / "suid").chmod(0o6755)
    return path


Change = Callable[[Path], None]


def make_layer(image: Path, state: Path, view: Path) -> None:
    """Change some of an image below an overlay for A."""
    view.mkdir()
    rootfs.mount_overlay(image, state, view, A)
    try:
        for name in ("linked", "suid", "plain"):
            os.chown(view / name, BASE + 5, BASE + 6)
        (view / "suid").chmod(0o6755)
        acl = ["setfacl", "-m", f"u:{BASE + 7}:r", str(view / "plain")]
        subprocess.run(acl, check=True)
        argv = ["setcap", "-n", str(BASE), "cap_net_raw+ep"]
        subprocess.run([*argv, str(view / "linked")], check=True)
        (view / "directory").mkdir()
        os.chown(view / "directory", BASE, BASE)
    finally:
        rootfs.unmount(view)


def see(tree: Path) -> dict[str, object]:
    found: dict[str, object] = {}
    for path in (tree, *tree.rglob("*")):
        st = path.lstat()
        attributes = {
            name: os.getxattr(path, name, follow_symlinks=False)
            for name in os.listxattr(path, follow_symlinks=False)
        }
        fields = (st.st_uid, st.st_gid, st.st_mode, st.st_nlink, attributes)
        found[str(path.relative_to(tree))] = fields
    return found


def reshift(state: Path, maps: IdMaps) -> None:
    def shift(path: str, fd: int, id_maps: IdMaps) -> object:
        return rootfs.shift(path, id_maps, fd=fd, workers=1)

    with directory.opened(state) as fd:
        overlay.reshift(fd, maps, shift)


@pytest.mark.needs("mounts")
def test_killed_before_each_change(tmp_path: Path, image: Path) -> None:
    base = tmp_path / "base"
    make_layer(image, base, tmp_path / "view-base")
    before = see(base)

    def fresh(name: str) -> Path:
        state = tmp_path / name
        shutil.rmtree(state, ignore_errors=True)
        subprocess.run(["cp", "-a", base, state], check=True)
        assert see(state) == before
        return state

    undisturbed = fresh("undisturbed")
    reshift(undisturbed, B)
    after = see(undisturbed)
    assert after != before
    uids = {fields[0] for fields in after.values()}  # type: ignore[index]
    assert uids <= {0, *range(POOL, POOL + WHOLE)}
    reshift(undisturbed, B)
    assert see(undisturbed) == after

    for number in count(1):
        state = fresh("killed")
        died = run_and_kill(partial(reshift, state, B), number)
        if died:
            reshift(state, B)
        assert see(state) == after
        if not died:
            break
    assert number > 15
    # And back, to all that there was.
    reshift(undisturbed, A)
    assert see(undisturbed) == before


@pytest.mark.needs("mounts")
def test_by_hand_no_layer_is_shifted(tmp_path: Path, image: Path) -> None:
    """It is not known there who else has it mounted."""
    state = tmp_path / "state"
    make_layer(image, state, tmp_path / "view")
    before = see(state)
    with pytest.raises(RootfsError, match="with the ID maps"):
        rootfs.mount_overlay(image, state, tmp_path / "view", B)
    assert see(state) == before
