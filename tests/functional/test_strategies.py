# SPDX-License-Identifier: Apache-2.0
"""Containers by every strategy, from directories, images and archives."""

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import libvirt
import pytest

from lxc_userns.exceptions import ImageError, InstanceError, ReachableError
from lxc_userns.idmap import IdMap, IdMaps
from lxc_userns.manager import UserNamespaceManager
from lxc_userns.spec.request import InstanceRequest
from tests.functional import images
from tests.functional.command_line import BASE, CommandLine
from tests.functional.conftest import FilesystemFactory
from tests.functional.guest import ask, loop_devices

pytestmark = pytest.mark.needs("containers")

SLEEP = "/bin/sleep 1000"
UUID = "0c9a9b1e-6f0f-4a5c-9d0e-5d6d3a1f2b3c"
ALICE = 1000
FILESYSTEMS = ("ext4", "xfs", "btrfs", "tmpfs")


@pytest.fixture
def cli(
    libvirt_connection: libvirt.virConnect,
    tmp_path: Path,
    reachable_path: Path,
) -> Iterator[CommandLine]:
    """The program; its containers are destroyed at the end."""
    made = CommandLine.make(tmp_path, reachable_path / "run")
    yield made
    for container in made.json("container", "list"):
        assert made("container", "destroy", container["name"]).code == 0
    assert made.mounts() == []
    assert list(made.state.glob("private/*")) == []
    assert loop_devices(tmp_path) == []


@pytest.fixture
def manager(cli: CommandLine) -> UserNamespaceManager:
    """The manager behind the program."""
    return cli.manager()


def wait_for(condition: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.05)


def snapshot(tree: Path) -> dict[str, tuple[int, ...]]:
    """Return a snapshot that any change of a tree would change."""
    found: dict[str, tuple[int, ...]] = {}
    for path in (tree, *tree.rglob("*")):
        st = path.lstat()
        fields = (st.st_ino, st.st_uid, st.st_gid, st.st_mode, st.st_ctime_ns)
        found[str(path)] = fields
    return found


def make_disk(kind: str, rootfs: Path, path: Path) -> Path:
    """Make a disk image of a root filesystem."""
    size = 64 if kind.startswith("ext") else 512
    return images.make_image(kind, path, size, root=rootfs)


def run(
    cli: CommandLine, name: str, rootfs: Path, *options: str
) -> dict[str, object]:
    arguments = ["container", "run", name, "--rootfs", str(rootfs)]
    if "--init" not in options:
        arguments += ["--init", SLEEP]
    shown: dict[str, object] = cli.json(*arguments, *options)
    return shown


def stop(cli: CommandLine, name: str) -> None:
    assert cli("container", "stop", name, "--timeout", "0").code == 0


def pid_of(cli: CommandLine, name: str) -> int:
    return int(cli.json("container", "show", name)["init_pid"])


def test_idmapped_changes_nothing_on_disk(
    cli: CommandLine, busybox_rootfs: Path
) -> None:
    (busybox_rootfs / ".oldroot").mkdir()  # libvirt needs it.
    before = snapshot(busybox_rootfs)
    shown = run(cli, "web", busybox_rootfs)
    assert (shown["strategy"], shown["reason"]) == (
        "idmapped",
        "an idmapped mount of it can be made",
    )
    pid = pid_of(cli, "web")
    assert ask(pid, "id -u; stat -c '%u %a' / /bin/su").split() == [
        "0", "0", "755", "0", "4755",
    ]  # fmt: skip
    assert snapshot(busybox_rootfs) == before
    view = Path(str(shown["view"]))
    assert view.stat().st_uid == BASE
    assert os.statvfs(view).f_flag & os.ST_NODEV
    ask(pid, "echo x >/etc/made; chown alice:tty /etc/made")
    made = (busybox_rootfs / "etc/made").stat()
    assert (made.st_uid, made.st_gid) == (ALICE, 5)
    assert (view / "etc/made").stat().st_uid == BASE + ALICE
    assert ask(pid, "/bin/su root -c 'id -u'", ALICE) == "0"
    stop(cli, "web")
    assert cli.mounts() == []
    assert cli.json("container", "start", "web")["strategy"] == "idmapped"
    assert ask(pid_of(cli, "web"), "stat -c %u /etc/made") == str(ALICE)


