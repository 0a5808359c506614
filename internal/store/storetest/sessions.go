package storetest

import (
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/wsbouncer/wsbouncer/internal/session"
)

func absent(t *testing.T, what string, err error) {
	t.Helper()
	if !errors.Is(err, session.ErrNotFound) {
		t.Errorf("%s: %v, want ErrNotFound", what, err)
	}
}

func ids(rs []session.Record) (out []string) {
	for _, r := range rs {
		out = append(out, r.ID)
	}
	return out
}

func sessions(t *testing.T, s Store) {
	ctx := t.Context()
	_, err := s.Session(ctx, "s1")
	absent(t, "Session", err)
	_, err = s.SessionByFamily(ctx, hash(1))
	absent(t, "SessionByFamily", err)
	absent(t, "UpdateSession", s.UpdateSession(ctx, aSession("s1", "ann", 1)))
	absent(t, "DeleteSession", s.DeleteSession(ctx, "s1"))

	a := aSession("s1", "ann", 1)
	must(t, s.InsertSession(ctx, a))
	if err := s.InsertSession(ctx, aSession("s2", "ann", 1)); err == nil {
		t.Error("two sessions have one family")
	}
	if d := cmp.Diff(a, get(s.Session(ctx, "s1"))(t)); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(a, get(s.SessionByFamily(ctx, hash(1)))(t)); d != "" {
		t.Error(d)
	}
	b := a
	b.Scopes, b.IP, b.UserAgent, b.Origin = []string{"chat"}, "192.0.2.1", "other", ""
	b.Used, b.IdleUntil, b.AccessUntil = at.Add(2*time.Second), at.Add(3*time.Second), at.Add(4*time.Second)
	b.Current, b.Previous, b.Rotated, b.Repeated, b.Replay = hash(7), hash(2), at.Add(5*time.Second), true, []byte{0, 255}
	b.Proof, b.Claims = session.Proof{Time: at.Add(6 * time.Second), AMR: []string{"pwd"}, ACR: ""}, nil
	must(t, s.UpdateSession(ctx, b))
	if d := cmp.Diff(b, get(s.Session(ctx, "s1"))(t)); d != "" {
		t.Error(d)
	}
	changed := b
	changed.Subject, changed.ClientID, changed.Method, changed.Family = "x", "x", "x", hash(99)
	changed.External = session.External{Provider: "x", Issuer: "x", Subject: "x", Session: "x"}
	changed.Created, changed.Expires = at.Add(time.Hour), at.Add(99*time.Hour)
	must(t, s.UpdateSession(ctx, changed))
	if d := cmp.Diff(b, get(s.Session(ctx, "s1"))(t)); d != "" {
		t.Errorf("what never changes changed: %s", d)
	}

	older := aSession("s0", "ann", 20)
	older.Created, older.Used = at.Add(-time.Hour), at.Add(-time.Hour)
	must(t, s.InsertSession(ctx, older))
	must(t, s.InsertSession(ctx, aSession("s3", "ann", 30)))
	must(t, s.InsertSession(ctx, aSession("s4", "bob", 40)))
	for _, c := range []struct {
		subject string
		limit   int
		want    []string
	}{
		{"ann", 10, []string{"s0", "s1", "s3"}},
		{"ann", 2, []string{"s0", "s1"}},
		{"bob", 10, []string{"s4"}},
		{"nobody", 10, nil},
		{"", 10, []string{"s0", "s1", "s3", "s4"}},
	} {
		if got := ids(get(s.Sessions(ctx, c.subject, c.limit))(t)); !slices.Equal(got, c.want) {
			t.Errorf("Sessions(%q, %d) = %v, want %v", c.subject, c.limit, got, c.want)
		}
	}
	plain := aSession("s5", "eve", 50)
	plain.External = session.External{}
	must(t, s.InsertSession(ctx, plain))
	for _, c := range []struct {
		issuer, subject, session, email string
		limit                           int
		want                            []string
	}{
		{"https://sso.example", "u-ann", "", "", 10, []string{"s0", "s1", "s3"}},
		{"https://sso.example", "u-ann", "", "", 2, []string{"s0", "s1"}},
		{"https://sso.example", "u-ann", "x-s4", "", 10, []string{"s4"}},
		{"https://sso.example", "", "x-s1", "", 10, []string{"s1"}},
		{"https://sso.example", "", "", "", 10, nil},
		{"https://other.example", "u-ann", "x-s1", "", 10, nil},
		{"https://sso.example", "u-ann", "", "ann@example.com", 10, []string{"s0", "s1", "s3"}},
		{"https://sso.example", "", "", "bob@example.com", 10, []string{"s4"}},
		{"https://sso.example", "", "", "eve@example.com", 10, nil},
		{"https://other.example", "", "", "bob@example.com", 10, nil},
		{"", "", "", "", 10, nil},
	} {
		if got := ids(get(s.SessionsOfExternal(ctx, session.External{Issuer: c.issuer, Subject: c.subject, Session: c.session, Email: c.email}, c.limit))(t)); !slices.Equal(got, c.want) {
			t.Errorf("SessionsOfExternal(%+v) = %v", c, got)
		}
	}
	must(t, s.DeleteSession(ctx, "s5"))
	if n := get(s.DeleteSessionsUsedBefore(ctx, older.Used))(t); n != 0 {
		t.Errorf("%d sessions used at T count as used before T", n)
	}
	if n := get(s.DeleteSessionsUsedBefore(ctx, older.Used.Add(time.Millisecond)))(t); n != 1 {
		t.Errorf("DeleteSessionsUsedBefore removed %d, want 1", n)
	}
	must(t, s.DeleteSession(ctx, "s1"))
	if n := get(s.DeleteSessionsOf(ctx, "ann"))(t); n != 1 {
		t.Errorf("DeleteSessionsOf removed %d, want 1", n)
	}
	if got := ids(get(s.Sessions(ctx, "", 10))(t)); !slices.Equal(got, []string{"s4"}) {
		t.Errorf("left over: %v", got)
	}
}

