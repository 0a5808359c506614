package wsbouncer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/wsbouncer/wsbouncer/internal/httpx"
	"github.com/wsbouncer/wsbouncer/internal/limit"
	"github.com/wsbouncer/wsbouncer/internal/reason"
	"github.com/wsbouncer/wsbouncer/internal/wheel"
	"github.com/wsbouncer/wsbouncer/token"
)

// Options configure a Bouncer. Verifier and Origins are needed.
type Options struct {
	// Verifier verifies access tokens.
	Verifier Verifier
	// Issuer is meant where a Revocation names none. Empty: the verifier's
	// DefaultIssuer, if it has that method.
	Issuer string
	// Demand is what Protect asks; Require makes another.
	Demand Demand
	// Origins are the pages that may connect, exactly scheme://host[:port];
	// "*" allows any, and may not be combined with cookies.
	Origins []string
	// Hosts are the Host names answered; empty: any.
	Hosts []string
	// TrustedProxies are believed about the client's address.
	TrustedProxies []netip.Prefix
	// Limits; a zero field is the default.
	Limits Limits
	// ConnectionsOf, when set, may say how many connections a subject may have
	// instead of Limits.ConnectionsPerSubject; zero: as that says.
	ConnectionsOf func(*Principal) int
	// Proofs judges DPoP proofs (RFC 9449) of those who send an Authorization
	// header with that scheme; nil: none are taken.
	Proofs *token.ProofChecker
	// Tickets redeems tickets; nil: none are taken.
	Tickets Redeemer
	// Source makes revocations durable. Nil: they are kept in memory only and
	// a restart forgets them.
	Source Source
	// Observer is told of refusals, opened and ended connections.
	Observer Observer
	// Logger is for the operator; nil: slog.Default.
	Logger *slog.Logger
	// CookieName is the cookie an access token may travel in; default
	// "__Host-wsbouncer".
	CookieName string
}

// A Bouncer admits connections and ends them. It is safe for concurrent use.
type Bouncer struct {
	*core
	demand Demand
}

// core is what a Bouncer shares with those that Require made of it.
type core struct {
	verifier Verifier
	issuer   string
	origins  *httpx.Origins
	hosts    *httpx.Hosts
	peers    *httpx.Peers
	limits   Limits
	most     func(*Principal) int // Options.ConnectionsOf
	proofs   *token.ProofChecker
	tickets  Redeemer
	source   Source
	observer Observer
	log      *slog.Logger
	cookie   string
	expired  atomic.Uint64 // connections, for their turns

	handshakes *limit.Keyed[netip.Prefix]
	perIP      *limit.Count[netip.Prefix]
	registry   *registry
	revoked    *revokedSet

	draining atomic.Bool
	quiet    chan struct{} // told when the last connection is released while draining

	wheel   *wheel.Wheel
	started sync.Once
	stop    context.CancelFunc
	running sync.WaitGroup
}

// keysPerIP bounds how many addresses the handshake limit remembers.
const keysPerIP = 1 << 16

