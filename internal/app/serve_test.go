package app

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/wsbouncer/wsbouncer/internal/config"
)

// A listener that other machines reach without TLS answers its proxies alone.
func TestTLS02PlainTextIsForProxiesAlone(t *testing.T) {
	for trusted, want := range map[string]int{"192.0.2.1": http.StatusForbidden, "127.0.0.1": http.StatusOK} {
		c, _, err := config.Parse([]byte("listen: 0.0.0.0:1\npublic_url: https://rt.example.com\ndata: "+t.TempDir()+
			"\ntrusted_proxies: ["+trusted+"]\nissuer: {}\nroutes: [{path: /chat, upstream: 'ws://127.0.0.1:9'}]\n"), "")
		if err != nil {
			t.Fatal(err)
		}
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		ready, ended := make(chan struct{}), make(chan error, 1)
		go func() {
			ended <- Serve(ctx, Options{Config: c, Log: slog.New(slog.DiscardHandler), Listener: l, Ready: func(*App) { close(ready) }})
		}()
		select {
		case <-ready:
		case err := <-ended:
			t.Fatal(err)
		}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+l.Addr().String()+"/healthz", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = "rt.example.com"
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(res.Body)
		res.Body.Close()
		if res.StatusCode != want || want == http.StatusForbidden && !strings.Contains(string(body), "tls_required") {
			t.Errorf("trusted %s: %d %s", trusted, res.StatusCode, body)
		}
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

// What strangers cause is no line of the log by default; a panic is the
// program's own and must be one.
func TestOnlyPanicsOfNetHTTPAreTold(t *testing.T) {
	var log bytes.Buffer
	watch := newObserver(slog.New(slog.NewJSONHandler(&log, nil)))
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("the program's fault") }))
	srv.Config.ErrorLog = slog.NewLogLogger(quiet{watch}, slog.LevelDebug)
	srv.Config.ErrorLog.Print("http: TLS handshake error from 192.0.2.1: EOF")
	srv.Start()
	if res, err := http.Get(srv.URL); err == nil {
		res.Body.Close()
	}
	srv.Close()
	if got := log.String(); !strings.Contains(got, `"level":"ERROR"`) || !strings.Contains(got, "the program's fault") {
		t.Errorf("the log of a panic: %q", got)
	}
	if strings.Contains(log.String(), "TLS handshake") {
		t.Error("a stranger's failure is in the log")
	}
}
