package gateway

import (
	"crypto/tls"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// upstream is one server behind routes, and what is known of it. Routes that
// name the same URL with the same TLS settings share it, and it outlives a
// reload that keeps it: there is one count of its connections and one opinion of
// its health.
type upstream struct {
	url *url.URL
	// tls is for wss; nil: the system's roots.
	tls    *tls.Config
	active atomic.Int64 // connections, those being opened included
	health health       // the balancer's lock guards it
}

// is reports whether u is the server that a route means.
func (u *upstream) is(address string, conf *tls.Config) bool {
	return addressOf(u.url) == address && sameTLS(u.tls, conf)
}

// UpstreamState is what is known of an upstream at this moment.
type UpstreamState struct {
	URL string
	// Connections are live ones, and those being opened.
	Connections int64
	// State is ok; avoided (its answers to handshakes are bad, so others come
	// first), out (its health check fails), unreachable: one handshake at a time
	// tries it.
	State string
	// Until is when an upstream that is avoided or unreachable is tried again
	// whatever others there are.
	Until time.Time
	// LastFailure is the kind of the last one, and FailedAt when it was.
	LastFailure string
	FailedAt    time.Time
}

// Upstreams are those of the routes in use, each once.
func (g *Gateway) Upstreams() []UpstreamState {
	now := time.Now()
	g.balance.mu.Lock()
	defer g.balance.mu.Unlock()
	var list []UpstreamState
	for _, u := range g.table.Load().upstreams {
		s := UpstreamState{URL: u.url.Redacted(), Connections: u.active.Load(), State: "ok", LastFailure: u.health.fault, FailedAt: u.health.faultAt}
		switch h := &u.health; {
		case h.pause > 0 && h.unreachable:
			s.State, s.Until = "unreachable", h.until
		case h.standing(now) == out:
			s.State = "out"
		case h.pause > 0:
			s.State, s.Until = "avoided", h.until
		}
		list = append(list, s)
	}
	return list
}

// addressOf writes a URL in the form in which two of the same server are equal.
func addressOf(u *url.URL) string {
	path := u.EscapedPath()
	if path == "/" {
		path = ""
	}
	return u.Scheme + "://" + strings.ToLower(u.Hostname()) + " " + portOf(u) + path
}

// literal is the upstream's address, if that is written in its URL.
func (u *upstream) literal() (netip.AddrPort, bool) {
	ip, err := netip.ParseAddr(u.url.Hostname())
	if err != nil {
		return netip.AddrPort{}, false
	}
	port, err := strconv.ParseUint(portOf(u.url), 10, 16)
	return netip.AddrPortFrom(ip, uint16(port)), err == nil
}

func portOf(u *url.URL) string {
	switch {
	case u.Port() != "":
		return u.Port()
	case u.Scheme == "wss":
		return "443"
	}
	return "80"
}

// sameTLS compares what a Route can set.
func sameTLS(a, b *tls.Config) bool {
	if a == nil {
		a = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	if b == nil {
		b = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	roots := a.RootCAs == b.RootCAs || a.RootCAs != nil && b.RootCAs != nil && a.RootCAs.Equal(b.RootCAs)
	return roots && a.ServerName == b.ServerName && a.MinVersion == b.MinVersion &&
		slices.EqualFunc(a.Certificates, b.Certificates, func(x, y tls.Certificate) bool {
			return slices.EqualFunc(x.Certificate, y.Certificate, slices.Equal)
		})
}