def test_the_strategy_and_why_are_logged(
    cli: CommandLine, busybox_rootfs: Path
) -> None:
    done = cli("-v", "container", "run", "web", "--rootfs", busybox_rootfs,
               "--init", SLEEP)  # fmt: skip
    assert done.code == 0
    assert re.search(
        rf"web: {busybox_rootfs} is prepared by strategy idmapped in "
        r"\d+\.\d{3} s: an idmapped mount of it can be made",
        done.err,
    )


@pytest.mark.parametrize("strategy", ["idmapped", "overlay"])
def test_reboot_from_inside(
    cli: CommandLine, busybox_rootfs: Path, strategy: str
) -> None:
    shown = cli.run_to_reboot(
        "boot", "--rootfs", busybox_rootfs, "--strategy", strategy
    )
    first = int(shown["init_pid"])
    ask(first, "touch /before")
    with suppress(AssertionError):  # It may be killed before it has ended.
        ask(first, "reboot")

    def is_back() -> bool:
        # While it reboots there may be no first process, or one that is not
        # in its root filesystem yet.
        done = cli("container", "show", "boot", "-f", "json")
        pid = json.loads(done.out)["init_pid"] if done.code == 0 else None
        if pid in (None, first):
            return False
        with suppress(AssertionError):
            return ask(pid, "stat -c %u /before") == "0"
        return False

    wait_for(is_back)
    assert cli("container", "verify", "boot").code == 0


@pytest.mark.parametrize("strategy", ["idmapped", "overlay", "chown"])
def test_after_a_reboot_of_the_host(
    cli: CommandLine,
    busybox_rootfs: Path,
    libvirt_connection: libvirt.virConnect,
    strategy: str,
) -> None:
    run(cli, "web", busybox_rootfs, "--strategy", strategy)
    ask(pid_of(cli, "web"), "echo kept >/file")
    libvirt_connection.lookupByName("web").destroy()
    # All that a reboot takes away.
    subprocess.run(["umount", cli.run / "web/root"], check=True)
    shutil.rmtree(cli.run)
    shown = cli.json("container", "start", "web")
    assert shown["strategy"] == strategy
    assert ask(pid_of(cli, "web"), "cat /file") == "kept"


def test_many_from_one_image(
    cli: CommandLine, manager: UserNamespaceManager, busybox_rootfs: Path
) -> None:
    before = snapshot(busybox_rootfs)
    for name in ("one", "two"):
        run(cli, name, busybox_rootfs, "--strategy", "overlay")
    # The last with ID maps of its own.
    other = IdMap.parse("0:1800000000:65536")
    prepared = manager.prepare(
        InstanceRequest(
            "three",
            UUID,
            str(busybox_rootfs),
            IdMaps(other, other),
            "overlay",
        )
    )
    assert os.stat(f"{prepared.root}/bin/su").st_uid == 1_800_000_000
    pid = pid_of(cli, "one")
    ask(pid, "echo one >/etc/hostname; rm /bin/su; mkdir -m 700 /data")
    assert ask(pid_of(cli, "two"), "cat /etc/hostname") == "busybox"
    assert ask(pid_of(cli, "two"), "/bin/su root -c 'id -u'", ALICE) == "0"
    upper = cli.state / "private/one/overlay/upper"
    assert upper.stat().st_uid == BASE
    assert (upper / "data").stat().st_uid == BASE
    # Kept while it is stopped, and for nobody to see.
    stop(cli, "one")
    cli.json("container", "start", "one")
    assert ask(pid_of(cli, "one"), "cat /etc/hostname") == "one"
    assert (cli.state / "private").stat().st_mode & 0o777 == 0o700
    assert snapshot(busybox_rootfs) == before
    size = subprocess.check_output(["du", "-sk", upper.parent], text=True)
    assert int(size.split()[0]) < 200  # KiB; the image has a busybox twice.
    # Not to be written to below their feet, also while they are stopped.
    stop(cli, "two")
    below = "is below an overlay of the instance"
    assert below in cli("rootfs", "shift", busybox_rootfs).error()
    done = cli("container", "run", "four", "--rootfs", busybox_rootfs,
               "--strategy", "idmapped", "--init", SLEEP)  # fmt: skip
    assert below in done.error()
    assert cli("container", "destroy", "one").code == 0
    assert not upper.parent.exists()
    manager.release("three")


