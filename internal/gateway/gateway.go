package gateway

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/wsbouncer/wsbouncer"
	"github.com/wsbouncer/wsbouncer/internal/httpx"
	"github.com/wsbouncer/wsbouncer/internal/reason"
	"github.com/wsbouncer/wsbouncer/internal/relay"
	"github.com/wsbouncer/wsbouncer/internal/wheel"
)

// Options are what a Gateway is made of. Bouncer and Peers are needed.
type Options struct {
	Bouncer *wsbouncer.Bouncer
	Routes  []Route
	Peers   *httpx.Peers
	// Assertion signs who is there, for one upstream; needed by routes that ask for it.
	Assertion func(audience string, p *wsbouncer.Principal) (string, error)
	// Loops relay what they can; nil: goroutines do. Run runs them.
	Loops *relay.Loops
	// Room reports whether there is a file descriptor for a connection to an
	// upstream; nil: the system says so.
	Room func() bool
	// Log is for the operator; nil: slog.Default.
	Log *slog.Logger
}

// A Gateway is the handler of every WebSocket route. It is safe for concurrent
// use; Run must run while it serves.
type Gateway struct {
	o       Options
	table   atomic.Pointer[table]
	routing sync.Mutex // held while the table is replaced
	// rerouted tells the health checks of a new table.
	rerouted chan struct{}
	balance  *balancer
	// connect is reach, but in tests.
	connect     func(context.Context, *upstream, *relay.Socket) (relay.Stream, error)
	exhaustions exhaustions
	denials     denials
	wheel       *wheel.Wheel
	report      *reporter
}

// New is a Gateway. It starts nothing.
func New(o Options) (*Gateway, error) {
	if o.Bouncer == nil || o.Peers == nil {
		return nil, errors.New("gateway: Bouncer and Peers are needed")
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	g := &Gateway{o: o, wheel: wheel.New(), report: newReporter(o.Log), rerouted: make(chan struct{}, 1)}
	g.connect, g.balance = g.reach, &balancer{report: g.report}
	return g, g.SetRoutes(o.Routes)
}

// Run relays, and keeps idle time-outs, health checks and the bound on log lines,
// until ctx ends.
func (g *Gateway) Run(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	var others sync.WaitGroup
	defer others.Wait()
	defer stop()
	others.Go(func() { _ = g.report.log.Run(ctx) }) // ends with ctx alone
	others.Go(func() { g.check(ctx) })
	if g.o.Loops != nil {
		others.Go(func() { _ = g.o.Loops.Run(ctx) })
	}
	return g.wheel.Run(ctx)
}

// SetRoutes replaces the routes for handshakes from now on. Live connections
// stay as they are, but that their next message meets the permissions of now, and
// so does what is known of upstreams that stay. On an error nothing changes.
func (g *Gateway) SetRoutes(routes []Route) error {
	for _, r := range routes {
		if r.Assertion && g.o.Assertion == nil {
			return errors.New("gateway: a route asks for assertions, and nobody signs them")
		}
	}
	g.routing.Lock()
	defer g.routing.Unlock()
	old := g.table.Load()
	t, _, err := newTable(routes, old)
	if err != nil {
		return err
	}
	for _, rt := range t.byPath {
		if rt.Allow != nil {
			rt.Demand.Authorizer = &allowing{g: g, rt: rt}
		}
	}
	g.table.Store(t)
	g.endUnread(old, t)
	select {
	case g.rerouted <- struct{}{}:
	default: // it is told already
	}
	return nil
}

// Demand is what the route at an escaped path asks for, and whether there is
// such a route.
func (g *Gateway) Demand(path string) (wsbouncer.Demand, bool) {
	u, err := url.ParseRequestURI(path)
	if err != nil || u.Host != "" {
		return wsbouncer.Demand{}, false
	}
	rt := g.table.Load().match(&http.Request{Method: http.MethodGet, URL: u})
	if rt == nil {
		return wsbouncer.Demand{}, false
	}
	return rt.Demand, true
}

// ServeHTTP is a handshake from the route to the relay. Whatever it refuses is
// answered by the library, in one place.
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	began := time.Now()
	if r.Method == http.MethodConnect { // RFC 8441, or a tunnel: neither is spoken
		g.o.Bouncer.Refuse(w, r, wsbouncer.Demand{}, reason.MethodNotAllowed)
		return
	}
	rt := g.table.Load().match(r)
	if rt == nil {
		why := reason.NoRoute
		if httpx.OddTarget(r) { // it might have had one in another form
			why = reason.OddTarget
		}
		g.o.Bouncer.Refuse(w, r, wsbouncer.Demand{}, why)
		return
	}
	a, err := g.o.Bouncer.Admit(r, rt.Demand)
	if err != nil {
		g.o.Bouncer.Refuse(w, r, rt.Demand, err)
		return
	}
	limits := g.o.Bouncer.Limits(rt.Demand)
	ctx, cancel := context.WithDeadline(r.Context(), began.Add(limits.HandshakeTimeout))
	defer cancel()
	h := &handshake{g: g, rt: rt, r: r, a: a, limits: limits, c: &conn{cancel: cancel}, socket: socketOf(w)}
	if a.Principal == nil {
		h.firstMessage(ctx, w)
		return
	}
	if err := h.admitted(ctx, w); err != nil {
		g.o.Bouncer.Refuse(w, r, rt.Demand, err)
	}
}
