package sqlite

import (
	"context"
	"time"

	"github.com/wsbouncer/wsbouncer/internal/reason"
	"github.com/wsbouncer/wsbouncer/internal/session"
)

// Sequence implements session.Store.
func (s *Store) Sequence(ctx context.Context) (int64, error) {
	return one(ctx, s, nil, readInt, `SELECT last FROM sequence`)
}

// AppendRevocation implements session.Store.
func (s *Store) AppendRevocation(ctx context.Context, e session.LogEntry) (seq int64, err error) {
	err = s.Tx(ctx, func(ctx context.Context) error {
		if seq, err = one(ctx, s, nil, readInt, `UPDATE sequence SET last = last + 1 RETURNING last`); err != nil {
			return err
		}
		var expires any
		if !e.Expires.IsZero() {
			expires = ms(e.Expires)
		}
		_, err := s.exec(ctx, `INSERT INTO revocations (seq, kind, issuer, value, at, expires, code, reason, note, actor)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
			seq, e.Kind, e.Issuer, e.Value, ms(e.At), expires, e.Reason.Code, e.Reason.Text, e.Note, e.Actor)
		return err
	})
	return seq, err
}

const revocationColumns = `seq, kind, issuer, value, at, expires, code, reason, note, actor`

func readRevocation(row scanner) (e session.LogEntry, err error) {
	var end reason.End
	err = row.Scan(&e.Seq, &e.Kind, &e.Issuer, &e.Value, stamp{&e.At}, stamp{&e.Expires}, &end.Code, &end.Text, &e.Note, &e.Actor)
	e.Reason = known(end)
	return e, err
}

// Revocation implements session.Store.
func (s *Store) Revocation(ctx context.Context, kind, issuer, value string) (session.LogEntry, error) {
	return one(ctx, s, session.ErrNotFound, readRevocation, `SELECT `+revocationColumns+` FROM revocations
		WHERE value = ? AND kind = ? AND issuer = ? ORDER BY seq DESC LIMIT 1`, value, kind, issuer)
}

// Revocations implements session.Store.
func (s *Store) Revocations(ctx context.Context, after int64, now time.Time, limit int) ([]session.LogEntry, error) {
	return many(ctx, s, readRevocation, `SELECT `+revocationColumns+` FROM revocations
		WHERE seq > ? AND (expires IS NULL OR expires > ?) ORDER BY seq LIMIT ?`, after, ms(now), limit)
}

// known is the end of that code and text with all it says.
func known(e reason.End) reason.End {
	for _, k := range reason.Ends() {
		if k.Code == e.Code && k.Text == e.Text {
			return k
		}
	}
	e.Cut = true
	return e
}

// Prune implements session.Store.
func (s *Store) Prune(ctx context.Context, now, sealed time.Time, limit int) (removed int, err error) {
	err = s.Tx(ctx, func(ctx context.Context) error {
		for _, q := range []struct {
			sql string
			at  time.Time
		}{
			{`DELETE FROM tickets WHERE id IN (SELECT id FROM tickets WHERE expires <= ? LIMIT ?)`, now},
			{`DELETE FROM revocations WHERE seq IN (SELECT seq FROM revocations WHERE expires <= ? LIMIT ?)`, now},
			{`DELETE FROM sessions WHERE rowid IN (SELECT rowid FROM sessions
				WHERE max(access_until, min(expires, idle_until)) <= ? LIMIT ?)`, now},
			{`UPDATE sessions SET replay = NULL WHERE rowid IN (SELECT rowid FROM sessions
				WHERE replay IS NOT NULL AND rotated < ? LIMIT ?)`, sealed},
			{`DELETE FROM statements WHERE n IN (SELECT n FROM statements WHERE until <= ? LIMIT ?)`, now},
			{`DELETE FROM ended_logins WHERE n IN (SELECT n FROM ended_logins WHERE until <= ? LIMIT ?)`, now},
		} {
			n, err := s.exec(ctx, q.sql, ms(q.at), limit)
			if err != nil {
				return err
			}
			removed += n
		}
		return nil
	})
	return removed, err
}
