# Every target does its own set-up; `make help` lists them.
SHELL := /bin/bash
.DEFAULT_GOAL := help

GOLANGCI_VERSION := v2.15.0
GOFUMPT_VERSION := v0.12.0
export CGO_ENABLED ?= 0

ENGINE := build/engine/libchdb.so
PACKAGES := ./...

.PHONY: help build engine test race lint fmt fuzz bench bench-history gobench e2e crash soak loop loop-e2e demo tools clean

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-14s %s\n", $$1, $$2}'

build: ## build ./build/carom
	go build -trimpath -o build/carom .

engine: $(ENGINE) ## fetch the ClickHouse engine library into build/engine (npm ci)

$(ENGINE): schemas/warehouse/engine/npm/package-lock.json schemas/warehouse/engine/npm/install.sh
	schemas/warehouse/engine/npm/install.sh

test: engine ## run all tests, shuffled, against a real ClickHouse engine
	CAROM_REQUIRE_ENGINE=1 go test -shuffle=on $(PACKAGES)

# Packages whose tests ask SQL, one statement after the other: there is nothing to race, and make test runs them.
SQL_ONLY := schemas/warehouse schemas/warehouse/questions schemas/warehouse/verify \
            analytics/jobs analytics/trace analytics/windows deploy/load/events deploy/bench/history
race: engine ## run the tests of what is concurrent with the race detector (needs a C compiler)
	CAROM_REQUIRE_ENGINE=1 CGO_ENABLED=1 go test -race -short $$(go list $(PACKAGES) | grep -vxF "$$(printf 'carom/%s\n' $(SQL_ONLY))")

lint: bin/golangci-lint ## check style and import rules
	bin/golangci-lint run $(PACKAGES)

fmt: bin/gofumpt ## format all Go code
	bin/gofumpt -w $$(git ls-files '*.go')

