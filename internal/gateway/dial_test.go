package gateway_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/wsbouncer/wsbouncer"
	"github.com/wsbouncer/wsbouncer/internal/gateway"
)

// failsWith is a connect(2) that fails, as net.Dialer tells it.
func failsWith(errno syscall.Errno) error {
	return &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", errno)}
}

// answer is the status and body of a handshake.
func (r *rig) answer(token string) (int, string, http.Header) {
	r.t.Helper()
	c := r.dial(bearer(token))
	defer c.conn.Close()
	body := ""
	if c.res.StatusCode != http.StatusSwitchingProtocols {
		b, err := io.ReadAll(c.res.Body)
		if err != nil {
			r.t.Fatal(err)
		}
		body = string(b)
	}
	return c.res.StatusCode, body, c.res.Header
}

// A machine that has run out of something says so, and blames no upstream.
func TestExhaustionIsNamedAndCountsAgainstNobody(t *testing.T) {
	for _, c := range []struct {
		errno  syscall.Errno
		other  bool // another upstream is tried
		advice []string
	}{
		{syscall.EADDRNOTAVAIL, true, []string{"source port", "net.ipv4.ip_local_port_range", "upstream addresses"}},
		{syscall.EMFILE, false, []string{"file descriptor", "ulimit -n"}},
		{syscall.ENFILE, false, []string{"file descriptor", "fs.file-max"}},
	} {
		t.Run(c.errno.Error(), func(t *testing.T) {
			t.Parallel()
			first := &url.URL{Scheme: "ws", Host: "first.invalid:1"}
			r := newRig(t, gateway.Route{Upstreams: []*url.URL{first}}, wsbouncer.Limits{ConnectionsPerSubject: 1000}, speaking, nil)
			token := r.issuer.Token("alice")
			var dials atomic.Int64
			r.gateway.FailConnects(func(context.Context, string) error { dials.Add(1); return failsWith(c.errno) })
			for range 20 {
				before := dials.Load()
				status, body, header := r.answer(token)
				if status != http.StatusServiceUnavailable || !strings.Contains(body, `"overloaded"`) || header.Get("Retry-After") == "" {
					t.Fatalf("%d %s", status, body)
				}
				if n := dials.Load() - before; n != map[bool]int64{true: 2, false: 1}[c.other] {
					t.Fatalf("%d upstreams were tried", n)
				}
			}
			// It is over: nobody is aside, each has its turn.
			r.gateway.FailConnects(func(_ context.Context, host string) error {
				if host == first.Host {
					return fmt.Errorf("only now: %w", failsWith(syscall.ECONNREFUSED))
				}
				return nil
			})
			for range 2 {
				if status, body, _ := r.answer(token); status != http.StatusSwitchingProtocols {
					t.Fatalf("%d %s", status, body)
				}
			}
			for _, a := range append(c.advice, c.errno.Error()) {
				if !strings.Contains(r.log.String(), a) {
					t.Errorf("the log lacks %q", a)
				}
			}
			if strings.Contains(r.log.String(), "put aside") {
				t.Errorf("an upstream was blamed:\n%s", r.log.String())
			}
		})
	}
}

// An upstream that does not even connect costs no more than connect_timeout, and
// half of the handshake's time where there is another.
func TestConnectsHaveATimeOfTheirOwn(t *testing.T) {
	hangs := &url.URL{Scheme: "ws", Host: "hangs.invalid:1"}
	for name, c := range map[string]struct {
		route    gateway.Route
		limits   wsbouncer.Limits
		all      bool
		low, top time.Duration
		status   int
	}{
		"one":                {gateway.Route{ConnectTimeout: 300 * time.Millisecond}, wsbouncer.Limits{HandshakeTimeout: patience}, true, 300 * time.Millisecond, 5 * time.Second, 504},
		"the handshake's":    {gateway.Route{}, wsbouncer.Limits{HandshakeTimeout: time.Second}, true, 900 * time.Millisecond, 5 * time.Second, 504},
		"another, by half":   {gateway.Route{Upstreams: []*url.URL{hangs}}, wsbouncer.Limits{HandshakeTimeout: time.Second}, false, 0, 900 * time.Millisecond, 101},
		"another, in itself": {gateway.Route{Upstreams: []*url.URL{hangs}, ConnectTimeout: 100 * time.Millisecond}, wsbouncer.Limits{HandshakeTimeout: patience}, false, 0, 5 * time.Second, 101},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, c.route, c.limits, speaking, nil)
			r.gateway.FailConnects(func(ctx context.Context, host string) error {
				if c.all || host == hangs.Host {
					<-ctx.Done()
					return &net.OpError{Op: "dial", Net: "tcp", Err: errors.Join(ctx.Err(), os.ErrDeadlineExceeded)}
				}
				return nil
			})
			token := r.issuer.Token("alice")
			for range 2 { // whichever comes first
				began := time.Now()
				status, body, _ := r.answer(token)
				if took := time.Since(began); status != c.status || took < c.low || took > c.top {
					t.Errorf("%d %s after %v", status, body, took)
				}
			}
		})
	}
}