def test_an_overlay_is_not_left_behind(
    cli: CommandLine, manager: UserNamespaceManager, busybox_rootfs: Path
) -> None:
    """Changes on it would be gone from sight."""
    run(cli, "web", busybox_rootfs, "--strategy", "overlay")
    uuid = cli.json("container", "show", "web")["uuid"]
    stop(cli, "web")
    request = InstanceRequest(
        "web", uuid, str(busybox_rootfs), strategy="idmapped"
    )
    with pytest.raises(
        InstanceError, match=r"files of its own, by the strategy overlay"
    ):
        manager.prepare(request)
    # It stays with what it was under auto.
    request = InstanceRequest("web", uuid, str(busybox_rootfs))
    prepared = manager.prepare(request)
    assert prepared.record.strategy == "overlay"


@pytest.mark.parametrize("kind", FILESYSTEMS)
def test_every_filesystem(
    cli: CommandLine,
    busybox_rootfs: Path,
    loop_filesystem: FilesystemFactory,
    kind: str,
) -> None:
    rootfs = loop_filesystem(kind) / "rootfs"
    subprocess.run(["cp", "-a", busybox_rootfs, rootfs], check=True)
    # The directory above is the filesystem's own, of mode 0755, but the
    # directory that it is mounted in is root's alone.
    assert run(cli, "auto", rootfs)["strategy"] == "idmapped"
    assert ask(pid_of(cli, "auto"), "stat -c %u /bin/su") == "0"
    assert cli("container", "destroy", "auto").code == 0
    shown = run(cli, "over", rootfs, "--strategy", "overlay")
    assert shown["strategy"] == "overlay"
    assert ask(pid_of(cli, "over"), "rm /bin/su; touch /x; id -u") == "0"
    assert (rootfs / "bin/su").exists()


def test_what_cannot_be_idmapped_is_shifted_under_auto(
    cli: CommandLine, busybox_rootfs: Path, tmp_path: Path
) -> None:
    for name in ("upper", "work", "merged"):
        (tmp_path / name).mkdir()
    merged = tmp_path / "merged"
    layers = f"lowerdir={busybox_rootfs},upperdir={tmp_path}/upper"
    layers += f",workdir={tmp_path}/work"
    argv = ["mount", "-t", "overlay", "-o", layers, "none", str(merged)]
    subprocess.run(argv, check=True)
    try:
        done = cli("container", "run", "web", "--rootfs", merged,
                   "--strategy", "idmapped", "--init", SLEEP)  # fmt: skip
        reason = "overlay cannot be idmapped by this kernel; its layers can"
        assert reason in done.error()
        assert cli.json("container", "list") == []
        done = cli("container", "run", "web", "--rootfs", merged,
                   "--init", SLEEP, "-f", "json")  # fmt: skip
        assert done.err.startswith("warning: web: strategy chown changes the")
        shown = json.loads(done.out)
        assert shown["strategy"] == "chown"
        assert reason in str(shown["reason"])
        assert (merged / "bin/su").stat().st_uid == BASE
        assert ask(pid_of(cli, "web"), "stat -c %u /bin/su") == "0"
        assert cli("container", "destroy", "web").code == 0
    finally:
        subprocess.run(["umount", merged], check=True)


def test_a_shifted_tree_stays_so_under_auto(
    cli: CommandLine, busybox_rootfs: Path
) -> None:
    assert cli("rootfs", "shift", busybox_rootfs).code == 0
    for strategy in ("idmapped", "overlay"):
        done = cli("container", "run", "web", "--rootfs", busybox_rootfs,
                   "--strategy", strategy, "--init", SLEEP)  # fmt: skip
        assert "is shifted on disk, and would be shifted twice" in done.error()
    shown = run(cli, "web", busybox_rootfs)
    assert (shown["strategy"], shown["reason"]) == (
        "chown",
        "its files are shifted on disk already; for an idmapped mount destroy "
        "the container and run lxc-userns rootfs unshift "
        f"{busybox_rootfs} before the next run",
    )


