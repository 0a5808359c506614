package wsbouncer

import (
	"context"
	"errors"
	"iter"
	"log/slog"
	"runtime"
	"sync"
	"time"

	"github.com/wsbouncer/wsbouncer/internal/reason"
	"github.com/wsbouncer/wsbouncer/token"
)

// Revoke records revocations in the Source, applies them, and returns how many
// connections they ended here. When it returns without an error they are
// durable (with a Source) and none of those connections forwards any more. With
// an error nothing has been applied.
func (b *Bouncer) Revoke(ctx context.Context, rs ...Revocation) (closed int, err error) {
	begin := time.Now()
	whole := make([]Revocation, len(rs))
	for i, r := range rs {
		if err := r.check(); err != nil {
			return 0, err
		}
		whole[i] = r.complete(b.issuer, begin)
		if whole[i].Issuer == "" && b.manyIssuers() {
			return 0, errors.New("wsbouncer: which issuer's? Name it with Revocation.Of or Options.Issuer")
		}
		if b.source != nil {
			whole[i].Expires = r.Expires // its policy, not ours
		}
	}
	if b.source != nil {
		whole, err = b.source.Record(ctx, whole)
		if err != nil {
			return 0, err
		}
	}
	return b.apply(begin, whole), nil
}

// manyIssuers: the verifier knows issuers and cannot say which is meant.
func (c *core) manyIssuers() bool {
	v, ok := c.verifier.(interface{ DefaultIssuer() string })
	return ok && v.DefaultIssuer() == ""
}

// Apply carries out revocations that are already durable: it adds them to the
// set that handshakes ask, then ends the connections concerned. When it returns
// none of them forwards any more. It is idempotent.
func (b *Bouncer) Apply(rs ...Revocation) (closed int) { return b.apply(time.Now(), rs) }

func (c *core) apply(begin time.Time, rs []Revocation) (closed int) {
	now := time.Now()
	for i := range rs {
		r := rs[i].complete(c.issuer, now)
		if err := r.check(); err != nil {
			c.log.Error("a revocation could not be applied", slog.Any("error", err))
			continue
		}
		c.revoked.add(&r, now)
		doomed := c.markAll(&r)
		tellAll(doomed, r.Reason)
		closed += len(doomed)
		c.observe(Event{
			Kind: "revoked", Time: now, Issuer: r.Issuer, Revocation: r, Reason: r.Reason,
			Closed: len(doomed), Duration: time.Since(begin),
		})
	}
	return closed
}

// Review ends the connections whose token was signed with a key that its issuer
// no longer has, or by an issuer that is trusted no more, with key_revoked, and
// returns how many. Call it after the Verifier's issuers or keys have changed;
// it needs one with the method Trusts. When it returns none of them forwards
// any more, and no handshake that began before can slip in.
func (b *Bouncer) Review() (closed int) {
	var doomed []*Live
	for l := range b.registry.all() {
		if t := l.current.Load(); t != nil && !b.trusts(t) && l.mark(reason.KeyRevoked) {
			doomed = append(doomed, l)
		}
	}
	tellAll(doomed, reason.KeyRevoked)
	return len(doomed)
}

// Reconsider asks about the token that each connection lives by, and ends those
// for which judge gives a reason; it returns how many. judge must be quick. Where
// it ends what a Verifier believed before, that one no longer does by now: see
// Review.
func (b *Bouncer) Reconsider(judge func(*token.Token) (Reason, bool)) (closed int) {
	for l := range b.registry.all() {
		t := l.current.Load()
		if t == nil {
			continue
		}
		if why, over := judge(t); over && l.End(why) {
			closed++
		}
	}
	return closed
}

// markAll marks every connection r concerns and returns those it ended.
func (c *core) markAll(r *Revocation) (doomed []*Live) {
	n := name{r.Issuer, r.Value}
	visit := func(l *Live) {
		t := l.current.Load()
		if t == nil {
			return // says later who it is, and is asked about then
		}
		if (r.concerns(t) || r.concerns(l.opening)) && l.mark(r.Reason) {
			doomed = append(doomed, l)
		}
	}
	switch r.Kind {
	case kindToken:
		c.registry.each(byToken, n, visit)
		c.registry.each(byCurrent, n, visit)
	case kindSession:
		c.registry.each(bySession, n, visit)
	case kindSubject:
		c.registry.each(bySubject, n, visit)
	default:
		for l := range c.registry.all() {
			visit(l)
		}
	}
	if r.Kind != kindKey && r.Kind != kindBefore {
		c.registry.exchanged.each(indexOf[r.Kind], n, visit)
	}
	return doomed
}

// indexOf is where a kind of revocation looks for what was exchanged.
var indexOf = map[string]int{kindToken: byToken, kindSession: bySession, kindSubject: bySubject}

// tellEach is how many connections one goroutine tells at least.
const tellEach = 64

// tellAll tells connections that they have ended: in parallel, since each may
// cost a system call, and waits.
func tellAll(doomed []*Live, why Reason) {
	workers := min(runtime.GOMAXPROCS(0), (len(doomed)+tellEach-1)/tellEach)
	if workers <= 1 {
		for _, l := range doomed {
			l.tell(why)
		}
		return
	}
	var all sync.WaitGroup
	for w := range workers {
		all.Go(func() {
			for i := w; i < len(doomed); i += workers {
				doomed[i].tell(why)
			}
		})
	}
	all.Wait()
}

// Live yields every connection, waiting and ending ones included, in no order.
// Connections that come or go meanwhile may be missed.
func (b *Bouncer) Live() iter.Seq[*Live] { return b.registry.all() }

// Lookup returns the connection with this id, or nil.
func (b *Bouncer) Lookup(cid string) *Live { return b.registry.lookup(cid) }
