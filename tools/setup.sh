#!/bin/sh
# Makes a Debian machine and this checkout ready: packages, .venv, the four commands, the launcher, bytecode.
#
#   tools/setup.sh run     what the engine needs to run (make setup)
#   tools/setup.sh dev     also what tests and linters need (make setup-dev)
#
# Nothing is done twice: a stamp holds a digest of everything that decides the outcome.  Services are never
# started: no package of the lists below has one.  Several calls at once wait for each other.
set -eu
cd "$(dirname "$0")/.."
level=${1:-run}

run_packages="python3 python3-venv ca-certificates gcc libc6-dev make iproute2 libseccomp2 libnftables1 busybox-static"
dev_packages="git procps psmisc strace debootstrap nftables iptables xz-utils libdevmapper1.02.1 libyajl2 openssh-client"
# Debian 13 renamed what has a 64-bit time_t.
dev_packages_12="libgpgme11 libglib2.0-0"
dev_packages_13="libgpgme11t64 libglib2.0-0t64"

say() { printf 'setup: %s\n' "$*"; }
fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }

digest() {
    { printf '%s\n' "$PWD" "$1"; ls -l /usr/bin/python3 2>&1; cat pyproject.toml tools/setup.sh tools/setup.py tools/constraints.txt; } |
        sha256sum | cut -d' ' -f1
}

missing_packages() {
    for package in "$@"; do
        case $(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) in
            installed) ;;
            *) printf '%s ' "$package" ;;
        esac
    done
}

install_packages() {
    missing=$(missing_packages "$@")
    [ -n "$missing" ] || return 0
    command -v apt-get >/dev/null || fail "no apt-get here; install by hand: $missing"
    [ "$(id -u)" = 0 ] || fail "not root; install by hand: apt-get install $missing"
    say "apt-get install $missing"
    export DEBIAN_FRONTEND=noninteractive
    mkdir -p build
    # Lists may be absent (a fresh image) or fresh enough: ask the network only when the first try fails.
    # shellcheck disable=SC2086
    apt-get install -y -qq --no-install-recommends $missing >build/apt.log 2>&1 && return 0
    apt-get update -qq >build/apt.log 2>&1 || fail "apt-get update failed: $(tail -n 1 build/apt.log)"
    # shellcheck disable=SC2086
    apt-get install -y -qq --no-install-recommends $missing >>build/apt.log 2>&1 ||
        fail "apt-get install failed (build/apt.log): $(grep -m 1 '^E:' build/apt.log)"
}

# Debian's own interpreter first: a version manager's shim costs 60 to 120 ms at every start.
interpreter() {
    for candidate in /usr/bin/python3 python3.13 python3.12 python3.11 python3; do
        real=$("$candidate" -ISE -c 'import os, sys
is_tested = (3, 11) <= sys.version_info[:2] <= (3, 13) and "t" not in sys.abiflags  # t: without the global lock
print(os.path.realpath(sys.executable) if is_tested else "")' 2>/dev/null) || continue
        [ -n "$real" ] && printf '%s' "$real" && return 0
    done
    fail "no python3 of version 3.11, 3.12 or 3.13"
}

stale_bytecode() {
    [ ! -e build/.bytecode ] || [ -n "$(find src -name '*.py' -newer build/.bytecode -print -quit)" ]
}

mkdir -p build
exec 9>build/.setup.lock
flock 9 2>/dev/null || true

want=$(digest "$level")
if [ "$(cat "build/.setup-$level" 2>/dev/null)" != "$want" ] || [ ! -x .venv/bin/corten-runtime ]; then
    case $level in
        run) install_packages $run_packages ;;
        dev)
            case $(. /etc/os-release && printf '%s' "${VERSION_ID:-}") in
                12) install_packages $run_packages $dev_packages $dev_packages_12 ;;
                *) install_packages $run_packages $dev_packages $dev_packages_13 ;;
            esac
            ;;
        *) fail "unknown level $level (run, dev)" ;;
    esac
    real=$(interpreter)
    "$real" -ISE tools/setup.py "$level"
    printf '%s\n' "$want" >"build/.setup-$level"
    rm -f build/.bytecode
fi
if [ -e launcher/Makefile ]; then
    make -s --no-print-directory -C launcher || fail "the launcher does not build (make launcher)"
fi
if stale_bytecode; then
    : >build/.bytecode.new
    .venv/bin/python3 -I -m compileall -q -j 2 src >/dev/null || fail "src does not compile"
    mv build/.bytecode.new build/.bytecode
fi
