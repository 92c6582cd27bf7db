# SPDX-License-Identifier: Apache-2.0

# Empty: tools/make-venv chooses.
PYTHON ?=
BIN := .venv/bin

.PHONY: help
help:
	@echo 'make venv       system packages and .venv/ with everything installed'
	@echo 'make demo       a container in a user namespace, inside and outside'
	@echo 'make test       static checks, documentation, unit, functional tests'
	@echo '                and those with a real Nova, of two releases'
	@echo 'make test-nova  those of one release; NOVA_VERSION=32 chooses'
	@echo 'make test-recipes  root filesystems as the documentation makes them'
	@echo 'make test-release  unit and functional tests in another release'
	@echo '                of Debian or Ubuntu; RELEASE=trixie'
	@echo 'make test-vm    a selection of functional tests in virtual machines'
	@echo '                with a libvirtd, systemd, AppArmor of their own'
	@echo 'make test-oldest  unit tests with the oldest dependencies'
	@echo 'make test-platforms  make test, and all of these'
	@echo 'make fuzz       inputs made up for all that reads hostile bytes;'
	@echo '                SECONDS=60 is for each target, TARGET= chooses'
	@echo 'make bench      speed and memory beside others, and the pages of it'
	@echo 'make deb        Debian packages of it, in dist/deb'
	@echo 'make test-deb   these built, installed, used and purged in Debian 13'
	@echo 'make man        manual pages of the commands, in doc/build/man'
	@echo 'make docs       the documentation, in doc/build/html'
	@echo 'make clean      remove all that was built'

.PHONY: venv system-packages
venv: system-packages .venv/.installed

# dpkg-query is quick enough to ask each time.
system-packages:
	@tools/install-system-packages

.venv/.installed: pyproject.toml | system-packages
	@tools/make-venv "$(PYTHON)" test,docs
	@touch $@

.PHONY: demo
demo: venv
	@tools/capabilities containers
	@tools/private-libvirtd tools/demo

.PHONY: test lint types imports unit dist functional
test: lint types imports docs unit dist functional novas

lint: venv
	$(BIN)/ruff check
	$(BIN)/ruff format --check
# reno reads the history, which an unpacked archive does not have.
	if git rev-parse --quiet --verify HEAD >/dev/null 2>&1; \
	then $(BIN)/reno --quiet lint; fi

# Programs have no module name: one at a time.
types: venv
	$(BIN)/mypy
	$(BIN)/mypy tools/capabilities
	$(BIN)/mypy tools/demo
	$(BIN)/mypy tools/in-release
	$(BIN)/mypy tools/in-vm
	$(BIN)/mypy tools/look-into-dist
	$(BIN)/mypy tools/make-man-pages
	$(BIN)/mypy tools/lower-bounds
	$(BIN)/mypy tools/private-libvirtd
	$(BIN)/mypy tools/test-vm

imports: venv
	$(BIN)/lint-imports

unit: venv
	$(BIN)/pytest --cov -n auto tests/unit

