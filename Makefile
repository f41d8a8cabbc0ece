# make dev    a server with a Postgres of its own; flags for it in ARGS, as make dev ARGS="--listen 127.0.0.1:50052"
# make test   every test
# make check  what CI runs: the tests, formatting, lints, protos, docs, .sqlx
# make sqlx   bring .sqlx up to date after a change of a query or a migration
# make bench  measure what things cost; ARGS names some of them, as make bench ARGS="check batch"

# The build asks .sqlx about queries, and no database that may be in the environment.
export SQLX_OFFLINE = true

.PHONY: dev test check lint format sqlx bench setup

dev: setup
	cargo run --locked -- dev $(ARGS)

test: setup
	cargo test --locked

check:
	.ci/run

lint:
	cargo clippy --locked --all-targets -- -D warnings

format:
	cargo fmt

sqlx: setup
	.ci/sqlx.sh --write

bench: setup
	cargo bench --locked --bench figures -- $(ARGS)

setup:
	@.ci/setup.sh
