# Everything works on a fresh Debian or Ubuntu with python3 (3.11 or newer), its venv module and make.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help run demo test test-long quick check kill-loop power-cut soak bench bench-task bench-transport bench-daemon bench-disk bench-bytes bench-threads bench-segments bench-governor bench-extract bench-fan-out clean
.DEFAULT_GOAL := help
# Tests and measurements start hundreds of processes, each of which would compile the program anew.
unexport PYTHONDONTWRITEBYTECODE
# Neighbours stay together, so that what a module sets up is set up once and not by each process.
SHARED = -n $(or $(AT_A_TIME),3) --dist worksteal

help: ## say what each target does
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /\1\t/' | expand -t 18

run: .venv/installed ## run the daemon in the foreground on config/fetchd.yaml
	@$(BIN)/fetchd run --config config/fetchd.yaml

demo: .venv/installed ## see the main job proven in a temporary folder, without internet
	@$(BIN)/fetchd demo

test: .venv/developed ## run the whole suite, but for what takes many minutes
	@$(BIN)/pytest -q -m "not long and not alone" $(SHARED)
	@$(BIN)/pytest -q -m "alone and not long"

test-long: .venv/developed ## run what `make test` leaves out: thousands of crashes, power cuts, floods
	@$(BIN)/pytest -q -m long

quick: .venv/developed ## run the suite without its slow tests
	@$(BIN)/pytest -q -m "not slow and not long and not alone" $(SHARED)

kill-loop: .venv/developed ## kill a working daemon KILLS times (SEED=n: those of an earlier time, DURABILITY=none)
	@$(BIN)/python tests/faults/kill_loop.py --kills $(or $(KILLS),100) $(if $(SEED),--seed $(SEED)) \
	  --durability $(or $(DURABILITY),group)

power-cut: .venv/developed ## cut the power of a daemon CUTS times, seed SEED (needs root)
	@$(BIN)/python tests/faults/power_cut.py --cuts $(or $(CUTS),20) $(if $(SEED),--seed $(SEED))

soak: .venv/developed ## run a daemon under faults for MINUTES, fail on what grows
	@$(BIN)/python tests/faults/soak.py --minutes $(or $(MINUTES),10) $(if $(SEED),--seed $(SEED))

check: .venv/developed ## format, lint, types, import directions, shipped schemas
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/fetchd schema job | cmp - config/job.schema.json
	$(BIN)/fetchd schema config | cmp - config/fetchd.schema.json

bench: .venv/developed ## measure beside curl, wget2, aria2 ... (WORKLOADS= RUNS= OURS=, see docs/performance.md)
	@$(BIN)/python tests/bench/peers.py $(if $(WORKLOADS),--workloads $(WORKLOADS)) \
	  $(if $(RUNS),--runs $(RUNS)) $(if $(TOOLS),--tools $(TOOLS)) $(if $(WAYS),--ways $(WAYS)) \
	  $(if $(BIG_MIB),--big-mib $(BIG_MIB)) $(if $(SMALLER),--smaller $(SMALLER)) \
	  $(if $(DIR),--dir $(DIR)) $(if $(JSON),--json $(JSON)) $(foreach build,$(OURS),--ours $(build))

bench-task: .venv/developed ## measure the cost of one task beside its transfer
	@$(BIN)/python tests/bench/task_cost.py

bench-transport: .venv/developed ## measure the cost of a file's way over the wire
	@$(BIN)/python tests/bench/transport_cost.py

bench-disk: .venv/developed ## measure the cost of a file's part and publication
	@$(BIN)/python tests/bench/disk_cost.py

bench-bytes: .venv/developed ## measure the ways of a large body from a socket into a file
	@$(BIN)/python tests/bench/byte_path.py

bench-threads: .venv/developed ## measure where the CPU of a workload goes, by thread (WORKLOAD=S)
	@$(BIN)/python tests/bench/thread_cost.py $(WORKLOAD)

bench-segments: .venv/developed ## measure a large file over a slow way, by auto and fixed numbers of connections
	@$(BIN)/python tests/bench/segments_path.py

bench-governor: .venv/developed ## measure what being polite costs: decisions on origins, reads under rates
	@$(BIN)/python tests/bench/governor_cost.py

bench-extract: .venv/developed ## measure the step extract beside GNU tar, unzip and 7-Zip (MIB=512)
	@PYTHONPATH=tests $(BIN)/python tests/bench/extract_rate.py --mib $(or $(MIB),512)

bench-fan-out: .venv/developed ## measure memory and time of a fan-out of a million items
	@$(BIN)/python tests/bench/fan_out.py

bench-daemon: .venv/developed ## measure drop to request, idle CPU, a long list, many job files, start-up
	@$(BIN)/python tests/bench/daemon_bench.py

clean: ## remove what the targets made (not jobs, downloads or state)
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "fetchd needs Python 3.11 or newer; set PYTHON=..." >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv \
	  || { echo "the venv module is missing; on Debian: apt install python3-venv" >&2; exit 1; }
	@PIP_CONSTRAINT=constraints.txt $(BIN)/pip install --quiet --disable-pip-version-check -e .
	@touch $@

.venv/developed: .venv/installed
	@PIP_CONSTRAINT=constraints.txt $(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@
