# Bongsu. `make` lists the targets; each is one line, anything with a branch is a program.
.DEFAULT_GOAL := help
GO ?= go
PREVIOUS ?= HEAD~1
BUF := $(GO) tool -modfile=tools/go.mod buf
LDFLAGS := -s -w -X main.version=$(shell git describe --always --dirty 2>/dev/null || echo dev)
WEB_SOURCES := $(shell git ls-files -co --exclude-standard web 2>/dev/null | grep -v -e '^web/dist' -e '\.go$$')

.PHONY: help run build client test check generate generated test-go test-race test-web test-e2e test-drill drill drill-upgrade bench fuzz vuln screenshots peers test-peers test-deploy demo cluster sim

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

run: build ## build everything and serve http://localhost:8080 with data in ./data
	@exec bin/bongsu serve --data data --listen localhost:8080

demo: build ## three nodes, bots that talk, and a page to kill, freeze and cut them: http://localhost:8090
	@exec bin/bongsu demo

cluster: build ## three nodes on this machine with data in ./data/cluster, and nothing else
	@exec bin/bongsu demo --plain --data data/cluster

build: web/dist/index.html ## build bin/bongsu with the client embedded
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/bongsu ./cmd/bongsu

client: web/dist/index.html ## build the web client into web/dist

web/node_modules/.package-lock.json: web/package-lock.json
	cd web && npm ci --no-fund --no-audit && touch node_modules/.package-lock.json

web/dist/index.html: web/node_modules/.package-lock.json $(WEB_SOURCES)
	cd web && npm run --silent build && touch dist/index.html

test: check test-go test-peers test-deploy test-race test-web test-e2e test-drill ## run everything that tests it (what CI runs)

check: generated ## formatting, vet, types, generated code
	@test -z "$$(gofmt -l $$(git ls-files -co --exclude-standard '*.go' | grep -v ^gen/))" || { echo 'not gofmt-formatted:'; gofmt -l $$(git ls-files -co --exclude-standard '*.go' | grep -v ^gen/); exit 1; }
	$(GO) vet ./...

generate: web/node_modules/.package-lock.json ## generate Go and TypeScript from proto/
	$(BUF) format -w proto && $(BUF) lint && $(BUF) generate && $(BUF) generate --template buf.gen.web.yaml --path proto/bongsu/edge/v1

generated: generate ## fail if generated code differs from what is committed
	@git diff --exit-code --stat -- gen web/src/gen proto || { echo 'generated code differs: commit what `make generate` made'; exit 1; }

test-go: ## Go tests
	$(GO) test -timeout 10m ./...

test-race: ## Go tests under the race detector, where goroutines meet
	$(GO) test -race -short -timeout 10m ./shard/... ./gateway/... ./journal/... ./view/... ./client/... ./services/... ./node/...

test-web: web/node_modules/.package-lock.json ## types, unit tests and size budget of the web client
	cd web && npm run --silent check && npm test --silent && npm run --silent build && npm run --silent size

test-e2e: build ## end-to-end tests in headless Chromium
	cd web && node e2e/chromium.mjs && npm run --silent e2e

test-drill: build ## a slice of the drills, as CI runs it
	bin/bongsu drill crash --kills 12 --seconds 90
	bin/bongsu drill power --cuts 100 --seconds 180
	bin/bongsu drill restore --messages 20000 --load 4s --seconds 120
	bin/bongsu drill cluster --faults 40 --seconds 240
	$(MAKE) --no-print-directory drill-upgrade

drill-upgrade: build bin/bongsu-next ## roll three nodes under load from the commit before (PREVIOUS) to this and back, then to newer rules
	$(GO) run ./internal/house/previous -rev $(PREVIOUS) -out bin/bongsu-previous
	bin/bongsu drill upgrade --old bin/bongsu-previous --next bin/bongsu-next --seconds 240

bin/bongsu-next: build
	CGO_ENABLED=0 $(GO) build -tags nextrules -trimpath -ldflags '$(LDFLAGS)-next-rules' -o $@ ./cmd/bongsu

drill: build ## the drills in full: 100 kills, 1,000 power cuts, a lost disk
	bin/bongsu drill crash --kills 100
	bin/bongsu drill power --cuts 1000
	bin/bongsu drill restore --messages 1000000

sim: ## the message plane of whole clusters in one process under thousands of seeds, and every mutant
	$(GO) test ./proof/sim -timeout 3h -sim.seeds 3000

bench: build ## the whole table of workloads, three runs each, with their ceilings (an hour); report in bench.html
	bin/bongsu bench suite --runs 3 --out bench.json --html bench.html

peers: build ## compare with ejabberd and centrifuge side by side, 8 minutes (docs/peers.md)
	$(GO) run -C proof/peers ./cmd/peers

test-peers: ## tests of proof/peers, a module of its own (-short leaves ejabberd out)
	cd proof/peers && $(GO) vet ./... && $(GO) test -short ./...

test-deploy: web/dist/index.html ## lint and render deploy/ (a module of its own), run the alerts' tests, check docs/capacity.md
	cd deploy/lint && $(GO) vet ./... && $(GO) test ./...

vuln: ## look up known vulnerabilities, where the database can be reached (CI with a network runs it beside test)
	$(GO) tool -modfile=tools/go.mod govulncheck ./...

fuzz: ## fuzz every decoder for 30 s each
	$(GO) run ./internal/house/fuzzall -time 30s

screenshots: build ## take docs/screenshots anew in real Chromium
	cd web && node e2e/chromium.mjs && npm run --silent screenshots
