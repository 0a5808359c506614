package config_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/wsbouncer/wsbouncer/internal/config"
)

// Every example of docs/events.md is a configuration.
func TestEventsExamples(t *testing.T) {
	b, err := os.ReadFile("../../docs/events.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := strings.Split(string(b), "```yaml\n")[1:]
	if len(blocks) == 0 {
		t.Fatal("there is none")
	}
	dir := t.TempDir()
	for _, name := range []string{"sso.secret", "transmitter.key"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("not a real one, but long"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, block := range blocks {
		text, _, _ := strings.Cut(block, "```")
		c, _, err := config.Parse([]byte(text), filepath.Join(dir, "wsbouncer.yaml"))
		if err != nil {
			t.Errorf("%v\n%s", err, text)
			continue
		}
		if of := c.SubjectsOf(&c.Events.Transmitters[0]); of != "https://sso.corp.example" {
			t.Errorf("subjects_of is %q", of)
		}
	}
}

func TestBadEvents(t *testing.T) {
	const minimal = "issuer: {}\nroutes: [{path: /, upstream: 'ws://127.0.0.1:9000'}]\n"
	const trust = "trust: [{issuer: https://a.example, audience: b, algorithms: [RS256], keys: {url: https://a.example/jwks}}]\n"
	for name, c := range map[string][2]string{
		"no issuer":         {trust + "events: {transmitters: [{audience: us, keys: {url: https://a.example/jwks}}]}\n", "issuer is missing"},
		"no audience":       {trust + "events: {transmitters: [{issuer: https://a.example, keys: {url: https://a.example/jwks}}]}\n", "audience is missing"},
		"no keys":           {trust + "events: {transmitters: [{issuer: https://a.example, audience: us}]}\n", "needs exactly one of"},
		"a secret":          {trust + "events: {transmitters: [{issuer: https://a.example, audience: us, algorithms: [HS256], keys: {secret_file: /dev/null}}]}\n", "are public keys"},
		"introspection":     {trust + "events: {transmitters: [{issuer: https://a.example, audience: us, keys: {introspection: {url: https://a.example/i, client_id: a, client_secret_file: /dev/null}}}]}\n", "are public keys"},
		"twice":             {trust + "events: {transmitters: [{issuer: https://a.example, audience: us, keys: {url: https://a.example/jwks}}, {issuer: https://a.example, audience: us, keys: {url: https://a.example/jwks}}]}\n", "there twice"},
		"leeway":            {trust + "events: {transmitters: [{issuer: https://a.example, audience: us, leeway: 2m, keys: {url: https://a.example/jwks}}]}\n", "at most 60s"},
		"nobody's subjects": {trust + "events: {transmitters: [{issuer: https://x.example, audience: us, keys: {url: https://a.example/jwks}}]}\n", "neither under trust nor a login provider"},
		"our own subjects":  {trust + "events: {transmitters: [{issuer: https://a.example, audience: us, subjects_of: 'http://127.0.0.1:8080', keys: {url: https://a.example/jwks}}]}\n", "our own issuer's subjects"},
		"logout for nobody": {"trust: [{issuer: https://a.example, audience: b, algorithms: [RS256], keys: {url: https://a.example/jwks}, logout: {}}]\n", "our client_id there"},
		"logout, no keys":   {"trust: [{issuer: https://a.example, audience: b, keys: {introspection: {url: https://a.example/i, client_id: a, client_secret_file: /dev/null}}, logout: {audience: c}}]\n", "needs keys"},
	} {
		if _, _, err := config.Parse([]byte(minimal+c[0]), "wsbouncer.yaml"); err == nil || !strings.Contains(err.Error(), c[1]) {
			t.Errorf("%s: %v, want %q", name, err, c[1])
		}
	}
}