def test_the_way_from_chown_to_idmapped(
    cli: CommandLine, reachable_path: Path
) -> None:
    """The first reason stays after a failure, and its advice leads out."""
    (reachable_path / "open").mkdir()
    (reachable_path / "open").chmod(0o755)
    rootfs = reachable_path / "open/rootfs"
    images.make_busybox(rootfs)
    arguments = ("container", "run", "web", "--rootfs", rootfs,
                 "-f", "json", "--init")  # fmt: skip
    # It is a program until it is executed, so that nothing of it ever runs.
    bad = rootfs / "bin/bad"
    bad.write_text("#!/absent\n")
    bad.chmod(0o755)
    failed = cli(*arguments, "/bin/bad")
    assert failed.code == 1
    warning, error = failed.err.splitlines()
    assert warning.startswith(
        "warning: web: strategy chown changes the owners of all files in "
        f"{rootfs} on disk: users of the host can reach it"
    )
    assert error.startswith("error: web: ")
    again = cli(*arguments, SLEEP)
    # Nothing is changed any more.
    assert (again.code, again.err) == (0, "")
    reason = json.loads(again.out)["reason"]
    assert reason.startswith("users of the host can reach it")
    advice = f"run lxc-userns rootfs unshift {rootfs} before"
    assert advice in reason
    assert advice in warning
    # What it says, in its order.
    rootfs.parent.chmod(0o700)
    assert cli("container", "destroy", "web").code == 0
    shown = cli(*arguments, SLEEP).json()
    assert shown["strategy"] == "chown"
    assert "shifted on disk already" in shown["reason"]
    assert advice in shown["reason"]
    assert cli("container", "destroy", "web").code == 0
    assert cli("rootfs", "unshift", rootfs).code == 0
    assert run(cli, "web", rootfs)["strategy"] == "idmapped"


def test_users_of_the_host_cannot_use_what_the_containers_root_makes(
    cli: CommandLine,
    manager: UserNamespaceManager,
    busybox_rootfs: Path,
    reachable_path: Path,
) -> None:
    store = reachable_path / "store"
    store.mkdir(mode=0o700)
    rootfs = store / "rootfs"
    subprocess.run(["cp", "-a", busybox_rootfs, rootfs], check=True)
    trap = rootfs / "trap"
    shutil.copy("/usr/bin/id", trap)
    shown = run(cli, "web", rootfs)
    assert shown["strategy"] == "idmapped"
    # The root of the container, by no more than it has itself.
    ask(pid_of(cli, "web"), "chmod 4755 /trap; chmod 755 /")
    st = trap.stat()
    assert (st.st_uid, st.st_mode & 0o7777) == (0, 0o4755)

    def as_user(program: Path) -> subprocess.CompletedProcess[str]:
        argv = ["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups"]
        script = f"exec {program} -u"
        return subprocess.run(
            [*argv, "sh", "-c", script], capture_output=True, text=True
        )

    for path in (trap, Path(str(shown["view"])) / "trap"):
        done = as_user(path)
        assert done.returncode != 0
        assert "Permission denied" in done.stderr
    # It is only the directory above that holds him back.
    store.chmod(0o711)
    assert as_user(trap).stdout.strip() == "0"
    # And so it is looked at each time, also while the container runs.
    uuid = str(shown["uuid"])
    request = InstanceRequest("web", uuid, str(rootfs))
    with pytest.raises(ReachableError, match=f"chmod 0700 {store}"):
        manager.prepare(request)
    stop(cli, "web")
    message = cli("container", "start", "web").error()
    assert f"chmod 0700 {store}" in message
    assert cli.mounts() == []
    store.chmod(0o700)
    assert cli("container", "start", "web").code == 0


def test_a_reachable_tree_is_refused_or_shifted(
    cli: CommandLine,
    manager: UserNamespaceManager,
    busybox_rootfs: Path,
    reachable_path: Path,
) -> None:
    rootfs = reachable_path / "rootfs"
    subprocess.run(["cp", "-a", busybox_rootfs, rootfs], check=True)
    for strategy in ("idmapped", "overlay"):
        request = InstanceRequest("web", UUID, str(rootfs), strategy=strategy)
        with pytest.raises(ReachableError, match="chmod 0700"):
            manager.prepare(request)
    assert rootfs.stat().st_uid == 0
    options = ("--rootfs", rootfs, "--init", SLEEP, "-f", "json")
    done = cli("container", "run", "web", *options)
    assert done.code == 0, done
    assert done.err.startswith("warning: web: strategy chown changes the")
    shown = json.loads(done.out)
    assert shown["strategy"] == "chown"
    assert f"chmod 0700 {reachable_path}" in str(shown["reason"])
    assert rootfs.stat().st_uid == BASE


