# SPDX-License-Identifier: Apache-2.0
"""Settings of libvirt's hook: kept as long as nothing has changed."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from oslo_config import cfg

from lxc_userns.config import snapshot
from lxc_userns.config.settings import Settings

Load = Callable[[], Settings]
FILE = "[lxc_userns]\nhook_timeout = 7\nstate_path = /var/lib/x\n"


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Count of reads of the configuration by oslo.config."""
    made: list[str] = []
    read = cfg.ConfigOpts.__call__

    def count(conf: cfg.ConfigOpts, *given: Any, **named: Any) -> Any:
        made.append("read")
        return read(conf, *given, **named)

    monkeypatch.setattr(cfg.ConfigOpts, "__call__", count)
    # What was just written is long settled.
    now = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: now() + 10**12)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    (tmp_path / "x.conf").write_text(FILE)
    return made


@pytest.fixture
def load(tmp_path: Path, reads: list[str]) -> Load:
    """Load the settings of a file, as a call of the hook does."""
    files = [str(tmp_path / "x.conf")]
    return lambda: snapshot.load_settings(files, str(tmp_path / "kept"))


def test_is_read_once(load: Load, reads: list[str]) -> None:
    first, second = load(), load()
    assert (first.values, first.maps) == (second.values, second.maps)
    assert str(first.missing) == str(second.missing)
    assert (second.hook_timeout, second.state_path) == (7, "/var/lib/x")
    assert len(reads) == 1


def test_is_read_again_when_its_file_has_changed(
    load: Load, reads: list[str], tmp_path: Path
) -> None:
    load()
    for timeout in (13, 7):
        text = FILE.replace("= 7", f"= {timeout}")
        (tmp_path / "x.conf").write_text(text)
        assert load().hook_timeout == timeout
        assert load().hook_timeout == timeout
    assert len(reads) == 3


@pytest.mark.parametrize(
    "path",
    [
        "lxc-userns.conf",
        "lxc-userns.conf.d/a.conf",
        ".lxc-userns/lxc-userns.conf.d/a.conf",
    ],
)
def test_is_read_again_when_a_usual_file_has_come_or_gone(
    path: str, reads: list[str], tmp_path: Path
) -> None:
    def load() -> int:
        place = str(tmp_path / "kept")
        return snapshot.load_settings(None, place).hook_timeout

    before = load()
    file = tmp_path / "home" / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("[lxc_userns]\nhook_timeout = 13\n")
    assert (load(), load()) == (13, 13)
    file.unlink()
    assert (load(), load()) == (before, before)
    assert len(reads) == 3


def test_another_list_of_files(
    load: Load, reads: list[str], tmp_path: Path
) -> None:
    load()
    other = tmp_path / "y.conf"
    other.write_text("[lxc_userns]\nhook_timeout = 3\n")
    place = str(tmp_path / "kept")
    assert snapshot.load_settings([str(other)], place).hook_timeout == 3
    assert load().hook_timeout == 7
    assert len(reads) == 3


def spoil_text(file: Path) -> None:
    file.write_text("{")


def spoil_kind(file: Path) -> None:
    file.write_text("[]")


def spoil_mode(file: Path) -> None:
    file.chmod(0o644)


def spoil_place(file: Path) -> None:
    file.parent.chmod(0o755)


def spoil_link(file: Path) -> None:
    file.rename(file.with_suffix(".other"))
    file.symlink_to(file.with_suffix(".other"))


def spoil_identities(file: Path) -> None:
    kept = json.loads(file.read_text())
    kept["identities"] = {}
    kept["values"]["[lxc_userns] hook_timeout"] = 99
    file.write_text(json.dumps(kept))


@pytest.mark.parametrize(
    "spoil",
    [
        spoil_text,
        spoil_kind,
        spoil_mode,
        spoil_place,
        spoil_link,
        spoil_identities,
    ],
)
def test_what_is_kept_by_others_does_not_count(
    spoil: Callable[[Path], None],
    load: Load,
    reads: list[str],
    tmp_path: Path,
) -> None:
    load()
    spoil(tmp_path / "kept/settings.json")
    assert load().hook_timeout == 7
    assert len(reads) == 2


def test_variables_are_read_each_time(
    load: Load, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    load()
    monkeypatch.setenv("OS_LXC_USERNS__HOOK_TIMEOUT", "21")
    assert load().hook_timeout == 21
    assert len(reads) == 2


@pytest.mark.parametrize(
    "text",
    [
        "[lxc_userns]\nhook_timeout = x\n",
        "[lxc_userns]\nsubid_owner = a b\n",
        "[lxcuserns]\nhook_timeout = 3\n",
        "[lxc_userns]\nuserns_policy = required\n",
    ],
)
def test_what_is_wrong_is_not_kept(
    text: str, load: Load, reads: list[str], tmp_path: Path
) -> None:
    (tmp_path / "x.conf").write_text(text)
    first, second = load(), load()
    assert list(map(str, first.find_problems())) == list(
        map(str, second.find_problems())
    )
    assert first.find_problems() != []
    assert len(reads) == 2


def test_a_file_that_may_change_once_more_is_not_kept(
    load: Load,
    reads: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A second change in the same moment has the same time."""
    changed = (tmp_path / "x.conf").stat().st_ctime_ns
    monkeypatch.setattr(time, "time_ns", lambda: changed + 10**9)
    load()
    load()
    assert len(reads) == 2