// New returns a Bouncer and starts nothing: its one goroutine begins with the
// first connection and ends with Shutdown.
func New(o Options) (*Bouncer, error) {
	if o.Verifier == nil {
		return nil, errors.New("wsbouncer: Options.Verifier is needed: without it nobody could be let in")
	}
	if len(o.Origins) == 0 {
		return nil, errors.New(`wsbouncer: Options.Origins is needed: list the pages that may connect, such as "https://app.example.com"`)
	}
	origins, err := httpx.ParseOrigins(o.Origins)
	if err != nil {
		return nil, fmt.Errorf("wsbouncer: Options.Origins: %w", err)
	}
	hosts, err := httpx.ParseHosts(o.Hosts)
	if err != nil {
		return nil, fmt.Errorf("wsbouncer: Options.Hosts: %w", err)
	}
	limits, err := o.Limits.complete()
	if err != nil {
		return nil, fmt.Errorf("wsbouncer: Options.Limits: %w", err)
	}
	c := &core{
		verifier: o.Verifier, issuer: o.Issuer, origins: origins, hosts: hosts,
		peers: httpx.NewPeers(o.TrustedProxies), limits: limits, most: o.ConnectionsOf, proofs: o.Proofs, tickets: o.Tickets, source: o.Source,
		observer: o.Observer, log: o.Logger, cookie: o.CookieName,
		handshakes: limit.NewKeyed[netip.Prefix](limits.HandshakesPerIP, keysPerIP),
		perIP:      limit.NewCount[netip.Prefix](atMost(limits.ConnectionsPerIP)),
		registry:   newRegistry(), revoked: newRevokedSet(),
		quiet: make(chan struct{}, 1), wheel: wheel.New(),
	}
	if c.log == nil {
		c.log = slog.Default()
	}
	if c.cookie == "" {
		c.cookie = "__Host-wsbouncer"
	}
	if c.issuer == "" {
		if v, ok := o.Verifier.(interface{ DefaultIssuer() string }); ok {
			c.issuer = v.DefaultIssuer()
		}
	}
	if err := c.check(o.Demand); err != nil {
		return nil, fmt.Errorf("wsbouncer: Options.Demand: %w", err)
	}
	return &Bouncer{core: c, demand: o.Demand}, nil
}

// check says what is wrong with a demand.
func (c *core) check(d Demand) error {
	for _, name := range d.TokenFrom {
		if sourceNames[name] == 0 {
			return fmt.Errorf("TokenFrom %q: there are ticket, header, subprotocol, query, cookie and first_message", name)
		}
	}
	if d.MaxAuthAge < 0 {
		return errors.New("MaxAuthAge is negative")
	}
	for _, acr := range d.RequireACR {
		if !reason.ACRValue(acr) {
			return fmt.Errorf("RequireACR %q: one without spaces, quotes, backslashes and control characters is needed", acr)
		}
	}
	if slices.Contains(d.TokenFrom, fromCookie) && c.origins.Any() {
		return errors.New(`TokenFrom "cookie" with Origins "*" would let any page use its visitor's session: list the origins`)
	}
	if slices.Contains(d.TokenFrom, fromTicket) && c.tickets == nil {
		return errors.New(`TokenFrom "ticket" needs Options.Tickets`)
	}
	return nil
}

// Require returns a Bouncer whose Protect asks d instead; everything else is
// shared. It panics when d cannot be kept: that is a mistake in the program.
func (b *Bouncer) Require(d Demand) *Bouncer {
	if err := b.check(d); err != nil {
		panic("wsbouncer: Require: " + err.Error())
	}
	return &Bouncer{core: b.core, demand: d}
}

// Limits are the limits in force for d.
func (b *Bouncer) Limits(d Demand) Limits { return b.limits.override(d.Limits) }

func (c *core) observe(e Event) {
	if c.observer != nil {
		c.observer.Observe(e)
	}
}

// run starts the one goroutine.
func (c *core) run() {
	c.started.Do(func() {
		ctx, stop := context.WithCancel(context.Background())
		c.stop = stop
		c.running.Go(func() { _ = c.wheel.Run(ctx) })
	})
}

// Shutdown ends every connection with 1012 restarting, spread evenly over the
// given time so that not all clients come back at once, and waits until they
// are gone or ctx is done. From its beginning on nobody is admitted. When it
// returns nothing of the Bouncer runs any more. The error is ctx's.
func (b *Bouncer) Shutdown(ctx context.Context, over time.Duration) error {
	b.draining.Store(true)
	err := b.drain(ctx, over)
	b.run() // so that a first connection cannot start it later
	b.stop()
	b.running.Wait()
	return err
}

func (c *core) drain(ctx context.Context, over time.Duration) error {
	lives := slices.Collect(c.registry.all())
	begin := time.Now()
	for i, l := range lives {
		at := begin.Add(over * time.Duration(i) / time.Duration(len(lives)))
		if err := sleep(ctx, time.Until(at)); err != nil {
			// Out of time: the others end at once.
			for _, l := range lives[i:] {
				l.End(restarting)
			}
			break
		}
		l.End(restarting)
	}
	for c.registry.len() > 0 {
		select {
		case <-c.quiet:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
