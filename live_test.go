package wsbouncer_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsbouncer/wsbouncer"
	"github.com/wsbouncer/wsbouncer/internal/reason"
	"github.com/wsbouncer/wsbouncer/token"
)

func TestSES04EachKindEndsExactlyItsConnections(t *testing.T) {
	for name, c := range map[string]struct {
		r    func() wsbouncer.Revocation
		want wsbouncer.Reason
		hit  []string // of the tokens below
	}{
		"token":    {func() wsbouncer.Revocation { return wsbouncer.Token("t1") }, reason.TokenRevoked, []string{"one"}},
		"session":  {func() wsbouncer.Revocation { return wsbouncer.Session("s1") }, reason.SessionRevoked, []string{"one", "two"}},
		"subject":  {func() wsbouncer.Revocation { return wsbouncer.Subject("alice") }, reason.SubjectRevoked, []string{"one", "two", "three"}},
		"key":      {func() wsbouncer.Revocation { return wsbouncer.Key("k1") }, reason.KeyRevoked, []string{"one", "bob"}},
		"before":   {func() wsbouncer.Revocation { return wsbouncer.Before(time.Now().Add(-time.Hour)) }, reason.TokenRevoked, []string{"two", "noiat"}},
		"logout":   {func() wsbouncer.Revocation { return wsbouncer.Session("s1").Because(wsbouncer.LoggedOut) }, reason.LoggedOut, []string{"one", "two"}},
		"another":  {func() wsbouncer.Revocation { return wsbouncer.Subject("alice").Of("https://other.test") }, reason.SubjectRevoked, []string{"foreign"}},
		"nobody's": {func() wsbouncer.Revocation { return wsbouncer.Session("s9") }, reason.SessionRevoked, nil},
	} {
		t.Run(name, func(t *testing.T) {
			b, w := bouncer(t, nil)
			tokens := map[string]string{
				"one":   w.add(func(t *token.Token) { t.ID = "t1" }),
				"two":   w.add(func(t *token.Token) { t.ID, t.KeyID, t.IssuedAt = "t2", "k2", time.Now().Add(-2*time.Hour) }),
				"three": w.add(func(t *token.Token) { t.ID, t.Session, t.KeyID = "t3", "s2", "k2" }),
				"bob":   w.add(func(t *token.Token) { t.ID, t.Subject, t.Session = "t4", "bob", "s3" }),
				"noiat": w.add(func(t *token.Token) {
					t.ID, t.Subject, t.Session, t.KeyID, t.IssuedAt = "t5", "carol", "s4", "k2", time.Time{}
				}),
				"foreign": w.add(func(t *token.Token) { t.Issuer, t.ID = "https://other.test", "t1" }),
				"bare":    w.add(func(t *token.Token) { t.Subject, t.ID, t.Session, t.KeyID = "dave", "", "", "" }),
			}
			lives, enders := map[string]*wsbouncer.Live{}, map[string]*ender{}
			for name, raw := range tokens {
				lives[name], enders[name] = open(t, b, wsbouncer.Demand{}, raw)
			}
			closed, err := b.Revoke(t.Context(), c.r())
			if err != nil || closed != len(c.hit) {
				t.Fatalf("closed %d, %v; want %d", closed, err, len(c.hit))
			}
			for name, raw := range tokens {
				want := []wsbouncer.Reason(nil)
				if slices.Contains(c.hit, name) {
					want = []wsbouncer.Reason{c.want}
				}
				if got := enders[name].all(); !slices.Equal(got, want) {
					t.Errorf("%s ended %v, want %v", name, got, want)
				}
				why, over := lives[name].Ended()
				select {
				case <-lives[name].Done():
				default:
					over = over && want == nil // Done must have been closed
				}
				if over != (want != nil) || over && why != c.want {
					t.Errorf("%s: ended %v %v", name, over, why)
				}
				// SES-05: the same token is refused from here on.
				_, err := b.Admit(handshake(bearer(raw)), wsbouncer.Demand{})
				if refused := errors.Is(err, reason.TokenRevoked401); refused != (want != nil) {
					t.Errorf("%s admitted again: %v", name, err)
				}
			}
			if again := b.Apply(c.r()); again != 0 {
				t.Errorf("applied again, it ended %d", again)
			}
		})
	}
}

