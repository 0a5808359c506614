package account

import (
	"crypto/sha256"
	"net/netip"
	"time"

	"github.com/wsbouncer/wsbouncer/internal/limit"
)

// Bounds of what guessing can make us remember. Evicted keys share a bucket, so
// filling the tables earns no fresh attempts.
const (
	maxThrottled = 1 << 16
	maxKnown     = 1 << 16
	// inFlightPerIP is how many of the places in the queue for a hash one
	// address can hold.
	inFlightPerIP = 8
)

// spread bounds the failures of one account over all addresses that it never
// logged in from, against guessing from many: a hundred (NIST SP 800-63B-4
// §3.2.2), then one in half a minute. Addresses the account did log in from are
// not counted in it, so that its owner is not kept out by others; from a new
// address the owner waits at most for the next half minute's turn.
var spread = limit.Rate{PerSecond: 1.0 / 30, Burst: 100}

// The default of configuration limits.logins.
var (
	defaultPerIP      = limit.Rate{PerSecond: 10.0 / 60, Burst: 10}
	defaultPerAccount = limit.Rate{PerSecond: 5.0 / 60, Burst: 5}
)

// who is an account name, hashed so that a key's size is fixed.
type who [16]byte

type whoFrom struct {
	who  who
	from netip.Prefix
}

func whoOf(name string) who {
	s := sha256.Sum256([]byte(name))
	return who(s[:16])
}

// throttle bounds failed logins. An attempt is paid for before the password is
// looked at, so that any number of them at once cannot exceed the bounds, and
// given back when it did not fail.
type throttle struct {
	account  *limit.Keyed[whoFrom]
	ip       *limit.Keyed[netip.Prefix]
	spread   *limit.Keyed[who]
	known    *limit.Cache[whoFrom, struct{}]
	inFlight *limit.Count[netip.Prefix]
}

func newThrottle(perAccount, perIP, spread limit.Rate) *throttle {
	if perAccount == (limit.Rate{}) {
		perAccount = defaultPerAccount
	}
	if perIP == (limit.Rate{}) {
		perIP = defaultPerIP
	}
	return &throttle{
		account:  limit.NewKeyed[whoFrom](perAccount, maxThrottled),
		ip:       limit.NewKeyed[netip.Prefix](perIP, maxThrottled),
		spread:   limit.NewKeyed[who](spread, maxThrottled),
		known:    limit.NewCache[whoFrom, struct{}](maxKnown),
		inFlight: limit.NewCount[netip.Prefix](inFlightPerIP),
	}
}

// An attempt is one paid for. Exactly one of failed, refund and succeeded ends it.
type attempt struct {
	t     *throttle
	key   whoFrom
	known bool
}

// begin pays for an attempt. ok is false when one of the bounds is reached, and
// then nothing was paid.
func (t *throttle) begin(name string, addr netip.Addr, now time.Time) (a *attempt, retry time.Duration, ok bool) {
	a = &attempt{t: t, key: whoFrom{who: whoOf(name), from: limit.IPKey(addr)}}
	if ok, retry := t.ip.Allow(a.key.from, now); !ok {
		return nil, retry, false
	}
	if ok, retry := t.account.Allow(a.key, now); !ok {
		t.ip.Forgive(a.key.from)
		return nil, retry, false
	}
	if _, a.known = t.known.Get(a.key); !a.known {
		if ok, retry := t.spread.Allow(a.key.who, now); !ok {
			t.ip.Forgive(a.key.from)
			t.account.Forgive(a.key)
			return nil, retry, false
		}
	}
	if !t.inFlight.Acquire(a.key.from) {
		a.giveBack()
		return nil, time.Second, false
	}
	return a, 0, true
}

func (a *attempt) giveBack() {
	a.t.ip.Forgive(a.key.from)
	a.t.account.Forgive(a.key)
	if !a.known {
		a.t.spread.Forgive(a.key.who)
	}
}

func (a *attempt) failed() { a.t.inFlight.Release(a.key.from) }

func (a *attempt) refund() {
	a.giveBack()
	a.t.inFlight.Release(a.key.from)
}

func (a *attempt) succeeded() {
	a.refund()
	a.t.known.Put(a.key, struct{}{})
}
