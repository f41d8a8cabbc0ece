#!/bin/sh
# Checks that the protos of roster are formatted and pass the rules of buf.yaml; the vendored module is exempt.
set -eu
cd "$(dirname "$0")/.."

buf() {
    npm exec --yes --package=@bufbuild/buf@1.75.0 -- buf "$@"
}

buf lint
buf format --diff --exit-code proto
