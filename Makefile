# make dev      run a server with a private Postgres; pass flags in ARGS: make dev ARGS="--listen 127.0.0.1:50052"
# make test     run every test
# make check    run what CI runs: tests, formatting, lints, protos, documentation, .sqlx, newest Postgres, interop
# make interop  run other clients, the commands of the documents, and roster behind PgBouncer; needs Go, Java, Node, Python
# make sqlx     update .sqlx after a change of a query or a migration
# make bench    measure the performance; select figures in ARGS: make bench ARGS="check batch"
# make siege    attack a release build with one peer; select attacks in ARGS: make siege ARGS="slow-bodies silent"

# The build checks queries with .sqlx, and ignores a database that the environment may name.
export SQLX_OFFLINE = true

.PHONY: dev test check interop lint format sqlx bench siege setup

dev: setup
	cargo run --locked -- dev $(ARGS)

test: setup
	cargo test --locked

check:
	.ci/run

interop: setup
	interop/run.sh

lint:
	cargo clippy --locked --all-targets -- -D warnings

format:
	cargo fmt

sqlx: setup
	.ci/sqlx.sh --write

bench: setup
	cargo bench --locked --bench figures -- $(ARGS)

siege: setup
	cargo build --locked --release --bin roster
	cargo bench --locked --profile siege --bench siege -- $(ARGS)

setup:
	@.ci/setup.sh
