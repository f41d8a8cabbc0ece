#!/usr/bin/env bash
# Runs the shell commands of a document, in one shell: every block that is fenced as `sh`, except one after the line
# `<!-- example -->`. After the line `<!-- expect: error -->`, the server must refuse every command of the block.
# interop/run.sh starts the server and sets the variables.
set -euo pipefail
cd "$(dirname "$0")/.."

document=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# Messages of bash contain the name of this file.
script=$work/${document##*/}

# Each command keeps the number of its line in the document, so that the messages of bash name the right line. All
# other lines are empty. The document assumes the default data directory and the default address.
awk '
    function fail(message) { print FILENAME ":" NR ": " message >"/dev/stderr"; failed = 1; exit 1 }
    /^```/ && !fenced {
        fenced = 1
        runs = $0 == "```sh" && before != "<!-- example -->"
        refused = before == "<!-- expect: error -->"
        if (refused && !runs) fail("the marker needs a block of sh")
        print (runs ? "blocks=$((blocks + 1))" : "")
        next
    }
    /^```/ { fenced = runs = 0 }
    { before = $0 }
    !runs { print ""; next }
    refused && !/^ *(#|$)/ {
        continued = /\\$/
        print (open ? "" : "if ") $0 (continued ? "" : "; then accepted; else refused $?; fi")
        open = continued
        next
    }
    { print }
    END { if (fenced && !failed) fail("a fence is not closed") }
' "$document" | sed \
    -e "s|target/debug/roster token|'$ROSTER_PROGRAM' token --data-dir '$ROSTER_DATA'|g" \
    -e "s|target/debug/roster access-model|'$ROSTER_PROGRAM' access-model|g" \
    -e "s|/var/lib/roster-dev|'$ROSTER_DATA'|g" \
    -e "s|~/.local/share/roster-dev|'$ROSTER_DATA'|g" \
    -e "s|127\.0\.0\.1:50051|$ROSTER_ADDRESS|g" >"$script"

# The tokens that the document creates itself must not come from run.sh.
unset OPERATOR SERVICE ADA GRACE JOAN
status=0
bash -c '
    set -Eeuo pipefail
    document=$1
    blocks=0
    failed() {
        echo "$document:${BASH_LINENO[1]}: $1" >&2
        exit 1
    }
    accepted() { failed "the server accepted a command that the document marks as refused"; }
    # grpcurl adds 64 to the gRPC status code. Other codes are failures of grpcurl, such as a refused connection.
    refused() { (($1 > 64 && $1 <= 80)) || failed "the command failed with $1, which is no answer of the server"; }
    trap '\''echo "$document:$LINENO: the command failed with $?" >&2'\'' ERR
    source "$2"
    trap - ERR
    echo "$blocks" >"$3"
' walk "$document" "$script" "$work/blocks" >"$work/output" 2>&1 </dev/null || status=$?
if ((status != 0)); then
    cat "$work/output" >&2
    exit "$status"
fi
[[ -s $work/blocks ]] || { echo "$document: a command ended the shell" >&2; exit 1; }
blocks=$(<"$work/blocks")
((blocks == 0)) || echo "interop: $document with grpcurl: $blocks blocks passed"
