#!/usr/bin/env bash
# Runs the tests of roster behind PgBouncer, in session mode and in transaction mode.
set -euo pipefail
cd "$(dirname "$0")/.."
source interop/debian.sh
export SQLX_OFFLINE=true

program=$(debian_program pgbouncer usr/sbin/pgbouncer pgbouncer libc-ares2 libevent-2.1-7)
"$program" --version | sed -n 1p
ROSTER_PGBOUNCER=$program cargo test --locked --quiet --test it datastore::pooler -- --ignored
