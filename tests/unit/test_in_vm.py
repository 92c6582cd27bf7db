# SPDX-License-Identifier: Apache-2.0
"""``tools/in-vm``, as far as no guest is needed for it."""

import os
import sys
import tarfile
from io import BytesIO
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[2] / "tools"
sys.path.insert(0, str(TOOLS))

from in_vm import checkout, guest, image  # noqa: E402
from in_vm.errors import InVmError  # noqa: E402


def test_checkout_is_found_from_within() -> None:
    root = TOOLS.parent
    assert checkout.find_checkout(root / "tests/unit") == root


def test_no_checkout(tmp_path: Path) -> None:
    with pytest.raises(InVmError, match="not in a checkout"):
        checkout.find_checkout(tmp_path)


def test_no_qemu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InVmError, match="install the package qemu-system-x86"):
        guest.check_qemu()


def test_no_debootstrap(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InVmError, match="install the package debootstrap"):
        image.check_host(tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_not_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(InVmError, match="run as root once"):
        image.check_host(tmp_path / "cache")


def test_no_space(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(image, "PROGRAMS", {})
    monkeypatch.setattr(image, "SPACE", 1 << 62)
    with pytest.raises(InVmError, match="MiB free"):
        image.check_host(tmp_path)


def test_only_what_is_installed_decides_upon_the_image(
    tmp_path: Path,
) -> None:
    (tmp_path / "tools").mkdir()
    for name in ("install-system-packages", "make-venv"):
        (tmp_path / "tools" / name).touch()
    project = tmp_path / "pyproject.toml"

    def key(dependency: str, bench: str) -> str:
        project.write_text(
            f"[project]\ndependencies = ['{dependency}']\n"
            "[project.optional-dependencies]\ntest = []\ndocs = []\n"
            f"bench = ['{bench}']\n"
        )
        return image.recipe_key(tmp_path)

    assert key("a", "b") == key("a", "c") != key("d", "c")


def disk(**files: bytes) -> BytesIO:
    """A disk as a guest writes it: an archive, then zeros."""
    made = BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, BytesIO(data))
    made.write(bytes(1 << 16))
    return made


@pytest.mark.allow_subprocess
def test_results_come_back(tmp_path: Path) -> None:
    with (tmp_path / "disk").open("w+b") as returned:
        returned.write(disk(status=b"3\n", journal=b"said\n").getvalue())
        assert guest.read_results(returned, None) == 3
        assert guest.read_results(returned, tmp_path) == 3
    assert (tmp_path / "journal").read_text() == "said\n"


@pytest.mark.parametrize("returned", [BytesIO(bytes(1 << 16)), BytesIO()])
def test_guest_without_results(returned: BytesIO) -> None:
    assert guest.read_results(returned, None) is None


def test_panic_is_named() -> None:
    log = "booting\n[1.2] Kernel panic - not syncing: no init\n[1.3] more\n"
    assert guest.describe_death(log, began=False) == (
        "the guest ended before the command began: "
        "[1.2] Kernel panic - not syncing: no init"
    )
    assert "its console ends with" in guest.describe_death("a\nb\n", True)
