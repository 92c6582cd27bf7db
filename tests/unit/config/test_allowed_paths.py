# SPDX-License-Identifier: Apache-2.0
"""Directories below which a service may name files."""

import os
from pathlib import Path

import pytest
from oslo_config import cfg

from lxc_userns.config import allowed_paths
from lxc_userns.config.options import register_opts
from lxc_userns.config.settings import Settings
from lxc_userns.exceptions import ConfigError, RootfsError
from lxc_userns.linux import safe_path


def configure(tmp_path: Path, text: str) -> cfg.ConfigOpts:
    file = tmp_path / "test.conf"
    file.write_text(text)
    conf = cfg.ConfigOpts()
    register_opts(conf)
    conf([], default_config_files=[str(file)], default_config_dirs=[])
    return conf


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Make a directory with a disk, and a secret beside it."""
    made = tmp_path / "instances"
    (made / "one").mkdir(parents=True)
    (made / "one/disk").touch()
    (tmp_path / "secret").touch()
    (tmp_path / "instances-of-others").mkdir()
    return made


def open_file(path: str, root: str) -> os.stat_result:
    """Do as the manager does with a path of the service's."""
    allowed_paths.check_below(path, [root])
    with safe_path.opened(path, safe_path.Trust((root,))) as fd:
        return os.fstat(fd)


@pytest.mark.parametrize("name", ["one/disk", "one"])
def test_a_file_below_a_root(root: Path, name: str) -> None:
    path = root / name
    allowed_paths.check_below(str(path), ["/none", str(root)])
    assert os.path.samestat(open_file(str(path), str(root)), path.stat())


@pytest.mark.parametrize("place", ["{link}", "{link}/instances"])
def test_a_root_that_a_link_leads_to(
    root: Path, place: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The service owns what is above instances_path, and can swap it."""
    link = tmp_path_factory.mktemp("links") / "link"
    link.symlink_to(root if place == "{link}" else root.parent)
    given = place.format(link=link)
    with pytest.raises(ConfigError, match="give the path without links"):
        allowed_paths.check_root(given)
    with pytest.raises(PermissionError, match="is a symbolic link"):
        open_file(f"{given}/one/disk", given)


@pytest.mark.parametrize(
    "path",
    [
        "/etc",
        "/",
        "",
        "instances/one",
        "{root}",
        "{root}/",
        "{root}/.",
        "{root}/one/../../secret",
        "{root}/../secret",
        "{root}//one",
        "{root}/one/",
        "{root}-of-others",
        "//{root}/one",
    ],
)
def test_paths_elsewhere(root: Path, path: str) -> None:
    with pytest.raises(RootfsError) as caught:
        allowed_paths.check_below(path.format(root=root), [str(root)])
    assert f"is not below {root}" in str(caught.value)
    assert "[lxc_userns_privileged] roots" in str(caught.value)


@pytest.mark.parametrize("name", ["link", "link/disk", "within", "one/up"])
def test_links_below_a_root(root: Path, name: str) -> None:
    """A user who can write there could swap them at any moment."""
    (root / "link").symlink_to(root.parent)
    (root.parent / "disk").touch()
    (root / "within").symlink_to("one")
    (root / "one/up").symlink_to("../../secret")
    with pytest.raises(PermissionError, match="is a symbolic link"):
        open_file(str(root / name), str(root))


def test_a_root_that_is_not_there_yet(root: Path) -> None:
    allowed_paths.check_root(str(root))
    allowed_paths.check_root(str(root / "later/still"))
    # What is there already, on the way to it, counts.
    (root / "link").symlink_to(root.parent)
    with pytest.raises(ConfigError, match="give the path without links"):
        allowed_paths.check_root(str(root / "link/later/still"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[lxc_userns_privileged]\nroots = /a/,/b//c\n", ("/a", "/b/c")),
        ("instances_path = /srv/i/\n", ("/srv/i",)),
        ("state_path = /srv\n", ("/srv/instances",)),
        ("state_path = /srv\ninstances_path = $state_path/i\n", ("/srv/i",)),
        (
            "instances_path = /x\n[lxc_userns_privileged]\nroots = /a\n",
            ("/a",),
        ),
    ],
)
def test_where_roots_come_from(
    tmp_path: Path, text: str, expected: tuple[str, ...]
) -> None:
    conf = configure(tmp_path, f"[DEFAULT]\n{text}")
    assert allowed_paths.read_roots(conf) == expected


def test_those_of_nova_itself(tmp_path: Path) -> None:
    """In the process of the service, Nova's options are registered."""
    conf = configure(tmp_path, "")
    conf.register_opts(
        [
            cfg.StrOpt("state_path", default="/opt/nova", help="Nova's."),
            cfg.StrOpt("instances_path", default="$state_path/instances"),
        ]
    )
    assert allowed_paths.read_roots(conf) == ("/opt/nova/instances",)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "neither instances_path nor state_path; set it"),
        ("instances_path = here\n", "neither instances_path nor"),
        ("state_path = $pybasedir\n", "is empty, and no such option"),
    ],
)
def test_no_roots(tmp_path: Path, text: str, said: str) -> None:
    conf = configure(tmp_path, f"[DEFAULT]\n{text}")
    with pytest.raises(ConfigError, match=said) as caught:
        allowed_paths.read_roots(conf)
    assert caught.value.option == "[lxc_userns_privileged] roots"


@pytest.mark.parametrize("path", ["/", "srv", "/srv/../etc"])
def test_roots_that_are_none(tmp_path: Path, path: str) -> None:
    text = f"[lxc_userns_privileged]\nroots = /srv,{path}\n"
    problems = Settings.from_conf(configure(tmp_path, text)).find_problems()
    assert {each.option for each in problems} == {allowed_paths.NAME}


def test_roots_that_cannot_be_read(tmp_path: Path) -> None:
    text = "[lxc_userns_privileged]\nroots = $nothing/x\n"
    (problem,) = Settings.from_conf(configure(tmp_path, text)).find_problems()
    assert problem.option == allowed_paths.NAME
    assert "no such option nothing" in problem.reason
