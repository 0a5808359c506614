package login

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/wsbouncer/wsbouncer/internal/audit"
)

// prefix begins every identity's id. No account has a capital letter in its
// name (internal/account folds them), so the two never meet.
const prefix = "ID-"

// IsIdentity reports whether a subject is one of ours for a provider's user.
func IsIdentity(subject string) bool { return strings.HasPrefix(subject, prefix) }

// ErrNotFound says that there is no such identity.
var ErrNotFound = errors.New("no such identity")

// An Identity is our own opaque subject for a provider's user.
type Identity struct {
	// ID is the subject: random, and nobody else's ever.
	ID string
	// Issuer and Subject are whose it is there.
	Issuer, Subject string
	// Label is what the provider called it at the last login, for people to read.
	Label    string
	Disabled bool
	Created  time.Time
	// Used is the last login.
	Used time.Time
}

// A Store keeps identities. Methods join the transaction in their context. Absent
// is ErrNotFound. Times are kept to the millisecond.
type Store interface {
	Tx(ctx context.Context, fn func(ctx context.Context) error) error
	Identity(ctx context.Context, id string) (Identity, error)
	// IdentityOf finds a provider's user.
	IdentityOf(ctx context.Context, issuer, subject string) (Identity, error)
	// Identities lists those whose id comes after after, in order, at most limit.
	Identities(ctx context.Context, after string, limit int) ([]Identity, error)
	InsertIdentity(ctx context.Context, i Identity) error
	// UpdateIdentity writes Label, Disabled and Used.
	UpdateIdentity(ctx context.Context, i Identity) error
}

// Identity is the subject of a provider's user, made at its first login. Call
// it in the transaction that begins the session.
func (s *Service) Identity(ctx context.Context, r *Result) (subject string, err error) {
	err = s.o.Store.Tx(ctx, func(ctx context.Context) error {
		now := s.now()
		i, err := s.o.Store.IdentityOf(ctx, r.Issuer, r.Subject)
		switch {
		case errors.Is(err, ErrNotFound):
			i = Identity{ID: prefix + strings.ToLower(rand.Text()), Issuer: r.Issuer, Subject: r.Subject, Label: r.Label, Created: now, Used: now}
			err = s.o.Store.InsertIdentity(ctx, i)
		case err == nil:
			i.Label, i.Used = r.Label, now
			err = s.o.Store.UpdateIdentity(ctx, i)
		}
		subject = i.ID
		return err
	})
	if err != nil {
		return "", fmt.Errorf("identity of a provider's user: %w", err)
	}
	return subject, nil
}

// Grants says what an identity may have at most, by the providers as they are
// configured now, and whether it may have sessions at all. Without a provider of
// its issuer it may not.
func (s *Service) Grants(ctx context.Context, subject string) (scopes []string, active bool, err error) {
	i, err := s.o.Store.Identity(ctx, subject)
	if errors.Is(err, ErrNotFound) {
		return nil, false, nil
	}
	if err != nil || i.Disabled {
		return nil, false, err
	}
	for _, p := range *s.providers.Load() {
		if p.namespace() != i.Issuer {
			continue
		}
		active = true
		for _, scope := range p.most() {
			if !slices.Contains(scopes, scope) {
				scopes = append(scopes, scope)
			}
		}
	}
	return scopes, active, nil
}

// Identities lists identities whose id comes after after, in order, at most limit.
func (s *Service) Identities(ctx context.Context, after string, limit int) ([]Identity, error) {
	return s.o.Store.Identities(ctx, after, limit)
}

// Disable stops an identity from logging in and refreshing, and Enable lets it
// again. Ending its sessions is the caller's, in the same transaction.
func (s *Service) Disable(ctx context.Context, id, actor string) error {
	return s.setDisabled(ctx, id, actor, true, audit.UserDisabled)
}

// Enable undoes Disable.
func (s *Service) Enable(ctx context.Context, id, actor string) error {
	return s.setDisabled(ctx, id, actor, false, audit.UserEnabled)
}

func (s *Service) setDisabled(ctx context.Context, id, actor string, disabled bool, event audit.Type) error {
	return s.o.Store.Tx(ctx, func(ctx context.Context) error {
		i, err := s.o.Store.Identity(ctx, id)
		if err != nil {
			return err
		}
		i.Disabled = disabled
		if err := s.o.Store.UpdateIdentity(ctx, i); err != nil {
			return err
		}
		return s.o.Audit.Write(ctx, audit.Event{
			Time: s.now(), Type: event, Subject: id, Actor: actor,
			Detail: map[string]string{"external_issuer": i.Issuer, "external_subject": i.Subject},
		})
	})
}

func (s *Service) now() time.Time { return s.o.Now().Truncate(time.Millisecond).UTC() }
