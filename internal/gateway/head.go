package gateway

import (
	"fmt"
	"net"
	"net/http"
	"strings"

	"github.com/wsbouncer/wsbouncer"
	"github.com/wsbouncer/wsbouncer/internal/httpx"
)

// Headers of the handshake itself and of one hop (RFC 9110 §7.6.1): they are
// made anew or left out.
var ownHeaders = map[string]bool{
	"connection": true, "upgrade": true, "host": true, "keep-alive": true, "te": true, "trailer": true,
	"transfer-encoding": true, "content-length": true, "expect": true, "http2-settings": true,
	"proxy-connection": true, "proxy-authorization": true, "proxy-authenticate": true,
	"authorization": true, "dpop": true, "forwarded": true, "x-real-ip": true,
	"client-cert": true, "client-cert-chain": true, // RFC 9440: what a proxy says of the client's certificate
	"sec-websocket-key": true, "sec-websocket-version": true, "sec-websocket-accept": true,
	"sec-websocket-protocol": true, "sec-websocket-extensions": true,
}

// ownPrefixes are names that only we say to an upstream.
var ownPrefixes = []string{"x-wsbouncer-", "x-forwarded-"}

// folded is a header name as a careless server might read it: in any case, and
// with _ or . for -.
func folded(name string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '_' || r == '.':
			return '-'
		case 'A' <= r && r <= 'Z':
			return r + 'a' - 'A'
		}
		return r
	}, name)
}

func isOurs(name string) bool {
	n := folded(name)
	if ownHeaders[n] {
		return true
	}
	for _, p := range ownPrefixes {
		if strings.HasPrefix(n, p) {
			return true
		}
	}
	return false
}

// requestHead is the request to the upstream. The client's credential is not
// in h.a.Request any more.
func (g *Gateway) requestHead(u *upstream, h *handshake, live *wsbouncer.Live, key string, protocols []string) ([]byte, error) {
	r := h.a.Request
	b := append(make([]byte, 0, 1024), "GET "...)
	b = append(b, target(u, r)...)
	b = append(b, " HTTP/1.1\r\nHost: "...)
	b = append(b, u.url.Host...)
	b = append(b, "\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"...)
	field := func(name, value string) { b = append(append(append(append(b, name...), ": "...), value...), "\r\n"...) }
	field("Sec-WebSocket-Key", key)
	if len(protocols) > 0 {
		field("Sec-WebSocket-Protocol", strings.Join(protocols, ", "))
	}
	for _, v := range offered(h) {
		field("Sec-WebSocket-Extensions", v)
	}
	hop := hopByHop(r.Header)
	for name, values := range r.Header {
		if isOurs(name) || hop[folded(name)] {
			continue
		}
		for _, v := range values {
			field(name, v)
		}
	}
	field("X-Forwarded-For", addrText(h))
	field("X-Forwarded-Proto", g.o.Peers.Scheme(h.r))
	field("X-Forwarded-Host", h.r.Host)
	p := live.Principal()
	field("X-Wsbouncer-Subject", httpx.HeaderValue(p.Subject))
	field("X-Wsbouncer-Issuer", httpx.HeaderValue(p.Issuer))
	if p.Session != "" {
		field("X-Wsbouncer-Session", httpx.HeaderValue(p.Session))
	}
	field("X-Wsbouncer-Scopes", httpx.HeaderList(p.Scopes))
	field("X-Wsbouncer-Connection", httpx.HeaderValue(live.ID()))
	if h.rt.Assertion {
		assertion, err := g.o.Assertion(u.url.Scheme+"://"+u.url.Host, p)
		if err != nil {
			return nil, fmt.Errorf("signing the assertion: %w", err)
		}
		field("X-Wsbouncer-Assertion", assertion)
	}
	return append(b, "\r\n"...), nil
}

// target is the request target: the path that was matched, as it was escaped,
// or the upstream's own, and the client's query without credentials.
func target(u *upstream, r *http.Request) string {
	path := u.url.EscapedPath()
	if path == "" || path == "/" {
		path = r.URL.EscapedPath()
	}
	if r.URL.RawQuery != "" {
		path += "?" + r.URL.RawQuery
	}
	return path
}

// hopByHop are the names that the client's Connection header lists. Origin is
// meant for every hop, whatever the client says of it: an upstream that judges
// it too must not be told of none.
func hopByHop(h http.Header) map[string]bool {
	names := map[string]bool{}
	for _, line := range h["Connection"] {
		for name := range strings.SplitSeq(line, ",") {
			names[folded(strings.TrimSpace(name))] = true
		}
	}
	delete(names, "origin")
	return names
}

func addrText(h *handshake) string {
	if h.a.IP.IsValid() {
		return h.a.IP.String()
	}
	host, _, _ := net.SplitHostPort(h.r.RemoteAddr)
	return host
}
