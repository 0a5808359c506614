package config_test

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/wsbouncer/wsbouncer/internal/config"
)

const minimal = "issuer: {}\nroutes:\n  - path: /chat\n    upstream: ws://127.0.0.1:9000\n"

func TestCFG01BadConfigurations(t *testing.T) {
	for name, c := range map[string]struct{ yaml, want string }{
		"unknown key":              {"orgins: []\n" + minimal, "1:1: orgins: unknown key orgins; did you mean origins?"},
		"unknown key in a route":   {minimal + "    scope: [a]\n", "5:5: routes[0].scope: unknown key scope; did you mean scopes?"},
		"duplicate key":            {minimal + "issuer: {}\n", "5:1: issuer: issuer is set twice; the first is on line 1"},
		"duplicate in a flow":      {"drain: 1s\ntls: {cert: a, cert: b}\n" + minimal, "2:16: tls.cert: cert is set twice"},
		"not yaml":                 {"issuer: {\n", "not YAML"},
		"a list":                   {"- a\n", "must be a block of keys"},
		"two documents":            {minimal + "---\n" + minimal, "a second document"},
		"anchor":                   {"issuer: &a {}\n" + minimal[10:], "anchors"},
		"health check, no path":    {minimal + "    health_check: {interval: 5s}\n", "health_check: path is missing"},
		"health check, a url":      {minimal + "    health_check: {path: 'http://a/'}\n", "begins with a slash"},
		"health check, a line":     {minimal + "    health_check: {path: \"/a\\r\\nX: y\"}\n", "visible ASCII"},
		"health check, too often":  {minimal + "    health_check: {path: /a, interval: 10ms}\n", "interval: is 10ms; from 1s"},
		"health check, too long":   {minimal + "    health_check: {path: /a, timeout: 11s}\n", "timeout: is 11s; from 100ms to the interval"},
		"health check, never":      {minimal + "    health_check: {path: /a, unhealthy_threshold: 0}\n", "unhealthy_threshold: is 0; from 1"},
		"health check, never back": {minimal + "    health_check: {path: /a, healthy_threshold: 101}\n", "healthy_threshold: is 101; from 1"},
		"no time to connect":       {minimal + "    connect_timeout: 0s\n", "connect_timeout: is 0s; from 100ms"},
		"no issuer, no trust":      {minimal[11:], "neither an issuer nor a trust"},
		"no route":                 {"issuer: {}\n", "there is no route"},
		"duration":                 {"drain: soon\n" + minimal, `1:8: drain: "soon" is not a duration`},
		"negative duration":        {"drain: -1s\n" + minimal, "may not be negative"},
		"size":                     {"limits: {message_bytes: 1MB}\n" + minimal, `"1MB" is not a size`},
		"huge size":                {"limits: {message_bytes: 9999999999GiB}\n" + minimal, "is not a size"},
		"rate":                     {"limits: {message_rate: fast}\n" + minimal, `"fast" is not a rate`},
		"rate without rate":        {"limits: {message_rate: {burst: 3}}\n" + minimal, "rate is missing"},
		"zero rate":                {"limits: {message_rate: 0/s}\n" + minimal, "is not a rate"},
		"bool":                     {minimal + "    in_band_refresh: perhaps\n", "must be true or false"},
		"one of":                   {minimal + "    reject: maybe\n", `reject is "maybe"; it is one of: http, close`},
		"carrier":                  {minimal + "    token_from: [ticket, body]\n", `"body" is not one of ticket`},
		"compressed first message": {minimal + "    token_from: [first_message]\n    compression: pass\n", "pass cannot go with first_message"},
		"no carrier":               {minimal + "    token_from: []\n", "may not be empty"},
		"upstream scheme":          {"issuer: {}\nroutes: [{path: /a, upstream: http://127.0.0.1:1}]\n", "neither ws:// nor wss://"},
		"upstream password":        {"issuer: {}\nroutes: [{path: /a, upstream: 'ws://u:hunter2@127.0.0.1:1'}]\n", "may not hold a user name or password"},
		"route on ours":            {"issuer: {}\nroutes: [{path: /auth/x, upstream: ws://127.0.0.1:1}]\n", "belongs to this program"},
		"postgres later":           {"database: postgres://u:p@h/d\n" + minimal, "lacks every database but sqlite"},
		"nats later":               {"bus: nats://h\n" + minimal, "lacks every bus but local"},
		"fetch twice":              {minimal + "trust: [{issuer: a, audience: b, algorithms: [RS256], keys: {discovery: true, url: https://a.example}}]\n", "needs exactly one of discovery: true, url"},
		"fetch intervals":          {minimal + "trust: [{issuer: a, audience: b, algorithms: [RS256], keys: {url: https://a.example, refresh: 1s}}]\n", "is 1s; from 10s to 24h"},
		"provider without rules":   {"login: {providers: [{name: a, issuer: 'https://a', client_id: c, client_secret_file: /dev/null}]}\n" + minimal, "allow is missing"},
		"provider in plain text":   {"login: {providers: [{name: a, issuer: 'http://sso.example', client_id: c, client_secret_file: /dev/null, allow: 'true'}]}\n" + minimal, "must begin with https://"},
		"provider's name":          {"login: {providers: [{name: 'A/b', issuer: 'https://a', client_id: c, client_secret_file: /dev/null, allow: 'true'}]}\n" + minimal, "small letters"},
		"two of a name":            {"login: {providers: [{name: a, issuer: 'https://a', client_id: c, client_secret_file: /dev/null, allow: 'true'}, {name: a, issuer: 'https://b', client_id: c, client_secret_file: /dev/null, allow: 'true'}]}\n" + minimal, "is there twice"},
		"provider that rules":      {"login: {providers: [{name: a, issuer: 'https://a', client_id: c, client_secret_file: /dev/null, allow: 'true', default_scopes: ['wsbouncer:admin']}]}\n" + minimal, "for accounts of this server alone"},
		"provider that rules some": {"login: {providers: [{name: a, issuer: 'https://a', client_id: c, client_secret_file: /dev/null, allow: 'true', scopes_for: [{when: 'true', scopes: ['wsbouncer:admin']}]}]}\n" + minimal, "for accounts of this server alone"},
		"registered claim":         {"login: {providers: [{name: a, issuer: 'https://a', client_id: c, client_secret_file: /dev/null, allow: 'true', token_claims: {SUB: claims.x}}]}\n" + minimal, "is a registered claim"},
		"oauth2 without addresses": {"login: {providers: [{name: a, type: oauth2, client_id: c, client_secret_file: /dev/null, allow: 'true'}]}\n" + minimal, "userinfo_url is missing"},
		"claim in two cases":       {"login: {providers: [{name: a, issuer: 'https://a', client_id: c, client_secret_file: /dev/null, allow: 'true', token_claims: {x: claims.x, X: claims.y}}]}\n" + minimal, "in another case"},
		"claim set twice":          {"login: {providers: [{name: a, issuer: 'https://a', client_id: c, client_secret_file: /dev/null, allow: 'true', token_claims: {x: claims.x, x: claims.y}}]}\n" + minimal, "is set twice"},
		"providers everywhere":     {"origins: ['*']\nlogin: {providers: [{name: a, issuer: 'https://a', client_id: c, client_secret_file: /dev/null, allow: 'true'}]}\n" + minimal, "ends in cookies"},
		"introspection":            {minimal + "trust: [{issuer: a, audience: b, algorithms: [RS256], keys: {introspection: {}}}]\n", "client_secret_file is missing"},
		"two introspections":       {minimal + "trust: [{issuer: a, audience: b, keys: {introspection: {}}}, {issuer: c, audience: b, keys: {introspection: {}}}]\n", "one issuer at most"},
		"missing file":             {minimal + "trust: [{issuer: a, audience: b, algorithms: [RS256], keys: {file: nowhere.json}}]\n", "no such file"},
		"no audience":              {minimal + "trust: [{issuer: a, algorithms: [RS256], keys: {file: /dev/null}}]\n", "audience is missing"},
		"no algorithms":            {minimal + "trust: [{issuer: a, audience: b, keys: {file: /dev/null}}]\n", "algorithms is missing"},
		"HS with a public key":     {minimal + "trust: [{issuer: a, audience: b, algorithms: [HS256], keys: {pem: /dev/null}}]\n", "HS algorithms need a secret_file"},
		"none":                     {minimal + "trust: [{issuer: a, audience: b, algorithms: [none], keys: {pem: /dev/null}}]\n", `"none" is not one of`},
		"leeway":                   {minimal + "trust: [{issuer: a, audience: b, algorithms: [RS256], leeway: 61s, keys: {pem: /dev/null}}]\n", "at most 60s"},
		"public without TLS":       {"listen: 0.0.0.0:80\npublic_url: http://h\n" + minimal, "needs tls"},
		"any port":                 {"listen: 127.0.0.1:0\n" + minimal, "public_url must say"},
		"behind an unnamed proxy": {"public_url: https://rt.example.com\n" + minimal,
			"everybody would share one address"},
		"ORG-04 any origin and cookies": {"origins: ['*']\n" + minimal + "    token_from: [cookie]\n", "any site could use the visitor's login"},
		"empty origins":                 {"origins: []\n" + minimal, "an empty list lets no page connect"},
		"environment":                   {"data: ${WSBOUNCER_TEST_UNSET}\n" + minimal, "the environment variable WSBOUNCER_TEST_UNSET is not set"},
		"tokens above headers":          {"limits: {token_bytes: 64KiB}\n" + minimal, "above header_bytes"},
		// 0 would be taken for "not said" further in, and so mean the default.
		"no query tokens, said wrong": {"limits: {query_token_ttl: 0s}\n" + minimal, "limits.query_token_ttl: is 0s; at least 1s"},
		"no query tokens on a route":  {minimal + "    limits: {query_token_ttl: 0s}\n", "limits.query_token_ttl: is 0s; at least 1s"},
		"no idle time on a route":     {minimal + "    limits: {idle_timeout: 0s}\n", "limits.idle_timeout: is 0s; at least 1s"},
		"no write time on a route":    {minimal + "    limits: {write_timeout: 1ms}\n", "limits.write_timeout: is 1ms; at least 1s"},
		"no life on a route":          {minimal + "    limits: {lifetime: 0s}\n", "limits.lifetime: is 0s; at least 1s"},
		"nobody on a route":           {minimal + "    limits: {connections_per_subject: 0}\n", "limits.connections_per_subject: is 0; at least 1"},
		"less than nobody on a route": {minimal + "    limits: {connections_per_subject: -1}\n", "limits.connections_per_subject: is -1; at least 1"},
		"short password":              {"login: {password: {min_length: 4}}\n" + minimal, "from 8 to 256"},
		"same site none on http":      {"cookies: {same_site: none}\n" + minimal, "none needs https"},
		"rules without a place":       {"auth_path: auth\n" + minimal, "is not a path such as /auth"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg, _, err := config.Parse([]byte(c.yaml), "")
			if err == nil || cfg != nil {
				t.Fatalf("accepted:\n%s", c.yaml)
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("got  %q\nwant %q in it", err, c.want)
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Error("a password is in the error")
			}
		})
	}
}

