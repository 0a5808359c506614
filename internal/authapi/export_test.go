package authapi

import (
	"net/http"
	"net/netip"
	"net/url"
	"time"

	"github.com/wsbouncer/wsbouncer/internal/httpx"
)

// AccountProblem is accountProblem, for states that cannot be brought about from
// outside without seconds of hashing.
var AccountProblem = accountProblem

// ClaimOf is what a request claims to be, and whether it claims anything.
func ClaimOf(r *http.Request, form url.Values) (id, secret, assertion string, there bool, err error) {
	c, there, err := claim(r, form)
	return c.id, c.secret, c.assertion, there, err
}

// UsedAssertions and what it remembers of a client at most.
type UsedAssertions = usedAssertions

const MaxAssertions = maxAssertions

func (u *usedAssertions) First(client, jti string, until, now time.Time) (first, room bool) {
	return u.first(client, jti, until, now)
}

func (u *usedAssertions) Len() (n int) {
	for _, m := range u.of {
		n += len(m)
	}
	return n
}

// OriginalPath is the escaped path of the original request that a trusted proxy
// tells in h, and whether that is believed.
func OriginalPath(h http.Header) (path string, ok bool) {
	a := &API{o: Options{Peers: httpx.NewPeers([]netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")})}}
	o, err := a.original(&http.Request{Header: h, RemoteAddr: "127.0.0.1:1"})
	if err != nil || o.url == nil {
		return "", false
	}
	return o.url.EscapedPath(), true
}
