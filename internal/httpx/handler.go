package httpx

import (
	"log/slog"
	"net/http"
	"runtime/debug"
)

// A HandlerFunc is a handler that returns its refusal or failure instead of
// writing it.
type HandlerFunc func(w http.ResponseWriter, r *http.Request) error

// Handler makes an http.Handler of h. A returned error is written by
// WriteProblem; what is nobody's refusal is logged with its text, which the
// client never sees. A panic is logged with its stack and answered 500. Once
// the answer has begun neither can be told, so the connection is cut: a
// truncated answer must not look whole. Handlers that hijack do not belong
// here.
func Handler(log *slog.Logger, h HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		t := &tracked{ResponseWriter: w}
		defer func() {
			v := recover()
			if v == nil {
				return
			}
			if v == http.ErrAbortHandler { //nolint:errorlint // net/http compares it so
				panic(v)
			}
			log.ErrorContext(r.Context(), "panic in a handler",
				"method", r.Method, "path", r.URL.Path, "panic", v, "stack", string(debug.Stack()))
			t.fail(internal)
		}()
		err := h(t, r)
		if err == nil {
			return
		}
		if internalError(err) {
			log.ErrorContext(r.Context(), "request failed",
				"method", r.Method, "path", r.URL.Path, "error", err)
		}
		t.fail(err)
	})
}

// internalError reports whether err is for the operator: no refusal, or one
// that says the server is at fault and was wrapped to say why.
func internalError(err error) bool {
	if status, _, _ := problemOf(err).Problem(); status < 500 {
		return false
	}
	_, bare := err.(Problemer) //nolint:errorlint // a wrapped one carries a cause
	return !bare
}

// tracked remembers whether the answer has begun.
type tracked struct {
	http.ResponseWriter
	begun bool
}

func (t *tracked) WriteHeader(status int) {
	if status >= 200 {
		t.begun = true
	}
	t.ResponseWriter.WriteHeader(status)
}

func (t *tracked) Write(b []byte) (int, error) {
	t.begun = true
	return t.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController reach Flush and the deadlines.
func (t *tracked) Unwrap() http.ResponseWriter { return t.ResponseWriter }

func (t *tracked) fail(err error) {
	if t.begun {
		panic(http.ErrAbortHandler)
	}
	WriteProblem(t, err)
}
