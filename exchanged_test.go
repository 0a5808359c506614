package wsbouncer_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/wsbouncer/wsbouncer"
	"github.com/wsbouncer/wsbouncer/internal/reason"
	"github.com/wsbouncer/wsbouncer/token"
)

// exchangedFor makes a token of backend for bob's of another issuer, which had
// been exchanged for carol's of a third.
func exchangedFor(w *wallet) string {
	return w.add(func(t *token.Token) {
		t.Subject, t.Session, t.ClientID, t.Own, t.HasRev, t.Rev = "foreign:x", "", "backend", true, true, 9
		t.From = &token.Token{
			Issuer: "https://b.example", Subject: "bob", Session: "sb", ID: "jb", KeyID: "kb", IssuedAt: time.Now().Add(-time.Minute),
			From: &token.Token{Issuer: "https://c.example", Subject: "carol", Session: "sc", ID: "jc", KeyID: "kc", IssuedAt: time.Now().Add(-time.Minute)},
		}
	})
}

// Whatever ends the token that one was exchanged for ends the one: its
// connections and its further use, and nobody else's.
func TestExchangedTokensDieWithTheirSource(t *testing.T) {
	now := time.Now()
	for _, c := range []struct {
		r    wsbouncer.Revocation
		hits bool
	}{
		{wsbouncer.Token("jb").Of("https://b.example"), true},
		{wsbouncer.Session("sb").Of("https://b.example"), true},
		{wsbouncer.Subject("bob").Of("https://b.example"), true},
		{wsbouncer.Key("kb").Of("https://b.example"), true},
		{wsbouncer.Before(now.Add(-time.Second)).Of("https://b.example"), true},
		{wsbouncer.Token("jc").Of("https://c.example"), true},
		{wsbouncer.Session("sc").Of("https://c.example"), true},
		{wsbouncer.Subject("carol").Of("https://c.example"), true},
		{wsbouncer.Key("kc").Of("https://c.example"), true},
		{wsbouncer.Before(now).Of("https://c.example"), true},
		{wsbouncer.Token("jb").Of("https://c.example"), false},
		{wsbouncer.Token("jb"), false},
		{wsbouncer.Session("sc").Of("https://b.example"), false},
		{wsbouncer.Subject("bob"), false},
		{wsbouncer.Key("kb"), false},
		{wsbouncer.Before(now.Add(-time.Hour)).Of("https://b.example"), false},
	} {
		t.Run(fmt.Sprintf("%s %s %s", c.r.Kind, c.r.Issuer, c.r.Value), func(t *testing.T) {
			b, w := bouncer(t, nil)
			raw, other := exchangedFor(w), w.token()
			l, e := open(t, b, wsbouncer.Demand{}, raw)
			bystander, _ := open(t, b, wsbouncer.Demand{}, other)
			pending, err := b.Admit(handshake(bearer(raw)), wsbouncer.Demand{})
			if err != nil {
				t.Fatal(err)
			}
			if n := b.Apply(c.r); (n == 1) != c.hits {
				t.Fatalf("%d closed, want %v", n, c.hits)
			}
			if _, over := bystander.Ended(); over {
				t.Error("a connection of somebody else was ended")
			}
			_, over := l.Ended()
			if _, err := b.Verify(t.Context(), raw); over != c.hits || (err != nil) != c.hits {
				t.Errorf("ended %v, verify: %v", over, err)
			}
			late, err := b.Track(pending, newEnder())
			if (err != nil) != c.hits {
				t.Errorf("a handshake that began before: %v", err)
			}
			if late != nil {
				late.Release(reason.ClientGone)
			}
			if c.hits {
				<-e.done
				_, err := b.Admit(handshake(bearer(raw)), wsbouncer.Demand{})
				wantRefusal(t, err, reason.TokenRevoked401)
			}
			l.Release(reason.ClientGone)
			if b.Apply(c.r) != 0 {
				t.Error("it is found after its end")
			}
		})
	}
}

