# SPDX-License-Identifier: Apache-2.0
"""libvirt's hook: containers that are started without this package."""

import os
import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import libvirt
import pytest

from lxc_userns.domain.seclabel import parse_models
from lxc_userns.host import hook
from lxc_userns.instances.store import InstanceStore
from lxc_userns.libvirtd import daemon
from lxc_userns.libvirtd.status import RunningDomains
from tests.functional import guest
from tests.functional.command_line import (
    BASE,
    COUNT,
    PROGRAM,
    CommandLine,
    call_copied,
)
from tests.functional.conftest import CommandLineFactory
from tests.functional.containers import end_domain
from tests.functional.foreign import idmap, running
from tests.waiting import wait_for

pytestmark = pytest.mark.needs("containers")

SLEEP = "/bin/sleep 1000"
#: An init that obeys what "virsh reboot" and "virsh shutdown" send with
#: "--mode signal".
OBEYS = (
    "/bin/sh -c \"trap 'reboot -f' HUP; trap exit TERM; >/ready; "
    'while :; do sleep 0.1; done"'
)
OTHER_RANGE = f"<uid start='0' target='{BASE + COUNT}'"


@pytest.fixture(params=["idmapped", "overlay", "chown"])
def cli(
    command_line: CommandLineFactory, request: pytest.FixtureRequest
) -> Iterator[CommandLine]:
    """The program, with the hook installed."""
    yield from hooked(command_line, f"rootfs_strategy = {request.param}\n")


@pytest.fixture
def any_cli(command_line: CommandLineFactory) -> Iterator[CommandLine]:
    """The same with the strategy that is chosen by default."""
    yield from hooked(command_line, "")


def hooked(
    command_line: CommandLineFactory, extra: str
) -> Iterator[CommandLine]:
    cli = command_line(extra)
    installed = cli("host", "hook", "install")
    assert installed.code == 0, installed
    yield cli
    cli("host", "hook", "remove")


def state(cli: CommandLine) -> str:
    return str(cli.json("container", "show", "web")["state"])


@pytest.fixture
def stopped(
    cli: CommandLine, busybox_rootfs: Path, connection: libvirt.virConnect
) -> libvirt.virDomain:
    """A container that was made, and stopped by libvirt."""
    return make(cli, busybox_rootfs, connection)


def make(
    cli: CommandLine, rootfs: Path, connection: libvirt.virConnect
) -> libvirt.virDomain:
    rootfs.parent.chmod(0o700)
    cli.json("container", "run", "web", "--rootfs", rootfs, "--init", SLEEP)
    domain = connection.lookupByName("web")
    end_domain(domain)
    wait_for(lambda: cli.mounts() == [])
    return domain


@pytest.fixture
def connection(libvirt_connection: libvirt.virConnect) -> libvirt.virConnect:
    """The connection to libvirtd, by a shorter name."""
    return libvirt_connection


def test_start_and_destroy(
    cli: CommandLine, stopped: libvirt.virDomain
) -> None:
    for _ in range(2):
        stopped.create()
        assert state(cli) == "running"
        assert cli.mounts() != []
        found = RunningDomains().find("web")
        assert found is not None
        end_domain(stopped)
        wait_for(lambda: cli.mounts() == [])
        assert state(cli) == "stopped"


def edit(domain: libvirt.virDomain, pattern: str, new: str) -> None:
    """Edit the definition of a domain by hand."""
    xml = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    edited, number = re.subn(pattern, new, xml, flags=re.DOTALL)
    assert number == 1, xml
    domain.connect().defineXML(edited)


@pytest.mark.parametrize(
    ("pattern", "new", "said"),
    [
        (f"<uid start='0' target='{BASE}'", OTHER_RANGE, "<idmap>"),
        ("<idmap>.*</idmap>", "", "its XML lacks <idmap>"),
        ("<privnet/>", "", "its XML lacks <privnet/>"),
        ("<chown state", "<mknod state='on'/><chown state", "mknod"),
        ("(?<=<source dir=')[^']*", "/", "<filesystem> '/' of source '/'"),
        ("(?<=<source dir=')[^']*", "{rootfs}", "its XML lacks <filesystem"),
        (
            "</devices>",
            "<filesystem type='mount'><source dir='/etc'/>"
            "<target dir='/mnt'/></filesystem></devices>",
            "'/etc'",
        ),
        (
            "</devices>",
            "<hostdev mode='capabilities' type='misc'><source>"
            "<char>/dev/null</char></source></hostdev></devices>",
            "/dev/null",
        ),
        (
            "<domain type='lxc'(.*)</domain>",
            "<domain type='lxc' xmlns:lxc='http://libvirt.org/schemas/domain/"
            "lxc/1.0'\\1<lxc:namespace><lxc:sharenet type='netns' value='x'/>"
            "</lxc:namespace></domain>",
            "sharenet",
        ),
        (
            "</features>",
            "</features>",
            None,
        ),
    ],
)
def test_edited_by_hand(
    any_cli: CommandLine,
    busybox_rootfs: Path,
    connection: libvirt.virConnect,
    pattern: str,
    new: str,
    said: str | None,
) -> None:
    """It does not start, unless the edit is harmless."""
    domain = make(any_cli, busybox_rootfs, connection)
    edit(domain, pattern, new.replace("{rootfs}", str(busybox_rootfs)))
    if said is None:
        domain.create()
        return
    with pytest.raises(libvirt.libvirtError) as caught:
        domain.create()
    told = str(caught.value)
    assert "lxc-userns: web: " in told
    assert said in told
    assert not domain.isActive()
    wait_for(lambda: any_cli.mounts() == [])


