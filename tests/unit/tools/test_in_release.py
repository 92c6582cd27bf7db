# SPDX-License-Identifier: Apache-2.0
"""``tools/in-release``, as far as no root of a release is needed for it."""

import dataclasses
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.unit.tools.programs import TOOLS, load_program, write_program

sys.path.insert(0, str(TOOLS))

from in_release import releases, root, run, settings
from platforms.cache import Needs
from platforms.errors import PlatformError


@pytest.fixture
def program() -> SimpleNamespace:
    """The program itself."""
    return load_program("in-release")


def refusal(program: SimpleNamespace, *arguments: str) -> str:
    """Run the program and return what it says: one line."""
    with pytest.raises(PlatformError) as caught:
        program.main([*arguments])
    text = str(caught.value)
    assert len(text.splitlines()) == 1
    return text


def test_unknown_release(program: SimpleNamespace) -> None:
    assert refusal(program, "potato", "true") == (
        "release 'potato': unknown; "
        "choose one of bookworm, trixie, forky, jammy, noble"
    )


def test_no_checkout(
    program: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    said = refusal(program, "trixie", "true")
    assert said.endswith("not in a checkout of lxc-userns; change into one")


def test_not_root(
    program: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(TOOLS)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    cache = tmp_path / "cache"
    arguments = ["--cache", str(cache), "trixie", "true"]
    said = refusal(program, *arguments)
    assert said == "not root; run as root"
    assert not cache.exists()


def test_no_program(
    program: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(TOOLS)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("PATH", str(tmp_path))
    said = refusal(program, "trixie", "true")
    assert said.startswith("cp is not installed; install the packages")


def with_keyring(name: str, keyring: Path) -> releases.Release:
    """A release whose keys are somewhere else."""
    release = releases.find_release(name)
    distribution = dataclasses.replace(
        release.distribution, keyring=str(keyring)
    )
    return dataclasses.replace(release, distribution=distribution)


def test_no_debootstrap(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("PATH", str(tmp_path))
    release = with_keyring("trixie", tmp_path)
    with pytest.raises(PlatformError, match="install the package debootstrap"):
        root.ensure_root(tmp_path / "cache", TOOLS.parent, release)
    assert not (tmp_path / "cache").is_dir()


def test_no_keys_at_all(tmp_path: Path) -> None:
    release = with_keyring("noble", tmp_path / "ubuntu.gpg")
    with_keys = with_keyring("trixie", tmp_path / "debian-archive-keyring.gpg")
    with pytest.raises(PlatformError, match="debian-archive-keyring"):
        root.ensure_root(tmp_path, TOOLS.parent, release, with_keys)


def test_no_space_for_a_copy(tmp_path: Path) -> None:
    disk = tmp_path / "trixie-key/disk"
    with pytest.raises(PlatformError, match="MiB free, the copy"):
        run.run_command(disk, TOOLS.parent, [], ["true"], 1 << 62)
    assert list(tmp_path.iterdir()) == []


def test_release_that_cannot_be_had(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(
        _disk: Path,
        scratch: Path,
        _checkout: Path,
        release: releases.Release,
        _keyring: Path,
    ) -> None:
        (scratch / "log").write_text("I: going\nE: Failed getting it\n")
        root.check_status(root.UNAVAILABLE, scratch, release)

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    release = with_keyring("trixie", tmp_path)
    with pytest.raises(PlatformError) as caught:
        root.ensure_root(
            tmp_path / "cache",
            TOOLS.parent,
            release,
            needs=Needs("root", space=1, programs={}),
            make_root=fail,
        )
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
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    assert dict(settings.read_pip_settings([])["global"]) == {
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


@pytest.fixture
def apt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Programs of apt, which know the settings above."""
    programs = tmp_path / "bin"
    for name, said in (("apt-config", DUMP), ("apt-get", TARGETS)):
        write_program(programs, name, f"cat <<'.'\n{said}.\n")
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")


@pytest.mark.allow_subprocess
@pytest.mark.usefixtures("apt")
def test_apt_as_far_as_it_fetches() -> None:
    assert "".join(settings.list_apt_options()) == (
        'Acquire::http "";\n'
        'Acquire::http::Proxy "http://proxy:3142";\n'
        'Acquire::Check-Date "false";\n'
    )
    assert settings.find_mirror(releases.DEBIAN) == "http://mirror/debian"
    assert settings.find_mirror(releases.UBUNTU) == ""


@pytest.mark.allow_subprocess
@pytest.mark.usefixtures("apt")
def test_settings_as_files(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    authorities = tmp_path / "ca.pem"
    authorities.write_text("one more")
    monkeypatch.setenv("PIP_CERT", str(authorities))
    made = tmp_path / "root"
    (made / "etc").mkdir(parents=True)
    (made / "etc/resolv.conf").symlink_to("/run/stub-resolv.conf")
    settings.write_settings(made, apt_auth=[], pip_files=[])
    copy = made / authorities.relative_to("/")
    assert copy.read_text() == "one more"
    options = (made / "etc/apt/apt.conf.d/99host").read_text()
    assert options == "".join(settings.list_apt_options()) != ""
    assert (made / "etc/pip.conf").read_text() == ""