func TestSubjectRevocationsAreExact(t *testing.T) {
	now := time.Now().Truncate(time.Second)
	for _, c := range []struct {
		name    string
		change  func(*token.Token)
		r       wsbouncer.Revocation
		revoked bool
	}{
		{"own, issued at a lower number", func(t *token.Token) { t.Own, t.HasRev, t.Rev = true, true, 6 }, wsbouncer.Revocation{Seq: 7}, true},
		{"own, issued at that number", func(t *token.Token) { t.Own, t.HasRev, t.Rev = true, true, 7 }, wsbouncer.Revocation{Seq: 7}, false},
		{"own, whatever its iat", func(t *token.Token) { t.Own, t.HasRev, t.Rev, t.IssuedAt = true, true, 7, now.Add(-time.Hour) }, wsbouncer.Revocation{Seq: 7, At: now}, false},
		{"own without rev goes by iat", func(t *token.Token) { t.Own, t.IssuedAt = true, now.Add(-time.Second) }, wsbouncer.Revocation{Seq: 7, At: now}, true},
		{"own, no numbers here", func(t *token.Token) { t.Own, t.HasRev, t.IssuedAt = true, true, now.Add(-time.Second) }, wsbouncer.Revocation{At: now}, true},
		{"own, later, no numbers here", func(t *token.Token) { t.Own, t.HasRev, t.IssuedAt = true, true, now.Add(time.Second) }, wsbouncer.Revocation{At: now}, false},
		{"foreign, before", func(t *token.Token) { t.IssuedAt = now.Add(-time.Second) }, wsbouncer.Revocation{Seq: 7, At: now}, true},
		{"foreign, the same second", func(t *token.Token) { t.IssuedAt = now }, wsbouncer.Revocation{Seq: 7, At: now}, true},
		{"foreign, within the leeway", func(t *token.Token) { t.IssuedAt, t.Leeway = now.Add(10*time.Second), 10*time.Second }, wsbouncer.Revocation{Seq: 7, At: now}, true},
		{"foreign, beyond the leeway", func(t *token.Token) { t.IssuedAt, t.Leeway = now.Add(11*time.Second), 10*time.Second }, wsbouncer.Revocation{Seq: 7, At: now}, false},
		{"foreign, rev of its own making", func(t *token.Token) { t.HasRev, t.Rev, t.IssuedAt = true, 99, now.Add(-time.Second) }, wsbouncer.Revocation{Seq: 7, At: now}, true},
		{"foreign without iat", func(t *token.Token) { t.IssuedAt = time.Time{} }, wsbouncer.Revocation{Seq: 7, At: now}, true},
		{"another subject", func(t *token.Token) { t.Subject = "bob" }, wsbouncer.Revocation{Seq: 7, At: now}, false},
		{"before: earlier", func(t *token.Token) { t.IssuedAt = now.Add(-time.Second) }, wsbouncer.Before(now), true},
		{"before: that moment", func(t *token.Token) { t.IssuedAt = now }, wsbouncer.Before(now), false},
		{"before: that moment, with leeway", func(t *token.Token) { t.IssuedAt, t.Leeway = now.Add(time.Second), 2*time.Second }, wsbouncer.Before(now), true},
		{"before: own clocks need none", func(t *token.Token) { t.IssuedAt, t.Leeway, t.Own = now.Add(time.Second), 2*time.Second, true }, wsbouncer.Before(now), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			b, w := bouncer(t, nil)
			raw := w.add(c.change)
			_, e := open(t, b, wsbouncer.Demand{}, raw)
			r := c.r
			if r.Kind == "" {
				r.Kind, r.Value, r.Issuer = "subject", "alice", issuer
			}
			b.Apply(r)
			if got := len(e.all()) == 1; got != c.revoked {
				t.Errorf("the connection ended: %v", got)
			}
			if got := b.Revoked(w.tokens[raw]); got != c.revoked {
				t.Errorf("the token is revoked: %v", got)
			}
		})
	}
}

