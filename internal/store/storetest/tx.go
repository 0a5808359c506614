package storetest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/wsbouncer/wsbouncer/internal/account"
)

var errNo = errors.New("no")

func exists(t *testing.T, s Store, name string) bool {
	t.Helper()
	_, err := s.Account(t.Context(), name)
	if err != nil && !errors.Is(err, account.ErrNotFound) {
		t.Fatal(err)
	}
	return err == nil
}

func allOrNothing(t *testing.T, s Store) {
	add := func(ctx context.Context, name string) {
		must(t, s.InsertAccount(ctx, account.Record{Name: name, Created: at, PasswordChanged: at}))
	}
	must(t, s.Tx(t.Context(), func(ctx context.Context) error {
		add(ctx, "a")
		if exists(t, s, "a") {
			t.Error("others see what is not committed")
		}
		if _, err := s.Account(ctx, "a"); err != nil {
			t.Errorf("a transaction does not see its own work: %v", err)
		}
		return nil
	}))
	if !exists(t, s, "a") {
		t.Error("what was committed is not there")
	}
	if err := s.Tx(t.Context(), func(ctx context.Context) error {
		add(ctx, "b")
		return errNo
	}); !errors.Is(err, errNo) {
		t.Errorf("Tx returned %v, not what its function did", err)
	}
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the panic was swallowed")
			}
		}()
		_ = s.Tx(t.Context(), func(ctx context.Context) error {
			add(ctx, "c")
			panic("boom")
		})
	}()
	for _, name := range []string{"b", "c"} {
		if exists(t, s, name) {
			t.Errorf("%s is there after its transaction failed", name)
		}
	}
	add(t.Context(), "d") // the writer is free again
}

func joining(t *testing.T, s Store) {
	insert := func(name string, result error) func(context.Context) error {
		return func(ctx context.Context) error {
			if err := s.InsertAccount(ctx, account.Record{Name: name, Created: at, PasswordChanged: at}); err != nil {
				return err
			}
			return result
		}
	}
	must(t, s.Tx(t.Context(), func(ctx context.Context) error { return s.Tx(ctx, insert("a", nil)) }))
	if !exists(t, s, "a") {
		t.Error("a joined transaction was not committed")
	}
	err := s.Tx(t.Context(), func(ctx context.Context) error {
		if err := s.Tx(ctx, insert("b", nil)); err != nil {
			return err
		}
		return errNo
	})
	if !errors.Is(err, errNo) || exists(t, s, "b") {
		t.Errorf("an inner transaction survived the outer one: %v", err)
	}
	err = s.Tx(t.Context(), func(ctx context.Context) error {
		_ = s.Tx(ctx, insert("c", errNo)) // the outer one does not care, but half of it is missing
		return nil
	})
	if !errors.Is(err, errNo) || exists(t, s, "c") {
		t.Errorf("a transaction was committed although a part of it failed: %v", err)
	}
}

func effects(t *testing.T, s Store) {
	var order []string
	note := func(what string) func() { return func() { order = append(order, what) } }
	must(t, s.Tx(t.Context(), func(ctx context.Context) error {
		s.AfterCommit(ctx, note("first"))
		must(t, s.Tx(ctx, func(ctx context.Context) error {
			s.AfterCommit(ctx, func() {
				if !exists(t, s, "a") {
					t.Error("an effect came before the commit")
				}
				order = append(order, "second")
			})
			return nil
		}))
		order = append(order, "body")
		return s.InsertAccount(ctx, account.Record{Name: "a", Created: at, PasswordChanged: at})
	}))
	_ = s.Tx(t.Context(), func(ctx context.Context) error {
		s.AfterCommit(ctx, note("never"))
		return errNo
	})
	s.AfterCommit(t.Context(), note("at once"))
	if got := fmt.Sprint(order); got != "[body first second at once]" {
		t.Errorf("effects came as %s", got)
	}
}

func survives(t *testing.T, s Store) {
	ctx, cancel := context.WithCancel(t.Context())
	must(t, s.Tx(ctx, func(ctx context.Context) error {
		cancel()
		return s.InsertAccount(ctx, account.Record{Name: "a", Created: at, PasswordChanged: at})
	}))
	if !exists(t, s, "a") {
		t.Error("the transaction went with the request's context")
	}
	// Waiting for one's turn ends with the context.
	held := make(chan struct{})
	var wg sync.WaitGroup
	defer wg.Wait()
	free := make(chan struct{})
	defer close(free)
	wg.Go(func() {
		_ = s.Tx(context.WithoutCancel(ctx), func(ctx context.Context) error {
			if _, err := s.Sequence(ctx); err != nil {
				t.Error(err)
			}
			close(held)
			<-free
			return nil
		})
	})
	<-held
	if err := s.Tx(ctx, func(context.Context) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("a transaction began for a context that had ended: %v", err)
	}
}

// serial has transactions read and write the same row at once: none may be lost.
func serial(t *testing.T, s Store) {
	must(t, s.InsertAccount(t.Context(), account.Record{Name: "a", Created: at, PasswordChanged: at}))
	const workers, each = 8, 10
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for range each {
				err := s.Tx(t.Context(), func(ctx context.Context) error {
					r, err := s.Account(ctx, "a")
					if err != nil {
						return err
					}
					r.Hash += "."
					return s.UpdateAccount(ctx, r)
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if r := get(s.Account(t.Context(), "a"))(t); len(r.Hash) != workers*each {
		t.Errorf("%d of %d changes are there", len(r.Hash), workers*each)
	}
}
