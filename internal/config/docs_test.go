package config_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/wsbouncer/wsbouncer/internal/config"
)

// The example of oauth.md is a configuration as it stands.
func TestOAuthExample(t *testing.T) {
	block := example(t, "oauth.md")
	dir := t.TempDir()
	for _, name := range regexp.MustCompile(`_file: ([a-z.]+)`).FindAllStringSubmatch(block, -1) {
		if err := os.WriteFile(filepath.Join(dir, name[1]), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c, warnings, err := config.Parse([]byte(block), filepath.Join(dir, "wsbouncer.yaml"))
	if err != nil || len(warnings) > 0 {
		t.Fatalf("%v %v", warnings, err)
	}
	if len(c.Clients) != 2 || c.Clients[0].Connections != 1000 || c.Clients[1].Connections != c.Limits.ConnectionsPerSubject || c.Clients[1].TokenTTL != c.Issuer.AccessTTL || !c.Clients[1].Introspect {
		t.Errorf("%+v", c.Clients)
	}
}

// The configuration of docs/binding.md is one.
func TestBindingExample(t *testing.T) {
	c, warnings, err := config.Parse([]byte(example(t, "binding.md")), filepath.Join(t.TempDir(), "wsbouncer.yaml"))
	if err != nil || len(warnings) > 0 {
		t.Fatalf("%v %v", warnings, err)
	}
	if c.DPoP.Nonce != "required" {
		t.Errorf("%+v", c.DPoP)
	}
}

// example is the first block of YAML in a document.
func example(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("../../docs", name))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "```yaml\n")
	block, _, ok := strings.Cut(rest, "```")
	if !ok {
		t.Fatal("the document has no block of YAML")
	}
	return block
}
