package account

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/wsbouncer/wsbouncer/internal/audit"
)

// Authenticate checks a password given from addr. It fails with
// ErrLoginFailed (no such account, wrong password or disabled: with the same
// work for each), *ThrottledError, or ErrBusy, or, where the password is right and
// the account has a second factor, *FactorRequiredError; any other error is internal.
//
// What it proved can have changed by the time a session begins: call Confirm in
// the transaction that begins it.
func (s *Service) Authenticate(ctx context.Context, name, password string, addr netip.Addr) (Account, error) {
	a, attempt, err := s.password(ctx, name, password, addr)
	if err != nil {
		return Account{}, err
	}
	need, err := s.challenge(ctx, a)
	if err != nil || need != nil {
		// Half a login makes no address known.
		attempt.refund()
		if need != nil {
			return Account{}, need
		}
		return Account{}, err
	}
	attempt.succeeded()
	return a, nil
}

// password is the first half. The caller ends the attempt.
func (s *Service) password(ctx context.Context, name, password string, addr netip.Addr) (Account, *attempt, error) {
	// A name that has no canonical form is no account's; it takes the same
	// path as an unknown one.
	canonical, err := Canonical(name)
	if err != nil {
		canonical = ""
	}
	now := s.o.Now()
	attempt, retry, ok := s.throttle.begin(canonical, addr, now)
	if !ok {
		if report, _ := s.reports.Allow(struct{}{}, now); report {
			if err := s.failed(ctx, audit.LoginThrottled, canonical, addr); err != nil {
				return Account{}, nil, err
			}
		}
		return Account{}, nil, &ThrottledError{RetryAfter: retry}
	}
	r, verified, err := s.verify(ctx, canonical, password)
	if err != nil {
		attempt.refund()
		return Account{}, nil, err
	}
	if !verified || r.Disabled {
		attempt.failed()
		if err := s.failed(ctx, audit.LoginFailed, canonical, addr); err != nil {
			return Account{}, nil, err
		}
		return Account{}, nil, ErrLoginFailed
	}
	return r.account(), attempt, nil
}

// verify compares a password with the one of name, or with nobody's at the same
// price. A hash that is weaker than new ones is made anew.
func (s *Service) verify(ctx context.Context, name, password string) (r Record, ok bool, err error) {
	r, err = s.o.Store.Account(ctx, name)
	known := err == nil
	if err != nil && !errors.Is(err, ErrNotFound) {
		return Record{}, false, fmt.Errorf("look up account: %w", err)
	}
	p, valid := normalize(password)
	if !valid {
		return Record{}, false, nil
	}
	h, parsed := dummy, false
	if known && r.Hash != "" {
		if stored, err := parsePHC(r.Hash); err == nil {
			h, parsed = stored, true
		}
	}
	rehashed := ""
	err = s.hasher.do(ctx, func() {
		ok = h.matches(p) && parsed
		if ok && !h.fresh() {
			rehashed = newHash(p)
		}
	})
	if err != nil {
		return Record{}, false, err
	}
	if rehashed != "" {
		if err := s.o.Store.RehashAccount(ctx, r.Name, r.Hash, rehashed); err != nil {
			return Record{}, false, fmt.Errorf("renew password hash: %w", err)
		}
	}
	return r, ok, nil
}

// Confirm fails with ErrLoginFailed when the password of a was changed, or the
// account disabled, removed or made anew since Authenticate returned a.
func (s *Service) Confirm(ctx context.Context, a Account) error {
	r, err := s.o.Store.Account(ctx, a.Name)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return err
	}
	if err != nil || !r.sameLogin(a) {
		return ErrLoginFailed
	}
	return nil
}

// failed keeps an event about an attempt. What was typed as a name is kept only
// if it is an account's: people type passwords there.
func (s *Service) failed(ctx context.Context, t audit.Type, name string, addr netip.Addr) error {
	e := audit.Event{Time: s.o.Now(), Type: t, IP: addr}
	_, err := s.o.Store.Account(ctx, name)
	switch {
	case err == nil:
		e.Subject = name
	case !errors.Is(err, ErrNotFound):
		return err
	}
	if err := s.o.Audit.Write(ctx, e); err != nil {
		return fmt.Errorf("audit: %w", err)
	}
	return nil
}
