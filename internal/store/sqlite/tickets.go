package sqlite

import (
	"context"
	"time"

	"github.com/wsbouncer/wsbouncer/internal/session"
)

const ticketColumns = `hash, issuer, subject, session, connection, path, origin, token, expires`

func readTicket(row scanner) (t session.Ticket, err error) {
	err = row.Scan(sum{&t.Hash}, &t.Issuer, &t.Subject, &t.Session, &t.Connection, &t.Path, &t.Origin, &t.Token, stamp{&t.Expires})
	return t, err
}

func readInt(row scanner) (n int64, err error) {
	err = row.Scan(&n)
	return n, err
}

// InsertTicket implements session.Store.
func (s *Store) InsertTicket(ctx context.Context, t session.Ticket, perSubject int) error {
	return s.Tx(ctx, func(ctx context.Context) error {
		if _, err := s.exec(ctx, `INSERT INTO tickets (`+ticketColumns+`) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)`,
			t.Hash[:], t.Issuer, t.Subject, t.Session, t.Connection, t.Path, t.Origin, t.Token, ms(t.Expires)); err != nil {
			return err
		}
		_, err := s.exec(ctx, `DELETE FROM tickets WHERE id IN (SELECT id FROM tickets WHERE issuer = ? AND subject = ?
			ORDER BY id DESC LIMIT -1 OFFSET ?)`, t.Issuer, t.Subject, perSubject)
		return err
	})
}

// TakeTicket implements session.Store. Guesses stop at the reader: only a ticket
// that is there costs a place in the writer's queue.
func (s *Store) TakeTicket(ctx context.Context, hash session.Hash) (session.Ticket, error) {
	if _, err := one(ctx, s, session.ErrNotFound, readInt, `SELECT 1 FROM tickets WHERE hash = ?`, hash[:]); err != nil {
		return session.Ticket{}, err
	}
	var t session.Ticket
	err := s.Tx(ctx, func(ctx context.Context) (err error) {
		t, err = one(ctx, s, session.ErrNotFound, readTicket, `DELETE FROM tickets WHERE hash = ? RETURNING `+ticketColumns, hash[:])
		return err
	})
	return t, err
}

// DeleteTickets implements session.Store.
func (s *Store) DeleteTickets(ctx context.Context, issuer, subject, sid string) error {
	var err error
	if sid != "" {
		_, err = s.exec(ctx, `DELETE FROM tickets WHERE issuer = ? AND session = ?`, issuer, sid)
	} else {
		_, err = s.exec(ctx, `DELETE FROM tickets WHERE issuer = ? AND subject = ?`, issuer, subject)
	}
	return err
}

// CountTickets implements session.Store.
func (s *Store) CountTickets(ctx context.Context, now time.Time) (int, error) {
	n, err := one(ctx, s, nil, readInt, `SELECT count(*) FROM tickets WHERE expires > ?`, ms(now))
	return int(n), err
}
