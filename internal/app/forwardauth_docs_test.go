package app_test

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/wsbouncer/wsbouncer/internal/app"
)

// The example of forward-auth.md is a configuration as it stands.
func TestForwardAuthExample(t *testing.T) {
	b, err := os.ReadFile("../../docs/forward-auth.md")
	if err != nil {
		t.Fatal(err)
	}
	block := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindSubmatch(b)
	if block == nil {
		t.Fatal("no example")
	}
	file := filepath.Join(t.TempDir(), "wsbouncer.yaml")
	if err := os.WriteFile(file, block[1], 0o600); err != nil {
		t.Fatal(err)
	}
	if _, warnings, err := app.Load(file); err != nil || len(warnings) > 0 {
		t.Errorf("%v %v", err, warnings)
	}
}
