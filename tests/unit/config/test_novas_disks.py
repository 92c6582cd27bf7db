# SPDX-License-Identifier: Apache-2.0
"""Nova's options for disks, in files that are Nova's and ours."""

from pathlib import Path

import pytest
from oslo_config import cfg

from lxc_userns.config import novas_disks
from lxc_userns.config.options import register_opts

LXC = "[libvirt]\nvirt_type = lxc\n"
RAW = "images_type = raw\n"
DEFAULT = "[DEFAULT] use_cow_images = True: as by default, disks are qcow2"


def find(tmp_path: Path, *texts: str) -> list[str]:
    """Return findings in files that are read in this order."""
    files = []
    for number, text in enumerate(texts):
        file = tmp_path / f"{number}.conf"
        file.write_text(text)
        files.append(str(file))
    conf = cfg.ConfigOpts()
    register_opts(conf)
    conf([], default_config_files=files, default_config_dirs=[])
    return [str(each) for each in novas_disks.find_problems(conf)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (LXC, DEFAULT),
        (f"{LXC}images_type = default\n", DEFAULT),
        (f"{LXC}[DEFAULT]\nuse_cow_images = yes\n", DEFAULT),
        (f"{LXC}images_type = qcow2\n", "[libvirt] images_type = qcow2: the"),
        (f"{LXC}images_type = rbd\n", "[libvirt] images_type = rbd: the"),
        (f"{LXC}{RAW}images_type = rbd\n", "[libvirt] images_type = rbd: the"),
    ],
)
def test_disks_that_are_not_mounted(
    tmp_path: Path, text: str, said: str
) -> None:
    (found,) = find(tmp_path, text)
    assert found.startswith(said)
    assert found.endswith(
        "kernel does not mount; set [libvirt] images_type = raw and "
        "[DEFAULT] use_cow_images = False"
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[libvirt]\nuid_maps = 0:1900000000:65536\n",
        "[libvirt]\nvirt_type = kvm\n",
        f"{LXC}{RAW}",
        f"{LXC}images_type = lvm\n",
        f"[DEFAULT]\nuse_cow_images = False\n{LXC}",
        f"[DEFAULT]\nuse_cow_images = neither\n{LXC}",
    ],
)
def test_nothing_to_say(tmp_path: Path, text: str) -> None:
    assert find(tmp_path, text) == []


def test_the_last_file_counts(tmp_path: Path) -> None:
    other = f"[libvirt]\n{RAW}"
    assert find(tmp_path, LXC, other) == []
    assert len(find(tmp_path, f"{LXC}{RAW}", "[libvirt]\nimages_type = rbd\n"))


def test_before_any_file_is_read() -> None:
    assert [*novas_disks.find_problems(cfg.ConfigOpts())] == []