// Later revocations of a subject never weaken earlier ones.
func TestSubjectRevocationsAddUp(t *testing.T) {
	b, w := bouncer(t, nil)
	own := w.tokens[w.add(func(t *token.Token) { t.Own, t.HasRev, t.Rev = true, true, 8 })]
	foreign := w.tokens[w.add(func(t *token.Token) { t.IssuedAt = time.Now().Add(-time.Minute) })]
	b.Apply(wsbouncer.Revocation{Kind: "subject", Issuer: issuer, Value: "alice", Seq: 9, At: time.Now()})
	b.Apply(wsbouncer.Revocation{Kind: "subject", Issuer: issuer, Value: "alice", Seq: 3, At: time.Now().Add(-time.Hour)})
	b.Apply(wsbouncer.Before(time.Now().Add(-time.Second)), wsbouncer.Before(time.Now().Add(-time.Hour)))
	if !b.Revoked(own) || !b.Revoked(foreign) {
		t.Error("an older revocation took back a newer one")
	}
}

func TestRevokeIsDurableFirst(t *testing.T) {
	s := &source{}
	b, w := bouncer(t, func(o *wsbouncer.Options) { o.Source = s })
	raw := w.token()
	_, e := open(t, b, wsbouncer.Demand{}, raw)
	s.err = errors.New("disk full")
	if _, err := b.Revoke(t.Context(), wsbouncer.Session("s1")); !errors.Is(err, s.err) {
		t.Fatalf("the failure was hidden: %v", err)
	}
	if len(e.all()) != 0 || b.Revoked(w.tokens[raw]) {
		t.Error("what was not recorded was applied")
	}
	s.err = nil
	for _, r := range []wsbouncer.Revocation{wsbouncer.Session(""), wsbouncer.Before(time.Time{}), {}, {Kind: "tenant", Value: "x"}} {
		if _, err := b.Revoke(t.Context(), r); err == nil {
			t.Errorf("%+v was accepted", r)
		}
	}
	if closed, err := b.Revoke(t.Context(), wsbouncer.Session("s1")); err != nil || closed != 1 {
		t.Fatalf("closed %d, %v", closed, err)
	}
	if len(s.rows) != 1 || s.rows[0].Issuer != issuer || s.rows[0].Reason != reason.SessionRevoked || s.rows[0].At.IsZero() {
		t.Errorf("recorded %+v", s.rows)
	}
}

type source struct {
	rows []wsbouncer.Revocation
	err  error
}

func (s *source) Record(_ context.Context, rs []wsbouncer.Revocation) ([]wsbouncer.Revocation, error) {
	if s.err != nil {
		return nil, s.err
	}
	for i := range rs {
		rs[i].Seq = int64(len(s.rows) + 1)
		rs[i].Expires = time.Now().Add(time.Hour)
		s.rows = append(s.rows, rs[i])
	}
	return rs, nil
}

