package storetest

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/wsbouncer/wsbouncer/internal/account"
	"github.com/wsbouncer/wsbouncer/internal/audit"
	"github.com/wsbouncer/wsbouncer/internal/reason"
	"github.com/wsbouncer/wsbouncer/internal/session"
)

func revocations(t *testing.T, s Store) {
	ctx := t.Context()
	if n := get(s.Sequence(ctx))(t); n != 0 {
		t.Errorf("an empty log ends at %d", n)
	}
	a, b, c := aRevocation("session", "s1"), aRevocation("key", "k1"), aRevocation("session", "s1")
	b.Expires, b.Reason = time.Time{}, reason.KeyRevoked
	c.Expires, c.Issuer = at.Add(2*time.Hour), "https://other.example"
	for i, e := range []*session.LogEntry{&a, &b, &c} {
		if e.Seq = get(s.AppendRevocation(ctx, *e))(t); e.Seq != int64(i+1) {
			t.Errorf("entry %d has number %d", i+1, e.Seq)
		}
	}
	if n := get(s.Sequence(ctx))(t); n != 3 {
		t.Errorf("the log ends at %d, want 3", n)
	}
	for _, q := range []struct {
		after int64
		now   time.Time
		limit int
		want  []session.LogEntry
	}{
		{0, at, 10, []session.LogEntry{a, b, c}},
		{1, at, 1, []session.LogEntry{b}},
		{0, at.Add(time.Hour), 10, []session.LogEntry{b, c}},
		{3, at, 10, nil},
	} {
		if d := cmp.Diff(q.want, get(s.Revocations(ctx, q.after, q.now, q.limit))(t)); d != "" {
			t.Errorf("after %d at %v: %s", q.after, q.now, d)
		}
	}
	if d := cmp.Diff(c, get(s.Revocation(ctx, "session", "https://other.example", "s1"))(t)); d != "" {
		t.Error(d)
	}
	_, err := s.Revocation(ctx, "token", "https://other.example", "s1")
	absent(t, "Revocation", err)
}

