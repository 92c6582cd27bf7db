# SPDX-License-Identifier: Apache-2.0
"""``lxc-userns complete``, sourced by a bash that has nothing else."""

import shutil
import subprocess

import pytest

from tests.functional.command_line import call

pytestmark = pytest.mark.skipif(
    shutil.which("bash") is None, reason="no bash is installed"
)


@pytest.fixture(scope="module")
def script() -> str:
    """Output of the command."""
    done = call("complete")
    assert (done.code, done.err) == (0, "")
    return done.out


def complete(script: str, *words: str) -> list[str]:
    """Return what bash would offer for the last word."""
    line = " ".join(f"'{word}'" for word in ("lxc-userns", *words))
    asked = (
        f"COMP_WORDS=({line}); COMP_CWORD={len(words)}; "
        "complete -p lxc-userns >&2; _lxc_userns; "
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "--norc", "--noprofile", "-c", f"{script}\n{asked}"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env={"PATH": "/usr/bin:/bin"},
    )
    assert done.stderr == "complete -F _lxc_userns lxc-userns\n"
    return done.stdout.split()


def test_commands_are_completed(script: str) -> None:
    assert "container" in complete(script, "")
    assert complete(script, "cont") == ["container"]
    assert set(complete(script, "container", "")) >= {
        "run", "exec", "logs", "restart", "verify",
    }  # fmt: skip
    assert complete(script, "container", "re") == ["restart"]
    assert complete(script, "host", "hook", "") == ["install", "remove"]


def test_options_are_completed(script: str) -> None:
    assert complete(script, "container", "stop", "--ti") == ["--timeout"]
    options = complete(script, "container", "run", "--")
    assert {"--rootfs", "--dry-run", "--hostname"} <= set(options)
    # Which is only there to be refused.
    assert "--vcpus" not in options
    assert complete(script, "rootfs", "shift", "--dry") == ["--dry-run"]
    assert "--follow" in complete(script, "container", "logs", "-")


def test_files_are_completed(script: str) -> None:
    assert "/etc/passwd" in complete(script, "rootfs", "shift", "/etc/passw")
