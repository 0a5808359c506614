package wsbouncer_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/wsbouncer/wsbouncer"
	"github.com/wsbouncer/wsbouncer/internal/reason"
	"github.com/wsbouncer/wsbouncer/token"
)

// releaser gives its connection back from within End, as an Ender may.
type releaser struct {
	mu   sync.Mutex
	live *wsbouncer.Live
	over bool
}

func (r *releaser) End(why wsbouncer.Reason) {
	r.mu.Lock()
	r.over = true
	l := r.live
	r.mu.Unlock()
	if l != nil {
		l.Release(why)
	}
}

func (r *releaser) set(l *wsbouncer.Live) {
	r.mu.Lock()
	r.live = l
	over := r.over
	r.mu.Unlock()
	if over {
		l.Release(reason.ClientGone)
	}
}

// Everything at once on few identities: nothing may deadlock, be left behind in
// an index, or outlive its revocation.
func TestSES06EverythingAtOnce(t *testing.T) {
	b, w := bouncer(t, func(o *wsbouncer.Options) {
		o.Limits.ConnectionsPerSubject, o.Limits.Unauthenticated, o.Limits.UnauthenticatedPerIP = 4, 3, -1
	})
	first := wsbouncer.Demand{TokenFrom: []string{"header", "first_message"}, ExtendSession: true}
	mint := func(who int) string {
		return w.add(func(t *token.Token) {
			t.Subject = fmt.Sprintf("user-%d", who)
			t.Session = fmt.Sprintf("session-%d-%d", who, rand.IntN(2))
			t.Expiry = time.Now().Add(time.Duration(rand.IntN(600)+1) * time.Second)
		})
	}
	var all sync.WaitGroup
	for worker := range 8 {
		all.Go(func() {
			for i := range 150 {
				who := rand.IntN(3)
				raw := mint(who)
				var change func(*http.Request)
				if i%3 != 0 {
					change = bearer(raw)
				}
				a, err := b.Admit(handshake(change), first)
				if err != nil {
					continue
				}
				e := &releaser{}
				l, err := b.Track(a, e)
				if err != nil {
					continue
				}
				if a.Principal == nil {
					if b.AdmitToken(context.Background(), a, raw) == nil {
						if _, err := b.Track(a, e); err != nil {
							continue
						}
					}
				}
				e.set(l)
				_ = l.Open()
				switch i % 5 {
				case 0:
					_, _ = l.Refresh(context.Background(), mint(who))
				case 1:
					_, _ = b.Extend(context.Background(), mint(who), l.ID())
				case 2:
					b.Apply(wsbouncer.Session(fmt.Sprintf("session-%d-%d", who, i%2)).Of("https://other.test"), wsbouncer.Subject(fmt.Sprintf("user-%d", who)))
				case 3:
					l.End(reason.Idle)
				}
				if worker%2 == 0 || i%4 == 0 {
					l.Release(reason.ClientGone)
				}
			}
		})
	}
	all.Wait()
	for i := range 3 {
		b.Apply(wsbouncer.Revocation{Kind: "subject", Issuer: issuer, Value: fmt.Sprintf("user-%d", i), At: time.Now().Add(time.Hour)})
	}
	for l := range b.Live() {
		if _, over := l.Ended(); !over && l.Principal() != nil {
			t.Errorf("%s of %s lives on", l.ID(), l.Principal().Subject)
		}
		l.Release(reason.ClientGone)
	}
	noneLeft(t, b)
	// Nothing is left in any index: one more of each identity finds no other.
	for i := range 3 {
		raw := w.add(func(t *token.Token) { t.Subject, t.IssuedAt = fmt.Sprintf("user-%d", i), time.Now().Add(2*time.Hour) })
		for range 4 {
			open(t, b, wsbouncer.Demand{}, raw)
		}
	}
}

// A token revoked while it refreshes a connection ends that connection.
func TestSES06RevokeDuringARefreshWins(t *testing.T) {
	b, w := bouncer(t, nil)
	for i := range 500 {
		l, e := open(t, b, wsbouncer.Demand{}, w.token())
		raw := w.add(func(t *token.Token) { t.ID, t.Expiry = fmt.Sprintf("new-%d", i), time.Now().Add(time.Hour) })
		var both sync.WaitGroup
		both.Go(func() { b.Apply(wsbouncer.Token(fmt.Sprintf("new-%d", i))) })
		var err error
		both.Go(func() { _, err = l.Refresh(t.Context(), raw) })
		both.Wait()
		_, over := l.Ended()
		// Either the refresh was refused at the door, or it was let in and ended.
		if err == nil && !over {
			t.Fatalf("round %d: a connection lives by a revoked token", i)
		}
		if over && len(e.all()) != 1 {
			t.Fatalf("round %d: ended %v", i, e.all())
		}
		l.Release(reason.ClientGone)
	}
}
