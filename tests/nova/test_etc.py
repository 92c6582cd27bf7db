# SPDX-License-Identifier: Apache-2.0
"""What is shipped for a nova-compute that is not root."""

import shutil
import subprocess
from pathlib import Path

import pytest
from oslo_rootwrap import filters, wrapper

ETC = Path(__file__).parents[2] / "etc/lxc-userns"
CONTEXT = (
    "--privsep_context", "lxc_userns.privileged.CONTEXT",
    "--privsep_sock_path", "/tmp/tmpabcdefgh/privsep.sock",
)  # fmt: skip
NOVA = ("--config-file", "/etc/nova/nova.conf")
DIST = ("--config-file", "/usr/share/nova/nova-dist.conf")


@pytest.mark.parametrize(
    ("argv", "is_allowed"),
    [
        ((*NOVA, *CONTEXT), True),
        ((*DIST, *NOVA, *CONTEXT), True),
        (
            (*NOVA, *NOVA, "--config-dir", "/etc/nova/nova.conf.d", *CONTEXT),
            True,
        ),
        (("--config-file", "/home/nova/nova.conf", *CONTEXT), False),
        (("--config-file", "/etc/../home/nova/x", *CONTEXT), False),
        ((*NOVA, "--privsep_context", "os.system", *CONTEXT[2:]), False),
        ((*NOVA, *CONTEXT[:3], "/home/nova/privsep.sock"), False),
        (CONTEXT, False),
    ],
)
def test_filters_of_rootwrap(argv: tuple[str, ...], is_allowed: bool) -> None:
    loaded = wrapper.load_filters([str(ETC / "rootwrap.d")])
    # It adds one of its own, for any privsep-helper at all.
    ours = [
        each
        for each in loaded
        if isinstance(each, filters.RegExpFilter)
        and each.name.startswith("privsep-lxc-userns")
    ]
    assert len(ours) == 3
    command = ["privsep-helper", *argv]
    assert any(each.match(command) for each in ours) == is_allowed


def test_lines_for_sudo(tmp_path: Path) -> None:
    visudo = shutil.which("visudo", path="/usr/sbin:/usr/bin")
    assert visudo is not None
    copy = tmp_path / "sudoers"
    copy.write_text((ETC / "lxc-userns.sudoers").read_text())
    copy.chmod(0o440)
    done = subprocess.run([visudo, "-c", "-f", copy], capture_output=True)
    assert done.returncode == 0, done
