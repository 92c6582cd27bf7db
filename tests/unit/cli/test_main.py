# SPDX-License-Identifier: Apache-2.0
"""The command line: commands, errors, exit codes, progress."""

import errno
import json
import os
import signal
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import NoReturn

import cliff.command
import pytest

from lxc_userns import rootfs
from lxc_userns.cli import base, container_life, main
from lxc_userns.cli.exit_codes import exit_code
from lxc_userns.config.load import load_conf
from lxc_userns.containers import Containers
from lxc_userns.exceptions import (
    ConfigError,
    InspectionError,
    InstanceError,
    IsolationError,
    LibvirtError,
    LibvirtUnreachableError,
    NoSuchContainerError,
    NotRunningError,
    RootfsError,
)
from lxc_userns.idmap import IdMap, IdMaps

ID_MAP = "0:1900000000:65536"
MAPS = IdMaps(IdMap.parse(ID_MAP), IdMap.parse(ID_MAP))
XML = """\
<domain type='lxc'>
  <name>web1</name>
  <memory unit='MiB'>64</memory>
  <os><type>exe</type><init>/sbin/init</init></os>
  <devices>
    <filesystem type='mount'><source dir='/srv'/><target dir='/'/></filesystem>
  </devices>
</domain>
"""

COMMANDS = {
    "complete",
    "config check",
    "container destroy",
    "container exec",
    "container list",
    "container logs",
    "container restart",
    "container run",
    "container show",
    "container start",
    "container stop",
    "container verify",
    "container wait",
    "domain audit",
    "domain idmap",
    "host check",
    "lease acquire",
    "gc",
    "lease gc",
    "lease list",
    "lease release",
    "rootfs mount",
    "rootfs pack",
    "rootfs shift",
    "rootfs unmount",
    "rootfs unpack",
    "rootfs unshift",
    "rootfs verify",
}


@pytest.fixture
def config(tmp_path: Path) -> str:
    file = tmp_path / "test.conf"
    file.write_text(
        f"[libvirt]\nuid_maps = {ID_MAP}\ngid_maps = {ID_MAP}\n"
        f"[lxc_userns]\nstate_path = {tmp_path}/state\nshift_workers = 3\n"
        "unmapped_ids = error\n"
    )
    return str(file)


def call(*arguments: str) -> int:
    return main.main(arguments)


