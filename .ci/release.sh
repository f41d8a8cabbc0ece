#!/usr/bin/env bash
# Makes a release: .ci/release.sh VERSION. docs/releasing.md describes the steps. The script works on a clean tree, ends
# with a commit and a tag, and puts everything back if it fails. It sends nothing to another machine.
set -euo pipefail
cd "$(dirname "$0")/.."

stop() {
    echo "$*" >&2
    exit 1
}

version=${1:-}
[[ $version =~ ^(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*)){2}$ ]] || stop "usage: .ci/release.sh VERSION, as in 1.2.3"
image=proto/released/v$version.binpb
current=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1)
[[ -z $(git status --porcelain) ]] || stop "the tree is not clean: commit or remove what git status shows"
[[ ! -e $image ]] && ! git rev-parse --quiet --verify "refs/tags/v$version" >/dev/null ||
    stop "version $version is released already"
[[ $version != "$current" && $(printf '%s\n' "$current" "$version" | sort -V | tail -n 1) == "$version" ]] ||
    stop "version $version is not newer than $current"
unreleased='^## [[]?Unreleased[]]?$'
changes=$(awk -v head="$unreleased" '/^## /{inside = $0 ~ head; next} inside' CHANGELOG.md)
grep -q '^- ' <<<"$changes" || stop "CHANGELOG.md has no list of changes under Unreleased"
work=$(mktemp)

put_back() {
    rm -f "$work"
    git restore --staged --worktree .
    git clean -fdq proto/released tests/compat
    echo "the release failed; the tree is as before" >&2
}
trap put_back ERR
trap 'put_back; exit 130' INT TERM

# Before the new image and statements replace those of the release before.
.ci/buf.sh
.ci/sqlx.sh

# Replaces a file by the output of an awk program that reads it.
edit() {
    awk -v version="$version" -v head="$unreleased" -v today="$(date -u +%Y-%m-%d)" "$2" "$1" >"$work"
    cat "$work" >"$1"
}
edit Cargo.toml '/^version = / && !done { sub(/".*"/, "\"" version "\""); done = 1 } { print }'
edit Cargo.lock '
    ours { sub(/".*"/, "\"" version "\""); ours = 0 }
    $0 == "name = \"roster\"" { ours = 1 }
    { print }
'
edit CHANGELOG.md '
    { print }
    $0 ~ head { print ""; print (/[[]/ ? "## [" version "]" : "## " version) " - " today }
'
.ci/buf.sh --image "$image"
rm -rf tests/compat/v*
cp -R .sqlx "tests/compat/v$version"

# The new statements must run with the arguments of the test, and the lock file must belong to Cargo.toml.
SQLX_OFFLINE=true cargo test --locked --quiet --test it -- compatibility:: documents::

git add --all Cargo.toml Cargo.lock CHANGELOG.md proto/released tests/compat
git commit --quiet --message "release: Make version $version" --message "$changes"
trap - ERR INT TERM
rm -f "$work"
git tag --annotate "v$version" --message "roster $version"
echo "released $version: $(git rev-parse --short HEAD), with the tag v$version"