@pytest.mark.parametrize("kind", ["ext3", "ext4", "xfs", "btrfs"])
def test_an_image(
    cli: CommandLine, busybox_rootfs: Path, tmp_path: Path, kind: str
) -> None:
    image = make_disk(kind, busybox_rootfs, tmp_path / "disk.img")
    shown = run(cli, "disk", image)
    assert (shown["strategy"], shown["rootfs"]) == ("idmapped", str(image))
    assert loop_devices(tmp_path) == [str(image)]
    view = Path(str(shown["view"]))
    assert view.stat().st_uid == BASE
    assert os.statvfs(view).f_flag & os.ST_NODEV
    ask(pid_of(cli, "disk"), "echo kept >/file")
    # Two that write to one disk would ruin it.
    for strategy in ("idmapped", "overlay", "chown"):
        done = cli("container", "run", "other", "--rootfs", image,
                   "--strategy", strategy, "--init", SLEEP)  # fmt: skip
        assert "is in use by the instance disk" in done.error()
    stop(cli, "disk")
    assert loop_devices(tmp_path) == []
    cli.json("container", "start", "disk")
    assert ask(pid_of(cli, "disk"), "cat /file") == "kept"
    assert cli("container", "destroy", "disk").code == 0
    assert image.exists()


def test_an_image_below_two_overlays(
    cli: CommandLine, busybox_rootfs: Path, tmp_path: Path
) -> None:
    image = make_disk("ext4", busybox_rootfs, tmp_path / "disk.img")
    before = image.read_bytes()
    for name in ("one", "two"):
        run(cli, name, image, "--strategy", "overlay")
        ask(pid_of(cli, name), f"echo {name} >/etc/hostname")
    assert ask(pid_of(cli, "one"), "cat /etc/hostname") == "one"
    for name in ("one", "two"):
        stop(cli, name)
    cli.json("container", "start", "one")
    assert ask(pid_of(cli, "one"), "cat /etc/hostname") == "one"
    assert cli("container", "destroy", "one").code == 0
    assert image.read_bytes() == before


def test_an_image_shifted_on_disk(
    cli: CommandLine, busybox_rootfs: Path, tmp_path: Path
) -> None:
    image = make_disk("ext4", busybox_rootfs, tmp_path / "disk.img")
    run(cli, "disk", image, "--strategy", "chown")
    assert ask(pid_of(cli, "disk"), "stat -c %u /bin/su") == "0"
    stop(cli, "disk")
    cli.json("container", "start", "disk")
    assert ask(pid_of(cli, "disk"), "stat -c %u /bin/su") == "0"


def test_an_image_that_says_it_is_shifted(
    cli: CommandLine, busybox_rootfs: Path, tmp_path: Path
) -> None:
    image = make_disk("xfs", busybox_rootfs, tmp_path / "disk.img")
    run(cli, "disk", image, "--strategy", "chown")
    view = cli.run / "disk/root"
    state = os.getxattr(view, "trusted.lxc_userns.state")
    stop(cli, "disk")
    # Written anew, it is the same file with another filesystem in it, whose
    # owners are not what it says.
    os.setxattr(busybox_rootfs, "trusted.lxc_userns.state", state)
    os.chown(busybox_rootfs, BASE, BASE)
    other = make_disk("xfs", busybox_rootfs, tmp_path / "other.img")
    inode = image.stat().st_ino
    with image.open("r+b") as stream:
        stream.write(other.read_bytes())
    assert image.stat().st_ino == inode
    cli.json("container", "start", "disk")
    assert ask(pid_of(cli, "disk"), "stat -c %u /bin/su") == "0"


@pytest.mark.parametrize("strategy", ["auto", "chown", "overlay"])
def test_an_archive(
    cli: CommandLine, busybox_rootfs: Path, tmp_path: Path, strategy: str
) -> None:
    archive = tmp_path / "root.tar.gz"
    argv = ["tar", "-C", str(busybox_rootfs), "-czf", str(archive), "."]
    subprocess.run(argv, check=True)
    shown = run(cli, "tape", archive, "--strategy", strategy)
    rootfs = cli.state / "private/tape/rootfs"
    assert shown["archive"] == str(archive)
    assert shown["rootfs_kind"] == "archive"
    assert shown["rootfs"] == str(rootfs)
    on_disk = BASE if strategy == "chown" else 0
    assert (rootfs / "bin/su").stat().st_uid == on_disk
    assert ask(pid_of(cli, "tape"), "stat -c '%u %a' /bin/su") == "0 4755"
    ask(pid_of(cli, "tape"), "echo kept >/file")
    # It is not needed any more.
    archive.unlink()
    stop(cli, "tape")
    cli.json("container", "start", "tape")
    assert ask(pid_of(cli, "tape"), "cat /file") == "kept"
    assert cli("container", "destroy", "tape").code == 0
    assert not rootfs.parent.exists()


