package adminapi

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/wsbouncer/wsbouncer"
	"github.com/wsbouncer/wsbouncer/internal/account"
	"github.com/wsbouncer/wsbouncer/internal/audit"
	"github.com/wsbouncer/wsbouncer/internal/httpx"
	"github.com/wsbouncer/wsbouncer/internal/jsonscan"
	"github.com/wsbouncer/wsbouncer/internal/login"
	"github.com/wsbouncer/wsbouncer/internal/reason"
	"github.com/wsbouncer/wsbouncer/internal/session"
	"github.com/wsbouncer/wsbouncer/token"
)

// Options are what the interface speaks for. Bouncer, Sessions and Tx are needed.
type Options struct {
	Bouncer  *wsbouncer.Bouncer
	Sessions *session.Service
	// Issuer is our own issuer's name; empty without one.
	Issuer string
	// DefaultIssuer is whose a revocation is that names no issuer, or "" where
	// that cannot be told; nil: Issuer.
	DefaultIssuer func() string
	// Accounts and Ring are nil without an issuer; the calls about them are
	// then refused.
	Accounts *account.Service
	// Login keeps the identities of login providers' users; nil as Accounts.
	Login *login.Service
	Ring  *token.Ring
	// Tx runs fn in a transaction that Sessions, Accounts and Audit join.
	Tx func(ctx context.Context, fn func(ctx context.Context) error) error
	// Audit keeps events, Events gives them back; nil: there are none.
	Audit  audit.Sink
	Events Events
	// Reload loads the configuration anew; nil: that is refused.
	Reload func() error
	// Status says what only the program knows; nil: nothing.
	Status func(ctx context.Context) Status
	// Log is for the operator; nil: slog.Default.
	Log *slog.Logger
}

// Events reads audit events.
type Events interface {
	// EventsBefore lists events with an id below before (zero: all), newest
	// first, at most limit.
	EventsBefore(ctx context.Context, before int64, limit int) ([]audit.Event, error)
	// Events lists events with an id above after, oldest first, at most limit.
	Events(ctx context.Context, after int64, limit int) ([]audit.Event, error)
}

// actor is who did what this interface did.
const actor = "admin"

// Bounds of a request and of a part of a list.
const (
	maxBody      = 64 << 10
	maxDepth     = 4
	defaultLimit = 100
	maxLimit     = 1000
)

type api struct{ Options }

