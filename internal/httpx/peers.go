package httpx

import (
	"net/http"
	"net/netip"
	"strings"
)

// maxHops bounds how far a chain of X-Forwarded-For is followed: more hops than
// any deployment has, fewer than a stranger can write into 16 KiB of header.
const maxHops = 32

// Peers decides who the client is: the socket's peer, or what trusted proxies
// say of it. Only X-Forwarded-For and X-Forwarded-Proto are read, and only
// from a trusted peer; Forwarded, X-Real-IP and X-Forwarded-Host never are.
type Peers struct {
	trusted []netip.Prefix
}

// NewPeers trusts the proxies in the given networks. None: the socket decides.
func NewPeers(trusted []netip.Prefix) *Peers {
	p := &Peers{}
	for _, t := range trusted {
		// ::ffff:10.0.0.0/104 is 10.0.0.0/8.
		if t.Addr().Is4In6() && t.Bits() >= 96 {
			t = netip.PrefixFrom(t.Addr().Unmap(), t.Bits()-96)
		}
		if t = t.Masked(); t.IsValid() {
			p.trusted = append(p.trusted, t)
		}
	}
	return p
}

// Trusted reports whether the socket's peer is a trusted proxy.
func (p *Peers) Trusted(r *http.Request) bool { return p.trusts(socketAddr(r.RemoteAddr)) }

// Caller is the address of a socket's peer (host:port) that calls for itself. It
// is zero for a trusted proxy, which calls for many, and where there is no IP
// address.
func (p *Peers) Caller(remote string) netip.Addr { return p.Calls(socketAddr(remote)) }

// Calls is Caller for an address.
func (p *Peers) Calls(addr netip.Addr) netip.Addr {
	if addr = plain(addr); addr.IsValid() && !p.trusts(addr) {
		return addr
	}
	return netip.Addr{}
}

// Addr is the client's address: the socket's peer, or, when that is a trusted
// proxy, the rightmost hop of X-Forwarded-For that is not one. A hop that is no
// address ends the walk at the proxy that reported it, so that nobody hides
// behind nonsense. IPv4-mapped addresses are unmapped and zones dropped. The
// zero Addr means the socket has no IP address (a unix socket).
func (p *Peers) Addr(r *http.Request) netip.Addr {
	addr := socketAddr(r.RemoteAddr)
	if !p.trusts(addr) {
		return addr
	}
	lines := r.Header["X-Forwarded-For"]
	hops := 0
	for i := len(lines) - 1; i >= 0; i-- {
		rest := lines[i]
		for more := true; more; {
			var hop string
			if at := strings.LastIndexByte(rest, ','); at >= 0 {
				hop, rest = rest[at+1:], rest[:at]
			} else {
				hop, more = rest, false
			}
			if hops++; hops > maxHops {
				return addr
			}
			next := parseHop(strings.Trim(hop, " \t"))
			if !next.IsValid() {
				return addr
			}
			addr = next
			if !p.trusts(addr) {
				return addr
			}
		}
	}
	return addr
}

// Scheme is "https" or "http", as the client sees it: that of the socket, or,
// when a trusted proxy says so in X-Forwarded-Proto, the proxy's. Of a list the
// last entry counts: it is the nearest proxy's own.
func (p *Peers) Scheme(r *http.Request) string {
	if lines := r.Header["X-Forwarded-Proto"]; len(lines) > 0 && p.Trusted(r) {
		last := lines[len(lines)-1]
		last = last[strings.LastIndexByte(last, ',')+1:]
		switch strings.ToLower(strings.Trim(last, " \t")) {
		case "https", "wss":
			return "https"
		case "http", "ws":
			return "http"
		}
	}
	if r.TLS != nil {
		return "https"
	}
	return "http"
}

func (p *Peers) trusts(a netip.Addr) bool {
	if !a.IsValid() {
		return false
	}
	for _, t := range p.trusted {
		if t.Contains(a) {
			return true
		}
	}
	return false
}

func socketAddr(remote string) netip.Addr {
	ap, err := netip.ParseAddrPort(remote)
	if err != nil {
		return netip.Addr{}
	}
	return plain(ap.Addr())
}

// parseHop reads one hop: an address, with a port or without; IPv6 also in
// brackets.
func parseHop(s string) netip.Addr {
	if a, err := netip.ParseAddr(s); err == nil {
		return plain(a)
	}
	if ap, err := netip.ParseAddrPort(s); err == nil {
		return plain(ap.Addr())
	}
	if len(s) > 2 && s[0] == '[' && s[len(s)-1] == ']' {
		if a, err := netip.ParseAddr(s[1 : len(s)-1]); err == nil && a.Is6() {
			return plain(a)
		}
	}
	return netip.Addr{}
}

func plain(a netip.Addr) netip.Addr { return a.Unmap().WithZone("") }