# A count, not a time: when a time is over, Go 1.26 may fail a fuzzer with "context deadline exceeded" (golang/go#75804).
FUZZTIME ?= 200000x
FUZZ_IN ?= .
fuzz: ## run every fuzzer 200,000 times (FUZZTIME=2000000x: longer; FUZZ_IN=./ingest/dsn: of some folders)
	@set -e; for package in $$(grep -rl --include='*_test.go' '^func Fuzz' $(FUZZ_IN) | xargs -n1 dirname | sort -u); do \
	  for f in $$(grep -h '^func Fuzz' $$package/*_test.go | sed 's/func \(Fuzz[A-Za-z0-9]*\).*/\1/'); do \
	    echo "$$package $$f"; go test -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 200x $$package; done; done

bench: build engine ## measure carom against Postfix, go-smtp, openssl and its own targets (half an hour; see deploy/docs/bench.md)
	./build/carom bench $(BENCH_FLAGS)

SIZE ?= 100M
bench-history: build engine ## measure the event history (SIZE=20M: a short run; see deploy/docs/history.md)
	./build/carom bench history --size $(SIZE) --out build/bench-history.json $(BENCH_FLAGS)

gobench: ## run the benchmarks that stand beside the code
	go test -run '^$$' -bench . -benchmem $(PACKAGES)

e2e: engine ## run the whole-system tests alone
	CAROM_REQUIRE_ENGINE=1 go test -count=1 -v ./deploy/e2e/...
	CAROM_REQUIRE_ENGINE=1 CAROM_LONG=1 go test -count=1 -v -timeout 30m -run ExactlyOnce ./ingest/ship
	CAROM_REQUIRE_ENGINE=1 CAROM_LONG=1 go test -count=1 -v -run Killed ./analytics/app

CRASH_ROUNDS ?= 100
crash: ## kill -9 the node at random moments under load and count (CRASH_ROUNDS=1000, CRASH_SEED=N: again)
	CRASH_ROUNDS=$(CRASH_ROUNDS) go test -count=1 -v -timeout 0 -run '^TestCrash$$' ./deploy/crash

SOAK_MINUTES ?= 10
soak: ## steady load with faults, and an eye on memory, files and goroutines (SOAK_MINUTES=10)
	SOAK_MINUTES=$(SOAK_MINUTES) go test -count=1 -v -timeout 0 -run '^TestSoak$$' ./deploy/crash

LOOP_FLAGS ?= --out build/loop
loop: ## measure the control loop in virtual time against usual rules (LOOP_FLAGS="--random 200": see deploy/docs/loop.md)
	go build -trimpath -o build/carom-loop ./deploy/loop/cmd
	./build/carom-loop $(LOOP_FLAGS)

demo: build engine ## show the whole loop in two minutes (DEMO_FLAGS=--keep: leave it running)
	./build/carom demo $(DEMO_FLAGS)

loop-e2e: build engine ## scenarios of the control loop with everything real, 20 times as fast (LOOP_E2E_FLAGS="--only A3,A8 --json out.json")
	./build/carom loop e2e $(LOOP_E2E_FLAGS)

.PHONY: plugin plugin-test plugin-browser plugin-demo plugin-bench
PLUGIN_ARCHS ?= amd64 arm64
PLUGIN_BINARY := grafana-plugin/dist/gpx_carom_deliverability_linux_
PLUGIN_MODULES := grafana-plugin/node_modules/.package-lock.json

$(PLUGIN_MODULES): grafana-plugin/package-lock.json
	cd grafana-plugin && npm ci --ignore-scripts
	@touch $@

plugin: $(PLUGIN_MODULES) ## build the Grafana plugin into a zip in grafana-plugin/dist (PLUGIN_ARCHS=amd64)
	cd grafana-plugin && npm run build
	for arch in $(PLUGIN_ARCHS); do \
	  GOOS=linux GOARCH=$$arch go build -trimpath -ldflags '-s -w' -o $(PLUGIN_BINARY)$$arch ./grafana-plugin/pkg || exit 1; done
	go run ./grafana-plugin/pack grafana-plugin/dist

plugin-test: $(PLUGIN_MODULES) ## check types and style of the plugin's frontend and run its unit tests
	cd grafana-plugin && npm run typecheck && npm run lint && npm test

plugin-browser: plugin engine ## drive the plugin's editors and dashboards in Chromium (needs Debian's chromium; SCREENSHOTS=folder)
	cd grafana-plugin && npm run page
	CAROM_REQUIRE_ENGINE=1 CAROM_BROWSER=1 CAROM_PLUGIN_BINARY=$(CURDIR)/$(PLUGIN_BINARY)amd64 \
	  go test -count=1 -timeout 15m -v -run TestBrowser ./grafana-plugin/bridge

plugin-demo: plugin build engine ## run the demo, and look at its cut in the plugin's dashboards in Chromium (SCREENSHOTS=folder)
	cd grafana-plugin && npm run page
	CAROM_DEMO=$(CURDIR)/build/carom CAROM_PLUGIN_BINARY=$(CURDIR)/$(PLUGIN_BINARY)amd64 \
	  go test -count=1 -timeout 15m -v -run TestDemo ./grafana-plugin/bridge

plugin-bench: plugin ## measure the dashboards in Chromium over a history: HISTORY=http://127.0.0.1:8123/carom
	@test -n "$(HISTORY)" || { echo "say which history: make plugin-bench HISTORY=http://127.0.0.1:8123/carom" >&2; exit 1; }
	cd grafana-plugin && npm run page
	CAROM_HISTORY_URL=$(HISTORY) CAROM_PLUGIN_BINARY=$(CURDIR)/$(PLUGIN_BINARY)amd64 \
	  go test -count=1 -timeout 30m -v -run TestSpeed ./grafana-plugin/bridge

tools: bin/golangci-lint bin/gofumpt ## install the pinned tools into ./bin

bin/golangci-lint: Makefile
	GOBIN=$(CURDIR)/bin go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_VERSION)
	@touch $@

bin/gofumpt: Makefile
	GOBIN=$(CURDIR)/bin go install mvdan.cc/gofumpt@$(GOFUMPT_VERSION)
	@touch $@

clean: ## remove what was built and fetched
	rm -rf build bin schemas/warehouse/engine/npm/node_modules grafana-plugin/node_modules grafana-plugin/dist grafana-plugin/page/out
