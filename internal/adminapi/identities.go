package adminapi

import (
	"context"
	"net/http"
	"net/url"
	"time"

	"github.com/wsbouncer/wsbouncer/internal/reason"
)

// Identity is our own subject for a user of a login provider.
type Identity struct {
	ID string `json:"id"`
	// Issuer and Subject are whose it is there, Label what it is called there.
	Issuer   string    `json:"issuer"`
	Subject  string    `json:"subject"`
	Label    string    `json:"label,omitempty"`
	Disabled bool      `json:"disabled"`
	Created  time.Time `json:"created"`
	Used     time.Time `json:"used"`
}

// identities is GET /v1/identities, in the order of their ids.
func (a *api) identities(w http.ResponseWriter, r *http.Request) error {
	if a.Login == nil {
		return errNoIssuer
	}
	limit, err := pageLimit(r)
	if err != nil {
		return err
	}
	list, err := a.Login.Identities(r.Context(), r.URL.Query().Get("after"), limit+1)
	if err != nil {
		return err
	}
	p := Page[Identity]{Items: []Identity{}}
	if len(list) > limit {
		list = list[:limit]
		p.Next = list[limit-1].ID
	}
	for _, i := range list {
		p.Items = append(p.Items, Identity{
			ID: i.ID, Issuer: i.Issuer, Subject: i.Subject, Label: i.Label, Disabled: i.Disabled, Created: i.Created.UTC(), Used: i.Used.UTC(),
		})
	}
	return writeJSON(w, p)
}

// disableIdentity is POST /v1/identities/{id}/disable: all that it has ends.
func (a *api) disableIdentity(w http.ResponseWriter, r *http.Request) error {
	if a.Login == nil {
		return errNoIssuer
	}
	id := r.PathValue("id")
	return noContent(w, a.Tx(r.Context(), func(ctx context.Context) error {
		if err := a.Login.Disable(ctx, id, actor); err != nil {
			return err
		}
		_, err := a.Sessions.EndAll(ctx, id, reason.SubjectRevoked, actor)
		return err
	}))
}

// enableIdentity is POST /v1/identities/{id}/enable.
func (a *api) enableIdentity(w http.ResponseWriter, r *http.Request) error {
	if a.Login == nil {
		return errNoIssuer
	}
	return noContent(w, a.Login.Enable(r.Context(), r.PathValue("id"), actor))
}

// Identities lists the users of login providers who have been here.
func (c *Client) Identities(ctx context.Context, after string) (p Page[Identity], err error) {
	return p, c.call(ctx, http.MethodGet, "/v1/identities", values("after", after), nil, &p)
}

// DisableIdentity keeps a provider's user out and ends its sessions.
func (c *Client) DisableIdentity(ctx context.Context, id string) error {
	return c.call(ctx, http.MethodPost, "/v1/identities/"+url.PathEscape(id)+"/disable", nil, nil, nil)
}

// EnableIdentity lets it in again.
func (c *Client) EnableIdentity(ctx context.Context, id string) error {
	return c.call(ctx, http.MethodPost, "/v1/identities/"+url.PathEscape(id)+"/enable", nil, nil, nil)
}
