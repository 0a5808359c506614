package gateway

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsbouncer/wsbouncer/internal/relay"
)

// checkRig runs health checks in virtual time. What an upstream answers is its
// text in answers; without one it cannot be reached, and "hang" is silence.
type checkRig struct {
	t       *testing.T
	g       *Gateway
	mu      sync.Mutex
	answers map[string]string
	dialErr error
	asked   map[string][]*http.Request
	open    int
}

func runChecks(t *testing.T, f func(*checkRig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := &checkRig{t: t, answers: map[string]string{}, asked: map[string][]*http.Request{}, dialErr: syscall.ECONNREFUSED}
		r.g = &Gateway{report: newReporter(slog.New(slog.DiscardHandler)), rerouted: make(chan struct{}, 1), connect: r.connect}
		r.g.balance = &balancer{report: r.g.report}
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan struct{})
		r.routes() // none yet
		go func() { defer close(done); r.g.check(ctx) }()
		f(r)
		stop()
		<-done // and synctest demands that no goroutine is left
		if r.open != 0 {
			t.Errorf("%d connections are left", r.open)
		}
	})
}

func (r *checkRig) connect(_ context.Context, u *upstream, _ *relay.Socket) (relay.Stream, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	answer, ok := r.answers[u.url.Host]
	if !ok {
		r.asked[u.url.Host] = append(r.asked[u.url.Host], nil)
		return nil, r.dialErr
	}
	ours, theirs := net.Pipe()
	r.open++
	go func() {
		defer func() {
			theirs.Close()
			r.mu.Lock()
			r.open--
			r.mu.Unlock()
		}()
		br := bufio.NewReader(theirs)
		req, err := http.ReadRequest(br)
		if err != nil {
			return
		}
		r.mu.Lock()
		r.asked[u.url.Host] = append(r.asked[u.url.Host], req)
		r.mu.Unlock()
		if answer != "hang" {
			_, _ = io.WriteString(theirs, answer)
			return
		}
		_, _ = io.Copy(io.Discard, br)
	}()
	return ours, nil
}

// set takes what an upstream answers from now on; "" for no connection.
func (r *checkRig) set(host, answer string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.answers[host] = answer; answer == "" {
		delete(r.answers, host)
	}
}

func (r *checkRig) times(host string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.asked[host])
}

// next waits for the next check of an upstream to begin, which must be in time.
func (r *checkRig) next(host string) {
	r.t.Helper()
	n := r.times(host)
	for range 150 {
		if time.Sleep(100 * time.Millisecond); r.times(host) > n {
			return
		}
	}
	r.t.Fatalf("no further check of %s", host)
}

func (r *checkRig) routes(routes ...Route) {
	r.t.Helper()
	if err := r.g.SetRoutes(routes); err != nil {
		r.t.Fatal(err)
	}
}

// state waits until everything that can happen at this moment has, and after d.
func (r *checkRig) state(d time.Duration, want string) {
	r.t.Helper()
	time.Sleep(d)
	synctest.Wait()
	got := ""
	for _, u := range r.g.Upstreams() {
		got += fmt.Sprintf("%s %s %s\n", u.URL, u.State, u.LastFailure)
	}
	if strings.TrimSpace(got) != strings.TrimSpace(want) {
		r.t.Errorf("got\n%swant\n%s", got, want)
	}
}

func checkedRoute(path string, h *HealthCheck, hosts ...string) Route {
	rt := Route{Path: path, HealthCheck: h}
	for _, host := range hosts {
		rt.Upstreams = append(rt.Upstreams, &url.URL{Scheme: "ws", Host: host, Path: "/ws"})
	}
	return rt
}

const (
	well  = "HTTP/1.1 204 No Content\r\n\r\n"
	ill   = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"
	moved = "HTTP/1.1 302 Found\r\nLocation: http://elsewhere/\r\nContent-Length: 0\r\n\r\n"
)

var everyTen = HealthCheck{Path: "/healthz?deep=1", Interval: 10 * time.Second, Timeout: 2 * time.Second, UnhealthyThreshold: 2, HealthyThreshold: 3}

