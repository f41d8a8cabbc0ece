#!/usr/bin/env bash
# Runs the tests of roster behind PgBouncer, in session mode and in transaction mode. It uses the pgbouncer in PATH.
# Without one it takes the program out of the package of Debian, into target/interop, because an installed package would
# start a service.
set -euo pipefail
cd "$(dirname "$0")/.."
export SQLX_OFFLINE=true

PACKAGES=(pgbouncer libc-ares2 libevent-2.1-7)
home=$PWD/target/interop/pgbouncer

unpack() {
    rm -rf "$home"
    mkdir -p "$home/packages"
    (cd "$home/packages" && apt-get download -q "${PACKAGES[@]}" >/dev/null 2>&1) || return 1
    local package
    for package in "$home"/packages/*.deb; do
        dpkg-deb --extract "$package" "$home/root"
    done
    # The libraries are in a directory that is named after the machine.
    local libraries=("$home"/root/usr/lib/*-linux-gnu*)
    printf '#!/bin/sh\nLD_LIBRARY_PATH="%s" exec "%s" "$@"\n' "${libraries[0]}" "$home/root/usr/sbin/pgbouncer" \
        >"$home/pgbouncer"
    chmod 755 "$home/pgbouncer"
}

program=$(command -v pgbouncer || true)
if [[ -z $program ]]; then
    if ! command -v apt-get >/dev/null; then
        echo "make interop needs PgBouncer in PATH: install pgbouncer with this system's package manager" >&2
        exit 1
    fi
    if ! "$home/pgbouncer" --version >/dev/null 2>&1 && ! unpack; then
        # The lists of packages may be missing or outdated.
        ((EUID == 0)) && apt-get update -q >/dev/null
        unpack || { echo "cannot download ${PACKAGES[*]}: run apt-get update, then try again" >&2; exit 1; }
    fi
    program=$home/pgbouncer
fi

"$program" --version | sed -n 1p
ROSTER_PGBOUNCER=$program cargo test --locked --quiet --test it datastore::pooler -- --ignored
