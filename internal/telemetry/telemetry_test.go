package telemetry_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/wsbouncer/wsbouncer/internal/telemetry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	opaque = "wQ7p3ZkS8nVt1uXy5aBc9dEf2gHi4jKl6mNo0pRs-_A"
	jwt    = "eyJhbGciOiJFZERTQSIsInR5cCI6ImF0K2p3dCJ9.eyJpc3MiOiJodHRwczovL3J0LmV4YW1wbGUuY29tIiwic3ViIjoiYW5uIn0.c2lnbmF0dXJlLW9mLXNvbWUtbGVuZ3Ro"
)

func TestLOG02RedactShapes(t *testing.T) {
	for in, want := range map[string]string{
		"GET /ws?token=" + opaque + "&a=1 HTTP/1.1":                                           "GET /ws?token=[redacted]&a=1 HTTP/1.1",
		"/ws?a=1&access_token=" + opaque:                                                      "/ws?a=1&access_token=[redacted]",
		"/ws?TICKET=" + opaque + "#x":                                                         "/ws?TICKET=[redacted]",
		"https://x.test/cb?code=abc123&state=xyz&ok=1":                                        "https://x.test/cb?code=[redacted]&state=[redacted]&ok=1",
		"/login?return_to=%2Fws%3Ftoken%3D" + opaque:                                          "/login?return_to=%2Fws%3Ftoken%3D[redacted]",
		"/login?return_to=%252Fws%253Faccess_token%253D" + opaque:                             "/login?return_to=%252Fws%253Faccess_token%253D[redacted]",
		"grant_type=refresh_token&refresh_token=" + opaque:                                    "grant_type=refresh_token&refresh_token=[redacted]",
		"Authorization: Bearer " + opaque:                                                     "Authorization: [redacted]",
		"got Bearer " + opaque + " here":                                                      "got Bearer [redacted] here",
		"protocols bearer, " + opaque + ", chat":                                              "protocols bearer, [redacted], chat",
		"Basic YW5uOmh1bnRlcjI=":                                                              "Basic [redacted]",
		"bearer." + jwt:                                                                       "bearer.[redacted]",
		"bad token " + jwt + ": expired":                                                      "bad token [redacted]: expired",
		"unsigned " + jwt[:strings.LastIndex(jwt, ".")]:                                       "unsigned [redacted]",
		"trailing " + jwt[:strings.LastIndex(jwt, ".")+1]:                                     "trailing [redacted]",
		"encoded " + strings.ReplaceAll(jwt, ".", "%2E"):                                      "encoded [redacted]",
		"twice " + base64.StdEncoding.EncodeToString([]byte(jwt)):                             "twice [redacted]",
		"spaced " + base64.RawURLEncoding.EncodeToString([]byte(`{ "alg":"none"}`)) + ".e30.": "spaced [redacted]",
		"Cookie: __Host-wsbouncer=" + opaque + "; theme=dark":                                 "Cookie: [redacted]",
		"__Host-wsbouncer=" + opaque + "; theme=dark":                                         "__Host-wsbouncer=[redacted]; theme=dark",
		"wsbouncer-refresh=" + opaque:                                                         "wsbouncer-refresh=[redacted]",
		`{"username":"ann","password":"correct \"horse","token" : "` + opaque + `"}`:          `{"username":"ann","password":"[redacted]","token" : "[redacted]"}`,
		`{"wsbouncer":"auth","token":"` + opaque:                                              `{"wsbouncer":"auth","token":"[redacted]"`,
		"postgres://app:hunter2@db:5432/x?sslmode=require":                                    "postgres://[redacted]@db:5432/x?sslmode=require",
		"dial: password=hunter2 host=db":                                                      "dial: password=[redacted] host=db",

		"close code=3000 reason=token_expired":                    "close code=3000 reason=token_expired",
		"token_expired":                                           "token_expired",
		"https://app.example.com:8443/chat":                       "https://app.example.com:8443/chat",
		"example-service.internal.example.com":                    "example-service.internal.example.com",
		"2026-11-24T10:00:00Z":                                    "2026-11-24T10:00:00Z",
		"listen tcp 127.0.0.1:8080: bind: address already in use": "listen tcp 127.0.0.1:8080: bind: address already in use",
		"":       "",
		"ann":    "ann",
		"日本 é 😀": "日本 é 😀",

		"a\x1b[31mb":                    "a\x1b[31mb", // the formats escape it
		"a\u009b31mb\x7f\u202ec\u2066d": "a\ufffd31mb\ufffd\ufffdc\ufffdd",
	} {
		if got := telemetry.Redact(in); got != want {
			t.Errorf("Redact(%q)\n got %q\nwant %q", in, got, want)
		}
	}
	long := telemetry.Redact(strings.Repeat("é", 1<<20))
	if len(long) > 9<<10 || !strings.HasSuffix(long, "é…") {
		t.Errorf("a text of a megabyte became %d bytes", len(long))
	}
}

