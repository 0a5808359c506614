package e2e_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
)

const goodRoute = "routes: [{path: /chat, upstream: 'ws://127.0.0.1:9'}]\n"

// brokenConfigs are configurations that must not start, with the key that is
// named and what is said of it.
var brokenConfigs = map[string]struct{ yaml, key, says string }{
	"unknown key":              {"issuer: {}\norgins: []\n" + goodRoute, "orgins", "origins"},
	"unknown key, deep":        {"issuer: {acess_ttl: 1m}\n" + goodRoute, "issuer.acess_ttl", "access_ttl"},
	"unknown key in a route":   {"issuer: {}\nroutes:\n  - path: /chat\n    upstream: ws://127.0.0.1:9\n    scope: [chat]\n", "routes[0].scope", "scopes"},
	"duplicate key":            {"issuer: {}\n" + goodRoute + "issuer: {}\n", "issuer", "twice"},
	"duplicate key, deep":      {"issuer: {access_ttl: 1m, access_ttl: 2h}\n" + goodRoute, "issuer.access_ttl", "twice"},
	"not YAML":                 {"issuer: {\n" + goodRoute, "", "YAML"},
	"neither issuer nor trust": {goodRoute, "issuer", "no token could ever be good"},
	"no routes":                {"issuer: {}\n", "routes", "no route"},
	"a duration":               {"issuer: {access_ttl: soon}\n" + goodRoute, "issuer.access_ttl", "30s"},
	"a negative duration":      {"issuer: {}\ndrain: -1s\n" + goodRoute, "drain", "negative"},
	"a size":                   {"issuer: {}\nlimits: {message_bytes: 1MB}\n" + goodRoute, "limits.message_bytes", "1MiB"},
	"a rate":                   {"issuer: {}\nlimits: {message_rate: fast}\n" + goodRoute, "limits.message_rate", "rate"},
	"unset environment":        {"issuer: {}\ndata: ${WSBOUNCER_TEST_UNSET}\n" + goodRoute, "data", "WSBOUNCER_TEST_UNSET"},
	"access_ttl of a week":     {"issuer: {access_ttl: 168h}\n" + goodRoute, "issuer.access_ttl", "24h"},
	"idle above life":          {"issuer: {refresh_ttl: 1h, refresh_idle: 2h}\n" + goodRoute, "issuer.refresh_idle", "1h"},
	"algorithm":                {"issuer: {algorithm: none}\n" + goodRoute, "issuer.algorithm", "EdDSA"},

	"every address without TLS":   {"listen: 0.0.0.0:0\npublic_url: https://rt.example.com\nissuer: {}\n" + goodRoute, "listen", "tls"},
	"every address, plain public": {"listen: 0.0.0.0:0\npublic_url: http://rt.example.com\nissuer: {}\n" + goodRoute, "listen", "tls"},
	"public_url without a proxy":  {"listen: 127.0.0.1:0\npublic_url: https://rt.example.com\nissuer: {}\n" + goodRoute, "public_url", "trusted_proxies"},
	"port 0 without public_url":   {"listen: 127.0.0.1:0\nissuer: {}\n" + goodRoute, "listen", "public_url"},
	"no address":                  {"listen: nowhere\nissuer: {}\n" + goodRoute, "listen", "127.0.0.1:8080"},
	"certificate unreadable":      {"tls: {cert: nowhere.pem, key: nowhere.key}\nissuer: {}\n" + goodRoute, "tls.cert", "no such file"},
	"certificate of another key":  {"tls: {cert: one.pem, key: two.key}\nissuer: {}\n" + goodRoute, "tls", "private key"},
	"certificate without a key":   {"tls: {cert: one.pem}\nissuer: {}\n" + goodRoute, "tls", "key"},
	"client_ca that is none":      {"tls: {cert: one.pem, key: one.key, client_ca: text}\nissuer: {}\n" + goodRoute, "tls", "client_ca"},
	"client_ca of a key":          {"tls: {cert: one.pem, key: one.key, client_ca: one.key}\nissuer: {}\n" + goodRoute, "tls", "PRIVATE KEY"},
	"ACME without terms":          {"public_url: https://a.example\nlisten: 0.0.0.0:443\ntls: {acme: {domains: [a.example]}}\nissuer: {}\n" + goodRoute, "tls.acme", "accept_terms"},
	"ACME of another name":        {"public_url: https://b.example\nlisten: 0.0.0.0:443\ntls: {acme: {domains: [a.example], accept_terms: true}}\nissuer: {}\n" + goodRoute, "tls.acme.domains", "b.example"},
	"ACME of a wildcard":          {"public_url: https://a.example\nlisten: 0.0.0.0:443\ntls: {acme: {domains: [a.example, '*.a.example'], accept_terms: true}}\nissuer: {}\n" + goodRoute, "tls.acme.domains[1]", "wildcard"},
	"ACME and files":              {"tls: {cert: one.pem, key: one.key, acme: {domains: [a.example], accept_terms: true}}\nissuer: {}\n" + goodRoute, "tls", "not from both"},
	"certificate that is none":    {"tls: {cert: text, key: text}\nissuer: {}\n" + goodRoute, "tls", "text"},
	"any origin and cookies":      {"origins: ['*']\nissuer: {}\nroutes: [{path: /chat, upstream: 'ws://127.0.0.1:9', token_from: [cookie]}]\n", "origins[0]", "any site"},
	"any origin and others":       {"origins: ['*', 'https://a.example']\nissuer: {}\n" + goodRoute, "origins", "alone"},
	"an origin with a path":       {"origins: ['https://a.example/app']\nissuer: {}\n" + goodRoute, "origins[0]", "scheme://host"},
	"no origins":                  {"origins: []\nissuer: {}\n" + goodRoute, "origins", "public_url"},
	"a host with a path":          {"hosts: ['a.example/app']\nissuer: {}\n" + goodRoute, "hosts[0]", "a.example/app"},
	"a proxy that is none":        {"trusted_proxies: [localnet]\nissuer: {}\n" + goodRoute, "trusted_proxies[0]", "10.0.0.0/8"},
	"PROXY header of nobody":      {"proxy_protocol: true\nissuer: {}\n" + goodRoute, "proxy_protocol", "trusted_proxies"},
	"same_site none, plain http":  {"cookies: {same_site: none}\nissuer: {}\n" + goodRoute, "cookies.same_site", "https"},
	"short passwords":             {"login: {password: {min_length: 4}}\nissuer: {}\n" + goodRoute, "login.password.min_length", "8"},
	"blocklist unreadable":        {"login: {password: {blocklist: nowhere}}\nissuer: {}\n" + goodRoute, "login.password.blocklist", "no such file"},
	"blocklist not UTF-8":         {"login: {password: {blocklist: binary}}\nissuer: {}\n" + goodRoute, "login.password.blocklist", "UTF-8"},

	"key file unreadable":    {trusting("RS256", "file: nowhere.json"), "trust[0].keys.file", "no such file"},
	"key file no JWKS":       {trusting("RS256", "file: text"), "trust[0].keys.file", ""},
	"key file of one secret": {trusting("RS256", "file: oct.json"), "trust[0].keys.file", ""},
	"PEM that is none":       {trusting("RS256", "pem: text"), "trust[0].keys.pem", ""},
	"empty secret":           {trusting("HS256", "secret_file: empty"), "trust[0].keys.secret_file", ""},
	"short secret":           {trusting("HS256", "secret_file: short"), "trust[0].keys.secret_file", "32"},
	"well-known secret":      {trusting("HS256", "secret_file: weak"), "trust[0].keys.secret_file", ""},
	"secret short for HS512": {trusting("HS512", "secret_file: long"), "trust[0].keys.secret_file", "64"},
	"HS with a public key":   {trusting("HS256", "pem: text"), "trust[0].algorithms", "secret_file"},
	"algorithm none":         {trusting("none", "pem: text"), "trust[0].algorithms[0]", "none"},
	"no keys":                {"trust: [{issuer: a, audience: b, algorithms: [RS256]}]\n" + goodRoute, "trust[0]", "exactly one"},
	"no audience":            {"trust: [{issuer: a, algorithms: [HS256], keys: {secret_file: long}}]\n" + goodRoute, "trust[0]", "audience"},
	"our own name":           {"issuer: {name: a}\ntrust: [{issuer: a, audience: b, algorithms: [HS256], keys: {secret_file: long}}]\n" + goodRoute, "trust[0].issuer", "own issuer"},
	"leeway":                 {"trust: [{issuer: a, audience: b, algorithms: [HS256], leeway: 2m, keys: {secret_file: long}}]\n" + goodRoute, "trust[0].leeway", "60s"},

	"client without a credential":     {"clients: [{id: a}]\nissuer: {}\n" + goodRoute, "clients[0]", "exactly one of secret_file and jwks_file"},
	"client with two":                 {clients("id: a, secret_file: long, jwks_file: oct.json"), "clients[0]", "exactly one"},
	"client without an issuer":        {"clients: [{id: a, secret_file: long}]\n" + trusting("HS256", "secret_file: long")[len("issuer: {}\n"):], "clients", "issuer"},
	"client without a name":           {clients("secret_file: long"), "clients[0]", "id"},
	"client with an odd name":         {clients("id: 'a b', secret_file: long"), "clients[0].id", "letters"},
	"client with our name":            {clients("id: Wsbouncer, secret_file: long"), "clients[0].id", "log in"},
	"client twice":                    {clients("id: a, secret_file: long}, {id: a, secret_file: long"), "clients[1].id", "twice"},
	"client with a short secret":      {clients("id: a, secret_file: short"), "clients[0].secret_file", "32"},
	"client with a known secret":      {clients("id: a, secret_file: weak"), "clients[0].secret_file", "published"},
	"client without its file":         {clients("id: a, secret_file: nowhere"), "clients[0].secret_file", "no such file"},
	"client with a key that is a MAC": {clients("id: a, jwks_file: oct.json"), "clients[0].jwks_file", "symmetric"},
	"client that would rule":          {clients("id: a, secret_file: long, scopes: ['wsbouncer:admin']"), "clients[0].scopes[0]", "accounts"},
	"client with two scopes as one":   {clients("id: a, secret_file: long, scopes: ['a b']"), "clients[0].scopes[0]", "one scope"},
	"client with a password grant":    {clients("id: a, secret_file: long, grants: [password]"), "clients[0].grants[0]", "token_exchange"},
	"client with long tokens":         {clients("id: a, secret_file: long, token_ttl: 25h"), "clients[0].token_ttl", "24h"},
	"client with no connections":      {clients("id: a, secret_file: long, connections: -1"), "clients[0].connections", "at least 1"},

	"routes that overlap": {"issuer: {}\nroutes:\n  - {path: '/a/{x}/c', upstream: 'ws://127.0.0.1:9'}\n  - {path: '/a/b/{y}', upstream: 'ws://127.0.0.1:9'}\n", "routes[1].path", "/a/{x}/c"},
	"a path twice":        {"issuer: {}\nroutes:\n  - {path: /a, upstream: 'ws://127.0.0.1:9'}\n  - {path: /a, upstream: 'ws://127.0.0.1:9'}\n", "routes[1].path", "/a"},
	"a pattern":           {"issuer: {}\nroutes: [{path: '/a/{', upstream: 'ws://127.0.0.1:9'}]\n", "routes[0].path", ""},
	"a path of ours":      {"issuer: {}\nroutes: [{path: /auth/x, upstream: 'ws://127.0.0.1:9'}]\n", "routes[0].path", "belongs"},
	"upstream over http":  {"issuer: {}\nroutes: [{path: /a, upstream: 'http://127.0.0.1:9'}]\n", "routes[0].upstream", "ws://"},
	"upstream CA is none": {"issuer: {}\nroutes: [{path: /a, upstream: 'wss://127.0.0.1:9', upstream_tls: {ca: text}}]\n", "routes[0].upstream_tls.ca", "PEM"},

	"provider for all":     {"login: {providers: [{name: corp}]}\nissuer: {}\n" + goodRoute, "login.providers[0]", "allow is missing"},
	"discovery of a name":  {trusting("RS256", "discovery: true"), "trust[0].keys.discovery", "https://"},
	"keys over http":       {trusting("RS256", "url: 'http://a.example/jwks'"), "trust[0].keys.url", "https"},
	"anybody introspects":  {trusting("RS256", "introspection: {url: x}"), "trust[0].keys.introspection", "client_secret_file"},
	"CEL":                  {"issuer: {}\nroutes: [{path: /a, upstream: 'ws://127.0.0.1:9', allow: 'claims.a = 1'}]\n", "routes[0].allow", "column 10: Syntax error"},
	"permissions":          {"issuer: {}\nroutes: [{path: /a, upstream: 'ws://127.0.0.1:9', permissions: {format: json}}]\n", "routes[0].permissions", "a JSON pointer"},
	"lacks postgres":       {"database: postgres://u:hunter2hunter2@db/x\nissuer: {}\n" + goodRoute, "database", "lacks"},
	"lacks nats":           {"bus: nats://h:4222\nissuer: {}\n" + goodRoute, "bus", "lacks"},
	"lacks cluster":        {"cluster: {stale_after: 10s}\nissuer: {}\n" + goodRoute, "cluster", "lacks"},
	"lacks the admin page": {"admin: {listen: '127.0.0.1:8081'}\nissuer: {}\n" + goodRoute, "admin.listen", "lacks"},
	"lacks sign-up":        {"login: {password: {signup: true}}\nissuer: {}\n" + goodRoute, "login.password.signup", "lacks"},
}

