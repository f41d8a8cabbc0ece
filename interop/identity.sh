#!/usr/bin/env bash
# Runs the tests of roster with a real OpenID provider, oidc-provider of npm. It listens on loopback only.
set -euo pipefail
cd "$(dirname "$0")/.."
export SQLX_OFFLINE=true

home=$PWD/target/interop/identity
mkdir -p "$home"
cp interop/identity/* "$home"
(cd "$home" && npm install --silent --no-audit --no-fund)
ROSTER_OIDC_PROVIDER=$home cargo test --locked --quiet --test it identity::oidc_provider -- --ignored
