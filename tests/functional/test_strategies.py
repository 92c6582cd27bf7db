# SPDX-License-Identifier: Apache-2.0
"""Strategies: what containers see, what is on disk, and what is left."""

import json
import os
import re
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

import libvirt
import pytest

from lxc_userns.exceptions import ExposedTreeError, InstanceError
from lxc_userns.idmap import IdMap, IdMaps
from lxc_userns.manager import UserNamespaceManager
from lxc_userns.spec.request import InstanceRequest
from tests.functional import images
from tests.functional.command_line import BASE, CommandLine
from tests.functional.conftest import FilesystemFactory
from tests.functional.containers import (
    ALICE,
    SLEEP,
    UUID,
    cli,
    pid_of,
    run,
    stop,
)
from tests.functional.guest import ask
from tests.waiting import wait_for

__all__ = ["cli"]

pytestmark = pytest.mark.needs("containers")
FILESYSTEMS = ("ext4", "xfs", "btrfs", "tmpfs")


def snapshot(tree: Path) -> dict[str, tuple[int, ...]]:
    """Return a snapshot that any change of a tree would change."""
    found: dict[str, tuple[int, ...]] = {}
    for path in (tree, *tree.rglob("*")):
        st = path.lstat()
        fields = (st.st_ino, st.st_uid, st.st_gid, st.st_mode, st.st_ctime_ns)
        found[str(path)] = fields
    return found


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
    assert ask(pid_of(cli, "two"), "cat /etc/hostname") == "two"
    assert ask(pid_of(cli, "two"), "/bin/su root -c 'id -u'", ALICE) == "0"
    upper = cli.state / "private/one/overlay/upper"
    assert upper.stat().st_uid == BASE
    assert (upper / "data").stat().st_uid == BASE
    # Kept while it is stopped, and for no one to see.
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
    request = InstanceRequest("web", uuid, str(rootfs), hostname="web")
    with pytest.raises(ExposedTreeError, match=f"chmod 0700 {store}"):
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
        with pytest.raises(ExposedTreeError, match="chmod 0700"):
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