// Whichever of the revocation and the registration comes first, the other sees it.
func TestSES06RevokeDuringTheHandshakeWins(t *testing.T) {
	b, w := bouncer(t, nil)
	refusedAt := map[string]int{}
	for i := range 2000 {
		sid := fmt.Sprintf("race-%d", i)
		raw := w.add(func(t *token.Token) { t.Session, t.Subject = sid, sid })
		kind := []wsbouncer.Revocation{
			wsbouncer.Session(sid), wsbouncer.Subject(sid), wsbouncer.Token(w.tokens[raw].ID),
		}[i%3]
		jitter := rand.IntN(300)
		var both sync.WaitGroup
		both.Go(func() {
			for range jitter {
				_ = handshakeSink
			}
			if _, err := b.Revoke(t.Context(), kind); err != nil {
				t.Error(err)
			}
		})
		e := newEnder()
		var l *wsbouncer.Live
		both.Go(func() {
			at := func() string {
				a, err := b.Admit(handshake(bearer(raw)), wsbouncer.Demand{})
				if err != nil {
					return "admit"
				}
				if l, err = b.Track(a, e); err != nil {
					return "track"
				}
				if err := l.Open(); err != nil {
					return "open"
				}
				return "live"
			}()
			refusedAt[at]++
		})
		both.Wait()
		if l != nil {
			if _, over := l.Ended(); !over || len(e.all()) != 1 {
				t.Fatalf("round %d: a revoked connection lives on, ended %v", i, e.all())
			}
			l.Release(reason.ClientGone)
		}
	}
	t.Logf("rounds by how far the handshake came: %v", refusedAt)
	for range b.Live() {
		t.Fatal("a connection is still registered")
	}
}

var handshakeSink *http.Request

func TestSES01EndsAtTheDeadlineNeverBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, w := bouncer(t, nil)
		begin := time.Now()
		raw := w.add(func(t *token.Token) { t.Expiry, t.Leeway = begin.Add(30*time.Second), 5*time.Second })
		l, e := open(t, b, wsbouncer.Demand{}, raw)
		if got := l.ExpiresAt(); !got.Equal(begin.Add(35 * time.Second)) {
			t.Errorf("expires at %v", got.Sub(begin))
		}
		<-e.done
		late := time.Since(begin) - 35*time.Second
		if late < 0 || late > 250*time.Millisecond {
			t.Errorf("ended %v after the deadline", late)
		}
		if got := e.all(); len(got) != 1 || got[0] != reason.TokenExpired {
			t.Errorf("ended %v", got)
		}
		shutdown(t, b)
	})
}

func TestSES11Lifetime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, w := bouncer(t, nil)
		begin := time.Now()
		long := func(t *token.Token) { t.Expiry = begin.Add(time.Hour) }
		d := wsbouncer.Demand{Limits: &wsbouncer.Limits{Lifetime: 20 * time.Second}}
		l, e := open(t, b, d, w.add(long))
		x, err := b.Extend(t.Context(), w.add(func(t *token.Token) { t.Expiry = begin.Add(2 * time.Hour) }), l.ID())
		if err != nil || len(x.Extended) != 1 {
			t.Fatalf("%+v, %v", x, err)
		}
		<-e.done
		if late := time.Since(begin) - 20*time.Second; late < 0 || late > 250*time.Millisecond {
			t.Errorf("ended %v after its lifetime", late)
		}
		if got := e.all(); got[0] != reason.Lifetime {
			t.Errorf("ended %v", got)
		}
		shutdown(t, b)
	})
}

// shutdown ends b inside a synctest bubble, whose goroutines must all end.
func shutdown(t *testing.T, b *wsbouncer.Bouncer) {
	t.Helper()
	for l := range b.Live() {
		l.Release(reason.ClientGone)
	}
	if err := b.Shutdown(context.Background(), 0); err != nil {
		t.Error(err)
	}
}

