package sqlite

import (
	"context"
	"time"

	"github.com/wsbouncer/wsbouncer/internal/session"
)

const sessionColumns = `id, subject, client_id, scopes, method, ip, user_agent, origin, created, used, expires,
	idle_until, access_until, family, current, previous, rotated, repeated, replay, auth_time, amr, acr, claims,
	provider, external_issuer, external_subject, external_session, external_email,
	external_issued, dpop_jkt`

func readSession(row scanner) (r session.Record, err error) {
	err = row.Scan(&r.ID, &r.Subject, &r.ClientID, words{&r.Scopes}, &r.Method, &r.IP, &r.UserAgent, &r.Origin,
		stamp{&r.Created}, stamp{&r.Used}, stamp{&r.Expires}, stamp{&r.IdleUntil}, stamp{&r.AccessUntil},
		sum{&r.Family}, sum{&r.Current}, sum{&r.Previous}, stamp{&r.Rotated}, &r.Repeated, &r.Replay,
		stamp{&r.Proof.Time}, words{&r.Proof.AMR}, &r.Proof.ACR, &r.Claims,
		&r.External.Provider, &r.External.Issuer, &r.External.Subject, &r.External.Session, &r.External.Email,
		stamp{&r.External.IssuedAt}, &r.Key)
	return r, err
}

// InsertSession implements session.Store.
func (s *Store) InsertSession(ctx context.Context, r session.Record) error {
	_, err := s.exec(ctx, `INSERT INTO sessions (`+sessionColumns+`)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		r.ID, r.Subject, r.ClientID, joined(r.Scopes), r.Method, r.IP, r.UserAgent, r.Origin,
		ms(r.Created), ms(r.Used), ms(r.Expires), ms(r.IdleUntil), ms(r.AccessUntil),
		r.Family[:], r.Current[:], r.Previous[:], ms(r.Rotated), r.Repeated, r.Replay,
		ms(r.Proof.Time), joined(r.Proof.AMR), r.Proof.ACR, r.Claims,
		r.External.Provider, r.External.Issuer, r.External.Subject, r.External.Session, r.External.Email, ms(r.External.IssuedAt), r.Key)
	return err
}

// Session implements session.Store.
func (s *Store) Session(ctx context.Context, id string) (session.Record, error) {
	return one(ctx, s, session.ErrNotFound, readSession, `SELECT `+sessionColumns+` FROM sessions WHERE id = ?`, id)
}

// SessionByFamily implements session.Store.
func (s *Store) SessionByFamily(ctx context.Context, family session.Hash) (session.Record, error) {
	return one(ctx, s, session.ErrNotFound, readSession, `SELECT `+sessionColumns+` FROM sessions WHERE family = ?`, family[:])
}

// Sessions implements session.Store.
func (s *Store) Sessions(ctx context.Context, subject string, limit int) ([]session.Record, error) {
	if subject == "" {
		return many(ctx, s, readSession, `SELECT `+sessionColumns+` FROM sessions ORDER BY created, id LIMIT ?`, limit)
	}
	return many(ctx, s, readSession, `SELECT `+sessionColumns+` FROM sessions WHERE subject = ?
		ORDER BY created, id LIMIT ?`, subject, limit)
}

// SessionsOfExternal implements session.Store.
func (s *Store) SessionsOfExternal(ctx context.Context, of session.External, limit int) ([]session.Record, error) {
	by, value := "external_session", of.Session
	switch {
	case of.Session != "":
	case of.Subject != "":
		by, value = "external_subject", of.Subject
	case of.Email != "":
		by, value = "external_email", of.Email
	default:
		return nil, nil
	}
	return many(ctx, s, readSession, `SELECT `+sessionColumns+` FROM sessions WHERE external_issuer = ? AND `+by+` = ?
		AND provider <> '' ORDER BY created, id LIMIT ?`, of.Issuer, value, limit)
}

// UpdateSession implements session.Store.
func (s *Store) UpdateSession(ctx context.Context, r session.Record) error {
	n, err := s.exec(ctx, `UPDATE sessions SET scopes = ?, ip = ?, user_agent = ?, origin = ?, used = ?, idle_until = ?,
		access_until = ?, current = ?, previous = ?, rotated = ?, repeated = ?, replay = ?,
		auth_time = ?, amr = ?, acr = ?, claims = ? WHERE id = ?`,
		joined(r.Scopes), r.IP, r.UserAgent, r.Origin, ms(r.Used), ms(r.IdleUntil),
		ms(r.AccessUntil), r.Current[:], r.Previous[:], ms(r.Rotated), r.Repeated, r.Replay,
		ms(r.Proof.Time), joined(r.Proof.AMR), r.Proof.ACR, r.Claims, r.ID)
	return absent(n, err, session.ErrNotFound)
}

// DeleteSession implements session.Store.
func (s *Store) DeleteSession(ctx context.Context, id string) error {
	n, err := s.exec(ctx, `DELETE FROM sessions WHERE id = ?`, id)
	return absent(n, err, session.ErrNotFound)
}

// DeleteSessionsOf implements session.Store.
func (s *Store) DeleteSessionsOf(ctx context.Context, subject string) (int, error) {
	return s.exec(ctx, `DELETE FROM sessions WHERE subject = ?`, subject)
}

// DeleteSessionsUsedBefore implements session.Store.
func (s *Store) DeleteSessionsUsedBefore(ctx context.Context, t time.Time) (int, error) {
	return s.exec(ctx, `DELETE FROM sessions WHERE used < ?`, ms(t))
}

// absent turns a change of no row into what the interface calls that.
func absent(n int, err, none error) error {
	if err == nil && n == 0 {
		return none
	}
	return err
}
