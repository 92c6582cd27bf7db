# SPDX-License-Identifier: Apache-2.0
"""Files that are read, and which of them prevails."""

from pathlib import Path

import pytest

from lxc_userns.config.load import load_conf
from lxc_userns.config.settings import Settings
from lxc_userns.config.sources import find_places
from lxc_userns.exceptions import ConfigError


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home directory with a configuration, which comes before /etc's."""
    monkeypatch.setenv("HOME", str(tmp_path))
    place = tmp_path / ".lxc-userns"
    drop_ins = place / "lxc-userns.conf.d"
    drop_ins.mkdir(parents=True)
    write(place / "lxc-userns.conf", "state_path = /a\nrun_path = /a")
    write(drop_ins / "20-b.conf", "run_path = /c\nrange_size = 70000")
    write(drop_ins / "10-a.conf", "run_path = /b\nmax_processes = 7")
    write(drop_ins / "90-z.conf.bak", "state_path = /backup")
    return place


def write(file: Path, text: str) -> None:
    file.write_text(f"[lxc_userns]\n{text}\n")


def test_drop_ins_prevail_in_their_order(home: Path) -> None:
    conf = load_conf(None)
    settings = Settings.from_conf(conf)
    assert (settings.state_path, settings.run_path) == ("/a", "/c")
    assert (settings.max_processes, settings.range_size) == (7, 70000)
    places = {name: place for name, _, place in find_places(conf)}
    drop_ins = home / "lxc-userns.conf.d"
    assert {
        name: places[f"[lxc_userns] {name}"]
        for name in ("state_path", "run_path", "max_processes")
    } == {
        "state_path": f"the file {home}/lxc-userns.conf",
        "run_path": f"the file {drop_ins}/20-b.conf",
        "max_processes": f"the file {drop_ins}/10-a.conf",
    }


def test_files_that_are_named_are_all(home: Path, tmp_path: Path) -> None:
    named = tmp_path / "named.conf"
    write(named, "state_path = /named")
    settings = Settings.from_conf(load_conf([str(named)]))
    assert settings.state_path == "/named"
    assert settings.run_path == "/run/lxc-userns"


def test_a_drop_in_that_is_malformed(home: Path) -> None:
    (home / "lxc-userns.conf.d/30-c.conf").write_text("no option\n")
    with pytest.raises(ConfigError, match=r"30-c\.conf"):
        load_conf(None)
