# SPDX-License-Identifier: Apache-2.0
"""Releases that a root can be made of, as debootstrap knows them."""

import dataclasses

from platforms.errors import PlatformError


@dataclasses.dataclass(frozen=True, slots=True)
class Distribution:
    """Distribution: what its releases have in common.

    :param name: its ``ID`` in os-release(5).
    :param keyring: keys that sign its archive.
    :param components: of its archive, those that are needed.
    :param script: debootstrap's; one that is older than a release does not
        know its name, and would do the same for it.
    """

    name: str
    keyring: str
    components: str
    script: str


@dataclasses.dataclass(frozen=True, slots=True)
class Release:
    """A release of a distribution.

    :param name: as debootstrap has it.
    :param python: the interpreter to test with.
    :param packages: beside those that the project needs anywhere.
    """

    distribution: Distribution
    name: str
    python: str = "python3"
    packages: tuple[str, ...] = ()


DEBIAN = Distribution(
    "debian",
    "/usr/share/keyrings/debian-archive-keyring.gpg",
    "main",
    "sid",
)
UBUNTU = Distribution(
    "ubuntu",
    "/usr/share/keyrings/ubuntu-archive-keyring.gpg",
    "main,universe",
    "gutsy",
)
#: Has the user that the dnsmasq of libvirt's networks runs as.
NETWORKS = "libvirt-daemon-system"
#: Has the package of the keys of Ubuntu, which Debian 12 has not.
WITH_ALL_KEYS = "trixie"
RELEASES = {
    release.name: release
    for release in (
        Release(DEBIAN, "bookworm"),
        Release(DEBIAN, WITH_ALL_KEYS, packages=("ubuntu-keyring",)),
        # Debian's testing, until it is released.
        Release(DEBIAN, "forky"),
        Release(
            UBUNTU,
            "jammy",
            "python3.11",
            ("python3.11-dev", "python3.11-venv", NETWORKS),
        ),
        Release(UBUNTU, "noble", packages=(NETWORKS,)),
    )
}


def find_release(name: str) -> Release:
    """Return the release of a name.

    :raises PlatformError: if it is not known.
    """
    try:
        return RELEASES[name]
    except KeyError:
        raise PlatformError(
            f"release {name!r}: unknown; choose one of {', '.join(RELEASES)}"
        ) from None