def test_all_commands_are_there_and_documented(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert call("--help") == 0
    out = capsys.readouterr().out
    for name in COMMANDS:
        (line,) = [
            each for each in out.splitlines() if each.strip().startswith(name)
        ]
        assert len(line.strip().removeprefix(name).strip()) > 10
    assert "Could not load" not in out


def test_help_of_a_group(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("container", "--help") == 0
    assert "  container run\n" in capsys.readouterr().out


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_tells_a_wrong_option_in_one_line(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(*name.split(), "--bogus") == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("error: ")
    assert err.endswith(f"; see lxc-userns {name} --help\n")


@pytest.mark.parametrize(
    "arguments",
    [("container", "list"), ("container", "show", "web"), ("lease", "list"),
     ("container", "verify", "web"), ("container", "stop", "web"),
     ("lease", "gc"), ("lease", "acquire", "web")],
)  # fmt: skip
def test_what_only_root_can_see(
    arguments: tuple[str, ...],
    config: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """An empty list would say that there are none."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    # Of "container verify" 1 would be a container that differs.
    assert call("--config-file", config, *arguments) == 4
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "this is user 1000, and only root can see" in err
    assert err.endswith("; run this as root\n")


def test_tables_are_not_in_the_notation_of_python(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    config: str,
) -> None:
    report = rootfs.ShiftReport(10, 8, 2, (5, 7), (), 3, 1)
    monkeypatch.setattr(rootfs, "shift", lambda *_, **__: report)
    arguments = ("--config-file", config, "rootfs", "shift", "/x", "--dry-run")
    assert call(*arguments) == 0
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in capsys.readouterr().out.splitlines()
        if line.startswith("|")
    ]
    assert ["unmapped_uids", "5, 7"] in rows
    assert ["unmapped_gids", ""] in rows
    shown = base.for_table([("web", None, []), ("db", 1, ["a"])])
    assert shown == [("web", "", ""), ("db", 1, "a")]


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_help_of_each_command(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(*name.split(), "--help") == 0
    assert f"lxc-userns {name}" in capsys.readouterr().out


def test_no_command_reads_what_else_is_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Reading it takes longer than most commands."""
    app = main.LxcUserns()
    for name in sorted(COMMANDS):
        factory, _, _ = app.command_manager.find_command(name.split())
        command = factory(app, None, cmd_name=name)
        with monkeypatch.context() as patch:
            # Kept once it was read; not by every version.
            patch.setattr(cliff.command, "_dists_by_mods", None, raising=False)
            patch.setattr(metadata, "distributions", None)
            command.get_parser(name)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--version") == 0
    version = metadata.version("lxc-userns")
    assert capsys.readouterr().out == f"lxc-userns {version}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bogus"], "error: unknown command 'bogus'; see lxc-userns --help"),
        (
            ["rootfs"],
            "error: incomplete or unknown command, try: rootfs shift, "
            "rootfs unshift, rootfs verify, rootfs unpack, rootfs pack, "
            "rootfs mount, rootfs unmount",
        ),
        ([], "error: no command; see lxc-userns --help"),
        (["--debug"], "error: no command; see lxc-userns --help"),
        (
            ["bogus", "--help"],
            "error: unknown command 'bogus'; see lxc-userns --help",
        ),
        (
            ["help", "bogus"],
            "error: unknown command 'bogus'; see lxc-userns --help",
        ),
        (
            ["rootfs", "bogus", "--help"],
            "error: incomplete or unknown command, try: rootfs shift, "
            "rootfs unshift, rootfs verify, rootfs unpack, rootfs pack, "
            "rootfs mount, rootfs unmount",
        ),
        (["--bogus"], "error: unknown option --bogus; see lxc-userns --help"),
        (
            ["--config-file"],
            "error: argument --config-file: expected one "
            "argument; see lxc-userns --help",
        ),
        (
            ["container", "list", "--bogus"],
            "error: unrecognized arguments: "
            "--bogus; see lxc-userns container list --help",
        ),
        (
            ["container", "run", "web", "--rootfs", "/x", "--memory", "1x"],
            "error: argument --memory: 1x: expected a number of MiB, or one "
            "with a unit, as 512M, 1.5GiB or 2g; see lxc-userns container run "
            "--help",
        ),
    ],
)
def test_unknown_commands(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(*arguments) == 2
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"{message}\n")


def test_errors_take_one_line() -> None:
    error = RootfsError("/x", "two\n  lines")
    error.add_note("and a note")
    assert main.describe(error) == "/x: two\n  lines; and a note"
    assert main.describe(FileNotFoundError(2, "No such", "/y")) == (
        "/y: No such"
    )
    assert main.describe(OSError(28, "No space")) == "No space"
    assert main.describe(KeyError()) == "KeyError"
    with pytest.raises(UnicodeEncodeError) as caught:
        "/\xe9".encode("ascii")
    assert main.describe(caught.value) == (
        "'/\xe9': the encoding of the locale, ascii, cannot express it; "
        "set LC_ALL=C.UTF-8"
    )


def call_failing(error: BaseException, *arguments: str) -> int:
    """Verify a container by a command, which raises this."""

    class FailingContainers(Containers):
        def __init__(self) -> None:
            """Without a manager, which it has no use for."""

        def verify(self, name: str, **_: object) -> NoReturn:
            raise error

    class Failing(container_life.Verify):
        containers = FailingContainers()

    def make() -> main.LxcUserns:
        program = main.LxcUserns()
        program.command_manager.add_command("container verify", Failing)
        return program

    return main.main([*arguments, "container", "verify", "x"], make)


def test_an_error_on_standard_error(
    capsys: pytest.CaptureFixture[str], config: str
) -> None:
    error = InstanceError("web1", "a\nb")
    assert call_failing(error, "--config-file", config) == 1
    assert capsys.readouterr() == ("", "error: web1: a b\n")


