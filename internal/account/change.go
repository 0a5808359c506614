package account

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/wsbouncer/wsbouncer/internal/audit"
)

// Bounds of what an account can be granted.
const (
	maxScopes = 64
	maxScope  = 128 // bytes
)

// Add makes an account. It fails with *RuleError or ErrExists.
func (s *Service) Add(ctx context.Context, name, password string, scopes []string, actor string) (Account, error) {
	name, err := Canonical(name)
	if err != nil {
		return Account{}, err
	}
	if scopes, err = checkScopes(scopes); err != nil {
		return Account{}, err
	}
	hash, err := s.hash(ctx, name, password)
	if err != nil {
		return Account{}, err
	}
	now := s.now()
	r := Record{Name: name, Hash: hash, Scopes: scopes, Created: now, PasswordChanged: now}
	err = s.o.Store.Tx(ctx, func(ctx context.Context) error {
		if err := s.o.Store.InsertAccount(ctx, r); err != nil {
			return err
		}
		return s.tell(ctx, audit.UserAdded, name, actor, "scopes", strings.Join(scopes, " "))
	})
	if err != nil {
		return Account{}, err
	}
	return r.account(), nil
}

// SetPassword gives an account another password. What else has to happen with
// it, such as ending its sessions, goes into also, which runs in the same
// transaction; the hashing comes before, so that nobody waits for it.
func (s *Service) SetPassword(ctx context.Context, name, password, actor string, also ...func(context.Context) error) error {
	r, err := s.find(ctx, name)
	if err != nil {
		return err
	}
	hash, err := s.hash(ctx, r.Name, password)
	if err != nil {
		return err
	}
	return s.setHash(ctx, r.Name, hash, actor, func(Record) error { return nil }, also)
}

// ChangePassword is SetPassword by somebody who proves to know the old one.
// Failures count and are throttled as those of Authenticate.
func (s *Service) ChangePassword(ctx context.Context, name, old, password string, addr netip.Addr, also ...func(context.Context) error) error {
	a, attempt, err := s.password(ctx, name, old, addr)
	if err != nil {
		return err
	}
	attempt.refund()
	hash, err := s.hash(ctx, a.Name, password)
	if err != nil {
		return err
	}
	return s.setHash(ctx, a.Name, hash, a.Name, func(r Record) error {
		if !r.sameLogin(a) {
			return ErrLoginFailed
		}
		return nil
	}, also)
}

func (s *Service) setHash(ctx context.Context, name, hash, actor string, check func(Record) error, also []func(context.Context) error) error {
	return s.o.Store.Tx(ctx, func(ctx context.Context) error {
		r, err := s.o.Store.Account(ctx, name)
		if err != nil {
			return err
		}
		if err := check(r); err != nil {
			return err
		}
		r.Hash = hash
		// Confirm tells passwords apart by this time, so it never stays.
		if now := s.now(); now.After(r.PasswordChanged) {
			r.PasswordChanged = now
		} else {
			r.PasswordChanged = r.PasswordChanged.Add(time.Millisecond)
		}
		if err := s.o.Store.UpdateAccount(ctx, r); err != nil {
			return err
		}
		if err := s.tell(ctx, audit.PasswordChanged, name, actor); err != nil {
			return err
		}
		for _, fn := range also {
			if err := fn(ctx); err != nil {
				return err
			}
		}
		return nil
	})
}

// hash checks the rules and makes a hash.
func (s *Service) hash(ctx context.Context, name, password string) (hash string, err error) {
	if err := s.rules.check(name, password); err != nil {
		return "", err
	}
	p, ok := normalize(password)
	if !ok {
		return "", errors.New("the password has no normal form")
	}
	if err := s.hasher.do(ctx, func() { hash = newHash(p) }); err != nil {
		return "", err
	}
	return hash, nil
}

// Disable stops an account from logging in and refreshing. Ending its sessions
// is the caller's, in the same transaction.
func (s *Service) Disable(ctx context.Context, name, actor string) error {
	return s.change(ctx, name, actor, audit.UserDisabled, func(r *Record) error { r.Disabled = true; return nil })
}

