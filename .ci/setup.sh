#!/usr/bin/env bash
# Installs what the build and the tests need in addition to Rust: a C linker, and the programs of a Postgres server.
# If the installation needs a password, the script prints the command to run, and fails.
set -euo pipefail
cd "$(dirname "$0")/.."
source .ci/postgres.sh

stop() {
    echo "$*" >&2
    exit 1
}

linker() {
    # macOS always has a cc, but it may be only a stub that offers to install the real one.
    if [[ $(uname) == Darwin ]]; then xcode-select -p; else command -v cc; fi >/dev/null 2>&1
}

with_apt() {
    local packages=()
    linker || packages+=(gcc libc6-dev)
    postgres_bin >/dev/null || packages+=(postgresql)
    local install=(apt-get install -y --no-install-recommends "${packages[@]}")
    sudo=()
    if ((EUID != 0)); then
        sudo -n true 2>/dev/null || stop "missing: ${packages[*]}. Run this command, then try again: sudo ${install[*]}"
        sudo=(sudo)
    fi
    echo "installing missing packages: ${install[*]}"
    # Without this setting, the package creates a database cluster and starts a server for it. roster does not need one.
    settings=/etc/postgresql-common/createcluster.d
    ${sudo[@]+"${sudo[@]}"} mkdir -p "$settings"
    echo "create_main_cluster = false" | ${sudo[@]+"${sudo[@]}"} tee "$settings/roster.conf" >/dev/null
    trap '${sudo[@]+"${sudo[@]}"} rm -f "$settings/roster.conf"' EXIT
    ${sudo[@]+"${sudo[@]}"} apt-get update -q
    ${sudo[@]+"${sudo[@]}"} env DEBIAN_FRONTEND=noninteractive "${install[@]}" -q
}

with_brew() {
    linker || stop "missing: a C linker. Run this command, then try again: xcode-select --install"
    command -v brew >/dev/null || stop "missing: a Postgres server. Install Homebrew (https://brew.sh), then try again"
    echo "installing missing packages: brew install postgresql@17"
    brew install postgresql@17
}

if ! command -v cargo >/dev/null; then
    [[ ! -x $HOME/.cargo/bin/cargo ]] || stop 'cargo is not in PATH. Run this command, then try again: . "$HOME/.cargo/env"'
    stop "missing: Rust. Install it from https://rustup.rs, then try again"
fi
if linker && postgres_bin >/dev/null; then
    exit
elif command -v apt-get >/dev/null; then
    with_apt
elif [[ $(uname) == Darwin ]]; then
    with_brew
else
    stop "missing: a C linker (cc), or a Postgres server of version 15 or newer (initdb and postgres). Install them with" \
        "this system's package manager, or set ROSTER_POSTGRES_BIN to the directory of the Postgres programs"
fi
linker || stop "the installation did not provide a C linker (cc)"
postgres_bin >/dev/null ||
    stop "this system's Postgres is older than 15: install a newer version from https://www.postgresql.org/download"