func tickets(t *testing.T, s Store) {
	ctx := t.Context()
	_, err := s.TakeTicket(ctx, hash(1))
	absent(t, "TakeTicket", err)
	a := aTicket(1, "https://i.example", "ann", "s1")
	must(t, s.InsertTicket(ctx, a, 3))
	if d := cmp.Diff(a, get(s.TakeTicket(ctx, hash(1)))(t)); d != "" {
		t.Error(d)
	}
	_, err = s.TakeTicket(ctx, hash(1))
	absent(t, "TakeTicket again", err)

	// The fourth of a subject takes the first's place, and only its own.
	must(t, s.InsertTicket(ctx, aTicket(9, "https://other.example", "ann", "s1"), 3))
	for b := byte(10); b < 14; b++ {
		must(t, s.InsertTicket(ctx, aTicket(b, "https://i.example", "ann", "s1"), 3))
	}
	if n := get(s.CountTickets(ctx, at))(t); n != 4 {
		t.Errorf("%d tickets, want 4", n)
	}
	if n := get(s.CountTickets(ctx, at.Add(30*time.Second)))(t); n != 0 {
		t.Errorf("%d tickets count after their end", n)
	}
	_, err = s.TakeTicket(ctx, hash(10))
	absent(t, "the oldest ticket", err)

	must(t, s.InsertTicket(ctx, aTicket(20, "https://i.example", "bob", "s2"), 3))
	must(t, s.InsertTicket(ctx, aTicket(21, "https://i.example", "bob", "s3"), 3))
	must(t, s.DeleteTickets(ctx, "https://i.example", "", "s2"))
	_, err = s.TakeTicket(ctx, hash(20))
	absent(t, "a ticket of an ended session", err)
	must(t, s.DeleteTickets(ctx, "https://i.example", "ann", ""))
	_, err = s.TakeTicket(ctx, hash(12))
	absent(t, "a ticket of an ended subject", err)
	get(s.TakeTicket(ctx, hash(9)))(t)
	get(s.TakeTicket(ctx, hash(21)))(t)
}

func takenOnce(t *testing.T, s Store) {
	for round := range 20 {
		b := byte(round)
		must(t, s.InsertTicket(t.Context(), aTicket(b, "i", "ann", "s1"), 100))
		var won atomic.Int32
		var wg sync.WaitGroup
		start := make(chan struct{})
		for range 8 {
			wg.Go(func() {
				<-start
				switch _, err := s.TakeTicket(t.Context(), hash(b)); {
				case err == nil:
					won.Add(1)
				case !errors.Is(err, session.ErrNotFound):
					t.Error(err)
				}
			})
		}
		close(start)
		wg.Wait()
		if won.Load() != 1 {
			t.Fatalf("round %d: %d callers got the ticket", round, won.Load())
		}
	}
}
