# ComfyuME. `make` alone lists what there is.
SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help run build dist test deps fmt fmt-check vet lint unit e2e e2e-real compare drivers kill servers fleet faults property bands floors cross race fuzz bench bench-once frontends schedule clean
.NOTPARALLEL:

CACHE     := $(CURDIR)/.cache
TOOLS     := $(CACHE)/bin
GO        ?= go
VERSION   ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS   := -s -w -X github.com/ahelme/comfyume/internal/cli.Version=$(VERSION)
BUILD     := CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)'
GO_DIRS   := $(wildcard cmd internal e2e)
PLATFORMS := linux/amd64 linux/arm64 darwin/amd64 darwin/arm64 windows/amd64 windows/arm64

# What the tests need beside Go, Node and Python, as PROGRAM:DEBIAN-PACKAGE. apt-get brings it where that is allowed.
TEST_DEBS := chromium:chromium nginx:nginx caddy:caddy ip:iproute2 gcc:gcc,libc6-dev redis-server:redis-server
# The editors the tests run with: one of each generation.
TEST_FRONTENDS := 1.27.10 1.40.10 1.58.1

# make run: LISTEN=ADDRESS PORT=NUMBER TLS=MODE DATA=FOLDER NAME=TITLE BACKEND=URL FRONTEND=VERSION
PORT   ?= 8080
LISTEN ?= 127.0.0.1
DATA   ?= ./data
NAME   ?=
TLS    ?=
BACKEND  ?=
FRONTEND ?=

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: export DATA := $(DATA)
run: export NAME := $(NAME)
run: build ## start a try-out studio and print sign-in links (PORT= LISTEN= TLS=self DATA= NAME= BACKEND=url FRONTEND=version)
	@./bin/comfyume frontend install $(FRONTEND)
	@exec ./bin/comfyume serve --demo --listen '$(if $(findstring :,$(LISTEN)),$(LISTEN),$(LISTEN):$(PORT))' --data "$$DATA" \
		$(if $(NAME),--name "$$NAME") $(if $(TLS),--tls-mode '$(TLS)') \
		$(if $(BACKEND),--backend '$(BACKEND)') $(if $(FRONTEND),--frontend '$(FRONTEND)')

build: ## leave bin/comfyume, one static file
	@mkdir -p bin
	@$(BUILD) -o bin/comfyume ./cmd/comfyume

dist: ## build for linux, darwin and windows on amd64 and arm64 into dist/, with checksums
	@mkdir -p dist
	@set -e; for p in $(PLATFORMS); do \
		os=$${p%/*}; arch=$${p#*/}; ext=; if [ "$$os" = windows ]; then ext=.exe; fi; \
		echo "dist/comfyume-$$os-$$arch$$ext"; \
		GOOS=$$os GOARCH=$$arch $(BUILD) -o dist/comfyume-$$os-$$arch$$ext ./cmd/comfyume; \
	done; cd dist && sha256sum comfyume-* > SHA256SUMS

test: deps fmt-check vet lint build unit cross bench-once race e2e ## bring what the tests need and run all of them

deps: ## bring what the tests need (chromium, nginx, caddy, iproute2, gcc, redis, pip)
	@missing=; \
	for need in $(TEST_DEBS); do \
		PATH="$$PATH:/usr/sbin:/sbin" command -v $${need%%:*} >/dev/null 2>&1 || missing="$$missing $$(echo $${need#*:} | tr , ' ')"; \
	done; \
	python3 -m pip --version >/dev/null 2>&1 || missing="$$missing python3-pip"; \
	if [ -n "$$missing" ]; then \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then \
			echo "installing$$missing"; \
			apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
		else \
			echo "The tests need$$missing. Install with: sudo apt-get install$$missing"; exit 1; \
		fi; \
	fi

frontends: build ## bring the editors that the tests run with into .cache/frontends
	@COMFYUME_FRONTENDS=$(CACHE)/frontends ./bin/comfyume frontend install $(TEST_FRONTENDS) >/dev/null

$(TOOLS)/.done: tools/go.mod tools/go.sum
	@mkdir -p $(TOOLS)
	@cd tools && GOBIN=$(TOOLS) $(GO) install mvdan.cc/gofumpt honnef.co/go/tools/cmd/staticcheck
	@touch $@

fmt: $(TOOLS)/.done ## format the source
	@$(TOOLS)/gofumpt -w $(GO_DIRS)

fmt-check: $(TOOLS)/.done
	@bad=$$($(TOOLS)/gofumpt -l $(GO_DIRS)) || exit 1; \
	if [ -n "$$bad" ]; then echo "not formatted (make fmt mends it):"; echo "$$bad"; exit 1; fi

vet:
	@$(GO) vet ./...

lint: $(TOOLS)/.done ## static analysis
	@$(TOOLS)/staticcheck ./...

unit: ## the tests of the packages
	@$(GO) test -timeout 15m ./cmd/... ./internal/...
	@COMFYUME_TEST_STORE=redis $(GO) test -timeout 15m ./internal/deliver ./internal/workspace

# The built binary, seen from outside: browsers, proxies, networks, sudden death.
E2E := COMFYUME_FRONTENDS=$(CACHE)/frontends COMFYUME_E2E_BINARY=$(CURDIR)/bin/comfyume PATH="$$PATH:/usr/sbin:/sbin" $(GO) test -count=1