func TestEveryProblemAtOnceInTheFilesOrder(t *testing.T) {
	_, _, err := config.Parse([]byte("listen: nowhere\nissuer: {access_ttl: x, algorithm: y}\nroutes:\n  - pth: /a\n"), "")
	var ps config.Problems
	if !errors.As(err, &ps) {
		t.Fatalf("got %v", err)
	}
	var lines []int
	for _, p := range ps {
		lines = append(lines, p.Line)
	}
	if want := []int{1, 2, 2, 4, 4, 4}; !cmp.Equal(lines, want) {
		t.Errorf("lines %v, want %v:\n%v", lines, want, err)
	}
	got := ps[1].Render("wsbouncer.yaml")
	want := "wsbouncer.yaml:2:22: issuer.access_ttl: \"x\" is not a duration such as 30s, 5m or 720h\n" +
		"     2 | issuer: {access_ttl: x, algorithm: y}\n" +
		"       |                      ^\n"
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestDefaultsAndDerivedValues(t *testing.T) {
	c, warnings, err := config.Parse([]byte(minimal), "")
	if err != nil || len(warnings) > 0 {
		t.Fatal(err, warnings)
	}
	if c.Issuer.Name != "http://127.0.0.1:8080" || c.Issuer.AccessTTL.D() != 5*time.Minute {
		t.Errorf("issuer %+v", c.Issuer)
	}
	if got := c.OriginList(); !cmp.Equal(got, []string{"http://127.0.0.1:8080"}) {
		t.Errorf("origins %v", got)
	}
	if got := c.Routes[0].TokenFrom; !cmp.Equal(got, []string{"ticket", "header", "subprotocol", "query"}) {
		t.Errorf("token_from %v", got)
	}
}

func TestEffectiveConfigurationIsAConfiguration(t *testing.T) {
	c, _, err := config.Parse([]byte(minimal+"    limits: {message_bytes: 2MiB, byte_rate: {rate: 3MiB/s, burst: 4MiB}}\n"), "")
	if err != nil {
		t.Fatal(err)
	}
	first, err := c.Effective()
	if err != nil {
		t.Fatal(err)
	}
	again, _, err := config.Parse(first, "")
	if err != nil {
		t.Fatalf("%v in\n%s", err, first)
	}
	second, err := again.Effective()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(first), string(second)); diff != "" {
		t.Error(diff)
	}
	if !strings.Contains(string(first), "{rate: 3MiB/s, burst: 4MiB}") {
		t.Errorf("no byte rate in\n%s", first)
	}
}