type valuer struct{}

func (valuer) LogValue() slog.Value {
	return slog.GroupValue(slog.String("token", opaque), slog.String("user", "ann"))
}

type stringer struct{ s string }

func (s *stringer) String() string { return s.s }

// Every way a credential can get into a record, in both formats.
func TestLOG02NothingGetsThrough(t *testing.T) {
	u, _ := url.Parse("wss://x.test/ws?ticket=" + opaque + "&room=1")
	type creds struct {
		User         string
		RefreshToken string `json:"refresh_token"`
		Nested       map[string][]string
	}
	var nothing *stringer
	for _, text := range []bool{false, true} {
		var out bytes.Buffer
		log := telemetry.NewLogger(&out, telemetry.Options{Level: slog.LevelDebug, Text: text})
		log.Debug("message "+jwt, "token", opaque, "access_token", opaque, "Authorization", "Bearer "+opaque, "set-cookie", opaque, "ticket", []byte(opaque),
			"password", opaque, "clientSecret", opaque, "refresh-token", opaque, "X-Api-Key", opaque, "Sec-WebSocket-Protocol", opaque)
		log.Info("values", "err", fmt.Errorf("verify %s: %w", jwt, errors.New("?token="+opaque)), "url", u, "url string", u.String(), "header", http.Header{"Authorization": {"Bearer " + opaque}, "Cookie": {"x=" + opaque}, "Accept": {"text/html"}},
			"struct", creds{"ann", opaque, map[string][]string{"secrets": {opaque}}}, "pointer", &creds{RefreshToken: opaque}, "map", map[string]any{"a": []any{map[string]any{"Password": opaque}}},
			"valuer", valuer{}, "stringer", &stringer{"?token=" + opaque}, "nil", nothing, "func", func() {}, "bytes", []byte("?ticket="+opaque), "bin", []byte{0xff, 0xfe},
			slog.Group("request", "cookie", opaque, slog.Group("deep", "secret", opaque)), slog.Group("credentials", "name", opaque))
		log.With("token", opaque, "a", "?token="+opaque).WithGroup("http").With("cookie", opaque).WithGroup("ticket").With("raw", opaque).Warn("grouped", "x", opaque)
		log.Error("numbers stay", "tokens", 5, "password_changed", time.Unix(0, 0), "token_valid", true, "token_id", "jti-1", "peer", netip.MustParseAddr("1.2.3.4"), "protocols", []string{"chat", "v2"}, "big", map[string]int64{"n": 1 << 60})
		got := out.String()
		for _, secret := range []string{opaque, jwt, url.QueryEscape(jwt), base64.StdEncoding.EncodeToString([]byte(jwt)), jwt[strings.LastIndex(jwt, "."):]} {
			if strings.Contains(got, secret) {
				t.Errorf("text=%v: %q in\n%s", text, secret, got)
			}
		}
		for _, kept := range []string{"ann", "text/html", "room=1", "jti-1", "1.2.3.4", "chat", "1152921504606846976", "[2 bytes]", "[redacted]"} {
			if !strings.Contains(got, kept) {
				t.Errorf("text=%v: %q is gone from\n%s", text, kept, got)
			}
		}
		if lines := strings.Count(got, "\n"); lines != 4 {
			t.Errorf("text=%v: %d lines, want 4", text, lines)
		}
	}
}

