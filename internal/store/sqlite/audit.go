package sqlite

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"net/netip"
	"time"

	"github.com/wsbouncer/wsbouncer/internal/audit"
)

const (
	// maxEvents is how many events are kept of those that strangers can
	// cause, and as many of the others.
	maxEvents = 100_000
	// trimEvery so many rows the oldest go, so that more than maxEvents are
	// there by at most that many.
	trimEvery = 256
)

// Write implements audit.Sink. The oldest events go when there are too many.
func (s *Store) Write(ctx context.Context, e audit.Event) error {
	e = e.Bounded()
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	detail, err := json.Marshal(e.Detail)
	if err != nil {
		return fmt.Errorf("audit: %w", err)
	}
	ip := ""
	if e.IP.IsValid() {
		ip = e.IP.String()
	}
	return s.Tx(ctx, func(ctx context.Context) error {
		id, err := one(ctx, s, nil, readInt, `INSERT INTO audit
			(stranger, time, type, issuer, subject, session, connection, ip, origin, user_agent, actor, detail)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING id`,
			e.Type.Stranger(), ms(e.Time), string(e.Type), e.Issuer, e.Subject, e.Session, e.Connection,
			ip, e.Origin, e.UserAgent, e.Actor, string(detail))
		if err != nil || id%trimEvery != 0 {
			return err
		}
		for _, stranger := range []bool{false, true} {
			if err := s.trim(ctx, stranger, maxEvents); err != nil {
				return err
			}
		}
		return nil
	})
}

func (s *Store) trim(ctx context.Context, stranger bool, keep int) error {
	_, err := s.exec(ctx, `DELETE FROM audit WHERE stranger = ?1 AND id <=
		(SELECT id FROM audit WHERE stranger = ?1 ORDER BY id DESC LIMIT 1 OFFSET ?2)`, stranger, keep)
	return err
}

const eventColumns = `id, time, type, issuer, subject, session, connection, ip, origin, user_agent, actor, detail`

func readEvent(row scanner) (e audit.Event, err error) {
	var ip, detail string
	if err := row.Scan(&e.ID, stamp{&e.Time}, &e.Type, &e.Issuer, &e.Subject, &e.Session, &e.Connection,
		&ip, &e.Origin, &e.UserAgent, &e.Actor, &detail); err != nil {
		return e, err
	}
	if ip != "" {
		if e.IP, err = netip.ParseAddr(ip); err != nil {
			return e, err
		}
	}
	return e, json.Unmarshal([]byte(detail), &e.Detail)
}

// Events lists events with an id above after, in order, at most limit.
func (s *Store) Events(ctx context.Context, after int64, limit int) ([]audit.Event, error) {
	return many(ctx, s, readEvent, `SELECT `+eventColumns+` FROM audit WHERE id > ? ORDER BY id LIMIT ?`, after, limit)
}

// EventsBefore lists events with an id below before (0: any), newest first, at
// most limit.
func (s *Store) EventsBefore(ctx context.Context, before int64, limit int) ([]audit.Event, error) {
	if before <= 0 {
		before = math.MaxInt64
	}
	return many(ctx, s, readEvent, `SELECT `+eventColumns+` FROM audit WHERE id < ? ORDER BY id DESC LIMIT ?`, before, limit)
}