func clients(entry string) string { return "issuer: {}\nclients: [{" + entry + "}]\n" + goodRoute }

func trusting(alg, keys string) string {
	return fmt.Sprintf("issuer: {}\ntrust: [{issuer: a, audience: b, algorithms: [%s], keys: {%s}}]\n", alg, keys) + goodRoute
}

// brokenFiles are what brokenConfigs name.
func brokenFiles(t *testing.T, dir string) {
	t.Helper()
	one, two := newCertificate(t, "one.example"), newCertificate(t, "two.example")
	for name, content := range map[string]string{
		"one.pem": one.cert, "one.key": one.key, "two.key": two.key, "text": "hello\n", "binary": "\xff\xfe\n", "empty": "\n", "short": "0123456789abcdef\n",
		"weak": strings.Repeat("a", 40) + "\n", "long": "Xq4mVr8tNc2kLp7wZs9bHf3jYd6gTn5e\n", "oct.json": `{"keys":[{"kty":"oct","k":"c2VjcmV0","alg":"RS256"}]}`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestCFG01BrokenConfigurationsDoNotStart(t *testing.T) {
	dir := t.TempDir()
	brokenFiles(t, dir)
	slots := make(chan struct{}, 4)
	var all sync.WaitGroup
	n := 0
	for _, what := range slices.Sorted(maps.Keys(brokenConfigs)) {
		c := brokenConfigs[what]
		n++
		commands := []string{"check"}
		if n%6 == 0 { // it reads them by the same function
			commands = append(commands, "serve")
		}
		name := fmt.Sprintf("broken%d.yaml", n)
		if err := os.WriteFile(filepath.Join(dir, name), []byte(c.yaml), 0o600); err != nil {
			t.Fatal(err)
		}
		all.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			for _, command := range commands {
				r := runTool(t, dir, "", command, "--config", name)
				complain := func(why string) {
					t.Errorf("%s: %s %s: exit code %d\n%s%s", command, what, why, r.code, r.stdout, r.stderr)
				}
				if r.code != 1 || r.stdout != "" {
					complain("is not refused")
				}
				if !strings.Contains(r.stderr, c.key) || !strings.Contains(r.stderr, c.says) {
					complain(fmt.Sprintf("does not name %q and say %q", c.key, c.says))
				}
				if strings.Contains(r.stderr, "hunter2") {
					complain("prints a password")
				}
				// file:line:column: key, then that line and a mark under the column.
				place := regexp.MustCompile(`(?m)^` + name + `:(\d+):(\d+): ` + regexp.QuoteMeta(c.key) + `.*\n +(\d+) \| (.*)\n +\| ( *)\^\n`).FindStringSubmatch(r.stderr)
				switch {
				case place == nil:
					if !slices.Contains([]string{"neither issuer nor trust", "no routes"}, what) { // there is no place for what is not there
						complain("has no place")
					}
				case place[1] != place[3] || place[2] != fmt.Sprint(len(place[5])+1) || !strings.Contains(c.yaml, place[4]+"\n") && what != "lacks postgres":
					complain("shows another place")
				}
			}
		})
	}
	all.Wait()
	if _, err := os.Stat(filepath.Join(dir, "wsbouncer-data")); err == nil {
		t.Error("a broken configuration made a data folder")
	}
}

