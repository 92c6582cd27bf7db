# SPDX-License-Identifier: Apache-2.0
"""Commands in containers, of ours and of others."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import libvirt
import pytest

from lxc_userns.linux.process import Process
from lxc_userns.linux.processes import children
from tests.functional.attach.box import LONGEST, NAME, Box, line, started

pytestmark = pytest.mark.needs("containers")


def test_nothing_of_the_host_comes_in(box: Box) -> None:
    """Environment, descriptors, directory and terminal."""
    script = (
        "env; pwd; umask; for n in 3 4 5 6 7 8 9 10 20 99; do "
        "[ -e /proc/self/fd/$n ] && echo leaked; done; tty; echo $$"
    )
    fds = [os.open("/", os.O_RDONLY) for _ in range(8)]
    try:
        with started(
            box, "--env", "A=b c", "sh", "-c", script,
            env=os.environ | {"SECRET": "x", "LD_PRELOAD": ""},
            pass_fds=fds,
        ) as process:  # fmt: skip
            out, err = process.communicate(timeout=LONGEST)
    finally:
        for fd in fds:
            os.close(fd)
    assert err == ""
    *lines, where, mask, terminal, pid = out.splitlines()
    assert {*lines} - {"SHLVL=1", "PWD=/root"} == {
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME=/root",
        "USER=root",
        "LOGNAME=root",
        "SHELL=/bin/sh",
        "container=lxc-libvirt",
        "A=b c",
    }
    assert (where, mask, terminal) == ("/root", "0022", "not a tty")
    assert int(pid) > 1


def test_it_is_as_the_first_process_is(box: Box) -> None:
    """Namespaces, groups, rights and limits, as the host's kernel tells."""
    with started(box, "sh", "-c", "echo ready; exec sleep 1000") as process:
        assert line(process) == "ready\n"
        (pid,) = children(process.pid)
        with Process(pid) as command, Process(box.init) as init:
            for kind in ("mnt", "pid", "net", "ipc", "uts", "user", "cgroup"):
                assert command.namespace(kind) == init.namespace(kind), kind
            assert command.cgroups == init.cgroups
            same = ("CapBnd", "NoNewPrivs", "CapPrm", "CapEff")
            assert command.status(*same) == init.status(*same)
            assert command.status("CapInh", "CapAmb") == ["0" * 16] * 2
            assert command.uid_map == init.uid_map
            assert command.oom_score_adj == init.oom_score_adj
            assert command.security_label == init.security_label
            assert command.status("Uid") == [str(box.base)]
        limits = [
            Path(f"/proc/{each}/limits").read_text()
            for each in (pid, box.init)
        ]
        assert limits[0] == limits[1]
        roots = [os.stat(f"/proc/{each}/root") for each in (pid, box.init)]
        assert os.path.samestat(*roots)
        sessions = Path(f"/proc/{pid}/stat").read_text().split()[4:6]
        assert sessions == [str(pid)] * 2
        process.terminate()
        assert process.wait(LONGEST) == 143


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("root", "0 0 0"),
        ("0", "0 0 0"),
        ("alice", "1000 1000 1000 50"),
        ("1000", "1000 1000 1000"),
        ("1000:5", "1000 5 5"),
        ("alice:tty", "1000 5 5"),
        ("4321", "4321 0 0"),
    ],
)
def test_users(private: Box, user: str, expected: str) -> None:
    found = private.out("--user", user, "sh", "-c", "id -u; id -g; id -G")
    assert found.split() == expected.split()


def test_a_user_has_no_capabilities_and_a_home(box: Box) -> None:
    (box.root / "home/alice").mkdir(parents=True, exist_ok=True)
    script = "pwd; echo $HOME $USER; grep CapEff /proc/self/status"
    found = box.out("-u", "alice", "sh", "-c", script).split()
    assert found == [
        "/home/alice", "/home/alice", "alice", "CapEff:", "0" * 16,
    ]  # fmt: skip
    # Who opens them by name as its user: they are its own.
    script = "echo out >/dev/stdout; echo err >/dev/stderr"
    done = box.exec("-u", "alice", "sh", "-c", script)
    assert (done.code, done.out, done.err) == (0, "out\n", "err\n")


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("false",), 1, ""),
        (("sh", "-c", "exit 77"), 77, ""),
        (("sh", "-c", "kill -9 $$"), 137, ""),
        # Only what interrupts the program itself is said to.
        (("sh", "-c", "exit 130"), 130, ""),
        (("nosuch",), 127, "box: 'nosuch': not found"),
        (("/no/such",), 127, "box: '/no/such': not found"),
        (("/etc/passwd",), 126, "box: '/etc/passwd': Permission denied"),
        (("/etc",), 126, "box: '/etc': Permission denied"),
        (("--user", "bob", "id"), 125, "no such user in /etc/passwd"),
        (("--user", "0:bob", "id"), 125, "no such group in /etc/group"),
        (("--user", "70000", "id"), 125, "user 70000, group 0, of those"),
        (("--user", "4294967295", "id"), 125, "no such user"),
        (("--user", "", "id"), 125, "no such user"),
        (("--workdir", "/no", "id"), 125, "--workdir '/no': No such file"),
        (("--workdir", "etc", "id"), 125, "expected an absolute path"),
        (("--env", "A", "id"), 125, "expected NAME=VALUE"),
        (("",), 125, "is empty"),
    ],
)
def test_exit_codes(
    private: Box, arguments: tuple[str, ...], code: int, text: str
) -> None:
    done = private.exec(*arguments)
    if text:
        assert text in done.error(code)
    else:
        assert (done.code, done.err) == (code, "")


def test_options_of_the_command_are_its_own(private: Box) -> None:
    for arguments in (
        ("-w/etc", "echo", "-v", "--debug", "--user", "--", "-h"),
        ("--workdir=/etc", "--", "echo", "-v", "--debug", "--user", "--",
         "-h"),
    ):  # fmt: skip
        found = private.out(*arguments)
        assert found == "-v --debug --user -- -h\n"
    assert private.out("--workdir", "/etc", "pwd") == "/etc\n"


def test_no_such_container_and_none_that_runs(
    private: Box, libvirt_connection: libvirt.virConnect
) -> None:
    cli = private.cli
    found = cli("container", "exec", "other", "id").error(125)
    assert found == "other: no such container"
    uuid = cli.json("container", "show", NAME)["uuid"]
    assert cli("container", "exec", uuid, "echo", "x").out == "x\n"
    domain = libvirt_connection.lookupByName(NAME)
    domain.suspend()
    try:
        assert "is paused; resume it" in private.exec("id").error(125)
    finally:
        domain.resume()
    assert cli("container", "stop", NAME, "--timeout", "0").code == 0
    assert private.exec("id").error(125) == "box: is not running"


def test_twenty_at_once(box: Box) -> None:
    with ThreadPoolExecutor(20) as pool:
        found = pool.map(lambda n: box.out("echo", str(n)), range(20))
        assert [*found] == [f"{n}\n" for n in range(20)]
