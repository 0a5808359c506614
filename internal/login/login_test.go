package login

import (
	"context"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/wsbouncer/wsbouncer/internal/httpx"
)

func TestStatesAreTakenOnce(t *testing.T) {
	s, now := newStates(), time.Unix(1_800_000_000, 0)
	browser := NewBrowser()
	good := transaction{Provider: "corp", Nonce: "n", Verifier: "v", ReturnTo: "/", Browser: browserHash(browser), Begun: now.Unix()}
	seal := func(t transaction) string {
		raw, _ := s.seal(t)
		return raw
	}
	raw := seal(good)
	for name, try := range map[string]func() error{
		"another browser":  func() error { _, err := s.take(raw, NewBrowser(), "corp", now); return err },
		"no browser":       func() error { _, err := s.take(raw, "", "corp", now); return err },
		"another provider": func() error { _, err := s.take(raw, browser, "other", now); return err },
		"too late":         func() error { _, err := s.take(raw, browser, "corp", now.Add(StateLife+time.Second)); return err },
		"another key":      func() error { _, err := newStates().take(raw, browser, "corp", now); return err },
		"a bit more":       func() error { _, err := s.take(raw+"AA", browser, "corp", now); return err },
		"padding":          func() error { _, err := s.take(raw+"=", browser, "corp", now); return err },
		"empty":            func() error { _, err := s.take("", browser, "corp", now); return err },
		"short":            func() error { _, err := s.take("AAAA", browser, "corp", now); return err },
	} {
		if err := try(); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	if _, err := s.take(raw, browser, "corp", now.Add(StateLife)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.take(raw, browser, "corp", now); err == nil {
		t.Error("taken twice")
	}
	if a, b := seal(good), seal(good); a == b {
		t.Error("two states are equal")
	}
}

func FuzzState(f *testing.F) {
	s, now, browser := newStates(), time.Unix(1_800_000_000, 0), NewBrowser()
	raw, _ := s.seal(transaction{Provider: "corp", Browser: browserHash("another"), Begun: now.Unix()})
	f.Add(raw)
	f.Add("")
	f.Fuzz(func(t *testing.T, raw string) {
		if _, err := s.take(raw, browser, "corp", now); err == nil {
			t.Fatal("taken")
		}
	})
}

func FuzzReturnTo(f *testing.F) {
	for _, s := range []string{"/", "//evil", "/\\evil", "https://app.example.com/x", "https://app.example.com@evil/", "javascript:x", "/%09/evil"} {
		f.Add(s)
	}
	origins, err := httpx.ParseOrigins([]string{"https://app.example.com", "http://127.0.0.1:3000"})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		to, ok := returnTo(raw, "https://rt.example.com", "https://app.example.com", origins)
		if !ok {
			return
		}
		u, err := url.Parse(to)
		if err != nil || u.User != nil {
			t.Fatalf("%q leads to %q: %v", raw, to, err)
		}
		switch u.Scheme + "://" + strings.ToLower(u.Host) {
		case "https://rt.example.com", "https://app.example.com", "http://127.0.0.1:3000":
		default:
			t.Fatalf("%q leads to %q", raw, to)
		}
		if strings.ContainsAny(to, "\r\n\t\\ ") {
			t.Fatalf("%q", to)
		}
	})
}

func FuzzSubject(f *testing.F) {
	for _, s := range []string{`"a"`, "1", "-1", "1e3", "1.0", "null", `""`, "{}"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		if s, ok := subjectOf(raw); ok && (s == "" || len(s) > maxValue) {
			t.Fatalf("%q is %q", raw, s)
		}
	})
}

func TestAddressesOfProviders(t *testing.T) {
	for raw, want := range map[string]bool{
		"https://sso.example": true, "http://127.0.0.1:1/x": true, "http://localhost/x": true, "http://[::1]:9/": true,
		"http://sso.example": false, "http://127.0.0.1.evil.example/": false, "http://localhost.evil.example": false,
		"https://u:p@sso.example": false, "ftp://sso.example": false, "/x": false, "": false, "https:///x": false,
	} {
		u, err := url.Parse(raw)
		if err != nil {
			t.Fatal(err)
		}
		if got := safe(u) == nil; got != want {
			t.Errorf("%q: %v", raw, got)
		}
	}
}

// One provider's logins take its own places.
func TestPlacesAreEachProvidersOwn(t *testing.T) {
	s := New(Options{Base: "https://rt.example.com", AuthPath: "/auth", First: "https://rt.example.com", Origins: &httpx.Origins{}})
	s.SetProviders([]Provider{{Name: "a", Type: OAuth2, AuthURL: "https://a.example/"}, {Name: "b", Type: OAuth2, AuthURL: "https://b.example/"}})
	a, err := s.provider("a")
	if err != nil {
		t.Fatal(err)
	}
	for range maxInFlight {
		if _, err := a.enter(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Begin(context.Background(), Request{Provider: "a", Browser: NewBrowser()}); err == nil || !strings.Contains(err.Error(), "overloaded") {
		t.Errorf("one more: %v", err)
	}
	if _, err := s.Begin(context.Background(), Request{Provider: "b", Browser: NewBrowser()}); err != nil {
		t.Errorf("another provider: %v", err)
	}
}