def test_an_archive_of_more_than_is_allowed(
    cli: CommandLine, busybox_rootfs: Path, tmp_path: Path
) -> None:
    with cli.config.open("a") as stream:
        stream.write("[lxc_userns]\nunpack_max_bytes = 1 MiB\n")
    archive = tmp_path / "root.tar.gz"
    argv = ["tar", "-C", str(busybox_rootfs), "-czf", str(archive), "."]
    subprocess.run(argv, check=True)
    done = cli("container", "run", "tape", "--rootfs", archive)
    assert "unpacks to more than 1 MiB; raise [lxc_userns]" in done.error()
    assert done.code == 1
    assert cli.json("container", "list") == []
    assert list(cli.state.glob("private/*")) == []


@pytest.mark.parametrize("option", ["-c", "-cz"])
def test_an_archive_given_as_an_image(
    manager: UserNamespaceManager,
    cli: CommandLine,
    busybox_rootfs: Path,
    tmp_path: Path,
    option: str,
) -> None:
    """A tenant may give one to a compute service."""
    image = tmp_path / "disk"
    argv = ["tar", "-C", str(busybox_rootfs), option, "-f", str(image), "."]
    subprocess.run(argv, check=True)
    request = InstanceRequest("disk", UUID, str(image), rootfs_kind="image")
    with pytest.raises(ImageError, match=r"and no raw image of ext2, "):
        manager.prepare(request)
    assert manager.services.store.load("disk") is None
    assert list(cli.state.glob("private/*")) == []