e2e: deps build frontends ## the tests of the built binary in Chromium, behind nginx, over networks
	@$(E2E) -timeout 25m ./e2e/...

REAL = $(if $(BACKEND),COMFYUME_E2E_BACKEND='$(BACKEND)' $(E2E) -v,$(error Which ComfyUI? Try: make $@ BACKEND=http://127.0.0.1:8188))

compare: build ## make pictures, sounds and films through the studio and directly, and compare them (BACKEND=url)
	@$(REAL) -run '^(TestCompare|TestOutputs)$$' ./e2e/

e2e-real: deps build frontends ## the tests in Chromium with a real ComfyUI as back end (BACKEND=url)
	@$(REAL) -timeout 25m -run '^(TestEditor|TestCompare|TestOutputs|TestOnePersonTwoBrowsers|TestTwoTabs)$$' ./e2e/

drivers: build ## the same jobs on every kind of GPU source, with a real ComfyUI that agents start (COMFYUI=folder PYTHON=program)
	@COMFYUME_E2E_COMFYUI=$(COMFYUI) COMFYUME_E2E_PYTHON=$(PYTHON) $(E2E) -v -timeout 20m -run '^TestDrivers$$' ./e2e/

kill: build ## kill -9 server, back ends and Redis KILLS (default 100) times each under load
	@COMFYUME_KILLS=$(or $(KILLS),100) $(E2E) -v -timeout 2h -run Kill ./e2e/...
	@COMFYUME_E2E_STORE=redis COMFYUME_KILLS=$(or $(KILLS),100) $(E2E) -v -timeout 2h -run '^TestKill$$' ./e2e/...
	@COMFYUME_KILLS=$(or $(KILLS),100) $(GO) test -count=1 -v -timeout 2h -run '^TestCrash$$' ./internal/redis

servers: build ## kill the leading one of two servers KILLS (default 50) times under the load of 20 people
	@COMFYUME_KILLS=$(or $(KILLS),50) $(E2E) -v -timeout 1h -run TestTwoServers ./e2e/...

fleet: build ## run JOBS (default 1000) jobs on 20 simulated replicas behind a balancer without affinity, and the old way beside it
	@COMFYUME_FLEET=$(or $(JOBS),1000) $(E2E) -v -timeout 1h -run TestFleet ./e2e/...

faults: build ## break FAULTS (default 1000) things, OF some kind, under twice as many jobs on a studio of mixed GPU sources
	@COMFYUME_FAULTS=$(or $(FAULTS),1000) COMFYUME_FAULTS_OF='$(OF)' $(E2E) -v -timeout 2h -run TestFaults ./e2e/...

# The queue against a naive picture of it, over every store.
property: ## go STEPS (default 1000000) random steps with the queue over each of its stores
	@COMFYUME_PROPERTY_STEPS=$(or $(STEPS),1000000) $(GO) test -count=1 -v -timeout 6h -run '^Test(Queue)?Model$$' \
		./internal/queue/memory ./internal/sqlite ./internal/redis -rapid.steps 300

bands: ## hold the bands of the wait against DAYS (default 8) days of each class that nobody tuned them with
	@COMFYUME_BANDS_DAYS=$(or $(DAYS),8) $(GO) test -count=1 -v -timeout 2h -run TestFigureBands ./internal/rehearse

floors: build ## measure beside a real ComfyUI and goqite, in TURNS (default 3) (BACKEND=url; needs ../shared/bench)
	@COMFYUME_FLOORS=$(BACKEND) COMFYUME_TURNS=$(or $(TURNS),3) $(E2E) -v -timeout 1h -run Floors ./e2e/...

cross: ## compile for windows and darwin
	@set -e; for os in windows darwin; do GOOS=$$os CGO_ENABLED=0 $(GO) build -o /dev/null ./cmd/comfyume; done

bench-once: # a benchmark that does not run any more is found here; its figures mean nothing
	@mkdir -p $(CACHE)
	@$(GO) test -run '^$$' -bench . -benchtime 1x ./internal/... >$(CACHE)/bench-once.txt || { cat $(CACHE)/bench-once.txt; exit 1; }

bench: ## run the benchmarks for real
	@$(GO) test -run '^$$' -bench . -benchmem ./internal/...

# Packages whose goroutines share state. They are tested with the race detector, which needs a C compiler.
RACE := app event queue queueapi redis dispatch comfyserver backend/comfyui backend/balanced sim/fleet

race: ## the concurrent packages with the race detector (needs gcc)
	@CGO_ENABLED=1 $(GO) test -race -short -timeout 15m $(foreach p,$(RACE),$(if $(wildcard internal/$(p)),./internal/$(p)/...))

fuzz: ## fuzz every parser for FUZZTIME (default 20s) each
	@set -e; for f in $$(grep -rlE '^func Fuzz' --include=*_test.go internal); do \
		for name in $$(sed -nE 's/^func (Fuzz[A-Za-z0-9_]*)\(.*/\1/p' $$f); do \
			$(GO) test -run '^$$' -fuzz "^$$name\$$" -fuzztime $(or $(FUZZTIME),20s) ./$$(dirname $$f); \
		done; done

schedule: build ## rehearse classes in every mode, and write docs/schedule.html with its pictures
	@./bin/comfyume sim schedule --html docs/schedule.html --pictures docs

clean: ## remove what was built
	@rm -rf bin dist .cache
