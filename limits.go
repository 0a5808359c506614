package wsbouncer

import (
	"fmt"
	"math"
	"time"

	"github.com/wsbouncer/wsbouncer/internal/limit"
)

// Rate is so many a second on average, with bursts of Burst.
type Rate = limit.Rate

// Limits bound what clients may use. A zero field is the default in brackets; a
// negative one is no limit where that is safe, else New refuses it.
type Limits struct {
	// Connections on this node [100000].
	Connections int
	// ConnectionsPerIP, by /64 for IPv6 [256].
	ConnectionsPerIP int
	// ConnectionsPerSubject: one more ends the oldest of the same session, or
	// is refused [32].
	ConnectionsPerSubject int
	// Unauthenticated connections wait for a first message [1000]; when full,
	// the oldest that waited a second goes. UnauthenticatedPerIP [16].
	Unauthenticated, UnauthenticatedPerIP int
	// HandshakesPerIP [20/s, burst 60].
	HandshakesPerIP Rate
	// HandshakeTimeout is how long a first message may take [10s].
	HandshakeTimeout time.Duration
	// TokenBytes is the longest credential [8 KiB].
	TokenBytes int
	// QueryTokenTTL: a token in the URL that lives longer is refused, because
	// URLs end up in logs [15m].
	QueryTokenTTL time.Duration
	// MessageBytes is the longest message over all its frames, as they are on
	// the wire [1 MiB].
	MessageBytes int64
	// MessageRate and ByteRate are of one client [200/s, burst 400; 4 MiB/s, burst 8 MiB].
	MessageRate, ByteRate Rate
	// IdleTimeout ends a client of which no byte came [5m].
	IdleTimeout time.Duration
	// WriteTimeout cuts a client that does not read [30s].
	WriteTimeout time.Duration
	// Lifetime of a connection, whatever its tokens [24h].
	Lifetime time.Duration
}

var defaults = Limits{
	Connections: 100_000, ConnectionsPerIP: 256, ConnectionsPerSubject: 32,
	Unauthenticated: 1000, UnauthenticatedPerIP: 16,
	HandshakesPerIP:  Rate{PerSecond: 20, Burst: 60},
	HandshakeTimeout: 10 * time.Second,
	TokenBytes:       8 << 10,
	QueryTokenTTL:    15 * time.Minute,
	MessageBytes:     1 << 20,
	MessageRate:      Rate{PerSecond: 200, Burst: 400},
	ByteRate:         Rate{PerSecond: 4 << 20, Burst: 8 << 20},
	IdleTimeout:      5 * time.Minute,
	WriteTimeout:     30 * time.Second,
	Lifetime:         24 * time.Hour,
}

// complete fills the defaults in and refuses a negative field that would leave
// a stranger without bounds.
func (l Limits) complete() (Limits, error) {
	for _, f := range []struct {
		name string
		bad  bool
	}{
		{"Unauthenticated", l.Unauthenticated < 0},
		{"HandshakeTimeout", l.HandshakeTimeout < 0},
		{"TokenBytes", l.TokenBytes < 0},
		{"QueryTokenTTL", l.QueryTokenTTL < 0},
	} {
		if f.bad {
			return l, fmt.Errorf("%s cannot be without a limit", f.name)
		}
	}
	return defaults.override(&l), nil
}

// override is l with the fields of o that say something.
func (l Limits) override(o *Limits) Limits {
	if o == nil {
		return l
	}
	pick(&l.Connections, o.Connections, true)
	pick(&l.ConnectionsPerIP, o.ConnectionsPerIP, true)
	pick(&l.ConnectionsPerSubject, o.ConnectionsPerSubject, true)
	pick(&l.Unauthenticated, o.Unauthenticated, false)
	pick(&l.UnauthenticatedPerIP, o.UnauthenticatedPerIP, true)
	pickRate(&l.HandshakesPerIP, o.HandshakesPerIP)
	pick(&l.HandshakeTimeout, o.HandshakeTimeout, false)
	pick(&l.TokenBytes, o.TokenBytes, false)
	pick(&l.QueryTokenTTL, o.QueryTokenTTL, false)
	pick(&l.MessageBytes, o.MessageBytes, true)
	pickRate(&l.MessageRate, o.MessageRate)
	pickRate(&l.ByteRate, o.ByteRate)
	pick(&l.IdleTimeout, o.IdleTimeout, true)
	pick(&l.WriteTimeout, o.WriteTimeout, true)
	pick(&l.Lifetime, o.Lifetime, true)
	return l
}

func pick[T int | int64 | time.Duration](to *T, v T, negative bool) {
	if v > 0 || v < 0 && negative {
		*to = v
	}
}

// pickRate: a rate without a limit is the zero Rate from here on.
func pickRate(to *Rate, v Rate) {
	switch {
	case v.PerSecond < 0:
		*to = Rate{}
	case v.PerSecond > 0:
		*to = v
	}
}

// atMost is n, or no limit.
func atMost(n int) int {
	if n < 0 {
		return math.MaxInt
	}
	return n
}
