package httpx_test

import (
	"crypto/tls"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"github.com/wsbouncer/wsbouncer/internal/httpx"
)

func prefixes(s ...string) (out []netip.Prefix) {
	for _, p := range s {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

func TestAUT10AddressComesFromTrustedProxiesOnly(t *testing.T) {
	peers := httpx.NewPeers(prefixes("10.0.0.0/8", "fd00::/8", "::ffff:192.168.0.0/112"))
	for name, c := range map[string]struct {
		remote string
		xff    []string
		want   string
	}{
		"untrusted peer, its header is nothing": {"203.0.113.9:1", []string{"198.51.100.1"}, "203.0.113.9"},
		"trusted peer, no header":               {"10.0.0.1:1", nil, "10.0.0.1"},
		"one hop":                               {"10.0.0.1:1", []string{"198.51.100.1"}, "198.51.100.1"},
		"rightmost untrusted hop":               {"10.0.0.1:1", []string{"1.1.1.1, 198.51.100.1, 10.0.0.2"}, "198.51.100.1"},
		"lines are one list":                    {"10.0.0.1:1", []string{"1.1.1.1", "198.51.100.1", "10.0.0.3 ,10.0.0.2"}, "198.51.100.1"},
		"all trusted":                           {"10.0.0.1:1", []string{"10.0.0.3, 10.0.0.2"}, "10.0.0.3"},
		"with a port":                           {"10.0.0.1:1", []string{"198.51.100.1:4711"}, "198.51.100.1"},
		"IPv6":                                  {"[fd00::1]:1", []string{"2001:db8::7"}, "2001:db8::7"},
		"IPv6 in brackets with a port":          {"[fd00::1]:1", []string{"[2001:db8::7]:443"}, "2001:db8::7"},
		"IPv6 in brackets":                      {"[fd00::1]:1", []string{"[2001:db8::7]"}, "2001:db8::7"},
		"mapped peer":                           {"[::ffff:10.0.0.1]:1", []string{"::ffff:198.51.100.1"}, "198.51.100.1"},
		"mapped network":                        {"192.168.0.4:1", []string{"198.51.100.1"}, "198.51.100.1"},
		"nonsense ends the walk":                {"10.0.0.1:1", []string{"198.51.100.1, unknown, 10.0.0.2"}, "10.0.0.2"},
		"empty hop ends the walk":               {"10.0.0.1:1", []string{"198.51.100.1,,10.0.0.2"}, "10.0.0.2"},
		"zones are dropped":                     {"[fe80::1%eth0]:1", nil, "fe80::1"},
		"a chain without an end":                {"10.0.0.1:1", []string{"6.6.6.6," + strings.Repeat("10.0.0.2,", 5000) + "10.0.0.2"}, "10.0.0.2"},
	} {
		r := &http.Request{RemoteAddr: c.remote, Header: http.Header{"X-Forwarded-For": c.xff, "Forwarded": {"for=6.6.6.6"}, "X-Real-Ip": {"6.6.6.6"}}}
		if got := peers.Addr(r); got != netip.MustParseAddr(c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
	r := &http.Request{RemoteAddr: "@", Header: http.Header{"X-Forwarded-For": {"6.6.6.6"}}}
	if got := peers.Addr(r); got.IsValid() {
		t.Errorf("a unix socket has the address %v", got)
	}
}

func TestSchemeAndTrusted(t *testing.T) {
	peers := httpx.NewPeers(prefixes("10.0.0.0/8"))
	for name, c := range map[string]struct {
		remote string
		proto  []string
		tls    bool
		want   string
	}{
		"plain":                   {"203.0.113.9:1", nil, false, "http"},
		"tls":                     {"203.0.113.9:1", nil, true, "https"},
		"a stranger's word":       {"203.0.113.9:1", []string{"https"}, false, "http"},
		"a stranger's word, tls":  {"203.0.113.9:1", []string{"http"}, true, "https"},
		"the proxy's word":        {"10.0.0.1:1", []string{"https"}, false, "https"},
		"the proxy's word, wss":   {"10.0.0.1:1", []string{"WSS"}, false, "https"},
		"the proxy's word, plain": {"10.0.0.1:1", []string{"http"}, true, "http"},
		"the nearest proxy's":     {"10.0.0.1:1", []string{"https", "https, http"}, false, "http"},
		"nonsense":                {"10.0.0.1:1", []string{"gopher"}, false, "http"},
	} {
		r := &http.Request{RemoteAddr: c.remote, Header: http.Header{"X-Forwarded-Proto": c.proto}}
		if c.tls {
			r.TLS = &tls.ConnectionState{}
		}
		if got := peers.Scheme(r); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
		if got, want := peers.Trusted(r), c.remote[:3] == "10."; got != want {
			t.Errorf("%s: Trusted %v, want %v", name, got, want)
		}
	}
}

// The address is never one that only an untrusted hop spoke of: it is the
// socket's, or the rightmost entry, or an entry whose right neighbours are all
// trusted.
func FuzzForwardedFor(f *testing.F) {
	f.Add("203.0.113.9:1", "198.51.100.1, 10.0.0.2")
	f.Add("10.0.0.1:1", "1.1.1.1, 198.51.100.1, 10.0.0.2")
	f.Add("10.0.0.1:1", "[2001:db8::7]:443")
	f.Add("10.0.0.1:1", "fe80::1%x, ,")
	f.Add("[::ffff:10.0.0.1]:1", "::ffff:1.2.3.4")
	trusted := netip.MustParsePrefix("10.0.0.0/8")
	peers := httpx.NewPeers([]netip.Prefix{trusted})
	f.Fuzz(func(t *testing.T, remote, xff string) {
		r := &http.Request{RemoteAddr: remote, Header: http.Header{"X-Forwarded-For": {xff}}}
		got := peers.Addr(r)
		socket, err := netip.ParseAddrPort(remote)
		if err != nil {
			if got.IsValid() {
				t.Fatalf("no socket address but %v", got)
			}
			return
		}
		own := socket.Addr().Unmap().WithZone("")
		if got.Is4In6() || got.Zone() != "" {
			t.Fatalf("%v is not plain", got)
		}
		if !trusted.Contains(own) {
			if got != own {
				t.Fatalf("an untrusted peer %v became %v", own, got)
			}
			return
		}
		// The tail the client cannot have written: one more hop, appended by a
		// trusted proxy, decides.
		r.Header["X-Forwarded-For"] = []string{xff + ",198.51.100.77"}
		if got := peers.Addr(r); got != netip.MustParseAddr("198.51.100.77") {
			t.Fatalf("%q overrode the proxy: %v", xff, got)
		}
	})
}

func TestCallerSpeaksForItself(t *testing.T) {
	p := httpx.NewPeers([]netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")})
	for remote, want := range map[string]string{
		"192.0.2.1:1234":          "192.0.2.1",
		"[::ffff:192.0.2.1]:1234": "192.0.2.1",
		"[2001:db8::1%eth0]:1234": "2001:db8::1",
		"10.1.2.3:1234":           "",
		"[::ffff:10.1.2.3]:1234":  "",
		"[fd00::1%eth0]:1234":     "",
		"@":                       "",
		"":                        "",
	} {
		got := ""
		if a := p.Caller(remote); a.IsValid() {
			got = a.String()
		}
		if got != want {
			t.Errorf("%q: %q, want %q", remote, got, want)
		}
	}
}