func TestPathsStartAtTheFile(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "k.pem"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "wsbouncer.yaml")
	src := minimal + "trust: [{issuer: a, audience: b, algorithms: [RS256], keys: {pem: k.pem}}]\n"
	if err := os.WriteFile(file, []byte(src), 0o600); err != nil {
		t.Fatal(err)
	}
	c, _, err := config.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	if c.Trust[0].Keys.PEM != filepath.Join(dir, "k.pem") || c.Data != filepath.Join(dir, "wsbouncer-data") {
		t.Errorf("%s, %s", c.Trust[0].Keys.PEM, c.Data)
	}
}

func TestEnvironmentIsExpanded(t *testing.T) {
	t.Setenv("WSBOUNCER_TEST_HOST", "127.0.0.1")
	c, _, err := config.Parse([]byte("issuer: {}\nroutes: [{path: /a, upstream: 'ws://${WSBOUNCER_TEST_HOST}:9'}]\n"), "")
	if err != nil {
		t.Fatal(err)
	}
	if got := c.Routes[0].Upstream[0].Host; got != "127.0.0.1:9" {
		t.Error(got)
	}
}

func TestCFG02UnsafeSettingsWarn(t *testing.T) {
	for name, c := range map[string]struct{ yaml, want string }{
		"any origin":     {"origins: ['*']\n" + minimal, "pages of every site"},
		"short password": {"login: {password: {min_length: 8}}\n" + minimal, "NIST"},
		"query tokens":   {"limits: {query_token_ttl: 1h}\n" + minimal, "URLs end up in logs"},
		"plain upstream": {"issuer: {}\nroutes: [{path: /a, upstream: ws://10.0.0.1:9}]\n", "plain text to another machine"},
		"session extend": {minimal + "    extend: session\n", "a thief opened"},
		"plain public":   {"public_url: http://h.example\ntrusted_proxies: [127.0.0.1]\n" + minimal, "can be read on the way"},
	} {
		t.Run(name, func(t *testing.T) {
			_, warnings, err := config.Parse([]byte(c.yaml), "")
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(warnings.Error(), c.want) {
				t.Errorf("warnings %q lack %q", warnings.Error(), c.want)
			}
		})
	}
}

