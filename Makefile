# The same commands here and in CI. `make dev` needs Go alone; `make test`
# installs what the tests need.

# net/http has known holes before 1.26.11; the module proxy has this toolchain.
export GOTOOLCHAIN ?= go1.26.11

GOLANGCI_LINT_VERSION := v2.15.0
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
LDFLAGS := -s -w -X main.version=$(VERSION)
BIN     := bin/wsbouncer

.PHONY: dev build test test-go test-wycheproof test-acme test-client test-browser test-oidc lint bench fuzz soak test-soak test-apps tools

dev: ## the whole product on loopback, with a demo chat
	go run ./cmd/wsbouncer dev

build:
	go build -trimpath -ldflags '$(LDFLAGS)' -o $(BIN) ./cmd/wsbouncer

test: tools test-client test-go test-wycheproof test-acme test-soak test-apps test-browser test-oidc

test-go:
	go test -race -timeout 20m $$(go list ./... | grep -v /test/e2e)
	go test -race -count=1 -timeout 20m ./test/e2e # alone: it watches clocks, and the real binary's at that, which no cache knows
	go test ./internal/jsonscan ./internal/relay -run 'NothingIsAllocated|ConnectionsAreSmall' # where the race detector would count too

test-wycheproof: ## the published JOSE vectors; a module of its own, because theirs asks for a newer Go
	cd test/wycheproof && go test ./...

test-acme: ## certificates from a real ACME authority, Pebble; a module of its own, so that it is nobody's dependency
	cd test/acme && go test ./...

test-client: client/node_modules
	cd client && npm run lint && npm test
	./client/check-built

test-browser: build test/browser/node_modules
	cd client && npm run --silent build
	cd test/browser && npm test

test-oidc: build test/oidc/node_modules ## logins at a real OpenID provider
	cd test/oidc && npm test

test-soak: ## a short soak, of a binary that looks for data races
	go build -race -o $(BIN)-race ./cmd/wsbouncer
	go run ./test/soak -binary $(BIN)-race -duration 10s -clients 20 -burst 300 -memory 400 # of which most is the detector's own

test-apps: build test/apps/node_modules ## applications of others, direct and through the gateway
	cd test/apps && npm test

test/apps/node_modules: test/apps/package-lock.json
	cd test/apps && npm ci --no-audit --no-fund
	@touch $@

client/node_modules: client/package-lock.json
	cd client && npm ci --no-audit --no-fund
	@touch $@

test/oidc/node_modules: test/oidc/package-lock.json test/browser/node_modules
	cd test/oidc && npm ci --no-audit --no-fund
	@touch $@

test/browser/node_modules: test/browser/package-lock.json client/node_modules
	cd test/browser && npm ci --no-audit --no-fund
	@touch $@

lint:
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { echo "not gofmt'd:"; gofmt -l $$(git ls-files '*.go'); exit 1; }
	go vet ./...
	go run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_LINT_VERSION) run ./...

bench: build
	go run ./bench

# A busy day for the real binary; `make soak SOAK=2h` for a long one.
SOAK ?= 10m
soak: build
	go run ./test/soak -binary $(BIN) -duration $(SOAK)

# Each fuzz target for a short while; `make fuzz FUZZTIME=10m` for longer.
FUZZTIME ?= 10s
fuzz:
	@grep -rln '^func Fuzz' --include='*_test.go' . | xargs -n1 dirname | sort -u | while read -r dir; do \
		for f in $$(grep -rhoE '^func Fuzz[A-Za-z0-9_]+' "$$dir"/*_test.go | cut -c6-); do \
			echo "$$dir $$f"; go test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) "$$dir" || exit 1; \
		done; \
	done

tools: ## what the tests need besides Go and Node: a browser, brokers, a proxy for VNC
	@missing=; for tool in chromium mosquitto websockify nats-server nginx; do PATH="$$PATH:/usr/sbin" command -v $$tool >/dev/null || missing="$$missing $$tool"; done; \
		test -x /usr/lib/rabbitmq/bin/rabbitmq-server || missing="$$missing rabbitmq-server"; \
		test -z "$$missing" || { apt-get update -qq && apt-get install -y -qq --no-install-recommends $$missing >/dev/null; }
