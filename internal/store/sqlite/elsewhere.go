package sqlite

import (
	"context"
	"time"

	"github.com/wsbouncer/wsbouncer/internal/session"
)

// maxElsewhere is how many statements are remembered, and how many ended logins:
// only parties named in the configuration add any, and none of them without end.
const maxElsewhere = 100_000

// RememberStatement implements session.Store.
func (s *Store) RememberStatement(ctx context.Context, issuer, id string, until time.Time) (fresh bool, err error) {
	err = s.Tx(ctx, func(ctx context.Context) error {
		n, err := one(ctx, s, session.ErrNotFound, readInt, `INSERT INTO statements (issuer, id, until) VALUES (?, ?, ?)
			ON CONFLICT DO NOTHING RETURNING n`, issuer, id, ms(until))
		switch {
		case err == session.ErrNotFound: //nolint:errorlint // one returns it as it is
			return nil
		case err != nil:
			return err
		}
		fresh = true
		return s.trimElsewhere(ctx, "statements", n)
	})
	return fresh, err
}

// Remembered implements session.Store.
func (s *Store) Remembered(ctx context.Context, issuer, id string) (bool, error) {
	n, err := one(ctx, s, nil, readInt, `SELECT count(*) FROM statements WHERE issuer = ? AND id = ?`, issuer, id)
	return n > 0, err
}

// InsertEndedLogin implements session.Store.
func (s *Store) InsertEndedLogin(ctx context.Context, e session.EndedLogin) error {
	return s.Tx(ctx, func(ctx context.Context) error {
		n, err := one(ctx, s, nil, readInt, `INSERT INTO ended_logins (issuer, kind, value, at, until) VALUES (?, ?, ?, ?, ?)
			ON CONFLICT DO UPDATE SET at = max(at, excluded.at), until = max(until, excluded.until) RETURNING n`,
			e.Issuer, e.Kind, e.Value, ms(e.At), ms(e.Until))
		if err != nil {
			return err
		}
		return s.trimElsewhere(ctx, "ended_logins", n)
	})
}

// EndedLogin implements session.Store.
func (s *Store) EndedLogin(ctx context.Context, issuer, kind, value string) (session.EndedLogin, error) {
	return one(ctx, s, session.ErrNotFound, func(row scanner) (e session.EndedLogin, err error) {
		err = row.Scan(&e.Issuer, &e.Kind, &e.Value, stamp{&e.At}, stamp{&e.Until})
		return e, err
	}, `SELECT issuer, kind, value, at, until FROM ended_logins WHERE issuer = ? AND kind = ? AND value = ?`, issuer, kind, value)
}

// trimElsewhere lets the oldest rows go when there are too many. The row just
// written is number n.
func (s *Store) trimElsewhere(ctx context.Context, table string, n int64) error {
	if n%trimEvery != 0 {
		return nil
	}
	_, err := s.exec(ctx, `DELETE FROM `+table+` WHERE n <= (SELECT n FROM `+table+` ORDER BY n DESC LIMIT 1 OFFSET ?)`, maxElsewhere)
	return err
}