func TestSES02ExtensionNeedsTheSameIdentityAndNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, w := bouncer(t, nil)
		begin := time.Now()
		in := func(d time.Duration, change func(*token.Token)) string {
			return w.add(func(t *token.Token) {
				t.Expiry = begin.Add(d)
				if change != nil {
					change(t)
				}
			})
		}
		d := wsbouncer.Demand{Scopes: []string{"chat"}}
		l, e := open(t, b, d, in(time.Minute, nil))
		other, _ := open(t, b, d, in(time.Minute, nil))

		for name, change := range map[string]func(*token.Token){
			"issuer":  func(t *token.Token) { t.Issuer = "https://other.test" },
			"subject": func(t *token.Token) { t.Subject = "bob" },
			"session": func(t *token.Token) { t.Session = "s2" },
			"client":  func(t *token.Token) { t.ClientID = "app" },
		} {
			x, err := b.Extend(t.Context(), in(time.Hour, change), l.ID(), "unknown")
			if err != nil || len(x.Extended) != 0 {
				t.Errorf("another %s extended %v, %v", name, x.Extended, err)
			}
			if _, over := l.Ended(); over {
				t.Fatalf("somebody with another %s ended the connection by naming it", name)
			}
		}
		// Never shortened.
		if x, err := b.Extend(t.Context(), in(time.Second, nil), l.ID()); err != nil || len(x.Extended) != 1 || !l.ExpiresAt().Equal(begin.Add(time.Minute)) {
			t.Errorf("a shorter one: %+v %v, now %v", x, err, l.ExpiresAt().Sub(begin))
		}
		x, err := b.Extend(t.Context(), in(2*time.Minute, nil), l.ID(), l.ID())
		if err != nil || !slices.Equal(x.Extended, []string{l.ID()}) || !x.ExpiresAt.Equal(begin.Add(2*time.Minute)) {
			t.Fatalf("%+v, %v", x, err)
		}
		if !l.ExpiresAt().Equal(begin.Add(2*time.Minute)) || !l.Principal().ExpiresAt().Equal(l.ExpiresAt()) {
			t.Errorf("expires %v", l.ExpiresAt().Sub(begin))
		}
		if !other.ExpiresAt().Equal(begin.Add(time.Minute)) {
			t.Error("a connection that was not named moved")
		}
		<-e.done
		if late := time.Since(begin) - 2*time.Minute; late < 0 || late > 250*time.Millisecond {
			t.Errorf("ended %v after the moved deadline", late)
		}
		if _, err := b.Extend(t.Context(), "nonsense", l.ID()); !errors.Is(err, reason.TokenSignature) {
			t.Errorf("nonsense: %v", err)
		}
		shutdown(t, b)
	})
}

func TestSES02ExtensionEvaluatesTheRouteAgain(t *testing.T) {
	b, w := bouncer(t, nil)
	l, e := open(t, b, wsbouncer.Demand{Scopes: []string{"chat"}}, w.token())
	x, err := b.Extend(t.Context(), w.add(func(t *token.Token) { t.Scopes, t.Expiry = nil, time.Now().Add(time.Hour) }), l.ID())
	if err != nil || len(x.Extended) != 0 {
		t.Errorf("%+v, %v", x, err)
	}
	if got := e.all(); len(got) != 1 || got[0] != reason.NotAllowed {
		t.Errorf("ended %v", got)
	}
}

func TestExtensionOfTheWholeSession(t *testing.T) {
	b, w := bouncer(t, nil)
	far := time.Now().Add(time.Hour)
	all, _ := open(t, b, wsbouncer.Demand{ExtendSession: true}, w.token())
	named, _ := open(t, b, wsbouncer.Demand{}, w.token())
	x, err := b.Extend(t.Context(), w.add(func(t *token.Token) { t.Expiry = far }))
	if err != nil || !slices.Equal(x.Extended, []string{all.ID()}) {
		t.Fatalf("%+v, %v", x, err)
	}
	if named.ExpiresAt().Equal(far) || !all.ExpiresAt().Equal(far) {
		t.Error("the wrong one moved")
	}
}