var nasty = []string{
	"a\r\nX-Admin: 1", "line\nlevel=ERROR msg=forged", "\x1b[2J\x1b]0;title\x07", "\u009b31m", "quote\" } , {", "nul\x00", "\xff\xfe invalid", "\u2028\u2029", "\u202eevil", strings.Repeat("x", 8<<10), `\u0022`, "{}", "tab\tx", "=", "", " ",
}

func TestAUT11OneValidLineWhateverIsInIt(t *testing.T) {
	for _, s := range nasty {
		checkLine(t, s)
	}
}

func checkLine(t *testing.T, s string) {
	t.Helper()
	for _, text := range []bool{false, true} {
		var out bytes.Buffer
		log := telemetry.NewLogger(&out, telemetry.Options{Text: text})
		log.With("with"+s, s).WithGroup("g"+s).Info(s, "k"+s, s, "err", errors.New(s), "m", map[string]string{s: s}, "l", []string{s})
		got := out.String()
		if strings.Count(got, "\n") != 1 || !strings.HasSuffix(got, "\n") {
			t.Fatalf("%q: not one line: %q", s, got)
		}
		for _, r := range strings.TrimSuffix(got, "\n") {
			if r < 0x20 || 0x7f <= r && r <= 0x9f || 0x202a <= r && r <= 0x202e || r == 0x2028 {
				t.Fatalf("%q: %q in the line %q", s, r, got)
			}
		}
		if !text && !json.Valid(out.Bytes()) {
			t.Fatalf("%q: not JSON: %s", s, got)
		}
	}
}

func FuzzLine(f *testing.F) {
	for _, s := range nasty {
		f.Add(s)
	}
	f.Add("https://u:p@x.test/?token=%253D&ticket=x")
	f.Fuzz(func(t *testing.T, s string) {
		checkLine(t, s)
		// A token stays redacted whatever stands around it, where what stands
		// before it does not hide where it begins.
		if got := telemetry.Redact(s + " " + jwt); strings.Contains(got, jwt[len(jwt)-20:]) {
			t.Fatalf("%q: %q", s, got)
		}
		if got := telemetry.Redact("/ws?token=" + opaque + "&" + s); strings.Contains(got, opaque) {
			t.Fatalf("%q: %q", s, got)
		}
	})
}

func TestLOG01TimesAreUTC(t *testing.T) {
	var out bytes.Buffer
	h := telemetry.NewHandler(slog.NewJSONHandler(&out, nil))
	at := time.Date(2026, 11, 24, 12, 0, 0, 0, time.FixedZone("CET", 3600))
	if err := h.Handle(t.Context(), slog.NewRecord(at, slog.LevelInfo, "x", 0)); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), `"time":"2026-11-24T11:00:00Z"`) {
		t.Errorf("line %s", &out)
	}
}

func TestLevels(t *testing.T) {
	var out bytes.Buffer
	level := new(slog.LevelVar)
	level.Set(slog.LevelWarn)
	log := telemetry.NewLogger(&out, telemetry.Options{Level: level})
	log.Info("no")
	log.Warn("yes")
	level.Set(slog.LevelDebug)
	log.Debug("now")
	if got := out.String(); strings.Contains(got, `"no"`) || !strings.Contains(got, "yes") || !strings.Contains(got, "now") {
		t.Errorf("lines %s", got)
	}
}

func TestIsTerminal(t *testing.T) {
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = null.Close() }()
	file, err := os.Create(t.TempDir() + "/log")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	for name, w := range map[string]io.Writer{"null": null, "file": file, "buffer": &bytes.Buffer{}} {
		if telemetry.IsTerminal(w) {
			t.Errorf("%s is a terminal", name)
		}
	}
}

// A sink that can be read while others write.
type sink struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (s *sink) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.Write(b)
}

func (s *sink) take() (lines []map[string]any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for d := json.NewDecoder(&s.buf); ; {
		var m map[string]any
		if d.Decode(&m) != nil {
			s.buf.Reset()
			return lines
		}
		lines = append(lines, m)
	}
}

func TestLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s sink
		l := telemetry.NewLimited(slog.New(slog.NewJSONHandler(&s, nil)), 3)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { _ = l.Run(ctx); close(done) }()
		flood := func(kind string, n int) {
			for i := range n {
				l.Log(ctx, slog.LevelInfo, kind, "refused", slog.Int("i", i))
			}
		}
		l.Log(ctx, slog.LevelDebug, "origin", "below the level")
		flood("origin", 1000)
		flood("token", 2)
		l.Log(ctx, slog.LevelWarn, "origin", "graver")
		synctest.Wait()
		if lines := s.take(); len(lines) != 5 {
			t.Errorf("%d lines, want 3 of one kind and 2 of the other", len(lines))
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		lines := s.take()
		if len(lines) != 1 || lines[0]["kind"] != "origin" || lines[0]["suppressed"] != 998.0 || lines[0]["level"] != "WARN" {
			t.Errorf("report %v, want one of 998 of origin", lines)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if lines := s.take(); len(lines) != 0 {
			t.Errorf("quiet, but %v", lines)
		}
		// A next window reports before it writes; the end reports the rest.
		flood("origin", 5)
		time.Sleep(time.Second)
		flood("origin", 4)
		cancel()
		<-done
		sum, written := 0.0, 0
		for _, line := range s.take() {
			if n, ok := line["suppressed"].(float64); ok {
				sum += n
			} else {
				written++
			}
		}
		if sum+float64(written) != 9 || sum == 0 {
			t.Errorf("%v suppressed and %d written, want 9 in all", sum, written)
		}
	})
}

// stuck is a log that nobody reads: a full pipe.
type stuck struct {
	free chan struct{}
	sink
}

func (s *stuck) Write(p []byte) (int, error) {
	<-s.free
	return s.sink.Write(p)
}

// Whoever carries out a revocation tells of it; a log that is read slowly, or
// not at all, must not hold that up.
func TestLimitedDoesNotWaitForTheLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := stuck{free: make(chan struct{})}
		l := telemetry.NewLimited(slog.New(slog.NewJSONHandler(&s, nil)), 100_000)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { _ = l.Run(ctx); close(done) }()
		synctest.Wait()
		const lines = 20_000
		told := make(chan struct{})
		go func() {
			for range lines {
				l.Log(ctx, slog.LevelInfo, "k", "x")
			}
			close(told)
		}()
		synctest.Wait()
		select {
		case <-told:
		default:
			t.Error("who logged waits for the log")
		}
		time.Sleep(time.Minute)
		close(s.free)
		<-told
		cancel()
		<-done
		written, lost := 0, 0.0
		for _, line := range s.take() {
			if n, ok := line["suppressed"].(float64); ok {
				lost += n
			} else {
				written++
			}
		}
		if written+int(lost) != lines || written < 100 || lost == 0 {
			t.Errorf("%d written and %v told as suppressed, of %d", written, lost, lines)
		}
	})
}

func TestDOSLimitedKindsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s sink
		l := telemetry.NewLimited(slog.New(slog.NewJSONHandler(&s, nil)), 1)
		for i := range 10_000 {
			l.Log(t.Context(), slog.LevelInfo, fmt.Sprint(i), "x")
		}
		if n := len(s.take()); n > 300 {
			t.Errorf("%d lines of ten thousand kinds", n)
		}
	})
}

func TestLimitedUnderConcurrency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s sink
		l := telemetry.NewLimited(slog.New(slog.NewJSONHandler(&s, nil)), 10)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { _ = l.Run(ctx); close(done) }()
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for range 500 {
					l.Log(ctx, slog.LevelInfo, "k", "x")
					time.Sleep(time.Millisecond)
				}
			})
		}
		wg.Wait()
		cancel()
		<-done
		total, written := 0.0, 0
		for _, line := range s.take() {
			if n, ok := line["suppressed"].(float64); ok {
				total += n
			} else {
				written++
			}
		}
		if written > 20 || total+float64(written) != 4000 {
			t.Errorf("%d written and %v suppressed of 4000", written, total)
		}
	})
}

func BenchmarkLine(b *testing.B) {
	log := telemetry.NewLogger(io.Discard, telemetry.Options{})
	b.ReportAllocs()
	for b.Loop() {
		log.Info("handshake refused", "code", "token_expired", "ip", "203.0.113.7", "origin", "https://app.example.com", "path", "/chat/lobby", "subject", "ann", "duration", time.Millisecond)
	}
}