def test_without_its_mark(
    any_cli: CommandLine,
    busybox_rootfs: Path,
    connection: libvirt.virConnect,
) -> None:
    """Its view is not there then."""
    domain = make(any_cli, busybox_rootfs, connection)
    edit(domain, "<metadata>.*</metadata>", "")
    with pytest.raises(libvirt.libvirtError, match=r"\.oldroot|No such file"):
        domain.create()


def test_without_the_hook(
    any_cli: CommandLine,
    busybox_rootfs: Path,
    connection: libvirt.virConnect,
) -> None:
    domain = make(any_cli, busybox_rootfs, connection)
    assert any_cli("host", "hook", "remove").code == 0
    with pytest.raises(libvirt.libvirtError, match=r"\.oldroot|No such file"):
        domain.create()


def test_without_its_security_label(
    any_cli: CommandLine,
    busybox_rootfs: Path,
    connection: libvirt.virConnect,
) -> None:
    domain = make(any_cli, busybox_rootfs, connection)
    models = parse_models(connection.getCapabilities())
    if models:
        none = f"<seclabel type='none' model='{models[0]}'/>"
        edit(domain, "<seclabel [^>]*/>", none)
        said = "'dynamic' was promised"
    else:
        # By a libvirtd that has one, before it was configured otherwise.
        store = InstanceStore(str(any_cli.state))
        record = store.load("web")
        assert record is not None
        store.save(replace(record, security_model="apparmor"))
        said = "lacks <seclabel"
    with pytest.raises(libvirt.libvirtError, match=said):
        domain.create()


