# SPDX-License-Identifier: Apache-2.0
"""Bad input: one clear line, exit code 1, nothing changed."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import libvirt
import pytest

from tests.functional.command_line import (
    BASE,
    LONGEST,
    PROGRAM,
    CommandLine,
    call,
)
from tests.functional.conftest import FilesystemFactory

SLEEP = ("--init", "/bin/sleep 1000")
CAPLESS = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")
SYNTAX = "expected guest:host:count, three decimal integers"
NO_NAME = "not a name: a letter or digit is needed"


@pytest.fixture
def cli(tmp_path: Path, reachable_path: Path) -> CommandLine:
    """The program; no libvirtd is needed."""
    return CommandLine.make(tmp_path, reachable_path / "run")


@pytest.fixture
def container_cli(
    cli: CommandLine, libvirt_connection: libvirt.virConnect
) -> Iterator[CommandLine]:
    """The program with a libvirtd, and no container left at the end."""
    yield cli
    assert list(cli.state.glob("instances/*")) == []
    assert cli.mounts() == []
    assert libvirt_connection.listAllDomains() == []


@pytest.fixture
def rootfs(busybox_rootfs: Path) -> Iterator[Path]:
    """A root filesystem of which nothing has changed at the end."""
    before = owners(busybox_rootfs)
    yield busybox_rootfs
    assert owners(busybox_rootfs) == before
    assert not [
        name for name in os.listxattr(busybox_rootfs) if "lxc_userns" in name
    ]


def owners(tree: Path) -> dict[str, tuple[int, int, int]]:
    found = {}
    for path in (tree, *tree.rglob("*")):
        status = path.lstat()
        found[str(path)] = (status.st_uid, status.st_gid, status.st_mode)
    return found


@pytest.mark.needs("containers")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "has no /sbin/absent: No such file or directory"),
        (["--init", "/etc"], "/etc in it is no program"),
        (["--init", "/etc/passwd"], "/etc/passwd in it is no program"),
        (["--init", "sleep 10"], "init 'sleep': expected an absolute path"),
        (["--init", ""], "--init: is empty"),
        (["--init", "/bin/sh '"], "--init = /bin/sh ': No closing quotation"),
        (["--memory", "0"], "memory in MiB 0: expected a number from 1"),
        (["--memory", "9" * 30], "memory in MiB 999"),
        (["--vcpus", "2"], "--vcpus = 2: limits nothing, for a container has"),
        (["--cpus", "-1"], "CPUs -1.0: expected 0.01 to 65536"),
        (["--cpus", "nan"], "CPUs nan: expected 0.01 to 65536"),
        (["--cpus", "inf"], "CPUs inf: expected 0.01 to 65536"),
        (["--cpus", "0.001"], "CPUs 0.001: expected 0.01 to 65536"),
        (["--env", "NAME"], "--env = NAME: expected NAME=VALUE"),
        (["--env", "=x"], "--env = =x: expected NAME=VALUE"),
        (["--env", "A B=x"], "environment variable 'A B': expected letters"),
        (["--env", "A=<x>"], "environment variable A '<x>': has '<'"),
        (["--network", "lan"], "--network = lan: expected network:NAME"),
        (["--network", "bridge:"], "--network = bridge:: expected network:"),
        (
            ["--network", "none", "--network", "bridge:br0"],
            "--network = none: expected network:NAME, bridge:NAME, or none",
        ),
        (
            ["--network", f"bridge:{'x' * 16}"],
            f"source of bridge interface '{'x' * 16}': expected a device",
        ),
    ],
)
def test_container_run_refuses(
    container_cli: CommandLine,
    rootfs: Path,
    arguments: list[str],
    message: str,
) -> None:
    default = [] if "--init" in arguments else list(SLEEP)
    if not arguments:
        default = ["--init", "/sbin/absent"]
    result = container_cli(
        *("container", "run", "bad", "--rootfs", rootfs),
        *(*default, *arguments),
    )
    assert message in result.error()


@pytest.mark.needs("containers")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--network", "bridge:absent0"],
            "bad: there is no bridge absent0 where libvirt looks; make it: "
            "ip link add absent0 type bridge",
        ),
        (
            ["--network", "bridge:lo", "--dry-run"],
            "bad: lo is a network device, and no bridge; see those that are: "
            "ip link show type bridge",
        ),
        (
            ["--network", "network:absent"],
            "bad: libvirt has no network absent: ",
        ),
    ],
)
def test_what_libvirt_refuses_leaves_no_container(
    container_cli: CommandLine,
    busybox_rootfs: Path,
    arguments: list[str],
    message: str,
) -> None:
    error = container_cli(
        *("container", "run", "bad", "--rootfs", busybox_rootfs),
        *(*SLEEP, *arguments),
    ).error()
    assert error.startswith(message)


@pytest.mark.parametrize(
    ("verb", "name"),
    [
        ("run", ""),
        ("run", ".."),
        ("run", "a b"),
        ("run", "-x"),
        ("run", "x" * 64),
        ("show", "../x"),
        ("start", "a/b"),
        ("stop", "."),
        ("verify", ".x"),
        ("destroy", os.fsdecode(b"\xc3\xa4")),
    ],
)
def test_bad_names(
    cli: CommandLine, tmp_path: Path, verb: str, name: str
) -> None:
    arguments = ["--rootfs", str(tmp_path)] if verb == "run" else []
    # As after "--": else argparse takes -x for an option.
    result = cli("container", verb, *arguments, "--", name)
    assert NO_NAME in result.error()


@pytest.mark.needs("containers")
@pytest.mark.parametrize(
    "verb", ["show", "verify", "stop", "start", "destroy"]
)
def test_no_such_container(container_cli: CommandLine, verb: str) -> None:
    result = container_cli("container", verb, "absent")
    assert result.error(5) == "absent: no such container"
    # Not even a directory for state was made.
    assert not container_cli.state.exists()


@pytest.mark.needs("containers")
def test_name_taken_and_running(
    container_cli: CommandLine, busybox_rootfs: Path
) -> None:
    run = ("container", "run", "taken", "--rootfs", busybox_rootfs, *SLEEP)
    assert container_cli(*run).code == 0
    try:
        error = container_cli(*run).error()
        assert error == (
            "taken: the name is taken; destroy that container or take another"
        )
        error = container_cli("container", "start", "taken").error()
        assert error == "taken: is running already"
    finally:
        container_cli("container", "destroy", "taken")


@pytest.mark.needs("containers")
@pytest.mark.parametrize("name", ["dev", "proc", "sys", ".oldroot"])
@pytest.mark.parametrize("what", ["link", "file"])
def test_roots_that_would_lead_libvirt_astray(
    container_cli: CommandLine, busybox_rootfs: Path, name: str, what: str
) -> None:
    place = busybox_rootfs / name
    if place.exists():
        place.rmdir()
    if what == "link":
        place.symlink_to("/etc")
    else:
        place.touch()
    error = container_cli(
        *("container", "run", "astray", "--rootfs", busybox_rootfs, *SLEEP)
    ).error()
    assert error == f"{place}: has to be a directory, or absent"
    assert busybox_rootfs.stat().st_uid == 0


@pytest.mark.needs("containers")
@pytest.mark.parametrize(
    ("rootfs", "message"),
    [
        ("/nonexistent", "/nonexistent: No such file or directory"),
        ("/etc/passwd", "/etc/passwd: is no raw image of ext2"),
        ("", "No such file or directory"),
        ("/", "contains, or is in, [lxc_userns] state_path"),
        ("/proc/sys", "/proc/sys: has no /bin/sleep"),
    ],
)
def test_what_is_no_root_filesystem(
    container_cli: CommandLine, rootfs: str, message: str
) -> None:
    result = container_cli(
        "container", "run", "bad", "--rootfs", rootfs, *SLEEP
    )
    assert message in result.error()


@pytest.mark.needs("containers")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            "uid_maps =\ngid_maps =\n",
            "[libvirt] uid_maps, gid_maps: are empty, so that the "
            "container's root would be the host's; set both",
        ),
        ("gid_maps =\n", "[libvirt] gid_maps: is empty, but uid_maps is set"),
        (
            "uid_maps = 0:0:65536\ngid_maps = 0:0:65536\n",
            "0:0:65536 maps to host ID 0",
        ),
        ("uid_maps = 0:1900000000\n", SYNTAX),
        (
            "[lxc_userns]\nrootfs_strategy = fast\n",
            "[lxc_userns] rootfs_strategy",
        ),
        (
            "uid_maps =\ngid_maps =\n[lxc_userns]\nsubid_owner = lxc\n",
            "[lxc_userns] subid_owner = lxc: lxc has no subordinate user IDs "
            "in /etc/subuid; add the line lxc:",
        ),
        (
            "[lxc_userns]\nshift_workers = many\n",
            "[lxc_userns] shift_workers",
        ),
    ],
)
def test_configurations_that_cannot_be_used(
    container_cli: CommandLine, rootfs: Path, options: str, message: str
) -> None:
    text = container_cli.config.read_text()
    group = "" if options.startswith("[") else "[libvirt]\n"
    container_cli.config.write_text(f"{text}{group}{options}")
    result = container_cli(
        "container", "run", "bad", "--rootfs", rootfs, *SLEEP
    )
    assert message in result.error()
    container_cli.config.write_text(text)


@pytest.mark.needs("containers")
def test_directories_that_cannot_be_trusted(
    container_cli: CommandLine, rootfs: Path, tmp_path: Path
) -> None:
    run = ("container", "run", "bad", "--rootfs", rootfs, *SLEEP)
    state = container_cli.state
    state.mkdir(mode=0o755)
    state.chmod(0o755)
    assert f"{state} has mode 0755" in container_cli(*run).error()
    state.chmod(0o700)
    os.chown(state, 1000, 0)
    assert f"{state} belongs to user 1000" in container_cli(*run).error()
    state.rmdir()
    state.symlink_to(tmp_path)
    assert "[lxc_userns] state_path" in container_cli(*run).error()
    state.unlink()


@pytest.mark.needs("containers")
@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ("ro,mode=700", "Read-only file system; mount it for writing"),
        ("nr_inodes=1,mode=700", "No space left on device; make room there"),
        (None, " is not a directory; move it away, or take another path"),
    ],
)
def test_state_path_that_cannot_be_written_to(
    container_cli: CommandLine, rootfs: Path, options: str | None, reason: str
) -> None:
    state = container_cli.state
    if options is None:
        state.touch()
    else:
        state.mkdir()
        argv = ["mount", "-t", "tmpfs", "-o", options, "none", str(state)]
        subprocess.run(argv, check=True)
    try:
        run = ("container", "run", "bad", "--rootfs", rootfs, *SLEEP)
        error = container_cli(*run).error()
        assert error.startswith(f"[lxc_userns] state_path = {state}: ")
        assert reason in error
    finally:
        if options is None:
            state.unlink()
        else:
            subprocess.run(["umount", state], check=True)


@pytest.mark.needs("containers")
def test_a_run_path_that_containers_cannot_reach(
    container_cli: CommandLine, busybox_rootfs: Path, tmp_path: Path
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    text = container_cli.config.read_text()
    container_cli.config.write_text(
        text + f"[lxc_userns]\nrun_path = {closed}/run\n"
    )
    error = container_cli(
        "container", "run", "bad", "--rootfs", busybox_rootfs, *SLEEP
    ).error()
    assert "[lxc_userns] run_path" in error
    assert "users of containers cannot pass through" in error
    container_cli.config.write_text(text)


@pytest.mark.needs("containers")
def test_a_damaged_record_stops_its_instance_alone(
    container_cli: CommandLine, busybox_rootfs: Path
) -> None:
    records = container_cli.state / "instances"
    records.mkdir(parents=True)
    container_cli.state.chmod(0o700)
    (records / "odd.json").write_text("{")
    damaged = f"odd: its record {records}/odd.json is damaged"
    try:
        run = ("run", "good", "--rootfs", busybox_rootfs, *SLEEP)
        assert container_cli("container", *run).code == 0
        listed = container_cli("container", "list", "-f", "value")
        assert (listed.code, listed.out.split()[0]) == (0, "good")
        assert listed.err.startswith(f"warning: {damaged}")
        for command in ("destroy", "start", "show", "stop"):
            error = container_cli("container", command, "odd").error()
            assert error.startswith(damaged)
    finally:
        (records / "odd.json").unlink()
    assert container_cli("container", "destroy", "good").code == 0


MAP = "0:1800000000:65536"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--uid-map", MAP], "--gid-map: is needed beside the other map"),
        (["--gid-map", MAP], "--uid-map: is needed beside the other map"),
        (["--uid-map", "0:-1:5", "--gid-map", MAP], "--uid-map = 0:-1:5: "),
        (["--uid-map", MAP, "--gid-map", "0x0:1:1"], "--gid-map = 0x0:1:1: "),
        (["--uid-map", MAP, "--gid-map", ""], "--gid-map: expected guest:"),
        (
            ["--uid-map", "0:0:10", "--gid-map", MAP],
            "--uid-map = 0:0:10: 0:0:10 maps to host ID 0",
        ),
        (
            ["--uid-map", MAP, "--gid-map", "0:1800000000:5"],
            "--gid-map = 0:1800000000:5: guest group 5 (tty) is not mapped",
        ),
        (["--workers", "-1"], "--workers = -1: expected 0 to 256"),
        (["--workers", "257"], "--workers = 257: expected 0 to 256"),
    ],
)
def test_rootfs_shift_refuses(
    cli: CommandLine, rootfs: Path, arguments: list[str], message: str
) -> None:
    result = cli("rootfs", "shift", rootfs, *arguments)
    assert message in result.error()


@pytest.mark.parametrize("verb", ["shift", "unshift", "verify"])
@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("absent", "(?i)absent: no such (file or )?directory"),
        ("file", "(?i)file: not a directory"),
        ("link", "link is a symbolic link, to 'dir', and is not followed"),
        ("", "(?i)no such (file or )?directory"),
        (b"\xff\xfe", "(?i)no such (file or )?directory"),
        ("/", "is the root directory of this host|contains, or is in"),
    ],
)
def test_paths_that_cannot_be_worked_on(
    cli: CommandLine,
    tmp_path: Path,
    verb: str,
    path: str | bytes,
    message: str,
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("dir")
    (tmp_path / "dir").mkdir()
    error = cli("rootfs", verb, os.fsdecode(path), cwd=tmp_path).error()
    with pytest.raises(ValueError, match=message):
        raise ValueError(error)
    assert (tmp_path / "dir").stat().st_uid == 0


def test_unshift_of_what_was_not_shifted(
    cli: CommandLine, rootfs: Path
) -> None:
    error = cli("rootfs", "unshift", rootfs).error()
    assert error == f"{rootfs}: it was not shifted"


def test_verify_finds_owners_that_are_wrong(
    cli: CommandLine, rootfs: Path
) -> None:
    result = cli("rootfs", "verify", rootfs, "-f", "json")
    assert result.code == 1
    assert f"{rootfs}/etc: owner 0:0 should be {BASE}:{BASE}" in result.err
    assert '"wrong": ' in result.out


@pytest.mark.needs("ext4")
def test_read_only_filesystem(
    cli: CommandLine, loop_filesystem: FilesystemFactory
) -> None:
    path = loop_filesystem("ext4")
    subprocess.run(["mount", "-o", "remount,ro", path], check=True)
    error = cli("rootfs", "shift", path).error()
    assert error == f"{path}: read-only filesystem"


def test_no_permission(cli: CommandLine, rootfs: Path) -> None:
    error = cli("rootfs", "shift", rootfs, prefix=CAPLESS).error()
    assert "not permitted" in error
    result = cli("host", "check", "-f", "value", prefix=CAPLESS)
    assert result.code == 1
    assert "state_path FAIL " in result.out


def test_no_libvirtd(cli: CommandLine, rootfs: Path) -> None:
    # Where libvirt's sockets are out of sight.
    hidden = (
        *("unshare", "--mount", "--propagation", "private", "sh", "-ec"),
        'mount -t tmpfs none /run; exec "$@"',
        "sh",
    )
    for arguments in (
        ("run", "bad", "--rootfs", rootfs, *SLEEP),
        ("show", "absent"),
    ):
        result = cli("container", *arguments, prefix=hidden)
        # A container of others may have that name.
        assert result.error(4).startswith("libvirt: connect to lxc:///: ")
        assert "is libvirtd (or virtlxcd) running" in result.error(4)
    result = cli("host", "check", "-f", "value", prefix=hidden)
    assert result.code == 1
    assert "libvirt FAIL libvirt: connect to lxc:///" in result.out


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<domain", "domain XML: "),
        (b"", "domain XML: no element found"),
        (b"<x/>", "domain XML: root element 'x'"),
        (b"\xff", "not UTF-8 text"),
        (b"<!DOCTYPE x><domain/>", "domain XML: has a document type"),
    ],
)
@pytest.mark.parametrize("by", ["file", "stdin"])
def test_domain_idmap_refuses(
    cli: CommandLine, tmp_path: Path, by: str, content: bytes, message: str
) -> None:
    if by == "file":
        file = tmp_path / "domain.xml"
        file.write_bytes(content)
        result = cli("domain", "idmap", file)
    else:
        result = cli("domain", "idmap", "-", input=content)
    assert message in result.error()
    assert result.out == ""


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("/absent.xml", "/absent.xml: No such file or directory"),
        ("/etc", "/etc: Is a directory"),
    ],
)
def test_domain_idmap_of_no_file(
    cli: CommandLine, file: str, message: str
) -> None:
    assert cli("domain", "idmap", file).error() == message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "absent.conf"),
        (b"garbage\n", "garbage"),
        (b"\xff\xfe", "codec"),
    ],
)
def test_configuration_files_that_cannot_be_read(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    content: bytes | None,
    message: str,
) -> None:
    # A long path would be shortened in the message.
    monkeypatch.chdir(tmp_path)
    file = Path("absent.conf")
    if content is not None:
        file.write_bytes(content)
    for command in ("config check", "host check", "container list"):
        error = call("--config-file", file, *command.split()).error()
        assert error.startswith(f"--config-file = {file}: ")
        assert message in error


def test_a_configuration_file_of_another_user(tmp_path: Path) -> None:
    file = tmp_path / "x.conf"
    file.touch()
    check = ("--config-file", file, "config", "check", "-f", "json")
    warned = f"it belongs to user 4321; chown root {file}"
    assert warned not in call(*check).out
    os.chown(file, 4321, 0)
    assert warned in call(*check).out


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--debug",),
        ("bogus",),
        ("container",),
        ("container", "bogus"),
        ("container", "run", "x"),
        ("container", "run", "x", "--rootfs", "/x", "--memory", "much"),
        ("rootfs", "shift"),
        ("rootfs", "shift", "/x", "--unmapped", "lose"),
        ("host", "check", "-f", "bogus"),
        ("host", "check", "--bogus"),
    ],
)
def test_wrong_usage(arguments: tuple[str, ...]) -> None:
    result = call(*arguments)
    assert result.code == 2
    assert result.out == ""
    assert "error: " in result.err.splitlines()[-1]
    assert "Traceback" not in result.err


# With the latter it is written in the command, and not at the end.
@pytest.mark.parametrize(
    ("unbuffered", "where"), [("", "standard output: "), ("1", "")]
)
def test_output_that_goes_nowhere(
    cli: CommandLine, monkeypatch: pytest.MonkeyPatch,
    unbuffered: str, where: str,
) -> None:  # fmt: skip
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    command = [str(PROGRAM), "--config-file", str(cli.config)]
    command += ["config", "check"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 1
    assert done.stderr == f"error: {where}No space left on device\n"
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [str(PROGRAM), "--version"], stdout=full, stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip
    why = "error: standard output: No space left on device\n"
    assert (done.returncode, done.stderr) == (1, why)
    closed = ("sh", "-c", 'exec "$@" >&-', "sh")
    assert call(*command[1:], prefix=closed).err == ""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        command, stdout=writer, stderr=subprocess.PIPE, text=True
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize("name", ["INT", "TERM", "HUP"])
def test_interrupted(cli: CommandLine, tmp_path: Path, name: str) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    argv = [str(PROGRAM), "--config-file", str(cli.config)]
    # A shell may have started the tests with some ignored.
    with subprocess.Popen(
        ["env", "--default-signal", *argv, "domain", "idmap", str(fifo)],
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        # It is there once the other end is opened, and reads what never comes.
        writer = os.open(fifo, os.O_WRONLY)
        process.send_signal(getattr(signal, f"SIG{name}"))
        _, err = process.communicate(timeout=LONGEST)
        os.close(writer)
    assert (process.returncode, err) == (130, "interrupted\n")
