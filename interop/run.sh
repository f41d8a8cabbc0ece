#!/usr/bin/env bash
# Runs programs that are not part of roster against `roster dev`: a client of grpc-go, a client of grpc-python, the
# programs of docs/languages.md, and the commands of README.md and docs/*.md with grpcurl. Each program gets a new server
# with an empty database. At the end it runs the tests behind PgBouncer, behind haproxy, of clients over TLS and with an
# OpenID provider. Everything that the script installs or generates is in target/interop. It prints one line for each
# program, and fails on the first program that fails.
set -euo pipefail
cd "$(dirname "$0")/.."
export SQLX_OFFLINE=true

GRPCURL=v1.9.4
PROTOC_GEN_GO=v1.36.12
PROTOC_GEN_GO_GRPC=v1.6.2

root=$PWD
installed=$root/target/interop
program=${CARGO_TARGET_DIR:-$root/target}/debug/roster
languages=$installed/languages
work=$(mktemp -d)
# If roster runs as root, the account of Postgres must be able to pass through.
chmod 711 "$work"
server=
example=

stop() {
    echo "$*" >&2
    exit 1
}

stop_server() {
    [[ -n $server ]] || return 0
    kill -TERM "$server" 2>/dev/null || true
    wait "$server" 2>/dev/null || true
    server=
}

# Starts a server with an empty database. Clients read its address and its tokens from the environment.
start_server() {
    stop_server
    rm -rf "$work/data"
    launch_server
}

# Starts a server with the data of the one before.
launch_server() {
    rm -f "$work/out"
    "$program" dev --data-dir "$work/data" --listen "$ROSTER_ADDRESS" >"$work/out" 2>"$work/log" </dev/null &
    server=$!
    local tries
    for ((tries = 0; tries < 600; tries++)); do
        ! grep -qs '^roster is ready at ' "$work/out" || break
        kill -0 "$server" 2>/dev/null || stop "roster dev ended: $(cat "$work/log")"
        sleep 0.1
    done
    # The message comes before the first health query has ended.
    for ((; tries < 600; tries++)); do
        ! grpcurl -plaintext "$ROSTER_ADDRESS" grpc.health.v1.Health/Check 2>/dev/null | grep -q '"SERVING"' || break
        sleep 0.1
    done
    ((tries < 600)) || stop "roster dev was not ready within a minute: $(cat "$work/log")"
    OPERATOR=$(token --operator)
    SERVICE=$(token --service check,manage,act-as)
    ADA=$(token --user ada --email ada@example.com --name "Ada Lovelace")
    GRACE=$(token --user grace --email grace@example.com --name "Grace Hopper")
    JOAN=$(token --user joan --email joan@example.com --name "Joan Clarke")
    export OPERATOR SERVICE ADA GRACE JOAN
}

token() {
    "$program" token --data-dir "$work/data" "$@"
}

# Runs a client: its name, then its command.
client() {
    start_server
    local status=0
    "${@:2}" </dev/null || status=$?
    if ((status != 0)); then
        echo "interop: $1 failed; the log of the server ends with:" >&2
        tail -20 "$work/log" >&2
        exit 1
    fi
    stop_server
}

# Sends a request as the service: its method, then its message.
request() {
    grpcurl -plaintext -H "authorization: Bearer $SERVICE" -d "$2" "$ROSTER_ADDRESS" "roster.v1.$1" >/dev/null
}

# Waits until an example of docs/languages.md has printed a line.
printed() {
    local tries
    for ((tries = 0; tries < 600; tries++)); do
        ! grep -qsx "$1" "$work/example" || return 0
        kill -0 "$example" 2>/dev/null || break
        sleep 0.1
    done
    echo "interop: the example in $language did not print: $1; it printed:" >&2
    cat "$work/example" "$work/example.log" >&2
    kill -0 "$example" 2>/dev/null || echo "interop: the example has ended" >&2
    echo "interop: the log of the server ends with:" >&2
    tail -20 "$work/log" >&2
    exit 1
}

# Runs an example of docs/languages.md: its language, then its command, in the folder of the example. The server is
# started again while the example watches.
example() {
    language=$1
    start_server
    request OrganizationService/CreateOrganization '{"name": "Acme, Inc.", "owner_user_id": "ada"}'
    (cd "$languages/$language" && exec "${@:2}") >"$work/example" 2>"$work/example.log" </dev/null &
    example=$!
    printed watching
    request OrganizationService/AddMember '{"organization": "acme-inc", "user_id": "grace"}'
    printed "event: member.added grace"
    stop_server
    launch_server
    request OrganizationService/AddMember '{"organization": "acme-inc", "user_id": "alan"}'
    printed "event: member.added alan"
    stop_example
    stop_server
    # Events are delivered at least once: again if the stream ended before the cursor behind them.
    printf '%s\n' "ada is a member: true" "error: INVALID_REQUEST" "invalid field: user_id" watching \
        "event: member.added grace" "event: member.added alan" | diff - <(uniq "$work/example") >&2 ||
        stop "interop: the example in $language printed something else"
    echo "interop: docs/languages.md in $language: 6 lines are right"
}

