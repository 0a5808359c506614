package adminapi

import (
	"net/http"
	"slices"

	"github.com/wsbouncer/wsbouncer/internal/reason"
	"github.com/wsbouncer/wsbouncer/internal/session"
)

// sessions is GET /v1/sessions. internal/session bounds the list.
func (a *api) sessions(w http.ResponseWriter, r *http.Request) error {
	limit, err := pageLimit(r)
	if err != nil {
		return err
	}
	q := r.URL.Query()
	list, err := a.Sessions.List(r.Context(), q.Get("subject"))
	if err != nil {
		return err
	}
	if after := q.Get("after"); after != "" {
		i := slices.IndexFunc(list, func(s session.Session) bool { return s.ID == after })
		list = list[i+1:]
	}
	p := Page[Session]{Items: []Session{}}
	if len(list) > limit {
		list = list[:limit]
		p.Next = list[limit-1].ID
	}
	for _, s := range list {
		p.Items = append(p.Items, Session{
			ID: s.ID, Subject: s.Subject, ClientID: s.ClientID, Scopes: append([]string{}, s.Scopes...), Method: s.Method,
			IP: s.IP, UserAgent: s.UserAgent, Origin: s.Origin, Created: s.Created.UTC(), LastUsed: s.LastUsed.UTC(),
			Expires: s.Expires.UTC(), IdleExpires: s.IdleExpires.UTC(),
		})
	}
	return writeJSON(w, p)
}

// endSession is DELETE /v1/sessions/{sid}.
func (a *api) endSession(w http.ResponseWriter, r *http.Request) error {
	n, err := a.Sessions.End(r.Context(), r.PathValue("sid"), reason.SessionRevoked, actor)
	if err != nil {
		return err
	}
	return writeJSON(w, Closed{n})
}
