#!/usr/bin/env bash
# Runs the shell commands of a document, in one shell: every block that is fenced as `sh`, except one after the line
# `<!-- example -->`. After the line `<!-- expect: error -->`, the server must refuse every command of the block.
# interop/run.sh starts the server and sets the variables.
set -euo pipefail
cd "$(dirname "$0")/.."

document=$1
script=$(mktemp)
trap 'rm -f "$script"' EXIT

# Each command keeps the number of its line in the document, so that the messages of bash name the right line. All
# other lines are empty. The document assumes the default data directory and the default address.
awk '
    /^```/ && !fenced {
        fenced = 1
        runs = $0 == "```sh" && before != "<!-- example -->"
        refused = before == "<!-- expect: error -->"
        if (refused && !runs) { print FILENAME ":" NR ": the marker needs a block of sh" >"/dev/stderr"; exit 1 }
        if (runs) { print "blocks=$((blocks + 1))" } else { print "" }
        next
    }
    /^```/ { fenced = 0; runs = 0; before = ""; print ""; next }
    !fenced { if ($0 != "") { before = $0 } else { before = "" } ; print ""; next }
    !runs { print ""; next }
    refused && $0 != "" {
        continued = /\\$/
        print (open ? "" : "if ") $0 (continued ? "" : "; then accepted; else refused $?; fi")
        open = continued
        next
    }
    { print }
    END { if (fenced) { print FILENAME ": a fence is not closed" >"/dev/stderr"; exit 1 } }
' "$document" | sed \
    -e "s|target/debug/roster token|'$ROSTER_PROGRAM' token --data-dir '$ROSTER_DATA'|g" \
    -e "s|/var/lib/roster-dev|'$ROSTER_DATA'|g" \
    -e "s|~/.local/share/roster-dev|'$ROSTER_DATA'|g" \
    -e "s|127\.0\.0\.1:50051|$ROSTER_ADDRESS|g" >"$script"

# The tokens that the document creates itself must not come from run.sh.
unset OPERATOR SERVICE ADA GRACE JOAN
status=0
bash -c '
    set -Eeuo pipefail
    blocks=0
    failed() {
        echo "$document:${BASH_LINENO[1]}: $1" >&2
        exit 1
    }
    accepted() { failed "the server accepted a command that the document marks as refused"; }
    # grpcurl adds 64 to the gRPC status code. Smaller codes are failures of grpcurl, such as a refused connection.
    refused() { (($1 > 64)) || failed "the command failed with $1, which is no answer of the server"; }
    trap '\''echo "$document:$LINENO: the command failed with $?" >&2'\'' ERR
    document=$1
    source "$2"
    trap - ERR
    ((blocks == 0)) || echo "interop: $document with grpcurl: $blocks blocks passed"
' walk "$document" "$script" >"$script.out" 2>&1 </dev/null || status=$?
if ((status == 0)); then tail -1 "$script.out" | grep '^interop: ' || true; else cat "$script.out" >&2; fi
rm -f "$script.out"
exit "$status"
