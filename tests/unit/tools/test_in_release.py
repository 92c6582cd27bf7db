# SPDX-License-Identifier: Apache-2.0
"""``tools/in-release``, as far as no root of a release is needed for it."""

import dataclasses
import os
import subprocess
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

import pytest

TOOLS = Path(__file__).parents[3] / "tools"
sys.path.insert(0, str(TOOLS))

from in_release import releases, root, run, settings  # noqa: E402
from platforms.cache import Needs  # noqa: E402
from platforms.errors import PlatformError  # noqa: E402


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The program itself."""
    loader = SourceFileLoader("in_release_program", str(TOOLS / "in-release"))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    module = ModuleType(loader.name)
    loader.exec_module(module)
    return module


def refusal(
    program: ModuleType, monkeypatch: pytest.MonkeyPatch, *arguments: str
) -> str:
    """Run the program and return what it says: one line."""
    monkeypatch.setattr(sys, "argv", ["in-release", *arguments])
    with pytest.raises(PlatformError) as caught:
        program.main()
    text = str(caught.value)
    assert len(text.splitlines()) == 1
    return text


def test_unknown_release(
    program: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert refusal(program, monkeypatch, "potato", "true") == (
        "release 'potato': unknown; "
        "choose one of bookworm, trixie, forky, jammy, noble"
    )


def test_no_checkout(
    program: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    said = refusal(program, monkeypatch, "trixie", "true")
    assert said.endswith("not in a checkout of lxc-userns; change into one")


def test_not_root(
    program: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(TOOLS)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    cache = tmp_path / "cache"
    arguments = ["--cache", str(cache), "trixie", "true"]
    said = refusal(program, monkeypatch, *arguments)
    assert said == "not root; run as root"
    assert not cache.exists()


def test_no_program(
    program: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(TOOLS)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("PATH", str(tmp_path))
    said = refusal(program, monkeypatch, "trixie", "true")
    assert said.startswith("cp is not installed; install the packages")


def test_no_debootstrap(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("PATH", str(tmp_path))
    release = releases.find_release("trixie")
    keyring = release.distribution.keyring
    monkeypatch.setattr(Path, "exists", lambda path: str(path) == keyring)
    with pytest.raises(PlatformError, match="install the package debootstrap"):
        root.ensure_root(tmp_path / "cache", TOOLS.parent, release)
    assert not (tmp_path / "cache").is_dir()


def test_no_keys_at_all(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(Path, "exists", lambda _: False)
    with pytest.raises(PlatformError, match="debian-archive-keyring"):
        root.ensure_root(
            tmp_path, TOOLS.parent, releases.find_release("noble")
        )


def test_no_space_for_a_copy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(run, "SPACE", 1 << 62)
    disk = tmp_path / "trixie-key/disk"
    with pytest.raises(PlatformError, match="MiB free, the copy"):
        run.run_command(disk, TOOLS.parent, [], ["true"])
    assert list(tmp_path.iterdir()) == []


def test_release_that_cannot_be_had(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(argv: list[str], **_: object) -> object:
        scratch = Path(argv[argv.index("trixie") - 1])
        (scratch / "log").write_text("I: going\nE: Failed getting it\n")
        return subprocess.CompletedProcess(argv, root.UNAVAILABLE)

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(root, "NEEDS", Needs("root", space=1, programs={}))
    monkeypatch.setattr(root, "write_settings", Path.mkdir)
    monkeypatch.setattr(root, "write_archive", lambda *_: None)
    monkeypatch.setattr(root, "find_mirror", lambda _: "")
    monkeypatch.setattr(subprocess, "run", fail)
    release = releases.find_release("trixie")
    release = dataclasses.replace(
        release,
        distribution=dataclasses.replace(
            release.distribution, keyring=str(tmp_path)
        ),
    )
    with pytest.raises(PlatformError) as caught:
        root.ensure_root(tmp_path / "cache", TOOLS.parent, release)
    assert str(caught.value).startswith(
        "release trixie: cannot be had: E: Failed getting it; see"
    )
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["lock"]


def test_root_is_another_one_for_another_release() -> None:
    found = {repr(release) for release in releases.RELEASES.values()}
    assert len(found) == len(releases.RELEASES)


def test_variables_of_the_host_stay_there() -> None:
    caller = {
        "CI": "true",
        "LC_ALL": "C",
        "http_proxy": "http://proxy",
        "PIP_INDEX_URL": "https://index",
        "PIP_FIND_LINKS": "/wheels",
        "PATH": "/opt/python",
        "HOME": "/home/alice",
        "TMPDIR": "/home/alice/tmp",
        "VIRTUAL_ENV": "/home/alice/venv",
        "SECRET": "x",
    }
    assert settings.make_environment(caller) == {
        "CI": "true",
        "LC_ALL": "C",
        "http_proxy": "http://proxy",
        "PIP_INDEX_URL": "https://index",
        "HOME": "/root",
        "PATH": settings.PATH,
    }


def test_pip_without_directories_of_the_host(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "pip.conf").write_text(
        "[global]\ncert = /etc/ca.pem\nfind-links = /opt/wheels\n"
        "extra-index-url =\n  file:///opt/simple\n  https://other/simple\n"
    )
    monkeypatch.setattr(settings, "PIP_FILES", [])
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    assert dict(settings.read_pip_settings()["global"]) == {
        "cert": "/etc/ca.pem",
        "extra-index-url": "https://other/simple",
    }


DUMP = """\
Dir "/";
Acquire "";
Acquire::AllowInsecureRepositories "0";
Acquire::http "";
Acquire::http::Proxy "http://proxy:3142";
Acquire::http::Proxy-Auto-Detect "/usr/bin/detect";
Acquire::Check-Date "false";
DPkg::Pre-Install-Pkgs:: "/usr/sbin/dpkg-preconfigure";
"""
TARGETS = """\
Debian-Security main http://mirror/debian-security/
Debian contrib http://mirror/contrib/
Debian main http://mirror/debian/
"""


def test_apt_as_far_as_it_fetches(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(argv: list[str], **_: object) -> object:
        stdout = DUMP if argv[0] == "apt-config" else TARGETS
        return subprocess.CompletedProcess(argv, 0, stdout, "")

    monkeypatch.setattr(subprocess, "run", answer)
    assert "".join(settings.list_apt_options()) == (
        'Acquire::http "";\n'
        'Acquire::http::Proxy "http://proxy:3142";\n'
        'Acquire::Check-Date "false";\n'
    )
    assert settings.find_mirror(releases.DEBIAN) == "http://mirror/debian"
    assert settings.find_mirror(releases.UBUNTU) == ""


def test_settings_as_files(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(settings, "list_apt_options", lambda: iter(["a;\n"]))
    monkeypatch.setattr(settings, "APT_AUTH", [])
    monkeypatch.setattr(settings, "PIP_FILES", [])
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    authorities = tmp_path / "ca.pem"
    authorities.write_text("one more")
    monkeypatch.setenv("PIP_CERT", str(authorities))
    made = tmp_path / "root"
    (made / "etc").mkdir(parents=True)
    (made / "etc/resolv.conf").symlink_to("/run/stub-resolv.conf")
    settings.write_settings(made)
    copy = made / authorities.relative_to("/")
    assert copy.read_text() == "one more"
    assert (made / "etc/apt/apt.conf.d/99host").read_text() == "a;\n"
    assert (made / "etc/pip.conf").read_text() == ""