// A refresh of an exchanged token leaves the connection where revocations of
// what opened it, and of what is in force, find it.
func TestExchangedTokensAreFoundAfterARefresh(t *testing.T) {
	next := func(w *wallet, jti, sid string, life time.Duration) string {
		return w.add(func(t *token.Token) {
			t.ClientID, t.Expiry = "backend", time.Now().Add(life)
			t.From = &token.Token{Issuer: "https://b.example", Subject: "bob", Session: sid, ID: jti}
		})
	}
	for _, c := range []struct {
		r    wsbouncer.Revocation
		want int
	}{
		{wsbouncer.Token("first"), 1},
		{wsbouncer.Token("second"), 0}, // neither opened it nor is in force
		{wsbouncer.Token("third"), 1},
		{wsbouncer.Session("one"), 1}, // of the first two
		{wsbouncer.Session("two"), 1},
	} {
		b, w := bouncer(t, nil)
		l, _ := open(t, b, wsbouncer.Demand{}, next(w, "first", "one", time.Minute))
		for i, later := range [][2]string{{"second", "one"}, {"third", "two"}} {
			if x, err := b.Extend(t.Context(), next(w, later[0], later[1], time.Duration(i+2)*time.Minute), l.ID()); err != nil || len(x.Extended) != 1 {
				t.Fatalf("%v %v", x, err)
			}
		}
		if n := b.Apply(c.r.Of("https://b.example")); n != c.want {
			t.Errorf("%s %s: %d closed, want %d", c.r.Kind, c.r.Value, n, c.want)
		}
	}
}

// keys is a wallet that can lose trust in an issuer.
type keys struct {
	*wallet
	mu   sync.Mutex
	gone string
}

func (k *keys) Trusts(issuer, _ string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return issuer != k.gone
}

func TestExchangedTokensNeedTheTrustInTheirSource(t *testing.T) {
	for _, gone := range []string{"https://b.example", "https://c.example"} {
		k := &keys{wallet: newWallet()}
		b, _ := bouncer(t, func(o *wsbouncer.Options) { o.Verifier = k })
		raw := exchangedFor(k.wallet)
		l, e := open(t, b, wsbouncer.Demand{}, raw)
		pending, err := b.Admit(handshake(bearer(raw)), wsbouncer.Demand{})
		if err != nil {
			t.Fatal(err)
		}
		k.mu.Lock()
		k.gone = gone
		k.mu.Unlock()
		if n := b.Review(); n != 1 {
			t.Errorf("%s: %d closed", gone, n)
		}
		<-e.done
		if _, err := b.Verify(t.Context(), raw); err == nil {
			t.Errorf("%s is gone, and what came of it is good", gone)
		}
		if _, err := b.Track(pending, newEnder()); err == nil {
			t.Error("a handshake slipped in")
		}
		l.Release(reason.ClientGone)
	}
}

// A revocation of the source and a handshake: whichever comes first, no
// connection is left.
func TestExchangedTokensRaceWithRevocations(t *testing.T) {
	b, w := bouncer(t, nil)
	for i := range 200 {
		jti := fmt.Sprint("source-", i)
		raw := w.add(func(t *token.Token) {
			t.Subject = jti // alone
			t.From = &token.Token{Issuer: "https://b.example", Subject: "bob", ID: jti}
		})
		a, err := b.Admit(handshake(bearer(raw)), wsbouncer.Demand{})
		if err != nil {
			t.Fatal(err)
		}
		var both sync.WaitGroup
		both.Go(func() { b.Apply(wsbouncer.Token(jti).Of("https://b.example")) })
		l, err := b.Track(a, newEnder())
		if err == nil {
			err = l.Open()
		}
		both.Wait()
		if err == nil {
			if _, over := l.Ended(); !over {
				t.Fatal("it lives on")
			}
		}
		if l != nil {
			l.Release(reason.ClientGone)
		}
	}
}

func TestConnectionsOfASubject(t *testing.T) {
	b, w := bouncer(t, func(o *wsbouncer.Options) {
		o.Limits.ConnectionsPerSubject = 2
		o.ConnectionsOf = func(p *wsbouncer.Principal) int { return map[string]int{"one": 1, "three": 3}[p.Subject] }
	})
	for subject, most := range map[string]int{"one": 1, "two": 2, "three": 3} {
		raw := w.add(func(t *token.Token) { t.Subject, t.Session = subject, "" })
		for range most {
			open(t, b, wsbouncer.Demand{}, raw)
		}
		a, err := b.Admit(handshake(bearer(raw)), wsbouncer.Demand{})
		if err != nil {
			t.Fatal(err)
		}
		_, err = b.Track(a, newEnder())
		wantRefusal(t, err, reason.TooManyConns)
	}
}
