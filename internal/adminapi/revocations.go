package adminapi

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/wsbouncer/wsbouncer"
	"github.com/wsbouncer/wsbouncer/token"
)

// nodes is how many apply a revocation: this version runs on one.
const nodes = 1

// revocations is GET /v1/revocations: those in force, in the order of their
// numbers.
func (a *api) revocations(w http.ResponseWriter, r *http.Request) error {
	limit, err := pageLimit(r)
	if err != nil {
		return err
	}
	after, err := number(r, "after")
	if err != nil {
		return err
	}
	list, err := a.Sessions.Revocations(r.Context(), after, limit+1)
	if err != nil {
		return err
	}
	p := Page[Revocation]{Items: []Revocation{}}
	if len(list) > limit {
		list = list[:limit]
		p.Next = strconv.FormatInt(list[limit-1].Seq, 10)
	}
	for _, e := range list {
		p.Items = append(p.Items, Revocation{
			ID: e.Seq, Kind: e.Kind, Issuer: e.Issuer, Value: e.Value, At: e.At.UTC(), Expires: e.Expires,
			Close: e.Revocation.Reason.Text, Reason: e.Note, Actor: e.Actor,
		})
	}
	return writeJSON(w, p)
}

// revoke is POST /v1/revocations. It answers when the revocation is durable and
// every connection it concerns has ended.
func (a *api) revoke(w http.ResponseWriter, r *http.Request) error {
	var in RevokeRequest
	if err := readJSON(w, r, &in); err != nil {
		return err
	}
	rev, err := a.revocation(r, in)
	if err != nil {
		return err
	}
	if rev.Kind == "key" && a.ownIssuer(rev.Issuer) && a.hasKey(rev.Value) {
		return a.dropKey(w, r, rev.Value, in.Reason)
	}
	if rev.Issuer == "" {
		// Taken for somebody's who has nothing here, it would be answered as
		// done and end nothing.
		if rev.Issuer = a.DefaultIssuer(); rev.Issuer == "" {
			return invalid("More than one issuer is trusted and none of them is our own: name the issuer.")
		}
	}
	return a.carryOut(w, r, rev, in.Reason)
}

func (a *api) carryOut(w http.ResponseWriter, r *http.Request, rev wsbouncer.Revocation, note string) error {
	res, err := a.Sessions.Revoke(r.Context(), actor, note, rev)
	if err != nil {
		return err
	}
	return writeJSON(w, RevokeResult{ID: res.ID, Closed: res.Closed, Nodes: nodes})
}

func (a *api) ownIssuer(name string) bool { return name == "" || name == a.Issuer }

// revocation is what a request means.
func (a *api) revocation(r *http.Request, in RevokeRequest) (wsbouncer.Revocation, error) {
	var rev wsbouncer.Revocation
	switch in.Kind {
	case "token":
		// A token has two dots (RFC 7515 §7.1); our ids have none.
		if strings.Count(in.Value, ".") == 2 && len(in.Value) > 64 {
			return a.tokenItself(r, in)
		}
		rev = wsbouncer.Token(in.Value)
	case "session":
		rev = wsbouncer.Session(in.Value)
	case "subject":
		rev = wsbouncer.Subject(in.Value)
	case "key":
		rev = wsbouncer.Key(in.Value)
	case "before":
		t, err := time.Parse(time.RFC3339, in.Value)
		if err != nil {
			return rev, invalid("value is a time such as 2026-11-24T10:00:00Z.")
		}
		rev = wsbouncer.Before(t)
	default:
		return rev, invalid("kind is token, session, subject, key or before.")
	}
	return rev.Of(in.Issuer), nil
}

// tokenItself revokes the token that was given, so that nobody has to look its
// id up.
func (a *api) tokenItself(r *http.Request, in RevokeRequest) (wsbouncer.Revocation, error) {
	t, err := a.Bouncer.Verify(token.WithProof(r.Context(), token.AnyKey), in.Value)
	switch {
	case err != nil:
		return wsbouncer.Revocation{}, err
	case t.ID == "":
		return wsbouncer.Revocation{}, invalid("This token has no jti. Revoke its session or subject.")
	case in.Issuer != "" && in.Issuer != t.Issuer:
		return wsbouncer.Revocation{}, invalid("This token is of another issuer than the one named.")
	}
	rev := wsbouncer.Token(t.ID).Of(t.Issuer)
	rev.Expires = t.Deadline()
	return rev, nil
}