stop_example() {
    [[ -n $example ]] || return 0
    kill -KILL "$example" 2>/dev/null || true
    wait "$example" 2>/dev/null || true
    example=
}

trap 'stop_example; stop_server; rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

missing=()
command -v cargo >/dev/null || missing+=("Rust")
command -v go >/dev/null || missing+=("Go 1.26 or newer")
python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=("Python 3.10 or newer with venv")
command -v npm >/dev/null || missing+=("Node.js with npm")
command -v mvn >/dev/null || missing+=("Java 17 or newer with Maven")
((${#missing[@]} == 0)) || stop "make interop needs$(printf ' %s,' "${missing[@]}" | sed 's/,$//')"

mkdir -p "$installed/bin"
cargo build --locked --quiet

GOBIN=$installed/bin go install "github.com/fullstorydev/grpcurl/cmd/grpcurl@$GRPCURL"
GOBIN=$installed/bin go install "google.golang.org/protobuf/cmd/protoc-gen-go@$PROTOC_GEN_GO"
GOBIN=$installed/bin go install "google.golang.org/grpc/cmd/protoc-gen-go-grpc@$PROTOC_GEN_GO_GRPC"
[[ -x $installed/venv/bin/python ]] || python3 -m venv "$installed/venv"
"$installed/venv/bin/python" -m pip install --quiet --disable-pip-version-check -r interop/python/requirements.txt
export PATH=$installed/bin:$PATH

# The stubs of both languages. The code of google/rpc comes from the packages that its users install.
generated=$installed/generated
rm -rf "$generated"
mkdir -p "$generated/go" "$generated/python"
"$installed/venv/bin/python" -m grpc_tools.protoc -I proto -I third_party/googleapis \
    --go_out="$generated/go" --go_opt=module=roster.example/gen \
    --go-grpc_out="$generated/go" --go-grpc_opt=module=roster.example/gen \
    --python_out="$generated/python" --grpc_python_out="$generated/python" \
    proto/roster/v1/*.proto
# interop/go/go.mod replaces the reserved module path of the protos with this module.
printf 'module roster.example/gen\n\ngo 1.26\n' >"$generated/go/go.mod"
(cd interop/go && go build -mod=readonly -o "$installed/bin/interop-go" . && \
    go build -mod=readonly -o "$installed/bin/probe" ./probe)

# The examples of docs/languages.md, in a folder beside the protos, as the page describes it.
rm -rf "$languages"
mkdir -p "$languages/roster"
cp -R buf.yaml proto third_party "$languages/roster"
cp -R interop/languages/* "$languages"
buf() { npm exec --yes --package=@bufbuild/buf@1.75.0 -- buf "$@"; }
(cd "$languages/go" && buf generate && go build -mod=readonly -o example .)
mkdir "$languages/python/gen"
(cd "$languages/python" && "$installed/venv/bin/python" -m grpc_tools.protoc -I ../roster/proto \
    -I ../roster/third_party/googleapis --python_out=gen --grpc_python_out=gen ../roster/proto/roster/v1/*.proto)
(cd "$languages/node" && npm install --silent --no-audit --no-fund)
(cd "$languages/java" && mvn --quiet --batch-mode -Dstyle.color=never compile \
    org.apache.maven.plugins:maven-dependency-plugin:3.8.1:build-classpath -Dmdep.outputFile=classpath)
# The clients of the tests in tests/it/interop.
cp interop/node/probe.js "$languages/node"
(cd "$languages/java" && javac -d target/classes -cp "target/classes:$(cat classpath)" "$root/interop/java/Probe.java")
[[ ! -e $languages/go/gen/google && ! -e $languages/java/target/classes/com/google ]] ||
    stop "interop: the code of the protos contains a second copy of google/rpc"

# The documents use the default address. If its port is in use, another one replaces it.
export ROSTER_ADDRESS=127.0.0.1:50051
if (exec 3<>/dev/tcp/127.0.0.1/50051) 2>/dev/null; then
    free_port='import socket; print(socket.create_server(("127.0.0.1", 0)).getsockname()[1])'
    ROSTER_ADDRESS=127.0.0.1:$(python3 -c "$free_port")
fi
export ROSTER_MAIL=$work/data/mail ROSTER_DATA=$work/data ROSTER_PROGRAM=$program

client grpc-go "$installed/bin/interop-go"
client grpc-python env PYTHONPATH="$generated/python" PYTHONDONTWRITEBYTECODE=1 \
    "$installed/venv/bin/python" interop/python/walk.py
example go ./example
example python env PYTHONPATH=gen PYTHONDONTWRITEBYTECODE=1 "$installed/venv/bin/python" example.py
example node node example.js
example java java -cp "target/classes:$(cat "$languages/java/classpath")" Example
for document in README.md docs/*.md; do
    if [[ -f $document ]] && grep -q '^```sh$' "$document"; then
        client "$document" interop/walk.sh "$document"
    fi
done

interop/pgbouncer.sh
interop/haproxy.sh
interop/identity.sh
