# Isthmus. `make help` lists what there is.
SHELL := /bin/bash
GO ?= go
BIN := bin
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X main.version=$(VERSION)
TOOL := $(GO) tool -modfile=tools/go.mod
PACKAGES := ./...
# Packages with tests that count allocations, which the race detector makes meaningless.
COUNTED := ./core/balance ./dataplane/... ./internal/failpoint ./telemetry ./xds

.PHONY: soak bench-partitions bench-dataplane bench-controlplane bench-peers bench-local bench-detection bench-traffic help build up down test unit e2e check fmt vet staticcheck generate generated vuln sim fuzz bench clean

help: ## list the targets
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## /{printf "  %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## build the binaries into bin/
	@mkdir -p $(BIN)
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $(BIN)/ ./cmd/...

up: build ## run a three-region mesh on this machine
	$(BIN)/isthmus up --detach $(UPFLAGS)

down: ## end it
	$(BIN)/isthmus down

test: unit e2e ## everything: unit, race, stories, simulation, the local mesh end to end

unit: ## tests of all packages under the race detector, and without it those that count allocations, the simulated meshes, and the simulator's calibration
	$(GO) test -race -timeout 20m $$($(GO) list $(PACKAGES) | grep -v '/localmesh/e2e$$\|/sim$$')
	$(GO) test -count=1 -timeout 20m ./sim
	$(GO) test -count=1 -race -run 'TestSameSeedSameRun' ./sim
	$(GO) test -count=1 -run 'Allocat' $(COUNTED)
	$(GO) test -count=1 -run 'Calibration' ./sim/traffic

e2e: build ## the local mesh end to end, with the built binary
	ISTHMUS_E2E=$(CURDIR)/$(BIN)/isthmus $(GO) test -count=1 -timeout 30m -v ./localmesh/e2e | grep -v "=== RUN"; exit $${PIPESTATUS[0]}

check: fmt vet staticcheck generated ## format, vet, staticcheck, the laws of the house, generated code
	$(GO) test -count=1 .

fmt:
	@out=$$(git ls-files '*.go' | grep -v '\.pb\.go$$' | xargs gofmt -l); if [ -n "$$out" ]; then echo "gofmt would change:"; echo "$$out"; exit 1; fi

vet:
	$(GO) vet $(PACKAGES)

staticcheck:
	$(TOOL) staticcheck $(PACKAGES)

generate: ## generate code from the protobuf files, and the reference of policies from their shapes
	cd codec/wire && $(GO) tool -modfile=../../tools/go.mod buf generate
	$(GO) test -count=1 ./codec/manifest -run TestReferenceIsCurrent -update

generated: generate
	@git diff --exit-code --stat -- codec/wire/wirepb docs/reference || { echo "what is generated is not current: commit the result of make generate"; exit 1; }

vuln: ## known vulnerabilities in what is linked
	@$(TOOL) govulncheck $(PACKAGES) || { code=$$?; if [ $$code -eq 3 ]; then exit 3; fi; echo "not run: no database"; }

bench-local: build ## the figures of the local mesh, into docs/benchmarks.md
	$(GO) run ./bench/local -bin $(BIN) -out docs $(if $(QUICK),-quick)

bench-dataplane: build bench-peers ## the data plane beside HAProxy and nginx, into docs/benchmarks.md
	@mkdir -p $(BIN)/bench && $(GO) build -o $(BIN)/bench/ ./bench/dataplane
	$(BIN)/bench/dataplane -bin $(BIN) -out docs $(if $(QUICK),-quick) $(BENCHFLAGS)

bench-controlplane: build ## the control plane with a thousand proxies, beside go-control-plane's caches, into docs/benchmarks.md
	@mkdir -p $(BIN)/bench && $(GO) build -o $(BIN)/bench/ ./bench/controlplane
	$(BIN)/bench/controlplane -bin $(BIN) -out docs $(if $(QUICK),-quick)

bench-peers: # rows without a peer say so, where these cannot be installed
	@if ! { command -v haproxy nginx && ls /usr/lib/nginx/modules/ngx_stream_module.so; } >/dev/null 2>&1 && command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq haproxy nginx libnginx-mod-stream || true; fi

ROUNDS ?= 3
bench-partitions: build ## each kind of partition of a local mesh under load, ROUNDS=3 times, into docs/reliability.md; QUICK=1: once, some kinds, no table
	ISTHMUS_E2E=$(CURDIR)/$(BIN)/isthmus $(GO) test -count=1 -timeout 0 -v ./localmesh/e2e -run TestPartitions $(if $(QUICK),,-partitions=all -partitions-rounds=$(ROUNDS) -partitions-docs=$(CURDIR)/docs)

bench-detection: ## the curve of detection time against false trips, into docs/
	$(GO) run ./bench/detection -out docs

bench-traffic: build ## ours, the policies of others and the oracles on every scenario of traffic, on virtual time, into docs/; without QUICK=1 then five of them on real processes, 27 minutes
	$(GO) run ./bench/traffic -out docs $(if $(QUICK),-quick) $(BENCHFLAGS)
	$(if $(QUICK),,$(GO) run ./bench/emulation -bin $(BIN) -out docs)

SOAK ?= 30m
RATE ?= 300
soak: build ## a local mesh under load, churn, renewals, policy swaps and kills for SOAK=30m at RATE requests a second and client
	ISTHMUS_E2E=$(CURDIR)/$(BIN)/isthmus $(GO) test -count=1 -timeout 0 -v ./localmesh/e2e -run TestSoak -soak=$(SOAK) -soak-rate=$(RATE)

SEEDS ?= 200
SEED ?= 1
SUMMARY ?=
PIECES ?=
sim: ## SEEDS=N simulated meshes from seed SEED on; SEEDS=1 SEED=N replays one; SUMMARY=file keeps the sum and goes on where it was; SEEDS=0 PIECES="file file" adds up
	GOGC=400 $(GO) test -count=1 -timeout 24h ./sim -seed=$(SEED) -seeds=$(SEEDS) -summary=$(abspath $(SUMMARY)) -pieces="$(abspath $(PIECES))" \
		-build=$$(git describe --always --dirty) -v -run TestStateAcrossReplicas

TIME ?= 30s
fuzz: ## every fuzz target for TIME each
	@set -e; for p in $$($(GO) list $(PACKAGES)); do for f in $$($(GO) test -list '^Fuzz' $$p 2>/dev/null | grep '^Fuzz' || true); do \
		echo "== $$p $$f"; $(GO) test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(TIME) -fuzzminimizetime 5s $$p; done; done

bench: ## micro-benchmarks
	$(GO) test -run '^$$' -bench . -benchmem $(PACKAGES)

clean: ## remove what was built
	rm -rf $(BIN)
