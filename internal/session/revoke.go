package session

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/wsbouncer/wsbouncer"
	"github.com/wsbouncer/wsbouncer/internal/audit"
	"github.com/wsbouncer/wsbouncer/internal/reason"
)

// Kinds of revocation.
const (
	kindToken   = "token"
	kindSession = "session"
	kindSubject = "subject"
	kindKey     = "key"
	kindBefore  = "before"
)

// Bounds of a revocation, in bytes.
const (
	maxValue = 2048
	maxNote  = 256
)

// ErrBadRevocation says that what is to be revoked is not said well enough.
var ErrBadRevocation = errors.New("bad revocation")

// Revoke makes r durable, ends the sessions it concerns and applies it. It
// answers when all that is done. A token, session or key that is revoked
// already keeps its number. An empty issuer means our own; r.At is looked at
// for "before" only; r.Expires for "token" only, when the token's end is known.
func (s *Service) Revoke(ctx context.Context, actor, note string, r wsbouncer.Revocation) (Result, error) {
	r.Note = note
	var res Result
	closed, err := s.each(ctx, func(ctx context.Context) ([]*int, error) {
		done, err := s.record(ctx, r, actor)
		if err != nil {
			return nil, err
		}
		res.ID = done.Seq
		return []*int{s.applyLater(ctx, done)}, nil
	})
	if err != nil {
		return Result{}, fmt.Errorf("revoke: %w", err)
	}
	res.Closed = closed
	return res, nil
}

