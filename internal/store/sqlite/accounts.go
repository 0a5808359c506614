package sqlite

import (
	"context"

	"github.com/wsbouncer/wsbouncer/internal/account"
)

const accountColumns = `name, hash, scopes, disabled, created, password_changed`

func readAccount(row scanner) (r account.Record, err error) {
	err = row.Scan(&r.Name, &r.Hash, words{&r.Scopes}, &r.Disabled, stamp{&r.Created}, stamp{&r.PasswordChanged})
	return r, err
}

// Account implements account.Store.
func (s *Store) Account(ctx context.Context, name string) (account.Record, error) {
	return one(ctx, s, account.ErrNotFound, readAccount, `SELECT `+accountColumns+` FROM accounts WHERE name = ?`, name)
}

// Accounts implements account.Store.
func (s *Store) Accounts(ctx context.Context, after string, limit int) ([]account.Record, error) {
	return many(ctx, s, readAccount, `SELECT `+accountColumns+` FROM accounts WHERE name > ? ORDER BY name LIMIT ?`, after, limit)
}

// InsertAccount implements account.Store.
func (s *Store) InsertAccount(ctx context.Context, r account.Record) error {
	n, err := s.exec(ctx, `INSERT INTO accounts (`+accountColumns+`) VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`,
		r.Name, r.Hash, joined(r.Scopes), r.Disabled, ms(r.Created), ms(r.PasswordChanged))
	return absent(n, err, account.ErrExists)
}

// UpdateAccount implements account.Store.
func (s *Store) UpdateAccount(ctx context.Context, r account.Record) error {
	n, err := s.exec(ctx, `UPDATE accounts SET hash = ?, scopes = ?, disabled = ?, password_changed = ? WHERE name = ?`,
		r.Hash, joined(r.Scopes), r.Disabled, ms(r.PasswordChanged), r.Name)
	return absent(n, err, account.ErrNotFound)
}

// RehashAccount implements account.Store.
func (s *Store) RehashAccount(ctx context.Context, name, from, to string) error {
	_, err := s.exec(ctx, `UPDATE accounts SET hash = ? WHERE name = ? AND hash = ?`, to, name, from)
	return err
}

// DeleteAccount implements account.Store.
func (s *Store) DeleteAccount(ctx context.Context, name string) error {
	n, err := s.exec(ctx, `DELETE FROM accounts WHERE name = ?`, name)
	return absent(n, err, account.ErrNotFound)
}