// Enable lets a disabled account log in again.
func (s *Service) Enable(ctx context.Context, name, actor string) error {
	return s.change(ctx, name, actor, audit.UserEnabled, func(r *Record) error { r.Disabled = false; return nil })
}

// Grant adds scopes; sessions that live already do not get them.
func (s *Service) Grant(ctx context.Context, name string, scopes []string, actor string) (Account, error) {
	return s.setScopes(ctx, name, scopes, actor, func(have, given []string) []string { return append(have, given...) })
}

// Ungrant takes scopes away; sessions lose them at their next refresh.
func (s *Service) Ungrant(ctx context.Context, name string, scopes []string, actor string) (Account, error) {
	return s.setScopes(ctx, name, scopes, actor, func(have, taken []string) []string {
		return slices.DeleteFunc(have, func(s string) bool { return slices.Contains(taken, s) })
	})
}

func (s *Service) setScopes(ctx context.Context, name string, scopes []string, actor string, combine func(have, with []string) []string) (a Account, err error) {
	if scopes, err = checkScopes(scopes); err != nil {
		return Account{}, err
	}
	err = s.change(ctx, name, actor, audit.UserGranted, func(r *Record) error {
		r.Scopes, err = checkScopes(combine(slices.Clone(r.Scopes), scopes))
		a = r.account()
		return err
	})
	return a, err
}

// Remove deletes an account. Ending its sessions is the caller's, in the same
// transaction.
func (s *Service) Remove(ctx context.Context, name, actor string) error {
	return s.o.Store.Tx(ctx, func(ctx context.Context) error {
		r, err := s.find(ctx, name)
		if err != nil {
			return err
		}
		if err := s.o.Store.DeleteAccount(ctx, r.Name); err != nil {
			return err
		}
		return s.tell(ctx, audit.UserRemoved, r.Name, actor)
	})
}

func (s *Service) change(ctx context.Context, name, actor string, t audit.Type, fn func(*Record) error) error {
	return s.o.Store.Tx(ctx, func(ctx context.Context) error {
		r, err := s.find(ctx, name)
		if err != nil {
			return err
		}
		if err := fn(&r); err != nil {
			return err
		}
		if err := s.o.Store.UpdateAccount(ctx, r); err != nil {
			return err
		}
		return s.tell(ctx, t, r.Name, actor, "scopes", strings.Join(r.Scopes, " "))
	})
}

func (s *Service) tell(ctx context.Context, t audit.Type, name, actor string, detail ...string) error {
	e := audit.Event{Time: s.o.Now(), Type: t, Subject: name, Actor: actor}
	if len(detail) == 2 {
		e.Detail = map[string]string{detail[0]: detail[1]}
	}
	if err := s.o.Audit.Write(ctx, e); err != nil {
		return fmt.Errorf("audit: %w", err)
	}
	return nil
}

// now is to the millisecond, as it is stored.
func (s *Service) now() time.Time { return s.o.Now().Truncate(time.Millisecond).UTC() }

// checkScopes sorts and checks scope-tokens (RFC 6749 §3.3).
func checkScopes(scopes []string) ([]string, error) {
	bad := func(detail string) ([]string, error) { return nil, &RuleError{Rule: "scope_invalid", Detail: detail} }
	for _, sc := range scopes {
		if sc == "" || len(sc) > maxScope {
			return bad(fmt.Sprintf("A scope has 1 to %d characters.", maxScope))
		}
		for _, c := range []byte(sc) {
			if c < 0x21 || c == '"' || c == '\\' || c > 0x7e {
				return bad("A scope is made of printable ASCII without spaces, quotes and backslashes.")
			}
		}
	}
	scopes = slices.Clone(scopes)
	slices.Sort(scopes)
	if scopes = slices.Compact(scopes); len(scopes) > maxScopes {
		return bad(fmt.Sprintf("An account has at most %d scopes.", maxScopes))
	}
	return scopes, nil
}
