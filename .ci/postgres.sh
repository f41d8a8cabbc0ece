# To be sourced. Defines postgres_bin, which prints the directory of the Postgres server programs. It searches the same
# directories as src/postgres/binaries.rs.
postgres_bin() {
    local directory
    for directory in "${ROSTER_POSTGRES_BIN:-}" "$(dirname "$(command -v initdb || echo /none/x)")" \
        $(ls -d /usr/lib/postgresql/*/bin /opt/homebrew/opt/postgresql@*/bin /usr/local/opt/postgresql@*/bin \
            2>/dev/null | sort -rV); do
        if [[ -x $directory/initdb && -x $directory/postgres ]] && (($(postgres_version "$directory") >= 15)); then
            echo "$directory"
            return
        fi
    done
    return 1
}

postgres_version() {
    "$1/postgres" --version | sed -E 's/^[^0-9]*([0-9]+).*/\1/'
}
