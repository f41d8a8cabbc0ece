#!/usr/bin/env bash
# Runs the tests of roster behind haproxy, which sends the addresses of its clients by the PROXY protocol.
set -euo pipefail
cd "$(dirname "$0")/.."
source interop/debian.sh
export SQLX_OFFLINE=true

program=$(debian_program haproxy usr/sbin/haproxy haproxy liblua5.3-0 libopentracing-c-wrapper0 libopentracing1)
"$program" -v | sed -n 1p
ROSTER_HAPROXY=$program cargo test --locked --quiet --test it peers::haproxy -- --ignored
