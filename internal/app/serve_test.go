package app

import (
	"bytes"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

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
