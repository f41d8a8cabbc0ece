#!/usr/bin/env bash
# Sees to what a build and the tests need beside Rust: a C linker, and the programs of a Postgres server. What is missing
# is installed where that needs no password; elsewhere this prints the line to type, and fails.
set -euo pipefail
cd "$(dirname "$0")/.."
source .ci/postgres.sh

stop() {
    echo "$*" >&2
    exit 1
}

linker() {
    # On macOS there always is a cc, which may only ask for the real one.
    if [[ $(uname) == Darwin ]]; then xcode-select -p; else command -v cc; fi >/dev/null 2>&1
}

with_apt() {
    local packages=()
    linker || packages+=(gcc libc6-dev)
    postgres_bin >/dev/null || packages+=(postgresql)
    local install=(apt-get install -y --no-install-recommends "${packages[@]}")
    sudo=()
    if ((EUID != 0)); then
        sudo -n true 2>/dev/null || stop "missing: ${packages[*]}. Type this, then try again: sudo ${install[*]}"
        sudo=(sudo)
    fi
    echo "installing what is missing: ${install[*]}"
    # The package would make a database and start a server for it, which nobody here uses.
    settings=/etc/postgresql-common/createcluster.d
    ${sudo[@]+"${sudo[@]}"} mkdir -p "$settings"
    echo "create_main_cluster = false" | ${sudo[@]+"${sudo[@]}"} tee "$settings/roster.conf" >/dev/null
    trap '${sudo[@]+"${sudo[@]}"} rm -f "$settings/roster.conf"' EXIT
    ${sudo[@]+"${sudo[@]}"} apt-get update -q
    ${sudo[@]+"${sudo[@]}"} env DEBIAN_FRONTEND=noninteractive "${install[@]}" -q
}

with_brew() {
    linker || stop "missing: a C linker. Type this, then try again: xcode-select --install"
    command -v brew >/dev/null || stop "missing: a Postgres server. Install Homebrew (https://brew.sh), then try again"
    echo "installing what is missing: brew install postgresql@17"
    brew install postgresql@17
}

if ! command -v cargo >/dev/null; then
    [[ ! -x $HOME/.cargo/bin/cargo ]] || stop 'cargo is not in PATH. Type this, then try again: . "$HOME/.cargo/env"'
    stop "roster is built with Rust: install it from https://rustup.rs, then try again"
fi
if linker && postgres_bin >/dev/null; then
    exit
elif command -v apt-get >/dev/null; then
    with_apt
elif [[ $(uname) == Darwin ]]; then
    with_brew
else
    stop "missing: a C linker (cc), or a Postgres server of version 15 or newer (initdb and postgres). Install them with" \
        "this system's package manager; a server in an unusual place can be named in ROSTER_POSTGRES_BIN"
fi
linker || stop "there is still no C linker (cc)"
postgres_bin >/dev/null ||
    stop "this system's own Postgres is older than 15: install a newer one from https://www.postgresql.org/download"