func TestChecksTakeOutAndBringBack(t *testing.T) {
	for name, c := range map[string]struct{ answer, fault string }{
		"a bad status":     {ill, "status 503"},
		"a redirect":       {moved, "status 302"},
		"no HTTP":          {"SSH-2.0-OpenSSH\r\n\r\n", "other"},
		"a head too large": {"HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", maxHead) + "\r\n\r\n", "closed"},
		"silence":          {"hang", "timeout"},
		"no connection":    {"", "refused"},
	} {
		t.Run(name, func(t *testing.T) {
			runChecks(t, func(r *checkRig) {
				r.set("a:1", well)
				r.routes(checkedRoute("/x", &everyTen, "a:1"), checkedRoute("/y", &everyTen, "a:1"))
				r.state(0, "ws://a:1/ws ok ")
				if n := r.times("a:1"); n != 1 {
					t.Errorf("%d checks at the start, of an upstream that two routes share", n)
				}
				if q := r.asked["a:1"][0]; q.Method != http.MethodGet || q.RequestURI != "/healthz?deep=1" || q.Host != "a:1" || len(q.Header) != 2 {
					t.Errorf("the check: %+v", q)
				}
				r.set("a:1", c.answer)
				for _, state := range []string{"ok", "out", "out"} {
					r.next("a:1")
					r.state(everyTen.Timeout, "ws://a:1/ws "+state+" health check: "+c.fault)
				}
				r.set("a:1", well)
				for _, state := range []string{"out", "out", "ok", "ok"} {
					r.next("a:1")
					r.state(everyTen.Timeout, "ws://a:1/ws "+state+" health check: "+c.fault)
				}
			})
		})
	}
}

// What the machine lacks says nothing about an upstream.
func TestChecksWithoutDescriptorsBlameNobody(t *testing.T) {
	runChecks(t, func(r *checkRig) {
		r.dialErr = &net.OpError{Op: "dial", Net: "tcp", Err: syscall.EMFILE}
		r.routes(checkedRoute("/", &everyTen, "a:1"))
		r.state(time.Minute, "ws://a:1/ws ok ")
		if x := r.g.Exhausted(); len(x) != 1 || x[0].Name != "descriptors" || x[0].Times < 5 {
			t.Errorf("told: %+v", x)
		}
	})
}

// A reload begins, changes and ends checks, one that hangs too, and an upstream
// without a check is not out.
func TestChecksFollowTheRoutes(t *testing.T) {
	runChecks(t, func(r *checkRig) {
		r.set("a:1", ill)
		r.set("b:1", "hang")
		r.routes(checkedRoute("/", &everyTen, "a:1", "b:1"))
		r.state(30*time.Second, "ws://a:1/ws out health check: status 503\nws://b:1/ws out health check: timeout")
		before := r.times("a:1")
		r.routes(checkedRoute("/", &everyTen, "a:1"))
		r.state(0, "ws://a:1/ws out health check: status 503")
		if n := r.times("a:1"); n != before {
			t.Error("a reload that changes nothing checks anew")
		}
		often := everyTen
		often.Interval = time.Second
		r.routes(checkedRoute("/", &often, "a:1"))
		r.state(9*time.Second, "ws://a:1/ws out health check: status 503")
		if n := r.times("a:1") - before; n < 8 || n > 11 {
			t.Errorf("%d checks in 9 s", n)
		}
		r.routes(checkedRoute("/", nil, "a:1"))
		r.state(0, "ws://a:1/ws ok health check: status 503")
		before = r.times("a:1") + r.times("b:1")
		r.state(time.Hour, "ws://a:1/ws ok health check: status 503")
		if n := r.times("a:1") + r.times("b:1"); n != before {
			t.Errorf("%d checks that nobody asked for", n-before)
		}
	})
}

func TestTwoChecksOfOneUpstreamAreRefused(t *testing.T) {
	other := everyTen
	other.Timeout = time.Second
	i, key, err := CheckRoutes([]Route{checkedRoute("/x", &everyTen, "a:1"), checkedRoute("/y", nil, "a:1"), checkedRoute("/z", &other, "A:1")})
	if i != 2 || key != "health_check" || !errors.Is(err, errTwoChecks) {
		t.Errorf("%d %s %v", i, key, err)
	}
}

// A check verifies TLS as handshakes do, and what fails is told by its kind.
func TestChecksVerifyTLS(t *testing.T) {
	secured := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }))
	secured.Config.ErrorLog = log.New(io.Discard, "", 0)
	secured.StartTLS()
	defer secured.Close()
	plain := httptest.NewServer(secured.Config.Handler)
	defer plain.Close()
	known := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: x509.NewCertPool()}
	known.RootCAs.AddCert(secured.Certificate())
	other := known.Clone()
	other.ServerName = "other.invalid"
	g := &Gateway{}
	g.connect = g.reach
	for name, c := range map[string]struct {
		addr  string
		conf  *tls.Config
		fault string
	}{
		"known":          {secured.Listener.Addr().String(), known, ""},
		"unknown":        {secured.Listener.Addr().String(), nil, "certificate"},
		"another's name": {secured.Listener.Addr().String(), other, "certificate"},
		"not spoken":     {plain.Listener.Addr().String(), known, "TLS"},
	} {
		t.Run(name, func(t *testing.T) {
			fault := ""
			if err := g.checkOnce(t.Context(), &upstream{url: &url.URL{Scheme: "wss", Host: c.addr}, tls: c.conf}, everyTen); err != nil {
				fault = faultOf(err)
			}
			if fault != c.fault {
				t.Errorf("%q, want %q", fault, c.fault)
			}
		})
	}
}
