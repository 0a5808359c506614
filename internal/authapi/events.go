package authapi

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/wsbouncer/wsbouncer/internal/audit"
	"github.com/wsbouncer/wsbouncer/internal/httpx"
	"github.com/wsbouncer/wsbouncer/internal/limit"
	"github.com/wsbouncer/wsbouncer/internal/reason"
	"github.com/wsbouncer/wsbouncer/internal/secevent"
	"github.com/wsbouncer/wsbouncer/internal/session"
	"github.com/wsbouncer/wsbouncer/token"
)

// Statements that are not believed, or repeated, cost their address: so many, and
// so many of those are kept as events.
var (
	refusedStatements = limit.Rate{PerSecond: 5, Burst: 100}
	keptStatements    = limit.Rate{PerSecond: 1, Burst: 60}
)

// statement is what the two calls have in common: read says what stands in the
// request, and what it says is carried out.
func (a *API) statement(r *http.Request, read func() (*secevent.Statement, error)) (repeated bool, err error) {
	ctx, now := r.Context(), time.Now()
	ip := limit.IPKey(from(ctx).ip)
	// Only what is refused counts: what is spent here comes back.
	if ok, retry := a.statements.Allow(ip, now); !ok {
		return false, tooManyStatements(retry)
	}
	st, err := read()
	if errors.Is(err, secevent.ErrTooMany) {
		return false, tooManyStatements(time.Second)
	}
	var refused *secevent.Error
	if errors.As(err, &refused) {
		return false, a.notBelieved(ctx, refused)
	}
	if err != nil {
		return false, unavailable(err)
	}
	repeated, err = a.carryOut(ctx, st)
	if err == nil && !repeated {
		a.statements.Forgive(ip)
	}
	return repeated, err
}

// carryOut ends what st says has ended.
func (a *API) carryOut(ctx context.Context, st *secevent.Statement) (repeated bool, err error) {
	out := session.Statement{
		Issuer: st.Issuer, ID: st.ID, At: st.At, Until: st.Until,
		Detail: map[string]string{"event": strings.Join(st.Types, " "), "state": st.State, "ignored": st.Ignored},
	}
	for _, e := range st.Ends {
		why := reason.LoggedOut
		switch e.Why {
		case secevent.LoggedOut:
		case secevent.SessionRevoked:
			why = reason.SessionRevoked
		case secevent.SubjectRevoked:
			why = reason.SubjectRevoked
		}
		out.Ends = append(out.Ends, session.ExternalEnd{
			Of:      session.External{Issuer: e.Issuer, Subject: e.Subject, Session: e.Session, Email: e.Email},
			Trusted: e.Trusted, Why: why, Note: e.Type,
		})
	}
	done, err := a.o.Sessions.EndElsewhere(ctx, out)
	if done.Repeated {
		a.o.Events.Repeated(st)
	}
	return done.Repeated, err
}

// notBelieved is err, kept as an event.
func (a *API) notBelieved(ctx context.Context, err *secevent.Error) error {
	if ok, _ := a.keptEvents.Allow(limit.IPKey(from(ctx).ip), time.Now()); !ok {
		return err
	}
	why := err.Detail
	if err.Err != nil {
		why = err.Err.Error()
	}
	e := audit.Event{Type: audit.IdentityEventRefused, Issuer: err.Issuer, Detail: map[string]string{"error": err.Code, "why": why}}
	if auditErr := a.o.Audit.Write(ctx, e); auditErr != nil {
		return auditErr
	}
	return err
}

// unavailable: the issuer's keys cannot be had. The statement may be good, and is
// to be sent again.
func unavailable(err error) error {
	if errors.Is(err, &token.Error{Code: token.CodeUnavailable}) {
		return reason.NotReady
	}
	return err
}

func tooManyStatements(retry time.Duration) error {
	return &httpx.Problem{
		Status: http.StatusTooManyRequests, Code: "too_many_events", Detail: "Too many were refused, or came at once. Wait, then send it again.",
		Header: http.Header{"Retry-After": {strconv.Itoa(max(1, int((retry+time.Second-1)/time.Second)))}},
	}
}

// backchannelLogout is POST AuthPath/backchannel-logout (OpenID Connect
// Back-Channel Logout 1.0 §2.5).
func (a *API) backchannelLogout(w http.ResponseWriter, r *http.Request) error {
	repeated, err := a.statement(r, func() (*secevent.Statement, error) {
		form, err := readForm(w, r, "")
		if err != nil {
			return nil, badStatement(err)
		}
		raw := form.Get("logout_token")
		if raw == "" {
			return nil, &secevent.Error{Code: secevent.InvalidRequest, Detail: "logout_token is needed."}
		}
		return a.o.Events.Logout(r.Context(), raw)
	})
	var refused *secevent.Error
	switch {
	case errors.As(err, &refused):
		return invalidRequest(refused.Detail)
	case err != nil:
		return err
	case repeated:
		return invalidRequest("This logout token came before.")
	}
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusOK)
	return nil
}

// badStatement is what is wrong with a request, as an error of a statement.
func badStatement(err error) error {
	var p *httpx.Problem
	if errors.As(err, &p) && p.Status == http.StatusBadRequest {
		return &secevent.Error{Code: secevent.InvalidRequest, Detail: p.Detail}
	}
	return err
}

// securityEvent is POST AuthPath/events: a Security Event Token (RFC 8935 §2).
func (a *API) securityEvent(w http.ResponseWriter, r *http.Request) error {
	_, err := a.statement(r, func() (*secevent.Statement, error) {
		body, err := httpx.ReadBody(w, r, maxBody, "application/secevent+jwt")
		if err != nil {
			return nil, badStatement(err)
		}
		auth := r.Header["Authorization"]
		if len(auth) != 1 {
			auth = []string{""}
		}
		return a.o.Events.Event(r.Context(), strings.TrimSpace(string(body)), auth[0])
	})
	w.Header().Set("Cache-Control", "no-store")
	var refused *secevent.Error
	switch {
	case errors.As(err, &refused):
		w.Header().Set("Content-Language", "en")
		return httpx.WriteJSON(w, http.StatusBadRequest, struct {
			Err         string `json:"err"`
			Description string `json:"description"`
		}{refused.Code, refused.Detail})
	case err != nil:
		return err
	}
	// One that came before is acknowledged too (§2.2): the sender did not hear us.
	w.WriteHeader(http.StatusAccepted)
	return nil
}
