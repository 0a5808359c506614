package app

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"

	"github.com/wsbouncer/wsbouncer/internal/account"
)

// Offline opens the data folder without a server, under its lock, for commands
// that must work before there is one. The caller closes it.
func Offline(ctx context.Context, o Options) (*App, error) {
	if o.Config.Issuer == nil {
		return nil, errors.New("this configuration has no issuer, so there are no accounts: add issuer: {}")
	}
	return open(ctx, o)
}

// AdminTransport reaches the admin interface without a socket.
func (a *App) AdminTransport() http.RoundTripper { return inProcess{a.admin} }

// inProcess is a RoundTripper that calls a handler. Answers are whole before
// they are read; none of the admin interface's are large.
type inProcess struct{ h http.Handler }

func (t inProcess) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body == nil {
		r.Body = http.NoBody
	}
	defer r.Body.Close()
	w := &answer{header: http.Header{}, status: http.StatusOK}
	t.h.ServeHTTP(w, r)
	return &http.Response{
		StatusCode: w.status, Status: http.StatusText(w.status), Header: w.header, Request: r,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Body: io.NopCloser(&w.body), ContentLength: int64(w.body.Len()),
	}, nil
}

type answer struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (w *answer) Header() http.Header         { return w.header }
func (w *answer) WriteHeader(status int)      { w.status = status }
func (w *answer) Write(b []byte) (int, error) { return w.body.Write(b) }

// ensureUser makes an account, or gives one that is there a new password.
func (a *App) ensureUser(ctx context.Context, name, password string, scopes []string) error {
	const actor = "dev"
	_, err := a.account.Add(ctx, name, password, scopes, actor)
	if errors.Is(err, account.ErrExists) {
		err = a.account.SetPassword(ctx, name, password, actor)
	}
	return err
}
