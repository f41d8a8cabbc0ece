#!/bin/sh
# Checks that the protos are in buf's form and pass its rules (buf.yaml).
set -eu
cd "$(dirname "$0")/.."

buf() {
    npm exec --yes --package=@bufbuild/buf@1.75.0 -- buf "$@"
}

buf lint
buf format --diff --exit-code --path proto/roster
