#!/usr/bin/env bash
# Runs the tests of roster behind haproxy, and those with clients of other languages, which interop/run.sh has built.
set -euo pipefail
cd "$(dirname "$0")/.."
source interop/debian.sh
export SQLX_OFFLINE=true

program=$(debian_program haproxy usr/sbin/haproxy haproxy liblua5.3-0 libopentracing-c-wrapper0 libopentracing1)
"$program" -v | sed -n 1p
export ROSTER_HAPROXY=$program ROSTER_INTEROP=$PWD/target/interop
cargo test --locked --quiet --test it -- --ignored peers::haproxy interop::
