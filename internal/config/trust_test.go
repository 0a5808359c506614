package config_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/wsbouncer/wsbouncer/internal/config"
)

// Every example of docs/trust.md is a configuration.
func TestTrustExamples(t *testing.T) {
	b, err := os.ReadFile("../../docs/trust.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := strings.Split(string(b), "```yaml\n")[1:]
	if len(blocks) == 0 {
		t.Fatal("there is none")
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "introspection.secret"), []byte("not a real one"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, block := range blocks {
		text, _, _ := strings.Cut(block, "```")
		if _, _, err := config.Parse([]byte(text), filepath.Join(dir, "wsbouncer.yaml")); err != nil {
			t.Errorf("%v\n%s", err, text)
		}
	}
}
