package storetest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/wsbouncer/wsbouncer/internal/session"
)

func endsElsewhere(t *testing.T, s Store) {
	ctx := t.Context()
	until := at.Add(time.Hour)
	rememberIn := func(ctx context.Context, issuer, id string, want bool) {
		t.Helper()
		if got := get(s.RememberStatement(ctx, issuer, id, until))(t); got != want {
			t.Errorf("RememberStatement(%q, %q) = %v, want %v", issuer, id, got, want)
		}
		if !get(s.Remembered(ctx, issuer, id))(t) {
			t.Errorf("%q, %q is not remembered", issuer, id)
		}
	}
	remember := func(issuer, id string, want bool) { t.Helper(); rememberIn(ctx, issuer, id, want) }
	if get(s.Remembered(ctx, "i", "j1"))(t) {
		t.Error("remembered before it was")
	}
	err := s.Tx(ctx, func(ctx context.Context) error {
		rememberIn(ctx, "i", "j1", true)
		return errNo
	})
	if !errors.Is(err, errNo) {
		t.Error(err)
	}
	remember("i", "j1", true) // that one was taken back
	remember("i", "j1", false)
	remember("i", "j2", true)
	remember("other", "j1", true)

	var fresh atomic.Int32
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			ok, err := s.RememberStatement(ctx, "i", "once", until)
			if err != nil {
				t.Error(err)
			}
			if ok {
				fresh.Add(1)
			}
		})
	}
	all.Wait()
	if fresh.Load() != 1 {
		t.Errorf("fresh %d times", fresh.Load())
	}

	_, err = s.EndedLogin(ctx, "i", "session", "x")
	absent(t, "EndedLogin", err)
	e := session.EndedLogin{Issuer: "i", Kind: "subject", Value: "ü", At: at, Until: until}
	must(t, s.InsertEndedLogin(ctx, e))
	for _, c := range []struct{ at, until, wantAt, wantUntil time.Duration }{
		{-time.Minute, 2 * time.Hour, 0, 2 * time.Hour},
		{time.Minute, time.Minute, time.Minute, 2 * time.Hour},
	} {
		e.At, e.Until = at.Add(c.at), at.Add(c.until)
		must(t, s.InsertEndedLogin(ctx, e))
		e.At, e.Until = at.Add(c.wantAt), at.Add(c.wantUntil)
		if d := cmp.Diff(e, get(s.EndedLogin(ctx, "i", "subject", "ü"))(t)); d != "" {
			t.Error(d)
		}
	}
	for _, c := range [][3]string{{"i", "session", "ü"}, {"other", "subject", "ü"}, {"i", "subject", "u"}} {
		_, err := s.EndedLogin(ctx, c[0], c[1], c[2])
		absent(t, fmt.Sprint(c), err)
	}

	// Both are forgotten at their end, so many at once.
	if n := get(s.Prune(ctx, until.Add(-time.Millisecond), at, 10))(t); n != 0 {
		t.Errorf("%d pruned too early", n)
	}
	if n := get(s.Prune(ctx, until, at, 3))(t); n != 3 {
		t.Errorf("%d pruned, want 3", n)
	}
	if n := get(s.Prune(ctx, until.Add(time.Hour), at, 10))(t); n != 2 {
		t.Errorf("%d pruned, want the last statement and the login", n)
	}
	_, err = s.EndedLogin(ctx, "i", "subject", "ü")
	absent(t, "EndedLogin after its end", err)
	remember("i", "j1", true)
}