func TestCFG01EveryProblemAtOnce(t *testing.T) {
	dir := t.TempDir()
	brokenFiles(t, dir)
	const many = `lisen: x
issuer: {access_ttl: soon, algorithm: none}
tls: {cert: one.pem, key: two.key}
trust:
  - {issuer: a, audience: b, algorithms: [HS256], keys: {secret_file: short}}
  - {issuer: c, algorithms: [HS256], keys: {secret_file: nowhere}}
origins: ['https://a.example/']
routes:
  - {path: /a, upstream: 'http://127.0.0.1:9', allow: 'true ='}
  - {path: '/b/{', upstream: 'ws://127.0.0.1:9'}
`
	if err := os.WriteFile(filepath.Join(dir, "wsbouncer.yaml"), []byte(many), 0o600); err != nil {
		t.Fatal(err)
	}
	keys := []string{
		"lisen", "issuer.access_ttl", "issuer.algorithm", "tls", "trust[0].keys.secret_file", "trust[1]", "trust[1].keys.secret_file", "origins[0]",
		"routes[0].upstream", "routes[0].allow", "routes[1].path",
	}
	r := runTool(t, dir, "", "check")
	last := -1
	for _, key := range keys {
		at := strings.Index(r.stderr, ": "+key+": ")
		if at < 0 {
			at = strings.Index(r.stderr, ": "+key+"[0]: ")
		}
		if at < last {
			t.Errorf("%s is missing, or not in the file's order", key)
		}
		last = max(last, at)
	}
	if t.Failed() {
		t.Log(r.stderr)
	}
	var out struct {
		OK       bool
		Problems []struct {
			Line, Column          int
			Path, Message, Source string
		}
	}
	j := runTool(t, dir, "", "check", "--json")
	if err := json.Unmarshal([]byte(j.stdout), &out); err != nil || j.code != 1 || out.OK || len(out.Problems) < len(keys) {
		t.Errorf("--json: exit code %d, %v: %s", j.code, err, j.stdout)
	}
	for _, p := range out.Problems {
		if p.Line == 0 || p.Column == 0 || p.Path == "" || p.Message == "" || p.Source != strings.Split(many, "\n")[p.Line-1] {
			t.Errorf("%+v", p)
		}
	}
}

