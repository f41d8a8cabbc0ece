#!/usr/bin/env bash
# Searches the sources and the documents for misspelled words. typos.toml lists the words that are right.
set -euo pipefail
cd "$(dirname "$0")/.."

version=1.52.0
tools=target/tools/typos
if [[ $("$tools/bin/typos" --version 2>/dev/null) != "typos-cli $version" ]]; then
    python3 -c 'import ensurepip, venv' 2>/dev/null || {
        echo "missing: Python 3 with venv, which installs typos. Install python3-venv, then try again" >&2
        exit 1
    }
    rm -rf "$tools"
    python3 -m venv "$tools"
    "$tools/bin/pip" install --quiet --disable-pip-version-check "typos==$version"
fi
"$tools/bin/typos"