def test_a_traceback_only_if_asked(
    capsys: pytest.CaptureFixture[str], config: str
) -> None:
    error = InstanceError("web1", "why")
    assert call_failing(error, "--debug", "--config-file", config) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: web1: why\nTraceback")


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (1, InstanceError("web1", "is running already")),
        (1, IsolationError("web1", "differs; it was destroyed")),
        (1, ConfigError("[libvirt] uid_maps", "x", "is no map")),
        (1, LibvirtError("define web1", "no")),
        (1, ValueError("a fault of ours")),
        (4, LibvirtUnreachableError("connect to lxc:///", "no")),
        (4, InspectionError("web1", "EIO")),
        (4, NotRunningError("web1")),
        (4, MemoryError()),
        (4, OSError(errno.EMFILE, "Too many open files")),
        (5, NoSuchContainerError("web1")),
    ],
    ids=repr,
)
def test_exit_codes(config: str, code: int, error: Exception) -> None:
    assert call_failing(error, "--config-file", config) == code


@pytest.mark.parametrize(
    ("error", "cause", "root", "user"),
    [
        (ConfigError("x", "", "y"), PermissionError(errno.EPERM, ""), 1, 4),
        (ConfigError("x", "", "y"), OSError(errno.ENOMEM, ""), 4, 4),
        (RootfsError("x", "is used"), BlockingIOError(errno.EAGAIN, ""), 1, 1),
        (InstanceError("x", "ended"), NotRunningError("x"), 1, 1),
        (IsolationError("x", "y"), OSError(errno.ENOMEM, ""), 1, 1),
    ],
    ids=repr,
)
def test_exit_codes_by_the_cause(
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    cause: Exception,
    root: int,
    user: int,
) -> None:
    error.__cause__ = cause
    for number, code in ((0, root), (1000, user)):
        monkeypatch.setattr(os, "geteuid", lambda number=number: number)
        assert exit_code(error) == code


