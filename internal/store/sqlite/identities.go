package sqlite

import (
	"context"

	"github.com/wsbouncer/wsbouncer/internal/login"
)

const identityColumns = `id, issuer, subject, label, disabled, created, used`

func readIdentity(row scanner) (i login.Identity, err error) {
	err = row.Scan(&i.ID, &i.Issuer, &i.Subject, &i.Label, &i.Disabled, stamp{&i.Created}, stamp{&i.Used})
	return i, err
}

// Identity implements login.Store.
func (s *Store) Identity(ctx context.Context, id string) (login.Identity, error) {
	return one(ctx, s, login.ErrNotFound, readIdentity, `SELECT `+identityColumns+` FROM identities WHERE id = ?`, id)
}

// IdentityOf implements login.Store.
func (s *Store) IdentityOf(ctx context.Context, issuer, subject string) (login.Identity, error) {
	return one(ctx, s, login.ErrNotFound, readIdentity, `SELECT `+identityColumns+` FROM identities WHERE issuer = ? AND subject = ?`, issuer, subject)
}

// Identities implements login.Store.
func (s *Store) Identities(ctx context.Context, after string, limit int) ([]login.Identity, error) {
	return many(ctx, s, readIdentity, `SELECT `+identityColumns+` FROM identities WHERE id > ? ORDER BY id LIMIT ?`, after, limit)
}

// InsertIdentity implements login.Store.
func (s *Store) InsertIdentity(ctx context.Context, i login.Identity) error {
	_, err := s.exec(ctx, `INSERT INTO identities (`+identityColumns+`) VALUES (?, ?, ?, ?, ?, ?, ?)`,
		i.ID, i.Issuer, i.Subject, i.Label, i.Disabled, ms(i.Created), ms(i.Used))
	return err
}

// UpdateIdentity implements login.Store.
func (s *Store) UpdateIdentity(ctx context.Context, i login.Identity) error {
	n, err := s.exec(ctx, `UPDATE identities SET label = ?, disabled = ?, used = ? WHERE id = ?`, i.Label, i.Disabled, ms(i.Used), i.ID)
	return absent(n, err, login.ErrNotFound)
}
