package app_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/wsbouncer/wsbouncer/internal/app"
)

// The examples of login.md are configurations as they stand.
func TestLoginExamples(t *testing.T) {
	b, err := os.ReadFile("../../docs/login.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(string(b), -1)
	if len(blocks) != 7 {
		t.Fatalf("%d examples", len(blocks))
	}
	whole := blocks[0][1]
	for n, block := range blocks {
		text := block[1]
		if n > 0 { // a provider in the place of the first example's
			head, rest, _ := strings.Cut(whole, "    - name: corp\n")
			_, tail, _ := strings.Cut(rest, "routes:\n")
			text = head + regexp.MustCompile(`(?m)^`).ReplaceAllString(strings.TrimSuffix(text, "\n"), "    ") + "\nroutes:\n" + tail
		}
		dir := t.TempDir()
		for _, name := range regexp.MustCompile(`[a-z0-9]+\.txt`).FindAllString(text, -1) {
			if err := os.WriteFile(filepath.Join(dir, name), []byte("secret\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		file := filepath.Join(dir, "wsbouncer.yaml")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		c, warnings, err := app.Load(file)
		if err != nil || len(warnings) > 0 {
			t.Errorf("example %d: %v %v\n%s", n, err, warnings, text)
		} else if len(c.Login.Providers) != 1 {
			t.Errorf("example %d: %d providers", n, len(c.Login.Providers))
		}
	}
}