@pytest.mark.parametrize(
    ("label", "code"),
    [
        ("<seclabel type='dynamic' model='apparmor' relabel='yes'/>", 0),
        # What libvirt leaves of it, and may start it with after a reboot.
        ("<seclabel type='dynamic' relabel='yes'/>", 0),
        ("", 1),
        ("<seclabel type='none'/>", 1),
        (
            "<seclabel type='dynamic' relabel='yes'/>"
            "<seclabel type='none' model='apparmor'/>",
            1,
        ),
    ],
)
def test_what_is_left_of_its_label(
    any_cli: CommandLine,
    busybox_rootfs: Path,
    connection: libvirt.virConnect,
    label: str,
    code: int,
) -> None:
    domain = make(any_cli, busybox_rootfs, connection)
    store = InstanceStore(str(any_cli.state))
    record = store.load("web")
    assert record is not None
    store.save(replace(record, security_model="apparmor"))
    xml = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    xml = re.sub("<seclabel [^>]*/>", "", xml)
    argv = [str(PROGRAM.with_name("lxc-userns-hook")), "--config-file"]
    done = subprocess.run(
        [*argv, str(any_cli.config), "web", "prepare", "begin", "-"],
        input=xml.replace("</devices>", f"</devices>{label}"),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == code, done
    assert ("was" in done.stderr) == (code != 0)


def test_reboot_from_inside(
    cli: CommandLine, busybox_rootfs: Path, connection: libvirt.virConnect
) -> None:
    busybox_rootfs.parent.chmod(0o700)
    run = cli.run_to_reboot("web", "--rootfs", busybox_rootfs)
    guest.inside(run["init_pid"], "reboot")
    wait_for_another(cli, run["init_pid"])
    end_domain(connection.lookupByName("web"))


def wait_for_another(cli: CommandLine, init_pid: int) -> None:
    """Wait until it runs with another first process."""

    def is_new() -> bool:
        shown = cli.json("container", "show", "web")
        return shown["init_pid"] not in (None, init_pid)

    wait_for(is_new)
    wait_for(lambda: state(cli) == "running")


def run_with_signals(cli: CommandLine, rootfs: Path) -> int:
    """Run one whose init obeys what libvirt sends; its process ID."""
    rootfs.parent.chmod(0o700)
    run = cli.run_to_reboot("web", "--rootfs", rootfs, "--init", OBEYS)
    pid = int(run["init_pid"])
    wait_for(Path(f"/proc/{pid}/root/ready").exists)
    return pid


def test_virsh_reboot(
    cli: CommandLine, busybox_rootfs: Path, connection: libvirt.virConnect
) -> None:
    pid = run_with_signals(cli, busybox_rootfs)
    domain = connection.lookupByName("web")
    domain.reboot(libvirt.VIR_DOMAIN_REBOOT_SIGNAL)
    wait_for_another(cli, pid)
    assert domain.isActive()
    end_domain(domain)


def test_virsh_shutdown(
    cli: CommandLine, busybox_rootfs: Path, connection: libvirt.virConnect
) -> None:
    run_with_signals(cli, busybox_rootfs)
    domain = connection.lookupByName("web")
    domain.shutdownFlags(libvirt.VIR_DOMAIN_SHUTDOWN_SIGNAL)
    wait_for(lambda: cli.mounts() == [])
    assert state(cli) == "stopped"
    domain.create()
    assert state(cli) == "running"
    end_domain(domain)


def test_twice_at_once(
    any_cli: CommandLine, busybox_rootfs: Path, connection: libvirt.virConnect
) -> None:
    domain = make(any_cli, busybox_rootfs, connection)
    xml = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    argv = [str(PROGRAM.with_name("lxc-userns-hook")), "--config-file"]
    argv += [str(any_cli.config), "web", "prepare", "begin", "-"]
    calls = [
        subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(3)
    ]
    try:
        said = [each.communicate(xml, timeout=60)[0] for each in calls]
    finally:
        for each in calls:
            each.kill()
    assert [
        (each.returncode, text) for each, text in zip(calls, said, strict=True)
    ] == [(0, "")] * 3
    domain.create()
    assert state(any_cli) == "running"


def test_a_lock_is_waited_for_with_a_limit(
    command_line: CommandLineFactory,
    busybox_rootfs: Path,
    connection: libvirt.virConnect,
) -> None:
    """libvirtd answers others meanwhile, and the start is refused."""
    for cli in hooked(command_line, "hook_timeout = 1\n"):
        domain = make(cli, busybox_rootfs, connection)
        store = InstanceStore(str(cli.state))
        with (
            store.lock("web"),
            pytest.raises(libvirt.libvirtError, match="another operation has"),
        ):
            domain.create()
        domain.create()
        assert state(cli) == "running"


def test_what_takes_long_is_refused(
    command_line: CommandLineFactory,
    busybox_rootfs: Path,
    connection: libvirt.virConnect,
) -> None:
    """Nothing that grows with a tree is done while libvirtd waits."""
    for cli in hooked(command_line, "rootfs_strategy = chown\n"):
        domain = make(cli, busybox_rootfs, connection)
        done = cli("rootfs", "unshift", busybox_rootfs)
        assert done.code == 0, done
        before = busybox_rootfs.stat().st_uid
        with pytest.raises(libvirt.libvirtError) as caught:
            domain.create()
        told = str(caught.value)
        assert told.rstrip().endswith(" domain prepare web")
        assert busybox_rootfs.stat().st_uid == before == 0
        # By the configuration that the hook has.
        copied = call_copied(told)
        assert (copied.code, copied.err) == (0, "")
        domain.create()
        assert state(cli) == "running"


def test_another_run_path(
    any_cli: CommandLine, busybox_rootfs: Path, connection: libvirt.virConnect
) -> None:
    """Its XML has a view below the one that it was prepared for."""
    domain = make(any_cli, busybox_rootfs, connection)
    text = any_cli.config.read_text()
    run_path = f"run_path = {any_cli.run}"
    any_cli.config.write_text(text.replace(run_path, f"{run_path}2"))
    said = f"2: views of web are below {any_cli.run}; set it to that"
    with pytest.raises(libvirt.libvirtError, match=said):
        domain.create()
    assert said in any_cli("container", "start", "web").error()
    any_cli.config.write_text(text)
    domain.create()
    assert state(any_cli) == "running"


def test_others_are_left_alone(
    any_cli: CommandLine,
    connection: libvirt.virConnect,
    shared_rootfs: Path,
) -> None:
    with running(connection, "other", shared_rootfs):
        assert any_cli.mounts() == []


@pytest.mark.parametrize(
    ("name", "ids"),
    [
        ("other", ""),
        ("other", "<metadata><a:b xmlns:a='urn:b'><!-- <idmap --></a:b>"
                  "</metadata>"),
        ("other", "<os><initenv name='A'>b&lt;idmap/&gt;</initenv></os>"),
        ("other", "<idmap><uid start='0' target='0' count='9'/>"
                  "<gid start='0' target='0' count='9'/></idmap>"),
        ("--config-file", ""),
        ("my box", ""),
    ],
)  # fmt: skip
def test_others_are_refused(
    command_line: CommandLineFactory,
    connection: libvirt.virConnect,
    shared_rootfs: Path,
    name: str,
    ids: str,
) -> None:
    """Those that look as if they had ID maps of their own, too."""
    said = "unmarked_domains refuses that; run: "
    for cli in hooked(command_line, "unmarked_domains = refuse\n"):
        with (
            pytest.raises(libvirt.libvirtError, match=said) as caught,
            running(connection, name, shared_rootfs, ids=ids),
        ):
            pytest.fail("it started")
        words = shlex.split(str(caught.value).rpartition(" run: ")[2])
        assert words[:5] == [
            *("lxc-userns", "--config-file", str(cli.config)),
            *("domain", "convert"),
        ]
        # Whatever it is called, it is looked for; it was there transiently.
        absent = call_copied(str(caught.value)).error(5)
        assert absent == f"{name}: no such container"


def test_installed_while_libvirtd_reloads(
    command_line: CommandLineFactory,
    connection: libvirt.virConnect,
    shared_rootfs: Path,
    tmp_path: Path,
) -> None:
    """It ignores another signal meanwhile, and would never call the hook."""
    found = daemon.find()
    assert found is not None
    slow = hook.DIRECTORY.with_name("daemon")
    slow.parent.mkdir(parents=True, exist_ok=True)
    slow.write_text(f"#!/bin/sh\n>{tmp_path}/begun; sleep 3\n")
    slow.chmod(0o755)
    os.kill(found.pid, signal.SIGHUP)
    wait_for((tmp_path / "begun").exists)
    slow.unlink()
    for _ in hooked(command_line, "unmarked_domains = refuse\n"):
        with (
            pytest.raises(libvirt.libvirtError, match="refuses that"),
            running(connection, "other", shared_rootfs),
        ):
            pytest.fail("it started")


def test_a_libvirtd_that_looks_for_no_hooks(any_cli: CommandLine) -> None:
    """One that does nothing for a while may never call it."""
    found = daemon.find()
    assert found is not None
    hook.RELOADED.unlink()
    os.kill(found.pid, signal.SIGSTOP)
    try:
        error = any_cli("host", "hook", "install").error(1)
    finally:
        os.kill(found.pid, signal.SIGCONT)
    assert error == (
        f"{found} does not look for hooks and may not call {hook.HOOK}; "
        f"systemctl restart {found.name}"
    )
    assert not hook.RELOADED.exists()


def test_beside_the_one_script_of_others(
    any_cli: CommandLine, tmp_path: Path
) -> None:
    """libvirt does not list the directory then, before a call."""
    first = hook.DIRECTORY.with_name("lxc")
    first.write_text("#!/bin/sh\n")
    first.chmod(0o755)
    try:
        installed = any_cli("host", "hook", "install")
    finally:
        first.unlink()
    assert installed.code == 0


def test_others_with_id_maps_are_not(
    command_line: CommandLineFactory,
    connection: libvirt.virConnect,
    shared_rootfs: Path,
) -> None:
    for _ in hooked(command_line, "unmarked_domains = refuse\n"):
        subprocess.run(["chmod", "-R", "a+rwX", shared_rootfs], check=True)
        with running(connection, "other", shared_rootfs, ids=idmap()) as other:
            assert other.init


def test_what_others_could_replace_is_not_installed(
    any_cli: CommandLine, tmp_path: Path
) -> None:
    """libvirtd would execute it as root."""
    before = hook.HOOK.read_text()
    program = PROGRAM.with_name(hook.PROGRAM)
    place = tmp_path / "bin"
    place.mkdir()
    shutil.copy(program, place / hook.PROGRAM)
    shutil.copy(PROGRAM, place / PROGRAM.name)
    argv = [str(place / PROGRAM.name), "host", "hook", "install"]
    for path, mode, owner in (
        (place / hook.PROGRAM, 0o775, 0),
        (place / hook.PROGRAM, 0o755, 1000),
        (place, 0o777, 0),
        (place, 0o755, 1000),
    ):
        path.chmod(mode)
        os.chown(path, owner, owner)
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
        assert done.returncode == 1, done
        assert len(done.stderr.splitlines()) == 1
        assert hook.HOOK.read_text() == before
        path.chmod(0o755)
        os.chown(path, 0, 0)
    subprocess.run(argv, check=True, timeout=60, stdout=subprocess.DEVNULL)
    assert str(place / hook.PROGRAM) in hook.HOOK.read_text()
