package gateway

import (
	"crypto/tls"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
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

// addressOf writes a URL in the form in which two of the same server are equal.
func addressOf(u *url.URL) string {
	path := u.EscapedPath()
	if path == "/" {
		path = ""
	}
	return u.Scheme + "://" + strings.ToLower(u.Hostname()) + " " + portOf(u) + path
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