def test_an_archive_that_is_cut_off_leaves_nothing(
    cli: CommandLine, busybox_rootfs: Path, tmp_path: Path
) -> None:
    archive = tmp_path / "root.tar.gz"
    argv = ["tar", "-C", str(busybox_rootfs), "-czf", str(archive), "."]
    subprocess.run(argv, check=True)
    os.truncate(archive, archive.stat().st_size // 2)
    done = cli("container", "run", "tape", "--rootfs", archive)
    assert str(archive) in done.error()
    assert cli.json("container", "list") == []
    assert list(cli.state.glob("private/*")) == []


def test_volumes(
    cli: CommandLine, busybox_rootfs: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    data.chmod(0o755)
    (data / "old").write_text("old\n")
    os.chown(data / "old", ALICE, ALICE)
    config = tmp_path / "app.conf"
    config.write_text("a = b\n")
    options = [
        "--volume", f"{data}:/data",
        "--volume", f"{data}:/mnt/readonly:ro",
        "--volume", f"{data}:/mnt/raw:none",
        "--volume", f"{config}:/etc/app.conf:ro",
        "--strategy", "overlay",
    ]  # fmt: skip
    for name in ("one", "two"):
        shown = run(cli, name, busybox_rootfs, *options)
    assert shown["volumes"] == [
        f"{data}:/data:idmap",
        f"{data}:/mnt/readonly:idmap,ro",
        f"{data}:/mnt/raw:none",
        f"{config}:/etc/app.conf:idmap,ro",
    ]
    one, two = pid_of(cli, "one"), pid_of(cli, "two")
    assert ask(one, "stat -c '%u' /data /data/old").split() == [
        "0", str(ALICE),
    ]  # fmt: skip
    ask(one, "echo new >/data/new; chown alice /data/new")
    assert (data / "new").stat().st_uid == ALICE
    assert ask(two, "cat /mnt/readonly/new") == "new"
    assert ask(two, "stat -c %u /mnt/raw/new") == "65534"
    assert ask(two, "cat /etc/app.conf") == "a = b"
    failed = "2>&1; test $? -ne 0"
    for script in ("touch /mnt/readonly/x", "echo x >/etc/app.conf",
                   "mount -o remount,rw,bind /mnt/readonly"):  # fmt: skip
        ask(one, f"({script}) {failed}")
    assert not (data / "x").exists()
    for point in (cli.run / "one").iterdir():
        flags = os.statvfs(point).f_flag
        assert flags & os.ST_NODEV
        assert flags & os.ST_NOSUID or point.name == "root"
    stop(cli, "one")
    assert not (cli.run / "one").exists()
    cli.json("container", "start", "one")
    assert ask(pid_of(cli, "one"), "cat /data/new") == "new"


def test_a_volume_that_users_of_the_host_reach_is_refused(
    cli: CommandLine, busybox_rootfs: Path, reachable_path: Path
) -> None:
    data = reachable_path / "data"
    data.mkdir()
    arguments = ["container", "run", "web", "--rootfs", str(busybox_rootfs),
                 "--init", SLEEP, "--volume"]  # fmt: skip
    message = cli(*arguments, f"{data}:/data").error()
    assert f"chmod 0700 {reachable_path}" in message
    assert cli.json("container", "list") == []
    assert cli(*arguments, f"{data}:/data:ro").code == 0


@pytest.mark.parametrize(
    ("volume", "message"),
    [
        ("{state}:/state:ro", "contains, or is in, [lxc_userns] state_path"),
        ("/:/host:ro", "contains, or is in, [lxc_userns] state_path"),
        ("{rootfs}:/again:chown", "cannot be used as idmapped while"),
        ("{rootfs}/nowhere:/x", "No such file or directory"),
        ("{rootfs}:/dev", "libvirt has a mount of its own there"),
        ("{rootfs}/bin:/out/x", "a link in the root filesystem leads"),
        ("{rootfs}", "expected SOURCE:TARGET"),
    ],
)
def test_volumes_that_are_refused(
    cli: CommandLine, busybox_rootfs: Path, volume: str, message: str
) -> None:
    (busybox_rootfs / "out").symlink_to("/.oldroot/tmp")
    volume = volume.format(state=cli.state, rootfs=busybox_rootfs)
    cli.state.mkdir(mode=0o700)
    done = cli("container", "run", "web", "--rootfs", busybox_rootfs,
               "--init", SLEEP, "--volume", volume)  # fmt: skip
    assert message in done.error()
    assert cli.json("container", "list") == []
    assert cli.mounts() == []
    assert busybox_rootfs.stat().st_uid == 0


@pytest.mark.parametrize("strategy", ["idmapped", "overlay"])
def test_debian_boots_whole(
    cli: CommandLine, tmp_path: Path, strategy: str
) -> None:
    rootfs = tmp_path / "debian"
    images.unpack_debian("systemd", rootfs)
    for unit in ("sys-kernel-debug.mount", "sys-kernel-tracing.mount"):
        # The kernel mounts neither in a user namespace.
        (rootfs / "etc/systemd/system" / unit).symlink_to("/dev/null")
    subprocess.run(["setcap", "-q", "cap_net_raw+ep", rootfs / "usr/bin/ping"],
                   check=True)  # fmt: skip
    secret = rootfs / "root-only"
    secret.write_text("for alice too\n")
    secret.chmod(0o600)
    subprocess.run(["setfacl", "-m", f"u:{ALICE}:r", secret], check=True)
    run(cli, "debian", rootfs, "--init", "/sbin/init", "--strategy", strategy,
        "--env", "container=lxc-libvirt")  # fmt: skip
    pid = pid_of(cli, "debian")
    state = "systemctl is-system-running || true"
    wait_for(lambda: ask(pid, state) in ("running", "degraded"))
    failed = ask(pid, "systemctl list-units --failed --no-legend")
    assert (ask(pid, state), failed) == ("running", "")
    assert ask(pid, "stat -c '%u %a' /usr/bin/su") == "0 4755"
    probe = "ping -c 1 -W 5 127.0.0.1"
    assert "1 received" in ask(pid, probe, ALICE)
    assert ask(pid, "cat /root-only", ALICE) == "for alice too"
    ask(pid, "useradd -m -u 4242 carol && chown -R carol:tty /home/carol")
    assert ask(pid, "stat -c %u:%g /home/carol") == "4242:5"
    home = rootfs / "home/carol"
    assert home.exists() == (strategy == "idmapped")
    if strategy == "idmapped":
        assert (home.stat().st_uid, home.stat().st_gid) == (4242, 5)