func TestCFG01OtherFailuresToStart(t *testing.T) {
	dir := t.TempDir()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, "wsbouncer.yaml"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	oneLine := func(r tool, code int, says ...string) {
		t.Helper()
		text := strings.TrimSpace(r.stderr)
		if r.code != code || text == "" || strings.Contains(text, "\n") {
			t.Errorf("exit code %d, want %d and one line:\n%s", r.code, code, r.stderr)
		}
		for _, s := range says {
			if !strings.Contains(text, s) {
				t.Errorf("%q is not in %q", s, text)
			}
		}
	}
	oneLine(runTool(t, dir, "", "serve"), 1, "wsbouncer.yaml", "wsbouncer init")
	oneLine(runTool(t, dir, "", "check"), 1, "wsbouncer.yaml", "wsbouncer init")
	oneLine(runTool(t, dir, "", "serve", "--confg", "x"), 2, "--confg")
	oneLine(runTool(t, dir, "", "serve", "extra"), 2, "extra")
	oneLine(runTool(t, dir, "", "srve"), 2, "srve")

	write("listen: " + taken.Addr().String() + "\nissuer: {}\n" + goodRoute)
	r := runTool(t, dir, "", "serve")
	oneLine(r, 1, taken.Addr().String(), "in use", "listen")
	if r := runTool(t, dir, "", "check"); r.code != 0 { // the running server's own port is no mistake
		t.Errorf("check: %d %s", r.code, r.stderr)
	}
	write("listen: " + freeAddr(t) + "\ndata: data\nissuer: {}\n" + goodRoute)
	if err := os.WriteFile(filepath.Join(dir, "data"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	oneLine(runTool(t, dir, "", "serve"), 1, "data folder", filepath.Join(dir, "data"))
	if err := os.Remove(filepath.Join(dir, "data")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "data"), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(dir, "data"), 0o777); err != nil {
		t.Fatal(err)
	}
	oneLine(runTool(t, dir, "", "serve"), 1, "other users may write", "chmod 700")
	if err := os.Chmod(filepath.Join(dir, "data"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "data", "keys.json"), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	oneLine(runTool(t, dir, "", "serve"), 1, "keys.json")
}

func TestCFG02InsecureSettingsAreLoud(t *testing.T) {
	dir := t.TempDir()
	brokenFiles(t, dir)
	for what, c := range map[string]struct{ yaml, key string }{
		"any origin":      {"origins: ['*']\nissuer: {}\n" + goodRoute, "origins[0]"},
		"short passwords": {"login: {password: {min_length: 8}}\nissuer: {}\n" + goodRoute, "login.password.min_length"},
		"query tokens":    {"limits: {query_token_ttl: 2h}\nissuer: {}\n" + goodRoute, "limits.query_token_ttl"},
		"any type":        {"trust: [{issuer: a, audience: b, algorithms: [HS256], type: any, keys: {secret_file: long}}]\n" + goodRoute, "trust[0].type"},
		"extend session":  {"issuer: {}\nroutes: [{path: /a, upstream: 'ws://127.0.0.1:9', extend: session}]\n", "routes[0].extend"},
		"plain upstream":  {"issuer: {}\nroutes: [{path: /a, upstream: 'ws://192.0.2.1:9'}]\n", "routes[0].upstream"},
		"plain public":    {"public_url: http://rt.example.com\ntrusted_proxies: [127.0.0.1]\nissuer: {}\n" + goodRoute, "public_url"},
		"every proxy":     {"public_url: https://rt.example.com\ntrusted_proxies: [0.0.0.0/0]\nissuer: {}\n" + goodRoute, "trusted_proxies[0]"},
		"long tokens":     {"issuer: {access_ttl: 12h}\n" + goodRoute, "issuer.access_ttl"},
	} {
		if err := os.WriteFile(filepath.Join(dir, "wsbouncer.yaml"), []byte(c.yaml), 0o600); err != nil {
			t.Fatal(err)
		}
		r := runTool(t, dir, "", "check")
		if r.code != 0 || !strings.Contains(r.stderr, c.key) || !strings.Contains(r.stderr, "warning: ") || !strings.Contains(r.stdout, "routes:") {
			t.Errorf("%s: exit code %d: %s", what, r.code, r.stderr)
		}
	}
	// A start says so too, and so does the status.
	s := start(t, newUpstream(t, nil), "issuer: {}\nlogin: {password: {min_length: 8}}\norigins: ['*']\nroutes: [{path: /a, upstream: \"ws://UPSTREAM\"}]\n")
	for _, key := range []string{"login.password.min_length", "origins[0]"} {
		line := s.waitLog(key)
		if line["level"] != "WARN" || line["warning"] == "" {
			t.Errorf("the start says %v", line)
		}
		if status := s.cli("status"); !strings.Contains(status, key) {
			t.Errorf("the status:\n%s", status)
		}
	}
}

func TestCFG04TheEffectiveConfigurationShowsNoSecret(t *testing.T) {
	dir := t.TempDir()
	brokenFiles(t, dir)
	yaml := "issuer: {}\ntrust: [{issuer: a, audience: b, algorithms: [HS256], keys: {secret_file: long}}]\n" + goodRoute
	if err := os.WriteFile(filepath.Join(dir, "wsbouncer.yaml"), []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	r := runTool(t, dir, "", "check")
	if r.code != 0 || strings.Contains(r.stdout+r.stderr, "Xq4mVr8tNc2kLp7w") || !strings.Contains(r.stdout, "secret_file: ") || !strings.Contains(r.stdout, "access_ttl: 5m") {
		t.Errorf("exit code %d: %s%s", r.code, r.stdout, r.stderr)
	}
	// What is in force is a configuration itself.
	if err := os.WriteFile(filepath.Join(dir, "wsbouncer.yaml"), []byte(r.stdout), 0o600); err != nil {
		t.Fatal(err)
	}
	if again := runTool(t, dir, "", "check"); again.code != 0 || again.stdout != r.stdout {
		t.Errorf("exit code %d: %s%s", again.code, again.stderr, again.stdout)
	}
}