// Record implements wsbouncer.Source: like Revoke, but applying is the caller's.
func (s *Service) Record(ctx context.Context, rs []wsbouncer.Revocation) ([]wsbouncer.Revocation, error) {
	out := make([]wsbouncer.Revocation, len(rs))
	err := s.o.Store.Tx(ctx, func(ctx context.Context) (err error) {
		for i, r := range rs {
			if out[i], err = s.record(ctx, r, ""); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("record revocations: %w", err)
	}
	return out, nil
}

// record logs one revocation and does what it means for sessions and tickets.
func (s *Service) record(ctx context.Context, r wsbouncer.Revocation, actor string) (wsbouncer.Revocation, error) {
	now := s.now()
	r, err := s.complete(r, now)
	if err != nil {
		return r, err
	}
	own := r.Issuer == s.o.Issuer
	switch r.Kind {
	case kindSession:
		if own {
			if rec, err := s.o.Store.Session(ctx, r.Value); err == nil {
				if rec.AccessUntil.After(now) {
					r.Expires = rec.AccessUntil.Add(clockMargin)
				}
				err = s.o.Store.DeleteSession(ctx, r.Value)
				if err != nil {
					return r, err
				}
			} else if !isAbsent(err) {
				return r, err
			}
		}
		err = s.o.Store.DeleteTickets(ctx, r.Issuer, "", r.Value)
	case kindSubject:
		if own {
			if _, err := s.o.Store.DeleteSessionsOf(ctx, r.Value); err != nil {
				return r, err
			}
		}
		err = s.o.Store.DeleteTickets(ctx, r.Issuer, r.Value, "")
	case kindBefore:
		if own {
			_, err = s.o.Store.DeleteSessionsUsedBefore(ctx, r.At)
		}
	}
	if err != nil {
		return r, err
	}
	// Whoever revokes the same thing again and again does not grow the log.
	// Another issuer may go on issuing for its session, so that it is revoked
	// for as long as from now on; our own is over.
	if r.Kind != kindSubject && r.Kind != kindBefore {
		old, err := s.o.Store.Revocation(ctx, r.Kind, r.Issuer, r.Value)
		if err == nil && (own || r.Kind == kindToken || old.lasts(r.Expires)) && old.lasts(now) {
			return old.Revocation, nil
		}
		if err != nil && !isAbsent(err) {
			return r, err
		}
	}
	if r, err = s.append(ctx, LogEntry{Revocation: r, Actor: actor}); err != nil {
		return r, err
	}
	e := audit.Event{
		Time: now, Type: audit.Revoked, Issuer: r.Issuer, Actor: actor,
		Detail: map[string]string{"kind": r.Kind, "value": r.Value, "reason": r.Reason.Text, "note": r.Note, "revocation": strconv.FormatInt(r.Seq, 10)},
	}
	switch r.Kind {
	case kindSession:
		e.Session = r.Value
	case kindSubject:
		e.Subject = r.Value
	case kindBefore:
		e.Detail["value"] = r.At.Format(time.RFC3339Nano)
	}
	return r, s.o.Audit.Write(ctx, e)
}

// lasts reports whether e is in force at t.
func (e LogEntry) lasts(t time.Time) bool {
	return e.Expires.IsZero() || !t.IsZero() && e.Expires.After(t)
}

// complete checks r and fills in what it does not say.
func (s *Service) complete(r wsbouncer.Revocation, now time.Time) (wsbouncer.Revocation, error) {
	if r.Issuer == "" {
		r.Issuer = s.o.Issuer
	}
	if r.Issuer == "" {
		return r, fmt.Errorf("%w: name the issuer whose token, session, subject or key it is", ErrBadRevocation)
	}
	if len(r.Issuer) > maxValue || len(r.Value) > maxValue || !utf8.ValidString(r.Issuer) || !utf8.ValidString(r.Value) {
		return r, fmt.Errorf("%w: issuer and value are UTF-8 of at most %d bytes", ErrBadRevocation, maxValue)
	}
	life := longestLife
	if r.Issuer == s.o.Issuer {
		life = s.o.MaxTokenLife
	}
	until := now.Add(life).Add(clockMargin)
	why := reason.TokenRevoked
	switch r.Kind {
	case kindToken:
		if !r.Expires.IsZero() && r.Expires.Add(clockMargin).Before(until) {
			until = r.Expires.Add(clockMargin)
		}
	case kindSession:
		why = reason.SessionRevoked
	case kindSubject:
		why = reason.SubjectRevoked
	case kindKey:
		why = reason.KeyRevoked
		until = time.Time{} // whoever stole a key can sign tomorrow too
	case kindBefore:
		if r.At.IsZero() || r.At.After(now.Add(clockMargin)) {
			return r, fmt.Errorf("%w: the time before which everything is revoked must not be in the future", ErrBadRevocation)
		}
	default:
		return r, fmt.Errorf("%w: kind %q is none of token, session, subject, key, before", ErrBadRevocation, r.Kind)
	}
	if r.Kind == kindBefore {
		r.Value = ""
		// Stored to the millisecond; upwards, so that nothing slips through.
		r.At = r.At.Add(time.Millisecond - 1).Truncate(time.Millisecond).UTC()
	} else {
		if r.Value == "" {
			return r, fmt.Errorf("%w: say which %s", ErrBadRevocation, r.Kind)
		}
		r.At = now
	}
	if r.Reason.IsZero() {
		r.Reason = why
	}
	r.Expires = until
	if !until.IsZero() {
		r.Expires = until.Truncate(time.Millisecond)
	}
	r.Note = audit.Cut(r.Note, maxNote)
	return r, nil
}

// page is how many revocations are read at once.
const page = 1000

// Load reads the revocations that still matter, for the bouncer's set.
func (s *Service) Load(ctx context.Context) ([]wsbouncer.Revocation, error) {
	now := s.now()
	var out []wsbouncer.Revocation
	for after := int64(0); ; {
		es, err := s.o.Store.Revocations(ctx, after, now, page)
		if err != nil {
			return nil, fmt.Errorf("read revocations: %w", err)
		}
		for _, e := range es {
			out = append(out, e.Revocation)
			after = e.Seq
		}
		if len(es) < page {
			return out, nil
		}
	}
}

// Revocations lists those in force with numbers above after, at most limit.
func (s *Service) Revocations(ctx context.Context, after int64, limit int) ([]LogEntry, error) {
	return s.o.Store.Revocations(ctx, after, s.now(), limit)
}

// Prune removes what cannot matter at now any more. Its owner calls it now and
// then; a minute is often enough.
func (s *Service) Prune(ctx context.Context, now time.Time) error {
	for {
		n, err := s.o.Store.Prune(ctx, now, now.Add(-max(0, s.o.RefreshGrace)), page)
		if err != nil {
			return fmt.Errorf("prune: %w", err)
		}
		if n < page {
			return nil
		}
	}
}