// New is the handler of /v1. It starts nothing and asks nobody for a credential:
// serve it where only administrators can connect.
func New(o Options) http.Handler {
	if o.Audit == nil {
		o.Audit = audit.Discard
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if o.DefaultIssuer == nil {
		o.DefaultIssuer = func() string { return o.Issuer }
	}
	a := &api{o}
	mux := http.NewServeMux()
	for path, methods := range map[string]map[string]httpx.HandlerFunc{
		"/v1/connections":             {http.MethodGet: a.connections},
		"/v1/connections/{cid}":       {http.MethodDelete: a.closeConnection},
		"/v1/sessions":                {http.MethodGet: a.sessions},
		"/v1/sessions/{sid}":          {http.MethodDelete: a.endSession},
		"/v1/users":                   {http.MethodGet: a.users, http.MethodPost: a.addUser},
		"/v1/users/{name}":            {http.MethodGet: a.user, http.MethodDelete: a.removeUser},
		"/v1/users/{name}/password":   {http.MethodPost: a.setPassword},
		"/v1/users/{name}/disable":    {http.MethodPost: a.disableUser},
		"/v1/users/{name}/enable":     {http.MethodPost: a.enableUser},
		"/v1/users/{name}/factors":    {http.MethodDelete: a.resetFactors},
		"/v1/users/{name}/grant":      {http.MethodPost: a.grantUser},
		"/v1/identities":              {http.MethodGet: a.identities},
		"/v1/identities/{id}/disable": {http.MethodPost: a.disableIdentity},
		"/v1/identities/{id}/enable":  {http.MethodPost: a.enableIdentity},
		"/v1/revocations":             {http.MethodGet: a.revocations, http.MethodPost: a.revoke},
		"/v1/keys":                    {http.MethodGet: a.keys},
		"/v1/keys/rotate":             {http.MethodPost: a.rotateKey},
		"/v1/keys/{kid}":              {http.MethodDelete: a.revokeKey},
		"/v1/tokens":                  {http.MethodPost: a.issueToken},
		"/v1/tokens/verify":           {http.MethodPost: a.verifyToken},
		"/v1/status":                  {http.MethodGet: a.status},
		"/v1/stats":                   {http.MethodGet: a.stats},
		"/v1/reload":                  {http.MethodPost: a.reload},
		"/v1/audit":                   {http.MethodGet: a.audit},
	} {
		mux.Handle(path, a.serve(methods))
	}
	mux.Handle("/", a.serve(nil))
	return httpx.Secure(mux, false)
}

func (a *api) serve(methods map[string]httpx.HandlerFunc) http.Handler {
	return httpx.Handler(a.Log, func(w http.ResponseWriter, r *http.Request) error {
		if methods == nil {
			return reason.NoRoute
		}
		h, ok := methods[r.Method]
		if !ok {
			return &httpx.Problem{
				Status: http.StatusMethodNotAllowed, Code: "method_not_allowed", Detail: "Allow says which methods this path takes.",
				Header: http.Header{"Allow": {strings.Join(slices.Sorted(maps.Keys(methods)), ", ")}},
			}
		}
		return problem(h(w, r))
	})
}

// problem is what the caller learns of an error of the rooms behind.
func problem(err error) error {
	var rule *account.RuleError
	say := func(status int, code, detail string) error {
		return &httpx.Problem{Status: status, Code: code, Detail: detail}
	}
	switch {
	case err == nil:
		return nil
	case errors.As(err, &rule):
		return say(http.StatusBadRequest, rule.Rule, rule.Detail)
	case errors.Is(err, account.ErrExists):
		return say(http.StatusConflict, "already_exists", "There is an account of that name already.")
	case errors.Is(err, account.ErrNotFound):
		return say(http.StatusNotFound, notFound, "There is no account of that name.")
	case errors.Is(err, login.ErrNotFound):
		return say(http.StatusNotFound, notFound, "There is no identity of that id.")
	case errors.Is(err, session.ErrNotFound):
		return say(http.StatusNotFound, notFound, "There is no session of that id, or it has ended.")
	case errors.Is(err, token.ErrUnknownKey):
		return errNoKey
	case errors.Is(err, account.ErrBusy):
		return reason.Overloaded503.After(1)
	case errors.Is(err, session.ErrNoIssuer):
		return errNoIssuer
	case errors.Is(err, session.ErrBadRevocation):
		return say(http.StatusBadRequest, "invalid_request", err.Error())
	case errors.Is(err, token.ErrTooSoon):
		return say(http.StatusConflict, "too_soon", "The next key has not been published long enough for everybody to know it. Wait, or revoke the active key if it leaked.")
	}
	return err
}

const notFound = "not_found"

var (
	errNoKey    = &httpx.Problem{Status: http.StatusNotFound, Code: notFound, Detail: "No signing key of ours has that id."}
	errNoConn   = &httpx.Problem{Status: http.StatusNotFound, Code: notFound, Detail: "No live connection has that id."}
	errNoIssuer = &httpx.Problem{
		Status: http.StatusConflict, Code: "no_issuer",
		Detail: "This server has no issuer block: it has no users, sessions or tokens of its own.",
	}
)

func invalid(detail string) error {
	return &httpx.Problem{Status: http.StatusBadRequest, Code: "invalid_request", Detail: detail}
}

func readJSON(w http.ResponseWriter, r *http.Request, v any) error {
	body, err := httpx.ReadBody(w, r, maxBody, "application/json")
	if err != nil {
		return err
	}
	if err := jsonscan.Decode(body, jsonscan.Options{MaxBytes: maxBody, MaxDepth: maxDepth, FoldKeys: true}, v); err != nil {
		return invalid("The body is not what this call takes: " + err.Error() + ".")
	}
	return nil
}

func writeJSON(w http.ResponseWriter, v any) error { return httpx.WriteJSON(w, http.StatusOK, v) }

// pageLimit is how many items the request asks for.
func pageLimit(r *http.Request) (int, error) {
	s := r.URL.Query().Get("limit")
	if s == "" {
		return defaultLimit, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 {
		return 0, invalid("limit is a number from 1 to " + strconv.Itoa(maxLimit) + ".")
	}
	return min(n, maxLimit), nil
}

// number is a query parameter that is an id; absent is zero.
func number(r *http.Request, name string) (int64, error) {
	s := r.URL.Query().Get(name)
	if s == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 {
		return 0, invalid(name + " is the number that the list before gave as next.")
	}
	return n, nil
}
