package adminapi

import (
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/wsbouncer/wsbouncer"
	"github.com/wsbouncer/wsbouncer/internal/audit"
	"github.com/wsbouncer/wsbouncer/token"
)

// keys is GET /v1/keys. The ring bounds how many there are.
func (a *api) keys(w http.ResponseWriter, _ *http.Request) error {
	if a.Ring == nil {
		return errNoIssuer
	}
	return writeJSON(w, Page[Key]{Items: append([]Key{}, a.Ring.List()...)})
}

// rotateKey is POST /v1/keys/rotate: the next key signs from now on.
func (a *api) rotateKey(w http.ResponseWriter, r *http.Request) error {
	if a.Ring == nil {
		return errNoIssuer
	}
	k, err := a.Ring.Rotate(time.Now())
	if err != nil {
		return err
	}
	if err := a.tellKey(r, audit.KeyRotated, k.ID, ""); err != nil {
		return err
	}
	return writeJSON(w, k)
}

// revokeKey is DELETE /v1/keys/{kid}.
func (a *api) revokeKey(w http.ResponseWriter, r *http.Request) error {
	kid := r.PathValue("kid")
	if a.Ring == nil {
		return errNoIssuer
	}
	if !a.hasKey(kid) {
		return errNoKey
	}
	return a.dropKey(w, r, kid, r.URL.Query().Get("reason"))
}

func (a *api) hasKey(kid string) bool {
	return a.Ring != nil && slices.ContainsFunc(a.Ring.List(), func(k token.KeyInfo) bool { return k.ID == kid })
}

// dropKey makes one of our keys sign and verify no more, and then ends whatever
// lives by it. In this order, because a key that is revoked and still signs
// would make tokens that nobody takes. Both steps can be repeated.
func (a *api) dropKey(w http.ResponseWriter, r *http.Request, kid, note string) error {
	if err := a.Ring.Revoke(kid, time.Now()); err != nil {
		return err
	}
	if err := a.tellKey(r, audit.KeyRevoked, kid, note); err != nil {
		return err
	}
	return a.carryOut(w, r, wsbouncer.Key(kid), note)
}

func (a *api) tellKey(r *http.Request, t audit.Type, kid, note string) error {
	e := audit.Event{Type: t, Issuer: a.Issuer, Actor: actor, Detail: map[string]string{"kid": kid}}
	if note != "" {
		e.Detail["note"] = note
	}
	if err := a.Audit.Write(r.Context(), e); err != nil {
		return fmt.Errorf("audit: %w", err)
	}
	return nil
}
