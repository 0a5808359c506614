package adminapi

import (
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/wsbouncer/wsbouncer"
	"github.com/wsbouncer/wsbouncer/internal/audit"
	"github.com/wsbouncer/wsbouncer/internal/reason"
)

// connections is GET /v1/connections, in the order of their ids so that parts
// stay apart while connections come and go.
func (a *api) connections(w http.ResponseWriter, r *http.Request) error {
	limit, err := pageLimit(r)
	if err != nil {
		return err
	}
	q := r.URL.Query()
	f := ConnectionFilter{Issuer: q.Get("issuer"), Subject: q.Get("subject"), Session: q.Get("session"), Route: q.Get("route"), After: q.Get("after")}
	var found []*wsbouncer.Live
	for l := range a.Bouncer.Live() {
		if l.ID() > f.After && f.matches(l) {
			found = append(found, l)
		}
	}
	slices.SortFunc(found, func(a, b *wsbouncer.Live) int { return strings.Compare(a.ID(), b.ID()) })
	p := Page[Connection]{Items: []Connection{}}
	if len(found) > limit {
		found = found[:limit]
		p.Next = found[limit-1].ID()
	}
	for _, l := range found {
		p.Items = append(p.Items, connection(l))
	}
	return writeJSON(w, p)
}

func (f *ConnectionFilter) matches(l *wsbouncer.Live) bool {
	p := l.Principal()
	if p == nil {
		p = &wsbouncer.Principal{}
	}
	return (f.Issuer == "" || f.Issuer == p.Issuer) && (f.Subject == "" || f.Subject == p.Subject) &&
		(f.Session == "" || f.Session == p.Session) && (f.Route == "" || f.Route == routeName(l))
}

func connection(l *wsbouncer.Live) Connection {
	c := Connection{
		ID: l.ID(), Route: routeName(l), Origin: l.Origin(), Scopes: []string{},
		Started: l.Started().UTC(), ExpiresAt: l.ExpiresAt().UTC(),
	}
	c.ClientBytes, c.UpstreamBytes, c.ClientMessages, c.UpstreamMessages = l.Carried()
	if l.IP().IsValid() {
		c.IP = l.IP().String()
	}
	p := l.Principal()
	if p == nil {
		c.Waiting = true
		return c
	}
	c.Issuer, c.Subject, c.Session, c.ClientID, c.TokenID, c.KeyID = p.Issuer, p.Subject, p.Session, p.ClientID, p.TokenID, p.KeyID
	c.Scopes = append(c.Scopes, p.Scopes...)
	return c
}

func routeName(l *wsbouncer.Live) string {
	if l.Route() == nil {
		return ""
	}
	return fmt.Sprint(l.Route())
}

// closeConnection is DELETE /v1/connections/{cid}. What keeps its client away is
// a revocation; this one may come back, so it is told what a client that may
// come back is told.
func (a *api) closeConnection(w http.ResponseWriter, r *http.Request) error {
	l := a.Bouncer.Lookup(r.PathValue("cid"))
	if l == nil {
		return errNoConn
	}
	e := audit.Event{Type: audit.ConnectionEnded, Connection: l.ID(), Actor: actor}
	if p := l.Principal(); p != nil {
		e.Issuer, e.Subject, e.Session = p.Issuer, p.Subject, p.Session
	}
	if err := a.Audit.Write(r.Context(), e); err != nil {
		return fmt.Errorf("audit: %w", err)
	}
	out := Closed{}
	if l.End(reason.Restarting) {
		out.Closed = 1
	}
	return writeJSON(w, out)
}