var commentedOut = regexp.MustCompile(`^( *)# ((  +)?(- )?[a-z_]+:(\s|$))`)

func FuzzParse(f *testing.F) {
	f.Add([]byte(minimal))
	f.Add([]byte("routes: [{upstream: [a, b], limits: {message_rate: {rate: 1/s, burst: 2}}}]"))
	f.Add([]byte("trust: [{keys: {file: ''}}]\ntls: ~\n? a\n: b"))
	f.Fuzz(func(t *testing.T, src []byte) {
		c, _, err := config.Parse(src, "")
		if err != nil {
			return
		}
		out, err := c.Effective()
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := config.Parse(out, ""); err != nil {
			t.Fatalf("the effective configuration is refused: %v\n%s", err, out)
		}
	})
}

func TestTheExampleIsValidAndSafe(t *testing.T) {
	_, warnings, err := config.Parse(config.Example, "")
	if err != nil || len(warnings) > 0 {
		t.Fatal(err, warnings)
	}
	// What is commented out is a configuration too, apart from files that are not here.
	var all strings.Builder
	for line := range strings.Lines(string(config.Example)) {
		all.WriteString(commentedOut.ReplaceAllString(line, "$1$2"))
	}
	_, _, err = config.Parse([]byte(all.String()), "")
	var ps config.Problems
	if !errors.As(err, &ps) {
		t.Fatalf("got %v", err)
	}
	for _, p := range ps {
		if !strings.Contains(p.Message, "no such file") {
			t.Errorf("%v", p)
		}
	}
}
