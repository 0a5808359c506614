package session

import (
	"context"
	"strconv"
	"time"

	"github.com/wsbouncer/wsbouncer"
	"github.com/wsbouncer/wsbouncer/internal/audit"
	"github.com/wsbouncer/wsbouncer/internal/reason"
)

// clockMargin is how much longer than a token lives its revocation is kept:
// another node's clock may be behind.
const clockMargin = time.Minute

// ending is why and by whom a session ends.
type ending struct {
	why         wsbouncer.Reason
	actor, note string
	event       audit.Type
	from        RefreshRequest // IP and UserAgent of whoever caused it
}

// end ends r: its row and tickets go, its revocation is logged, and its
// connections close after the commit. closed counts them from then on.
func (s *Service) end(ctx context.Context, r Record, e ending) (closed *int, err error) {
	if err := s.o.Store.DeleteSession(ctx, r.ID); err != nil {
		return nil, err
	}
	if err := s.o.Store.DeleteTickets(ctx, s.o.Issuer, "", r.ID); err != nil {
		return nil, err
	}
	if e.why.IsZero() {
		e.why = reason.SessionRevoked
	}
	now := s.now()
	until := r.AccessUntil
	if until.Before(now) {
		until = now
	}
	rev, err := s.append(ctx, LogEntry{Actor: e.actor, Revocation: wsbouncer.Revocation{
		Kind: kindSession, Issuer: s.o.Issuer, Value: r.ID, At: now, Expires: until.Add(clockMargin),
		Reason: e.why, Note: e.note,
	}})
	if err != nil {
		return nil, err
	}
	if e.event == "" {
		e.event = audit.SessionEnded
		if e.why == reason.LoggedOut {
			e.event = audit.Logout
		}
	}
	err = s.o.Audit.Write(ctx, audit.Event{
		Time: now, Type: e.event, Issuer: s.o.Issuer, Subject: r.Subject, Session: r.ID, IP: e.from.IP,
		UserAgent: audit.Cut(e.from.UserAgent, maxUserAgent), Actor: e.actor,
		Detail: map[string]string{"reason": e.why.Text, "note": e.note, "revocation": strconv.FormatInt(rev.Seq, 10)},
	})
	if err != nil {
		return nil, err
	}
	return s.applyLater(ctx, rev), nil
}

// append writes e to the log.
func (s *Service) append(ctx context.Context, e LogEntry) (wsbouncer.Revocation, error) {
	seq, err := s.o.Store.AppendRevocation(ctx, e)
	e.Seq = seq
	return e.Revocation, err
}

// applyLater applies rs once they are durable; closed is set by then.
func (s *Service) applyLater(ctx context.Context, rs ...wsbouncer.Revocation) (closed *int) {
	closed = new(int)
	s.o.Store.AfterCommit(ctx, func() { *closed = s.o.Apply(rs...) })
	return closed
}

// End ends a session; its refresh token is dead, its access tokens are revoked
// and its connections closed with why (zero: session_revoked). It fails with
// ErrNotFound.
func (s *Service) End(ctx context.Context, sid string, why wsbouncer.Reason, actor string) (closed int, err error) {
	return s.each(ctx, func(ctx context.Context) ([]*int, error) {
		r, err := s.o.Store.Session(ctx, sid)
		if err != nil {
			return nil, err
		}
		n, err := s.end(ctx, r, ending{why: why, actor: actor})
		return []*int{n}, err
	})
}

// EndOthers ends every session of subject except keep.
func (s *Service) EndOthers(ctx context.Context, subject, keep string, why wsbouncer.Reason, actor string) (closed int, err error) {
	return s.each(ctx, func(ctx context.Context) (ns []*int, err error) {
		rs, err := s.o.Store.Sessions(ctx, subject, s.o.PerSubject+listed)
		if err != nil {
			return nil, err
		}
		for _, r := range rs {
			if r.ID == keep {
				continue
			}
			n, err := s.end(ctx, r, ending{why: why, actor: actor})
			if err != nil {
				return nil, err
			}
			ns = append(ns, n)
		}
		return ns, nil
	})
}

// EndAll ends every session of subject and revokes every token issued for it
// so far, with or without a session.
func (s *Service) EndAll(ctx context.Context, subject string, why wsbouncer.Reason, actor string) (closed int, err error) {
	r := wsbouncer.Revocation{Kind: kindSubject, Issuer: s.o.Issuer, Value: subject, Reason: why}
	res, err := s.Revoke(ctx, actor, "", r)
	return res.Closed, err
}

// SessionOfRefresh is the id of the session that a refresh token is of, whether
// or not the token is still good for more; empty: it is nobody's.
func (s *Service) SessionOfRefresh(ctx context.Context, raw string) (sid string, err error) {
	t, ok := parseRefreshToken(raw)
	if !ok {
		return "", nil
	}
	r, err := s.o.Store.SessionByFamily(ctx, t.family())
	if isAbsent(err) {
		return "", nil
	}
	return r.ID, err
}

// RevokeRefresh ends the session of a refresh token (RFC 7009 §2.1). A token
// that is nobody's is no error; one of another client is ErrInvalidGrant.
func (s *Service) RevokeRefresh(ctx context.Context, raw, clientID, actor string) (closed int, err error) {
	t, ok := parseRefreshToken(raw)
	if !ok {
		return 0, nil
	}
	if _, err := s.o.Store.SessionByFamily(ctx, t.family()); isAbsent(err) {
		return 0, nil
	}
	return s.each(ctx, func(ctx context.Context) ([]*int, error) {
		r, err := s.o.Store.SessionByFamily(ctx, t.family())
		if isAbsent(err) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		if r.ClientID != clientID {
			return nil, ErrInvalidGrant
		}
		n, err := s.end(ctx, r, ending{why: reason.LoggedOut, actor: actor})
		return []*int{n}, err
	})
}

// each runs fn in a transaction and adds up what it closed after the commit.
func (s *Service) each(ctx context.Context, fn func(ctx context.Context) ([]*int, error)) (closed int, err error) {
	var ns []*int
	err = s.o.Store.Tx(ctx, func(ctx context.Context) error {
		ns, err = fn(ctx)
		return err
	})
	if err != nil {
		return 0, err
	}
	for _, n := range ns {
		closed += *n
	}
	return closed, nil
}
