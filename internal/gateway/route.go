package gateway

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/wsbouncer/wsbouncer"
	"github.com/wsbouncer/wsbouncer/internal/relay"
	"github.com/wsbouncer/wsbouncer/policy"
)

// A Route is a path and the upstream behind it.
type Route struct {
	// Path is a net/http ServeMux pattern without method or host.
	Path string
	// Upstreams are ws or wss URLs, at least one. Without a path the
	// request's is kept.
	Upstreams []*url.URL
	// Demand is what the library asks of a handshake.
	Demand wsbouncer.Demand
	// Protocols are what the gateway may pick from where the token comes in a
	// first message; the upstream must then pick the same.
	Protocols []string
	// InBandRefresh: clients refresh over the connection itself.
	InBandRefresh bool
	// Assertion: the upstream gets a signed statement of who is there.
	Assertion bool
	// Compression lets client and upstream negotiate permessage-deflate.
	Compression bool
	// UTF8Check validates text payloads.
	UTF8Check bool
	// UpstreamTLS is for wss upstreams; nil: the system's roots.
	UpstreamTLS *tls.Config
	// ConnectTimeout bounds a connection to an upstream until its TLS is there;
	// zero: as long as the handshake has.
	ConnectTimeout time.Duration
	// HealthCheck is asked of each upstream; nil: none.
	HealthCheck *HealthCheck
	// Allow is an expression of policy.Connections that must be true at the
	// handshake and at every refresh; nil: true.
	Allow *policy.Program
	// Permissions decide about every message; nil: all go on.
	Permissions *Permissions
}

// route is a Route in use.
type route struct {
	Route
	upstreams []*upstream

	once   sync.Once
	shared relay.Limits
}

// limits are the relay's, one value for all connections of the route.
func (rt *route) limits(b *wsbouncer.Bouncer) *relay.Limits {
	rt.once.Do(func() {
		l := b.Limits(rt.Demand)
		rt.shared = relay.Limits{
			MessageBytes: l.MessageBytes, MessageRate: l.MessageRate, ByteRate: l.ByteRate,
			IdleTimeout: l.IdleTimeout, WriteTimeout: l.WriteTimeout,
		}
	})
	return &rt.shared
}

// firstMessage reports whether the token may come in a first message.
func (rt *route) firstMessage() bool { return slices.Contains(rt.Demand.TokenFrom, "first_message") }

// ServeHTTP is never called: a route is found with ServeMux.Handler, which
// answers with handlers of its own where it would redirect.
func (*route) ServeHTTP(http.ResponseWriter, *http.Request) {}

// table is the routes in use.
type table struct {
	mux    *http.ServeMux
	byPath map[string]*route
	// upstreams are those of all routes, each once.
	upstreams []*upstream
	checks    map[*upstream]HealthCheck
}

// CheckRoutes reports the first route, by its index, that cannot be used with
// those before it, and the configuration's key that is at fault.
func CheckRoutes(routes []Route) (i int, key string, err error) {
	_, i, err = newTable(routes, nil)
	if key = "path"; errors.Is(err, errTwoChecks) {
		key = "health_check"
	}
	return i, key, err
}

var errTwoChecks = errors.New("another route checks the same upstream in another way; an upstream has one check, which holds for all of its routes")

// newTable takes the upstreams that old has too from there.
func newTable(routes []Route, old *table) (_ *table, bad int, err error) {
	t := &table{mux: http.NewServeMux(), byPath: map[string]*route{}, checks: map[*upstream]HealthCheck{}}
	for i, r := range routes {
		if err := t.add(r, old); err != nil {
			return nil, i, err
		}
	}
	return t, 0, nil
}

// registered is where ServeMux was told of a pattern, which tells a user nothing.
var registered = regexp.MustCompile(` \(registered at [^)]*\)`)

func (t *table) add(r Route, old *table) (err error) {
	if !strings.HasPrefix(r.Path, "/") || strings.ContainsAny(r.Path, " \t") {
		return fmt.Errorf("%q is not a path: it begins with a slash and holds no spaces", r.Path)
	}
	if len(r.Upstreams) == 0 {
		return errors.New("there is no upstream")
	}
	rt := &route{Route: r}
	for _, u := range r.Upstreams {
		if u == nil || (u.Scheme != "ws" && u.Scheme != "wss") || u.Host == "" {
			return fmt.Errorf("upstream %v is not a ws:// or wss:// address", u)
		}
		server := t.upstream(u, r.UpstreamTLS, old)
		if !slices.Contains(rt.upstreams, server) {
			rt.upstreams = append(rt.upstreams, server)
		}
		if r.HealthCheck == nil {
			continue
		}
		if c, ok := t.checks[server]; ok && c != *r.HealthCheck {
			return errTwoChecks
		}
		t.checks[server] = *r.HealthCheck
	}
	defer func() { // ServeMux tells by panicking
		if p := recover(); p != nil {
			text := registered.ReplaceAllString(strings.TrimPrefix(fmt.Sprint(p), "http: "), "")
			err = errors.New(strings.ReplaceAll(text, "\n", " "))
		}
	}()
	t.mux.Handle(r.Path, rt)
	t.byPath[r.Path] = rt
	return nil
}

// upstream is the server at an address: the one that another route has, or that
// was there before a reload, else a new one.
func (t *table) upstream(at *url.URL, conf *tls.Config, old *table) *upstream {
	address := addressOf(at)
	is := func(u *upstream) bool { return u.is(address, conf) }
	if i := slices.IndexFunc(t.upstreams, is); i >= 0 {
		return t.upstreams[i]
	}
	u := &upstream{url: at, tls: conf}
	if old != nil {
		if i := slices.IndexFunc(old.upstreams, is); i >= 0 {
			u = old.upstreams[i]
		}
	}
	t.upstreams = append(t.upstreams, u)
	return u
}

// match finds the route of a request, or nil. It never answers with a redirect.
func (t *table) match(r *http.Request) *route {
	h, _ := t.mux.Handler(r)
	rt, _ := h.(*route)
	return rt
}
