#!/usr/bin/env bash
# Checks the dependencies by the rules of deny.toml: licenses, banned crates, sources, and advisories where the advisory
# database can be reached.
set -euo pipefail
cd "$(dirname "$0")/.."

version=0.20.2
database=https://github.com/RustSec/advisory-db
tools=target/tools
deny=$tools/bin/cargo-deny
if [[ $("$deny" --version 2>/dev/null) != "cargo-deny $version" ]]; then
    echo "building cargo-deny $version, which takes some minutes"
    # A debug build starts slower and is done sooner. The sources of the build are kept outside of target/debug.
    cargo install --quiet --locked --debug --root "$tools" --target-dir "$tools/build" "cargo-deny@$version"
    rm -rf "$tools/build"
fi

"$deny" --locked --all-features check --hide-inclusion-graph licenses bans sources
if GIT_TERMINAL_PROMPT=0 timeout 20 git ls-remote --exit-code "$database" HEAD >/dev/null 2>&1; then
    "$deny" --locked --all-features check --hide-inclusion-graph advisories
else
    echo "advisories: skipped, $database cannot be reached"
fi
