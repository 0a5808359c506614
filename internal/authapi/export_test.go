package authapi

import (
	"net/http"
	"net/url"
	"time"
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