func TestSES02InBandRefresh(t *testing.T) {
	b, w := bouncer(t, nil)
	far := time.Now().Add(time.Hour)
	l, e := open(t, b, wsbouncer.Demand{}, w.token())
	if _, err := l.Refresh(t.Context(), "nonsense"); !errors.Is(err, reason.TokenSignature) || len(e.all()) != 0 {
		t.Errorf("nonsense: %v, ended %v", err, e.all())
	}
	at, err := l.Refresh(t.Context(), w.add(func(t *token.Token) { t.Expiry = far }))
	if err != nil || !at.Equal(far) {
		t.Fatalf("%v, %v", at, err)
	}
	// The token that opened it stays bound, and so does the latest.
	for _, id := range []string{"jti-0", "jti-1"} {
		l, e := open(t, b, wsbouncer.Demand{}, w.add(func(t *token.Token) { t.ID = "opening-" + id }))
		if _, err := l.Refresh(t.Context(), w.add(func(t *token.Token) { t.ID, t.Expiry = "latest-"+id, far })); err != nil {
			t.Fatal(err)
		}
		kill := "opening-" + id
		if id == "jti-1" {
			kill = "latest-" + id
		}
		if n := b.Apply(wsbouncer.Token(kill)); n != 1 || len(e.all()) != 1 {
			t.Errorf("%s: ended %d", kill, n)
		}
	}
	if _, err := l.Refresh(t.Context(), w.add(func(t *token.Token) { t.Subject = "bob" })); err == nil {
		t.Error("bob's token refreshed alice's connection")
	}
	if got := e.all(); len(got) != 1 || got[0] != reason.NotAllowed {
		t.Errorf("ended %v", got)
	}
}

func TestDOS03Limits(t *testing.T) {
	t.Run("node", func(t *testing.T) {
		b, w := bouncer(t, func(o *wsbouncer.Options) { o.Limits.Connections = 1 })
		l, _ := open(t, b, wsbouncer.Demand{}, w.token())
		_, err := track(b, w.token())
		wantRefusal(t, err, reason.Overloaded503)
		l.Release(reason.ClientGone)
		l.Release(reason.ClientGone) // gives its place back once only
		open(t, b, wsbouncer.Demand{}, w.token())
		_, err = track(b, w.token())
		wantRefusal(t, err, reason.Overloaded503)
	})
	t.Run("address", func(t *testing.T) {
		b, w := bouncer(t, func(o *wsbouncer.Options) { o.Limits.ConnectionsPerIP = 1 })
		l, _ := open(t, b, wsbouncer.Demand{}, w.token())
		_, err := track(b, w.token())
		wantRefusal(t, err, reason.TooManyConns)
		if refusal(t, err).RetryAfter == 0 {
			t.Error("no Retry-After")
		}
		l.Release(reason.ClientGone)
		open(t, b, wsbouncer.Demand{}, w.token())
	})
	t.Run("subject", func(t *testing.T) {
		b, w := bouncer(t, func(o *wsbouncer.Options) { o.Limits.ConnectionsPerSubject = 2 })
		_, first := open(t, b, wsbouncer.Demand{}, w.token())
		_, second := open(t, b, wsbouncer.Demand{}, w.add(func(t *token.Token) { t.Session = "s2" }))
		open(t, b, wsbouncer.Demand{}, w.add(func(t *token.Token) { t.Subject = "bob" }))
		_, err := track(b, w.add(func(t *token.Token) { t.Session = "s3" }))
		wantRefusal(t, err, reason.TooManyConns)
		open(t, b, wsbouncer.Demand{}, w.token())
		if len(first.all()) != 1 || len(second.all()) != 0 {
			t.Errorf("one more of the first session ended %v and %v", first.all(), second.all())
		}
		many := &wsbouncer.Limits{ConnectionsPerSubject: 3}
		open(t, b, wsbouncer.Demand{Limits: many}, w.add(func(t *token.Token) { t.Session = "s3" }))
	})
}

func track(b *wsbouncer.Bouncer, raw string) (*wsbouncer.Live, error) {
	a, err := b.Admit(handshake(bearer(raw)), wsbouncer.Demand{})
	if err != nil {
		return nil, err
	}
	return b.Track(a, newEnder())
}