// gapless has many append at once, some of them in vain.
func gapless(t *testing.T, s Store) {
	const workers, each = 8, 12
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := range each {
				fails := (w+i)%3 == 0
				err := s.Tx(t.Context(), func(ctx context.Context) error {
					before, err := s.Sequence(ctx)
					if err != nil {
						return err
					}
					n, err := s.AppendRevocation(ctx, aRevocation("token", "t"))
					if err != nil {
						return err
					}
					if n != before+1 {
						t.Errorf("number %d after %d", n, before)
					}
					if fails {
						return errNo
					}
					return nil
				})
				if fails != errors.Is(err, errNo) {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	es := get(s.Revocations(t.Context(), 0, at, 1000))(t)
	for i, e := range es {
		if e.Seq != int64(i+1) {
			t.Fatalf("entry %d has number %d", i, e.Seq)
		}
	}
	if n := get(s.Sequence(t.Context()))(t); n != int64(len(es)) || n == 0 {
		t.Errorf("%d entries, and the sequence is at %d", len(es), n)
	}
}

func pruning(t *testing.T, s Store) {
	ctx := t.Context()
	over := aSession("over", "ann", 1) // idle since a minute, its access token since five
	must(t, s.InsertSession(ctx, over))
	live := aSession("live", "ann", 10)
	live.IdleUntil = at.Add(time.Hour)
	live.Replay, live.Rotated = []byte("sealed"), at
	must(t, s.InsertSession(ctx, live))
	must(t, s.InsertTicket(ctx, aTicket(1, "i", "ann", "s"), 10))
	must(t, s.InsertTicket(ctx, aTicket(2, "i", "ann", "s"), 10))
	for range 3 {
		get(s.AppendRevocation(ctx, aRevocation("token", "t")))(t)
	}
	forever := aRevocation("key", "k")
	forever.Expires = time.Time{}
	get(s.AppendRevocation(ctx, forever))(t)

	prune := func(now, sealed time.Time, limit, want int) {
		t.Helper()
		if n := get(s.Prune(ctx, now, sealed, limit))(t); n != want {
			t.Errorf("at %v (limit %d) %d were pruned, want %d", now.Sub(at), limit, n, want)
		}
	}
	prune(at, at, 10, 0)
	prune(at.Add(30*time.Second), at, 1, 1)
	prune(at.Add(30*time.Second), at, 1, 1)
	prune(at.Add(4*time.Minute), at, 10, 0)
	if r := get(s.Session(ctx, "live"))(t); len(r.Replay) == 0 {
		t.Error("the sealed answer went too early")
	}
	prune(at.Add(5*time.Minute), at.Add(time.Millisecond), 10, 2)
	if r := get(s.Session(ctx, "live"))(t); len(r.Replay) != 0 {
		t.Error("the sealed answer is still there")
	}
	_, err := s.Session(ctx, "over")
	absent(t, "a session that is over", err)
	prune(at.Add(time.Hour), at, 10, 4)
	if es := get(s.Revocations(ctx, 0, at, 10))(t); len(es) != 1 || es[0].Value != "k" {
		t.Errorf("left of the log: %v", es)
	}
	if n := get(s.AppendRevocation(ctx, aRevocation("token", "t")))(t); n != 5 {
		t.Errorf("the next number after pruning is %d, want 5", n)
	}
}

func accounts(t *testing.T, s Store) {
	ctx := t.Context()
	missing := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, account.ErrNotFound) {
			t.Errorf("%s: %v, want ErrNotFound", what, err)
		}
	}
	a := account.Record{Name: "ann", Hash: "h1", Scopes: []string{"a", "b"}, Created: at, PasswordChanged: at.Add(time.Second)}
	_, err := s.Account(ctx, "ann")
	missing("Account", err)
	missing("UpdateAccount", s.UpdateAccount(ctx, a))
	missing("DeleteAccount", s.DeleteAccount(ctx, "ann"))
	must(t, s.RehashAccount(ctx, "ann", "x", "y"))

	must(t, s.InsertAccount(ctx, a))
	if err := s.InsertAccount(ctx, a); !errors.Is(err, account.ErrExists) {
		t.Errorf("a second ann: %v", err)
	}
	must(t, s.InsertAccount(ctx, account.Record{Name: "Ann", Created: at, PasswordChanged: at}))
	must(t, s.InsertAccount(ctx, account.Record{Name: "zoë", Created: at, PasswordChanged: at, Scopes: []string{}}))
	if d := cmp.Diff(a, get(s.Account(ctx, "ann"))(t)); d != "" {
		t.Error(d)
	}
	a.Hash, a.Scopes, a.Disabled, a.PasswordChanged = "h2", []string{}, true, at.Add(time.Hour)
	must(t, s.UpdateAccount(ctx, a))
	if d := cmp.Diff(a, get(s.Account(ctx, "ann"))(t)); d != "" {
		t.Error(d)
	}
	must(t, s.RehashAccount(ctx, "ann", "h1", "h3"))
	if r := get(s.Account(ctx, "ann"))(t); r.Hash != "h2" {
		t.Error("a hash that had changed was replaced")
	}
	must(t, s.RehashAccount(ctx, "ann", "h2", "h3"))
	if r := get(s.Account(ctx, "ann"))(t); r.Hash != "h3" {
		t.Error("the hash was not replaced")
	}
	names := func(after string, limit int) (out []string) {
		for _, r := range get(s.Accounts(ctx, after, limit))(t) {
			out = append(out, r.Name)
		}
		return out
	}
	if got := names("", 10); !slices.Equal(got, []string{"Ann", "ann", "zoë"}) {
		t.Errorf("accounts: %v", got)
	}
	if got := names("Ann", 1); !slices.Equal(got, []string{"ann"}) {
		t.Errorf("accounts after Ann: %v", got)
	}
	must(t, s.DeleteAccount(ctx, "ann"))
	if got := names("", 10); !slices.Equal(got, []string{"Ann", "zoë"}) {
		t.Errorf("accounts after ann was removed: %v", got)
	}
}

func auditing(t *testing.T, s Store) {
	ctx := t.Context()
	full := audit.Event{
		Time: at, Type: audit.RefreshReuse, Issuer: "i", Subject: "ann", Session: "s", Connection: "c",
		IP: netip.MustParseAddr("2001:db8::1"), Origin: "https://app.example", UserAgent: "ü", Actor: "admin",
		Detail: map[string]string{"k": "v"},
	}
	must(t, s.Write(ctx, full))
	must(t, s.Write(ctx, audit.Event{Type: audit.LoginFailed, Time: at, UserAgent: "\xff" + string(make([]byte, 100_000))}))
	_ = s.Tx(ctx, func(ctx context.Context) error {
		must(t, s.Write(ctx, full))
		return errNo
	})
	es := get(s.Events(ctx, 0, 10))(t)
	if len(es) != 2 {
		t.Fatalf("%d events, want 2", len(es))
	}
	full.ID = es[0].ID
	if d := cmp.Diff(full, es[0], cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); d != "" {
		t.Error(d)
	}
	if n := len(es[1].UserAgent); n > 1000 {
		t.Errorf("a field of %d bytes was kept", n)
	}
	if es := get(s.Events(ctx, es[0].ID, 10))(t); len(es) != 1 || es[0].Type != audit.LoginFailed {
		t.Errorf("events after the first: %v", es)
	}
	if es := get(s.Events(ctx, 0, 1))(t); len(es) != 1 {
		t.Errorf("%d events with limit 1", len(es))
	}
	if es := get(s.EventsBefore(ctx, 0, 1))(t); len(es) != 1 || es[0].Type != audit.LoginFailed {
		t.Errorf("the newest event: %v", es)
	}
	if es := get(s.EventsBefore(ctx, es[1].ID, 10))(t); len(es) != 1 || es[0].Type != audit.RefreshReuse {
		t.Errorf("events before the second: %v", es)
	}
}
