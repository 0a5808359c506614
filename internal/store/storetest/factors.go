package storetest

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/wsbouncer/wsbouncer/internal/account"
)

func factors(t *testing.T, s Store) {
	ctx := t.Context()
	missing := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, account.ErrNotFound) {
			t.Errorf("%s: %v, want ErrNotFound", what, err)
		}
	}
	for _, name := range []string{"ann", "bob"} {
		must(t, s.InsertAccount(ctx, account.Record{Name: name, Created: at, PasswordChanged: at}))
	}
	f := account.Factor{ID: "f1", Account: "ann", Kind: "totp", Sealed: []byte{0, 1}, Created: at}
	g := account.Factor{ID: "f0", Account: "ann", Kind: "other", Sealed: []byte{2}, Confirmed: true, Counter: 7, Created: at.Add(time.Second), Used: at.Add(time.Minute)}
	must(t, s.InsertFactor(ctx, g))
	must(t, s.InsertFactor(ctx, f))
	if err := s.InsertFactor(ctx, account.Factor{ID: "f2", Account: "nobody", Sealed: []byte{1}}); err == nil {
		t.Error("a factor of nobody was kept")
	}
	if d := cmp.Diff([]account.Factor{f, g}, get(s.Factors(ctx, "ann"))(t)); d != "" {
		t.Error(d)
	}
	f.Sealed, f.Confirmed, f.Counter, f.Used = []byte{3}, true, 1<<40, at.Add(time.Hour)
	must(t, s.UpdateFactor(ctx, f))
	if d := cmp.Diff([]account.Factor{f, g}, get(s.Factors(ctx, "ann"))(t)); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(f, get(s.Factor(ctx, "f1"))(t)); d != "" {
		t.Error(d)
	}
	_, err := s.Factor(ctx, "f9")
	missing("Factor", err)
	f.Account = "bob"
	missing("UpdateFactor of another", s.UpdateFactor(ctx, f))
	missing("DeleteFactor of another", s.DeleteFactor(ctx, "bob", "f1"))
	must(t, s.DeleteFactor(ctx, "ann", "f0"))
	missing("DeleteFactor", s.DeleteFactor(ctx, "ann", "f0"))

	a, b := account.CodeHash{1}, account.CodeHash{2}
	must(t, s.SetRecoveryCodes(ctx, "ann", []account.CodeHash{{9}, a}))
	must(t, s.SetRecoveryCodes(ctx, "ann", []account.CodeHash{a, b}))
	must(t, s.SetRecoveryCodes(ctx, "bob", []account.CodeHash{a}))
	missing("TakeRecoveryCode", s.TakeRecoveryCode(ctx, "ann", account.CodeHash{9}))
	must(t, s.TakeRecoveryCode(ctx, "ann", a))
	missing("TakeRecoveryCode", s.TakeRecoveryCode(ctx, "ann", a))
	count := func(name string, want int) {
		t.Helper()
		if n := get(s.CountRecoveryCodes(ctx, name))(t); n != want {
			t.Errorf("%s has %d codes, want %d", name, n, want)
		}
	}
	count("ann", 1)
	count("bob", 1)
	count("nobody", 0)

	// An account of the same name later gets nothing of them.
	must(t, s.DeleteAccount(ctx, "ann"))
	must(t, s.InsertAccount(ctx, account.Record{Name: "ann", Created: at, PasswordChanged: at}))
	count("ann", 0)
	if fs := get(s.Factors(ctx, "ann"))(t); len(fs) > 0 {
		t.Errorf("the new ann has %v", fs)
	}
}

func codesOnce(t *testing.T, s Store) {
	ctx := t.Context()
	must(t, s.InsertAccount(ctx, account.Record{Name: "ann", Created: at, PasswordChanged: at}))
	must(t, s.SetRecoveryCodes(ctx, "ann", []account.CodeHash{{1}}))
	var taken atomic.Int32
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			switch err := s.TakeRecoveryCode(ctx, "ann", account.CodeHash{1}); {
			case err == nil:
				taken.Add(1)
			case !errors.Is(err, account.ErrNotFound):
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if taken.Load() != 1 {
		t.Errorf("one code was taken %d times", taken.Load())
	}
}
