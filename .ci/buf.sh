#!/bin/sh
# Checks that the protos of roster are formatted, pass the rules of buf.yaml, and are compatible with those of the
# newest release; the vendored module is exempt. With --image FILE, the script writes the descriptor image of the protos
# instead.
set -eu
cd "$(dirname "$0")/.."

if ! command -v npm >/dev/null; then
    echo "missing: Node.js with npm, which runs buf. Install it from https://nodejs.org, then try again" >&2
    exit 1
fi

buf() {
    npm exec --yes --package=@bufbuild/buf@1.75.0 -- buf "$@"
}

if [ "${1:-}" = --image ]; then
    # The image has the imports of the protos too, marked as imports: without them, `buf breaking` cannot read it.
    buf build proto -o "$2"
    exit
fi

buf lint
buf format --diff --exit-code proto
newest=$(ls proto/released/v*.binpb | sort -V | tail -n 1)
buf breaking proto --against "$newest" --exclude-imports
