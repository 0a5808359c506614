package demo_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/wsbouncer/wsbouncer/internal/demo"
)

func get(t *testing.T, h http.Handler, method, target, host string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequest(method, target, nil)
	r.Host = host
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func TestPageServesItsFilesAndNothingElse(t *testing.T) {
	h := demo.Page(demo.Options{})
	html := get(t, h, "GET", "/", "127.0.0.1:8080")
	if html.Code != 200 || !strings.HasPrefix(html.Header().Get("Content-Type"), "text/html") {
		t.Fatalf("/: %d %v", html.Code, html.Header())
	}
	refs := regexp.MustCompile(`(?:src|href)="(/demo/[^"]+)"`).FindAllStringSubmatch(html.Body.String(), -1)
	if len(refs) < 3 {
		t.Fatalf("references: %v", refs)
	}
	for _, ref := range refs {
		if w := get(t, h, "GET", ref[1], "127.0.0.1:8080"); w.Code != 200 || w.Body.Len() == 0 {
			t.Errorf("%s: %d", ref[1], w.Code)
		}
	}
	for _, path := range []string{"/index.html", "/demo/", "/demo/assets/app.js", "/demo/../page.go", "/x"} {
		if w := get(t, h, "GET", path, "127.0.0.1:8080"); w.Code == 200 {
			t.Errorf("%s: %d", path, w.Code)
		}
	}
	if w := get(t, h, "POST", "/", "127.0.0.1:8080"); w.Code != http.StatusMethodNotAllowed {
		t.Errorf("POST: %d", w.Code)
	}
}

func TestPageIsStrict(t *testing.T) {
	h := demo.Page(demo.Options{})
	w := get(t, h, "GET", "/", "localhost:8080")
	csp := w.Header().Get("Content-Security-Policy")
	for _, want := range []string{"default-src 'none'", "script-src 'self';", "frame-ancestors 'none'", "ws://localhost:8080", "require-trusted-types-for 'script'"} {
		if !strings.Contains(csp, want) {
			t.Errorf("no %q in %s", want, csp)
		}
	}
	for name, want := range map[string]string{"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-store"} {
		if got := w.Header().Get(name); got != want {
			t.Errorf("%s: %q", name, got)
		}
	}
	// Nothing inline, nothing from elsewhere.
	if bad := regexp.MustCompile(`<script>|<style|\sstyle=|\son[a-z]+=|https?://`).FindString(w.Body.String()); bad != "" {
		t.Errorf("the page has %q", bad)
	}
	// A Host header cannot write into the policy.
	for _, host := range []string{"x; script-src *", "x'", "x y", "[::1%25;]"} {
		if csp := get(t, h, "GET", "/", host).Header().Get("Content-Security-Policy"); !strings.Contains(csp, "connect-src 'self';") {
			t.Errorf("%q: %s", host, csp)
		}
	}
}

func TestPageTellsItsScriptWhatIsHere(t *testing.T) {
	h := demo.Page(demo.Options{
		Users:     []demo.User{{Name: "ann", Password: "p", Link: "http://127.0.0.1:1/#ann", Revoke: "wsbouncer revoke subject ann"}},
		AccessTTL: 30 * time.Second,
	})
	w := get(t, h, "GET", "/demo/config.json", "127.0.0.1:1")
	var got struct {
		Users    []map[string]string
		AuthPath string `json:"auth_path"`
		TTL      int    `json:"access_ttl"`
	}
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if got.AuthPath != "/auth" || got.TTL != 30 || len(got.Users) != 1 || got.Users[0]["revoke"] != "wsbouncer revoke subject ann" {
		t.Fatalf("%+v", got)
	}
}
