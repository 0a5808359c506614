package sqlite

import (
	"context"

	"github.com/wsbouncer/wsbouncer/internal/account"
)

const factorColumns = `id, account, kind, sealed, confirmed, counter, created, used`

func readFactor(row scanner) (f account.Factor, err error) {
	err = row.Scan(&f.ID, &f.Account, &f.Kind, &f.Sealed, &f.Confirmed, &f.Counter, stamp{&f.Created}, stamp{&f.Used})
	return f, err
}

// Factors implements account.Store.
func (s *Store) Factors(ctx context.Context, name string) ([]account.Factor, error) {
	return many(ctx, s, readFactor, `SELECT `+factorColumns+` FROM factors WHERE account = ? ORDER BY created, id`, name)
}

// Factor implements account.Store.
func (s *Store) Factor(ctx context.Context, id string) (account.Factor, error) {
	return one(ctx, s, account.ErrNotFound, readFactor, `SELECT `+factorColumns+` FROM factors WHERE id = ?`, id)
}

// InsertFactor implements account.Store.
func (s *Store) InsertFactor(ctx context.Context, f account.Factor) error {
	_, err := s.exec(ctx, `INSERT INTO factors (`+factorColumns+`) VALUES (?, ?, ?, ?, ?, ?, ?, ?)`,
		f.ID, f.Account, f.Kind, f.Sealed, f.Confirmed, f.Counter, ms(f.Created), ms(f.Used))
	return err
}

// UpdateFactor implements account.Store.
func (s *Store) UpdateFactor(ctx context.Context, f account.Factor) error {
	n, err := s.exec(ctx, `UPDATE factors SET sealed = ?, confirmed = ?, counter = ?, used = ? WHERE id = ? AND account = ?`,
		f.Sealed, f.Confirmed, f.Counter, ms(f.Used), f.ID, f.Account)
	return absent(n, err, account.ErrNotFound)
}

// DeleteFactor implements account.Store.
func (s *Store) DeleteFactor(ctx context.Context, name, id string) error {
	n, err := s.exec(ctx, `DELETE FROM factors WHERE id = ? AND account = ?`, id, name)
	return absent(n, err, account.ErrNotFound)
}

// SetRecoveryCodes implements account.Store.
func (s *Store) SetRecoveryCodes(ctx context.Context, name string, codes []account.CodeHash) error {
	return s.Tx(ctx, func(ctx context.Context) error {
		if _, err := s.exec(ctx, `DELETE FROM recovery_codes WHERE account = ?`, name); err != nil {
			return err
		}
		for _, c := range codes {
			if _, err := s.exec(ctx, `INSERT INTO recovery_codes (account, hash) VALUES (?, ?)`, name, c[:]); err != nil {
				return err
			}
		}
		return nil
	})
}

// TakeRecoveryCode implements account.Store.
func (s *Store) TakeRecoveryCode(ctx context.Context, name string, code account.CodeHash) error {
	n, err := s.exec(ctx, `DELETE FROM recovery_codes WHERE account = ? AND hash = ?`, name, code[:])
	return absent(n, err, account.ErrNotFound)
}

// CountRecoveryCodes implements account.Store.
func (s *Store) CountRecoveryCodes(ctx context.Context, name string) (int, error) {
	return one(ctx, s, account.ErrNotFound, func(row scanner) (n int, err error) {
		err = row.Scan(&n)
		return n, err
	},
		`SELECT count(*) FROM recovery_codes WHERE account = ?`, name)
}