func TestAUT05FirstMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		seen := make(watch, 64)
		b, w := bouncer(t, func(o *wsbouncer.Options) {
			o.Limits.Unauthenticated, o.Limits.UnauthenticatedPerIP = 2, -1
			o.Observer = seen
		})
		d := wsbouncer.Demand{TokenFrom: []string{"first_message"}, Scopes: []string{"chat"}}
		wait := func() (*wsbouncer.Admission, *wsbouncer.Live, *ender, error) {
			a, err := b.Admit(handshake(nil), d)
			if err != nil || a.Principal != nil {
				t.Fatalf("%+v, %v", a, err)
			}
			e := newEnder()
			l, err := b.Track(a, e)
			return a, l, e, err
		}
		begin := time.Now()
		a, l, e, err := wait()
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Open(); !errors.Is(err, reason.TokenMissing) {
			t.Errorf("opened before anybody said who it is: %v", err)
		}
		if n := b.Apply(wsbouncer.Key("k1").Of("https://other.test")); n != 0 {
			t.Errorf("a revocation ended %d that had not said who they are", n)
		}
		wantRefusal(t, b.AdmitToken(t.Context(), a, "nonsense"), reason.TokenSignature)
		wantRefusal(t, b.AdmitToken(t.Context(), a, w.add(func(t *token.Token) { t.Scopes = nil })), reason.InsufficientScope)
		if err := b.AdmitToken(t.Context(), a, w.token()); err != nil {
			t.Fatal(err)
		}
		relay := newEnder()
		again, err := b.Track(a, relay)
		if err != nil || again != l {
			t.Fatalf("%p is not %p, %v", again, l, err)
		}
		if err := l.Open(); err != nil {
			t.Fatal(err)
		}

		// Two may wait; the third makes the oldest go once it has waited a second.
		_, _, slow, err := wait()
		if err != nil {
			t.Fatal(err)
		}
		if _, _, _, err = wait(); err != nil {
			t.Fatal(err)
		}
		_, _, _, err = wait()
		wantRefusal(t, err, reason.TooManyConns)
		<-time.After(time.Second)
		_, _, last, err := wait()
		if err != nil || len(slow.all()) != 1 {
			t.Fatalf("%v, the oldest ended %v", err, slow.all())
		}
		lastBegan := time.Now()
		<-last.done
		if late := time.Since(lastBegan) - 10*time.Second; late < 0 || late > 250*time.Millisecond || last.all()[0] != reason.AuthTimeout {
			t.Errorf("%v after the time-out: %v", late, last.all())
		}
		b.Apply(wsbouncer.Session("s1"))
		if len(e.all()) != 0 || len(relay.all()) != 1 || relay.all()[0] != reason.SessionRevoked {
			t.Errorf("the waiting one ended %v, the live one %v after %v", e.all(), relay.all(), time.Since(begin))
		}
		shutdown(t, b)
		close(seen)
		got := map[string]int{}
		for e := range seen {
			if e.Kind == "refused" {
				got[e.Refusal.Code]++
			}
		}
		if len(got) != 2 || got["auth_timeout"] != 2 || got["overloaded"] != 1 {
			t.Errorf("observed refusals %v", got)
		}
	})
}

// Who was let go between its first message and its second Track is told why.
func TestAFirstMessageThatCameTooLateIsToldWhy(t *testing.T) {
	for _, why := range []wsbouncer.Reason{reason.AuthTimeout, reason.Restarting} {
		b, w := bouncer(t, nil)
		a, err := b.Admit(handshake(nil), wsbouncer.Demand{TokenFrom: []string{"first_message"}})
		if err != nil {
			t.Fatal(err)
		}
		l, err := b.Track(a, newEnder())
		if err != nil {
			t.Fatal(err)
		}
		if err := b.AdmitToken(t.Context(), a, w.token()); err != nil {
			t.Fatal(err)
		}
		l.End(why)
		_, err = b.Track(a, newEnder())
		if ref := refusal(t, err); ref.Code != why.Text || ref.CloseCode != why.Code {
			t.Errorf("%s: refused with %d %s", why, ref.CloseCode, ref.Code)
		}
	}
}

