package config_test

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/wsbouncer/wsbouncer/internal/config"
)

// The example of docs/second-factor.md is a configuration.
func TestSecondFactorExample(t *testing.T) {
	b, err := os.ReadFile("../../docs/second-factor.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "```yaml\n")
	block, _, _ := strings.Cut(rest, "```")
	c, _, err := config.Parse([]byte(block), t.TempDir()+"/wsbouncer.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if r := c.Routes[0]; len(r.RequireAMR) != 1 || r.MaxAuthAge.D() != 15*time.Minute {
		t.Errorf("%+v", r)
	}
	for _, bad := range []string{"max_auth_age: 1500ms", "max_auth_age: 100ms", "max_auth_age: 721h", `require_amr: ["a b"]`, `require_acr: ["a\""]`, `require_acr: [""]`} {
		if _, _, err := config.Parse([]byte("issuer: {}\nroutes: [{path: /, upstream: 'ws://127.0.0.1:9000', "+bad+"}]\n"), t.TempDir()+"/wsbouncer.yaml"); err == nil {
			t.Errorf("%s was taken", bad)
		}
	}
}
