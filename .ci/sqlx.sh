#!/usr/bin/env bash
# Checks that .sqlx is up to date. The build uses .sqlx to check the SQL in src/ without a database; this script
# compares it with the result for a new database with the present migrations. With --write, the script updates .sqlx.
set -euo pipefail
cd "$(dirname "$0")/.."
source .ci/postgres.sh

bin=$(postgres_bin) || { echo "no Postgres server found: run .ci/setup.sh" >&2; exit 1; }
PATH=$bin:$PATH
work=$(mktemp -d)
as_postgres=()
if ((EUID == 0)); then
    # Postgres refuses to run as root.
    as_postgres=(runuser -u "${ROSTER_POSTGRES_USER:-postgres}" --)
    chown "${ROSTER_POSTGRES_USER:-postgres}" "$work"
fi
# Runs a command of the server, and prints its output only if it fails. The working directory is one that every account
# may enter.
server() {
    (cd / && ${as_postgres[@]+"${as_postgres[@]}"} env LC_ALL=C "$@") >"$work/output" 2>&1 || {
        cat "$work/output" >&2
        return 1
    }
}
trap '[[ ! -e $work/data/postmaster.pid ]] || server pg_ctl -D "$work/data" -m immediate stop; rm -rf "$work"' EXIT

server initdb -D "$work/data" -U postgres -A trust -E UTF8 --locale=C --no-sync
server pg_ctl -D "$work/data" -w -l "$work/log" -o "-k $work -p 5432 -c listen_addresses= -c fsync=off" start
for migration in migrations/*.sql; do
    psql -XqAt -v ON_ERROR_STOP=1 -1 -h "$work" -p 5432 -U postgres -d postgres -f "$migration" >/dev/null
done

mkdir "$work/sqlx"
# Makes cargo expand the macros again, without a rebuild of the dependencies.
touch src/lib.rs
DATABASE_URL="postgres://postgres@${work//\//%2F}:5432/postgres" SQLX_OFFLINE=false SQLX_OFFLINE_DIR="$work/sqlx" \
    cargo check --quiet --lib

if [[ ${1:-} == --write ]]; then
    rm -rf .sqlx
    cp -R "$work/sqlx" .sqlx
elif ! diff -r .sqlx "$work/sqlx"; then
    echo ".sqlx does not match the SQL and the migrations: run make sqlx" >&2
    exit 1
fi