func TestUnauthenticatedPerAddress(t *testing.T) {
	b, _ := bouncer(t, func(o *wsbouncer.Options) { o.Limits.UnauthenticatedPerIP = 1 })
	d := wsbouncer.Demand{TokenFrom: []string{"first_message"}}
	var held *wsbouncer.Live
	for i, want := range []bool{true, false} {
		a, err := b.Admit(handshake(nil), d)
		if err != nil {
			t.Fatal(err)
		}
		l, err := b.Track(a, newEnder())
		if (err == nil) != want {
			t.Errorf("number %d: %v", i, err)
		}
		if l != nil {
			held = l
		}
	}
	held.Release(reason.ClientGone)
	for range b.Live() {
		t.Error("a refused connection is still registered")
	}
}

func TestPRX05ShutdownSpreadsAndWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, w := bouncer(t, nil)
		begin := time.Now()
		at := make(chan time.Duration, 10)
		for range 10 {
			a, err := b.Admit(handshake(bearer(w.token())), wsbouncer.Demand{})
			if err != nil {
				t.Fatal(err)
			}
			e := newEnder()
			l, err := b.Track(a, e)
			if err != nil {
				t.Fatal(err)
			}
			go func() {
				<-e.done
				at <- time.Since(begin)
				l.Release(e.all()[0])
			}()
		}
		if err := b.Shutdown(t.Context(), 10*time.Second); err != nil {
			t.Fatal(err)
		}
		close(at)
		var times []time.Duration
		for d := range at {
			times = append(times, d)
		}
		slices.Sort(times)
		if len(times) != 10 || times[0] > time.Second || times[9] < 9*time.Second || times[9] > 10*time.Second {
			t.Errorf("ended at %v", times)
		}
		_, err := b.Admit(handshake(bearer(w.token())), wsbouncer.Demand{})
		wantRefusal(t, err, reason.NotReady)
	})
}

func TestShutdownGivesUpWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, w := bouncer(t, nil)
		l, e := open(t, b, wsbouncer.Demand{}, w.token())
		ctx, stop := context.WithTimeout(t.Context(), time.Second)
		defer stop()
		if err := b.Shutdown(ctx, 0); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("with a connection that does not go: %v", err)
		}
		if got := e.all(); len(got) != 1 || got[0] != reason.Restarting {
			t.Errorf("ended %v", got)
		}
		l.Release(reason.Restarting)
	})
}

func TestObserverSeesWhoAndWhy(t *testing.T) {
	seen := make(watch, 16)
	b, w := bouncer(t, func(o *wsbouncer.Options) { o.Observer = seen })
	l, _ := open(t, b, wsbouncer.Demand{Route: "/chat"}, w.token())
	b.Apply(wsbouncer.Session("s1"))
	l.Release(reason.ClientGone)
	opened, revoked, ended := <-seen, <-seen, <-seen
	if opened.Kind != "opened" || opened.Subject != "alice" || opened.CID != l.ID() || opened.Route != "/chat" || opened.Origin != appOrigin || !opened.IP.IsValid() {
		t.Errorf("%+v", opened)
	}
	if revoked.Kind != "revoked" || revoked.Closed != 1 || revoked.Revocation.Value != "s1" {
		t.Errorf("%+v", revoked)
	}
	if ended.Kind != "ended" || ended.Reason != reason.SessionRevoked {
		t.Errorf("%+v", ended)
	}
}

// A server makes one text of a handshake's head, and whatever is a piece of it
// keeps all of it.
func TestALiveConnectionKeepsNothingOfItsRequest(t *testing.T) {
	const n, size = 64, 64 << 10
	b, w := bouncer(t, nil)
	heap := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before := heap()
	for range n {
		r := handshake(bearer(w.token()))
		head := appOrigin + " " + strings.Repeat("x", size)
		r.Header.Set("Origin", head[:len(appOrigin)])
		a, err := b.Admit(r, wsbouncer.Demand{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.Track(a, nobody{}); err != nil {
			t.Fatal(err)
		}
	}
	if each := (heap() - before) / n; each > size/4 {
		t.Errorf("%d bytes a connection, of heads of %d", each, size)
	}
	release(b)
}
