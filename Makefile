# SPDX-License-Identifier: GPL-2.0-or-later
#
# `make` lists the targets. Each does the set-up that it needs and skips what is already there.

# Debian packages. Those of the build are all that `make bpf` and `make wheel` need.
BUILD_PACKAGES := clang-16 llvm-16 libbpf-dev linux-libc-dev python3-venv
TEST_PACKAGES  := libbpf1 bpftool iproute2 iputils-ping curl netcat-openbsd ethtool tcpdump knockd nmap openssh-server \
	openssh-client openssl fail2ban crowdsec iperf3 traceroute iputils-tracepath dnsmasq-base bind9-dnsutils
BENCH_PACKAGES := xdp-tools nftables tcpreplay
VM_PACKAGES    := linux-image-amd64 qemu-system-x86 busybox-static

# The interpreter that .venv is made from: 3.11 or later, with the venv module.
PYTHON := /usr/bin/python3
CLANG  := clang-16
STRIP  := llvm-strip-16
# Passed on to pytest, for example ARGS='-k vlan -x'.
ARGS   :=

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-builtin-rules
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

VENV     := .venv
BIN      := $(VENV)/bin
STAMP    := $(VENV)/.installed
VM_STAMP := $(VENV)/.installed-vm

OBJECTS  := $(patsubst bpf/%.bpf.c,xdpfw/kernel/%.bpf.o,$(wildcard bpf/*.bpf.c))
BINDINGS := xdpfw/kernel/_bindings.py xdpfw/kernel/_enums.py

# Debian keeps asm/types.h in a directory of the machine's architecture, which -target bpf does not look at.
MULTIARCH_INCLUDE = $(addprefix -idirafter ,$(shell ls -d /usr/include/$$(uname -m)-linux-gnu 2>/dev/null))
# The compilation directory . keeps the path of this checkout out of the BTF line info.
BPF_CFLAGS = -target bpf -mcpu=v3 -O2 -g -std=gnu11 -Wall -Wextra -Werror -fdebug-compilation-dir=. $(MULTIARCH_INCLUDE)

# $(call install_packages,LIST): installs those of LIST that are missing, or says how to. Daemons among them are for
# tests, which run them in namespaces: none is started by this, nor with the system. CrowdSec's package would register the
# machine with the central API of CrowdSec, unless there is a file with credentials that is not empty.
define install_packages
@if ! command -v dpkg-query >/dev/null; then \
	echo "not a Debian system: taking it that these are installed: $(1)"; exit 0; \
fi; \
missing=; \
for package in $(1); do \
	status=$$(dpkg-query -W -f '$${db:Status-Status}' "$$package" 2>/dev/null) || true; \
	[[ $$status == installed ]] || missing+=" $$package"; \
done; \
[[ -n $$missing ]] || exit 0; \
if [[ $$EUID != 0 ]]; then \
	echo "Debian packages are missing; install them with: sudo apt-get install$$missing" >&2; exit 1; \
fi; \
export DEBIAN_FRONTEND=noninteractive; \
if [[ ! -e /usr/sbin/policy-rc.d ]]; then \
	trap 'rm -f /usr/sbin/policy-rc.d' EXIT; \
	printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d; \
	chmod 755 /usr/sbin/policy-rc.d; \
fi; \
if [[ $$missing == *crowdsec* && ! -e /etc/crowdsec/online_api_credentials.yaml ]]; then \
	mkdir -p /etc/crowdsec; echo '# of tests: not registered' >/etc/crowdsec/online_api_credentials.yaml; \
fi; \
apt-get -q -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 update </dev/null; \
apt-get -q -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 install -y --no-install-recommends $$missing </dev/null; \
if [[ -d /run/systemd/system && $$missing == *openssh-server* ]]; then systemctl disable --quiet ssh.service; fi; \
for daemon in knockd fail2ban crowdsec; do \
	if [[ -d /run/systemd/system && $$missing == *$$daemon* ]]; then systemctl disable --quiet $$daemon.service || true; fi; \
done
endef

.PHONY: help
help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

.PHONY: setup
setup: test-packages $(STAMP) $(OBJECTS) $(BINDINGS) ## packages, .venv, BPF object and bindings: all that the rest needs
	@echo "the command is $(BIN)/xdpfw"

.PHONY: bpf
bpf: $(OBJECTS) ## compile the BPF programs

.PHONY: lint
lint: setup ## ruff, mypy and the import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache --no-logo

.PHONY: test
test: lint ## lint, then every test; as root, those of the kernel and of namespaces too
	$(BIN)/pytest -rs $(ARGS) tests netns-tests

.PHONY: test-pure
test-pure: $(STAMP) $(OBJECTS) $(BINDINGS) ## the tests that need neither root nor a kernel
	$(BIN)/pytest $(ARGS) --ignore tests/kernel tests

.PHONY: vm-test
vm-test: setup $(VM_STAMP) ## kernel and namespace tests on Debian's 6.1 kernel, in QEMU
	tests/vm/run $(ARGS)

.PHONY: bench
bench: setup bench-packages ## cost per packet, beside the null program and the peers: build/bench.md
	$(BIN)/python -m bench.run $(ARGS)

.PHONY: demo
demo: setup ## two namespaces, a policy, traffic, statistics
	$(BIN)/xdpfw demo

.PHONY: wheel
wheel: $(STAMP) ## a wheel in dist/ that needs no compiler
	$(BIN)/pip wheel --no-deps --wheel-dir dist .

.PHONY: clean
clean: ## remove all that make has made, .venv too
	rm -rf $(VENV) dist build xdpfw/kernel/*.bpf.o xdpfw/kernel/*.o.tmp $(BINDINGS)
	rm -rf .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: build-packages test-packages bench-packages vm-packages
build-packages:
	$(call install_packages,$(BUILD_PACKAGES))
test-packages: build-packages
	$(call install_packages,$(TEST_PACKAGES))
bench-packages: build-packages
	$(call install_packages,$(BENCH_PACKAGES))
vm-packages: build-packages
	$(call install_packages,$(VM_PACKAGES))

# An object changes with each header. llvm-strip -g drops DWARF and keeps BTF.
xdpfw/kernel/%.bpf.o: bpf/%.bpf.c $(wildcard bpf/*.h) Makefile | build-packages
	$(CLANG) $(BPF_CFLAGS) -c $< -o $@
	$(STRIP) -g $@

$(BINDINGS) &: xdpfw/kernel/bindings_build.py $(wildcard bpf/abi*.h) | $(STAMP)
	$(BIN)/python $<

# Objects come first so that the build hook, which pip runs here, finds them done.
$(STAMP): pyproject.toml hatch_build.py | build-packages $(OBJECTS)
	$(BIN)/python -c 'import pip' 2>/dev/null || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

$(VM_STAMP): $(STAMP) | vm-packages
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[vm]'
	touch $@