@pytest.mark.allow_subprocess
@pytest.mark.parametrize(
    ("module", "code", "said"),
    [
        ("cliff.app", -signal.SIGINT, ""),
        ("cliff.lister", 130, "interrupted\n"),
    ],
)
def test_interrupted_while_it_is_loaded(
    module: str, code: int, said: str
) -> None:
    """No one is shown a traceback."""
    script = """
import os, signal, sys
# A shell has what it runs in the background ignore it.
signal.signal(signal.SIGINT, signal.default_int_handler)
module = sys.argv[1]
def hook(event, arguments):
    if event == "import" and arguments[0] == module:
        os.kill(os.getpid(), signal.SIGINT)
sys.addaudithook(hook)
from lxc_userns.__main__ import main
sys.argv[1:] = ["domain", "audit", "/dev/null"]
sys.exit(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", script, module],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (code, said)


def test_interrupted(capsys: pytest.CaptureFixture[str], config: str) -> None:
    assert call_failing(KeyboardInterrupt(), "--config-file", config) == 130
    assert capsys.readouterr() == ("", "interrupted\n")


def test_shift_by_the_configuration(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    config: str,
    tmp_path: Path,
) -> None:
    calls = []

    def shift(*arguments: object, **named: object) -> rootfs.ShiftReport:
        calls.append((arguments, named))
        return rootfs.ShiftReport(10, 8, 2, (5,), (6, 7), 3, 1)

    monkeypatch.setattr(rootfs, "shift", shift)
    tree = str(tmp_path / "tree")
    Path(tree).mkdir()
    arguments = ("--config-file", config, "rootfs", "shift", tree)
    assert call(*arguments, "-f", "json") == 0
    assert json.loads(capsys.readouterr().out) == {
        "inodes": 10,
        "shifted": 8,
        "unmapped": 2,
        "unmapped_uids": [5],
        "unmapped_gids": [6, 7],
        "devices": 3,
        "linked_outside": 1,
        "split_links": 0,
        "read_only": 0,
    }
    other = "0:1800000000:65536"
    assert (
        call(
            *(
                *arguments,
                "--uid-map",
                other,
                "--gid-map",
                ID_MAP,
                "--dry-run",
            ),
            *("--workers", "0", "--unmapped", "keep", "--strict"),
        )
        == 0
    )
    named = {
        "unmapped": "error",
        "workers": 3,
        "dry_run": False,
        "progress": None,
        "strict": False,
        "recheck": False,
    }
    given = IdMaps(IdMap.parse(other), IdMap.parse(ID_MAP))
    assert isinstance(calls[0][1].pop("fd"), int)
    assert calls == [
        ((tree, MAPS), named),
        (
            (tree, given),
            named
            | {"fd": None, "unmapped": "keep", "workers": None}
            | {"dry_run": True, "strict": True},
        ),
    ]


def test_verify_fails_on_findings(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    config: str,
) -> None:
    report = rootfs.VerifyReport(
        10, 1, 0, (rootfs.Finding("/x/y", "owner 0:0"),)
    )
    monkeypatch.setattr(rootfs, "verify", lambda *_, **__: report)
    arguments = ("--config-file", config, "rootfs", "verify", "/x")
    assert call(*arguments, "-f", "json") == 1
    out, err = capsys.readouterr()
    assert json.loads(out) == {"inodes": 10, "wrong": 1, "unmapped": 0}
    assert err == "/x/y: owner 0:0\n"
    good = rootfs.VerifyReport(10, 0, 0)
    monkeypatch.setattr(rootfs, "verify", lambda *_, **__: good)
    assert call(*arguments) == 0


def test_domain_idmap(
    config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "domain.xml"
    file.write_text(XML)
    assert call("--config-file", config, "domain", "idmap", str(file)) == 0
    out = capsys.readouterr().out
    assert '<uid start="0" target="1900000000" count="65536"/>' in out
    assert "<privnet/>" in out
    file.write_text(out)
    assert call("--config-file", config, "domain", "idmap", str(file)) == 0
    assert capsys.readouterr().out == out


def test_later_configuration_files_prevail(
    config: str, tmp_path: Path
) -> None:
    later = tmp_path / "later.conf"
    later.write_text("[lxc_userns]\nshift_workers = 4\n")
    conf = load_conf([config, str(later)])
    assert conf.lxc_userns.shift_workers == 4
    assert conf.lxc_userns.unmapped_ids == "error"


class Terminal:
    """Standard error of somebody who looks."""

    encoding = "utf-8"

    def __init__(self) -> None:
        self.text = ""

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> None:
        self.text += text

    def flush(self) -> None:
        pass

    def fileno(self) -> int:
        raise OSError("not a file")


def test_progress_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with base.progress_bar("shift") as progress:
        assert progress is not None
        progress(1234)
        progress(17)  # Another walk.
    assert "shift: 1234 inodes" in terminal.text
    assert "shift: 17 inodes" in terminal.text


def test_progress_begins_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock between processes has a tracker, a process, in Python 3.14."""

    def refuse(*_: object) -> NoReturn:
        pytest.fail("a lock between processes was made")

    # It is kept once it is made.
    monkeypatch.setattr("tqdm.std.TqdmDefaultWriteLock.__init__", refuse)
    monkeypatch.delattr("tqdm.std.tqdm._lock", raising=False)
    monkeypatch.setattr(sys, "stderr", Terminal())
    with base.progress_bar("shift") as progress:
        assert progress is not None
        progress(1)


def test_progress_of_an_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "archive").write_bytes(bytes(4096))
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    for name, shown in (("archive", " 25%|"), ("absent", "1.00kB")):
        with base.unpack_bar(str(tmp_path / name)) as progress:
            assert progress is not None
            progress(1024)
        assert f"unpack: {shown}" in terminal.text


def test_no_progress_into_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    with base.progress_bar("shift") as progress:
        assert progress is None
    assert capsys.readouterr() == ("", "")


def test_what_exec_needs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["container", "exec"]) == 2
    assert "arguments are required: NAME;" in capsys.readouterr().err
