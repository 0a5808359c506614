package session

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"time"

	"github.com/wsbouncer/wsbouncer"
	"github.com/wsbouncer/wsbouncer/internal/audit"
)

// A Statement is what another party said has ended: verified, of that party's own
// subjects, and counted once.
type Statement struct {
	// Issuer and ID are its iss and jti.
	Issuer, ID string
	// Until is when a repetition of it would be refused for its age.
	Until time.Time
	// At is what it speaks of: logins that were vouched for by then.
	At time.Time
	// Ends may be empty: then it is kept in the audit trail alone.
	Ends []ExternalEnd
	// Detail is for the audit trail.
	Detail map[string]string
}

// An ExternalEnd is a login elsewhere, or all of a subject's, that has ended.
type ExternalEnd struct {
	// Of names whose: the issuer, and one of session, subject and email.
	Of External
	// Trusted: access tokens of that issuer are accepted here, so that those of
	// its session or subject are revoked too.
	Trusted bool
	// Why is what the connections are told, Note what the records say.
	Why  wsbouncer.Reason
	Note string
}

// EndedElsewhere is what a statement did.
type EndedElsewhere struct {
	// Repeated: it had counted before, and did nothing.
	Repeated bool
	// Sessions is how many of ours ended, Closed how many connections did here.
	Sessions, Closed int
}

// Kinds of EndedLogin.
const (
	kindExternalSession = "session"
	kindExternalSubject = "subject"
	kindExternalEmail   = "email"
)

// tombstone is how long an ended login is remembered: longer than any login that
// is under way can take.
const tombstone = time.Hour

// errRepeated leaves EndElsewhere's transaction without a change.
var errRepeated = errors.New("repeated")

// EndElsewhere makes a statement durable and carries it out: sessions that rest
// on the logins it names end, logins that it concerns and that are still under
// way will not begin, and tokens of a trusted issuer are revoked.
func (s *Service) EndElsewhere(ctx context.Context, st Statement) (EndedElsewhere, error) {
	// A repetition costs no place in the writer's queue.
	if seen, err := s.o.Store.Remembered(ctx, st.Issuer, st.ID); seen || err != nil {
		return EndedElsewhere{Repeated: seen}, err
	}
	sessions := 0
	closed, err := s.each(ctx, func(ctx context.Context) (closed []*int, err error) {
		fresh, err := s.o.Store.RememberStatement(ctx, st.Issuer, st.ID, st.Until)
		switch {
		case err != nil:
			return nil, err
		case !fresh:
			return nil, errRepeated
		}
		sessions = 0
		revoked := false
		for _, e := range st.Ends {
			ns, err := s.endExternal(ctx, &st, &e)
			if err != nil {
				return nil, err
			}
			sessions += len(ns)
			closed = append(closed, ns...)
			ns, err = s.revokeExternal(ctx, &st, &e)
			if err != nil {
				return nil, err
			}
			revoked = revoked || len(ns) > 0
			closed = append(closed, ns...)
		}
		return closed, s.o.Audit.Write(ctx, st.event(sessions, revoked, s.now()))
	})
	switch {
	case errors.Is(err, errRepeated):
		return EndedElsewhere{Repeated: true}, nil
	case err != nil:
		return EndedElsewhere{}, fmt.Errorf("end what ended elsewhere: %w", err)
	}
	return EndedElsewhere{Sessions: sessions, Closed: closed}, nil
}

// endExternal ends the sessions that e concerns, and keeps that they ended for
// logins that are on their way.
func (s *Service) endExternal(ctx context.Context, st *Statement, e *ExternalEnd) (closed []*int, err error) {
	ended := EndedLogin{Issuer: e.Of.Issuer, At: st.At, Until: s.now().Add(tombstone)}
	switch {
	case e.Of.Session != "":
		ended.Kind, ended.Value = kindExternalSession, e.Of.Session
	case e.Of.Subject != "":
		ended.Kind, ended.Value = kindExternalSubject, e.Of.Subject
	case e.Of.Email != "":
		ended.Kind, ended.Value = kindExternalEmail, e.Of.Email
	default:
		return nil, errors.New("an end of nobody's login")
	}
	for {
		rs, err := s.o.Store.SessionsOfExternal(ctx, e.Of, listed)
		if err != nil {
			return nil, err
		}
		spared := false
		for _, r := range rs {
			// A later login of the subject is another one. The provider's session
			// is over whenever ours began.
			if ended.Kind != kindExternalSession && r.External.IssuedAt.After(st.At) {
				spared = true
				continue
			}
			n, err := s.end(ctx, r, ending{why: e.Why, actor: st.Issuer, note: e.Note})
			if err != nil {
				return nil, err
			}
			closed = append(closed, n)
		}
		if spared || len(rs) < listed {
			return closed, s.o.Store.InsertEndedLogin(ctx, ended)
		}
	}
}

// revokeExternal revokes the tokens of a trusted issuer that e concerns.
func (s *Service) revokeExternal(ctx context.Context, st *Statement, e *ExternalEnd) (closed []*int, err error) {
	r := wsbouncer.Revocation{Issuer: e.Of.Issuer, Reason: e.Why, Note: e.Note}
	switch {
	case !e.Trusted:
		return nil, nil
	case e.Of.Session != "":
		r.Kind, r.Value = kindSession, e.Of.Session
	case e.Of.Subject != "":
		r.Kind, r.Value = kindSubject, e.Of.Subject
	default:
		return nil, nil // tokens are not known by an email
	}
	if r, err = s.record(ctx, r, st.Issuer); err != nil {
		return nil, err
	}
	return []*int{s.applyLater(ctx, r)}, nil
}

// event is the statement in the audit trail. One that ended nothing is of a type
// that cannot push out others: its sender speaks of everybody it knows.
func (st *Statement) event(sessions int, revoked bool, now time.Time) audit.Event {
	e := audit.Event{Time: now, Type: audit.IdentityEvent, Issuer: st.Issuer, Actor: st.Issuer, Detail: maps.Clone(st.Detail)}
	if e.Detail == nil {
		e.Detail = map[string]string{}
	}
	e.Detail["jti"], e.Detail["sessions"] = st.ID, strconv.Itoa(sessions)
	if sessions == 0 && !revoked && e.Detail["state"] == "" {
		e.Type = audit.IdentityEventIdle
	}
	for _, x := range st.Ends {
		e.Issuer = x.Of.Issuer
		for _, f := range []struct {
			to   *string
			from string
		}{{&e.Subject, x.Of.Subject}, {&e.Session, x.Of.Session}} {
			if *f.to == "" {
				*f.to = f.from
			}
		}
		if x.Of.Email != "" {
			e.Detail["email"] = x.Of.Email
		}
	}
	return e
}

// notEnded refuses a login that its provider has ended since, whichever of the
// two came first.
func (s *Service) notEnded(ctx context.Context, x *External) error {
	if x.Provider == "" {
		return nil
	}
	for _, k := range []struct{ kind, value string }{
		{kindExternalSession, x.Session}, {kindExternalSubject, x.Subject}, {kindExternalEmail, x.Email},
	} {
		if k.value == "" {
			continue
		}
		e, err := s.o.Store.EndedLogin(ctx, x.Issuer, k.kind, k.value)
		switch {
		case isAbsent(err):
		case err != nil:
			return err
		case k.kind == kindExternalSession || !x.IssuedAt.After(e.At):
			return ErrEndedElsewhere
		}
	}
	return nil
}