# What is built of this, offline: by what the environment has.
dist: venv
	rm -rf dist
	for project in . $(dir $(wildcard packaging/*/pyproject.toml)); do \
	    $(BIN)/python -m build --no-isolation --outdir dist $$project \
	        >/dev/null || exit; done
	$(BIN)/twine check --strict dist/*
	$(BIN)/python tools/look-into-dist dist

functional: venv
	tools/run-functional-tests

# The release of Nova to test with, in an environment of its own; and the
# distribution by which Nova finds the driver, as far as there is one.
NOVA_VERSION ?= 34
NOVA_SHIM ?= $(wildcard packaging/lxc-userns-nova)
NOVA_VENV = .venv-nova-$(NOVA_VERSION)

# The newest and the oldest that are supported.
NOVA_RELEASES ?= 34 31
# What the release does not work with as it is now.
NOVA_CONSTRAINTS = tests/nova/constraints/$(NOVA_VERSION).txt

.PHONY: novas test-nova nova-system-packages
novas: venv nova-system-packages
	printf '%s\n' $(NOVA_RELEASES) | xargs -P 2 -I RELEASE \
	    $(MAKE) --no-print-directory nova-venv NOVA_VERSION=RELEASE
	tools/run-nova-tests $(NOVA_RELEASES)

.PHONY: nova-venv
nova-venv: $(NOVA_VENV)/.installed

test-nova: $(NOVA_VENV)/.installed nova-system-packages
	tools/private-libvirtd $(NOVA_VENV)/bin/pytest tests/nova

nova-system-packages: system-packages
	@tools/install-system-packages qemu-utils

$(NOVA_VENV)/.installed: pyproject.toml $(NOVA_CONSTRAINTS) | system-packages
	@tools/make-venv "$(PYTHON)" test-nova $(NOVA_VENV) \
	    "nova==$(NOVA_VERSION).*" $(addprefix --editable ,$(NOVA_SHIM)) \
	    $(addprefix --constraint ,$(NOVA_CONSTRAINTS))
	@touch $@

# Of packages that are fetched each time: apart from those that run often.
.PHONY: test-recipes
test-recipes: venv
	@tools/install-system-packages fdisk mmdebstrap podman qemu-utils skopeo
	tools/private-libvirtd $(BIN)/pytest tests/functional/image_recipes.py

# In a root of another release, where .venv is there already. The unit tests
# meet what a user's shell may bring: a narrow umask, a locale that knows ASCII
# only, and no /bin in PATH.
RELEASE ?= trixie
HARD = umask 077; PATH=$${PATH%:/sbin:/bin} \
    LC_ALL=C PYTHONUTF8=0 PYTHONCOERCECLOCALE=0

.PHONY: test-release
test-release: system-packages
	tools/in-release $(RELEASE) sh -c '($(HARD) make unit) && make functional'

# Emulated: it takes a while.
.PHONY: test-vm
test-vm: deb
	tools/test-vm

# The lower bounds of the dependencies hold, as far as unit tests tell. What
# those warn of was mended in their later versions.
.PHONY: test-oldest
test-oldest: .venv-oldest/.installed
	PYTEST_ADDOPTS='-W default' .venv-oldest/bin/pytest tests/unit

.venv-oldest/.installed: pyproject.toml | venv
	@tools/make-venv "$(PYTHON)" test,docs .venv-oldest \
	    $$($(BIN)/python tools/lower-bounds test docs)
	@touch $@

# One after the other, for each takes the whole machine. Ubuntu's packages
# cannot be had everywhere: that is said then, and its releases are left out.
.PHONY: test-platforms
test-platforms:
	$(MAKE) test
	$(MAKE) test-recipes
	$(MAKE) test-release RELEASE=bookworm
	$(MAKE) test-release RELEASE=trixie
# Not by the variable MAKE, for which "make -n" would run the line. libvirt and
# util-linux of jammy are older than what containers need here.
	! tools/in-release noble true || make test-release RELEASE=noble
	! tools/in-release jammy true \
	    || tools/in-release jammy sh -c '$(HARD) make unit'
	$(MAKE) test-deb
	$(MAKE) test-vm
	$(MAKE) test-oldest

# Against the Python of that release, in a root of it that is thrown away.
DEB_RELEASE ?= trixie

.PHONY: deb test-deb
deb: system-packages
	rm -rf dist/deb
	mkdir -p dist/deb
	tools/in-release $(DEB_RELEASE) tools/build-deb - | tar -C dist/deb -x

test-deb: system-packages
	tools/in-release $(DEB_RELEASE) tools/test-deb

.PHONY: man
man: venv
	rm -rf doc/build/man
	$(BIN)/python tools/make-man-pages doc/build/man

.PHONY: docs
docs: venv
	$(BIN)/sphinx-build --fail-on-warning --keep-going --quiet \
	    --builder html doc/source doc/build/html

# Seconds for each target, and the targets: all of them unless one is named.
SECONDS = 60
TARGET =

.PHONY: fuzz
fuzz: venv .venv/.fuzz
	$(BIN)/python -m tests.fuzz.run $(SECONDS) $(TARGET)

.venv/.fuzz: .venv/.installed
	@tools/make-venv "$(PYTHON)" fuzz
	@touch $@

.PHONY: bench
bench: venv .venv-bench/.installed
	@tools/install-system-packages lxd-tools
	@inside=; ! tools/capabilities containers \
	    || inside=tools/private-libvirtd; \
	$$inside .venv-bench/bin/python -m benchmarks --doc doc/source/performance

# Nova is large, and only compared with; what it brings along warns of itself.
.venv-bench/.installed: pyproject.toml | venv
	@tools/make-venv "$(PYTHON)" bench .venv-bench
	@touch $@

# The disks of tools/in-vm and tools/in-release, which serve all checkouts.
CACHE = /var/cache/lxc-userns

.PHONY: clean
clean:
	rm -rf .venv .venv-bench .venv-nova-* .venv-oldest .fuzz build dist doc/build
	rm -rf packaging/*/build packaging/*/*.egg-info src/*.egg-info
	rm -rf .coverage .hypothesis .import_linter_cache .mypy_cache .pytest_cache
	rm -rf .ruff_cache
	find src tests tools -name __pycache__ -exec rm -rf {} +
# Root's.
	if [ -e $(CACHE) ]; then rm -rf $(CACHE); fi
