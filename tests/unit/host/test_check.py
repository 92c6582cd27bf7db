# SPDX-License-Identifier: Apache-2.0
"""Results, and probes that raise."""

import subprocess

import pytest

from lxc_userns.exceptions import ConfigError, LibvirtError, LxcUsernsError
from lxc_userns.findings import Finding, Severity
from lxc_userns.host.check import Probe, combine, failed, passed, split, warned

AS_ROOT = "run this as root, with /proc, /sys and /etc as they are usually"


def test_what_is_bad_has_a_remedy() -> None:
    for make in (warned, failed):
        with pytest.raises(ValueError, match="so it is: has no remedy"):
            make("so it is", "")
    assert passed("so it is").remedy == ""


def test_a_check_has_what_its_result_has() -> None:
    check = Probe("a thing", lambda: warned("so", "do it")).check()
    assert check == Finding(
        severity=Severity.WARN,
        code="a thing",
        subject="",
        message="so",
        remedy="do it",
    )


@pytest.mark.parametrize(
    ("error", "message", "remedy"),
    [
        (FileNotFoundError(2, "gone", "/proc/x"), "/proc/x: gone", AS_ROOT),
        (OSError("two\n  lines"), "two lines", AS_ROOT),
        (ValueError(), "ValueError", AS_ROOT),
        (ImportError("libvirt.so.0"), "libvirt.so.0", AS_ROOT),
        (subprocess.TimeoutExpired("x", 1), "Command 'x' timed out", AS_ROOT),
        (LibvirtError("connect", "no"), "libvirt: connect: no", AS_ROOT),
        (
            ConfigError("[x] y", "z", "is bad"),
            "[x] y = z: is bad",
            "correct that option; lxc-userns config check has all of them",
        ),
    ],
)
def test_what_raises_is_the_result_of_this_check_alone(
    error: Exception, message: str, remedy: str
) -> None:
    def look() -> Finding:
        raise error

    check = Probe("a thing", look).check()
    assert (check.code, check.severity) == ("a thing", Severity.ERROR)
    assert check.message.startswith(message)
    assert check.remedy == remedy


def test_what_a_probe_says_of_its_errors() -> None:
    def look() -> Finding:
        raise LxcUsernsError("no")

    check = Probe("a thing", look, Severity.WARN, "do it").check()
    assert check == Finding(
        severity=Severity.WARN,
        code="a thing",
        subject="",
        message="no",
        remedy="do it",
    )


def test_an_interrupt_is_none_of_them() -> None:
    def look() -> Finding:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Probe("a thing", look).check()


def test_several_results_in_one() -> None:
    assert combine("so", []) == passed("so")
    bad = [warned("a", "do x"), failed("b", "do y"), warned("c", "do x")]
    assert combine("so", bad) == failed("so; a; b; c", "do x; do y")
    assert combine("so", bad[:1]) == warned("so; a", "do x")


def test_what_is_wrong_and_what_to_do() -> None:
    assert split("it is so; do x; do y", "do z") == ("it is so", "do x; do y")
    assert split("it is so", "do z") == ("it is so", "do z")
