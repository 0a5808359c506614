package authapi

import (
	"errors"
	"net/http"

	"github.com/wsbouncer/wsbouncer/internal/audit"
	"github.com/wsbouncer/wsbouncer/internal/httpx"
	"github.com/wsbouncer/wsbouncer/internal/reason"
	"github.com/wsbouncer/wsbouncer/internal/session"
	"github.com/wsbouncer/wsbouncer/token"
)

// tokenType is token_type of a token that is bound to that DPoP key, if to any
// (RFC 9449 §5). Others are bearer tokens by name, also those that a certificate
// belongs to (RFC 8705 §3).
func tokenType(key string) string {
	if key == "" {
		return "Bearer"
	}
	return "DPoP"
}

// issueProof is the proof of possession that came with a call which issues tokens,
// nil without one. It is checked and not spent.
func (a *API) issueProof(r *http.Request) (*token.Proof, error) {
	header := r.Header["Dpop"]
	if len(header) == 0 {
		return nil, nil
	}
	if a.o.Proofs == nil {
		return nil, oauthError(reason.InvalidDPoPProof.Code, "DPoP proofs are not taken here.")
	}
	p, err := a.o.Proofs.Check(header, r.Method, r.URL.EscapedPath(), "")
	return p, a.proofProblem(err)
}

// spending is how p is used up; nil without one.
func (a *API) spending(p *token.Proof) func() error {
	if p == nil {
		return nil
	}
	return func() error { return a.proofProblem(a.o.Proofs.Spend(p)) }
}

// proofProblem is an error about a proof where tokens are issued (RFC 9449 §5, §8).
func (a *API) proofProblem(err error) error {
	var bad *token.Error
	switch {
	case err == nil:
		return nil
	case !errors.As(err, &bad):
		return err
	case bad.Code == token.CodeNonce:
		return &httpx.Problem{
			Status: http.StatusBadRequest, Code: reason.UseDPoPNonce.Code, Detail: reason.UseDPoPNonce.Detail,
			Header: http.Header{"Dpop-Nonce": {a.o.Proofs.Nonce()}},
		}
	}
	return oauthError(reason.InvalidDPoPProof.Code, reason.InvalidDPoPProof.Detail)
}

// proofRefused is err, with an event where a proof was bad (one without a nonce of
// ours is not) or of another key than the session's, of whom that is.
func (a *API) proofRefused(r *http.Request, of session.KeyError, err error) error {
	var p *httpx.Problem
	if !errors.As(err, &p) || p != errWrongKey && p.Code != reason.InvalidDPoPProof.Code || !a.kept(r) {
		return err
	}
	e := audit.Event{
		Type: audit.ProofRefused, Issuer: a.o.Issuer, Subject: of.Subject, Session: of.Session,
		Detail: map[string]string{"error": p.Code},
	}
	if auditErr := a.o.Audit.Write(r.Context(), e); auditErr != nil {
		return auditErr
	}
	return err
}

// keyOf is the thumbprint of the key that p proves; "" without one.
func keyOf(p *token.Proof) string {
	if p == nil {
		return ""
	}
	return p.Key
}

var (
	// errWrongKey: RFC 9449 §5 for refresh tokens of public clients.
	errWrongKey = oauthError("invalid_grant", "The session is bound to another DPoP key than was proved, or to none. Send the DPoP header that it began with.")
	// errBoundCookie: a browser sends cookies with a handshake and no proof.
	errBoundCookie = invalidRequest("Tokens in cookies are not bound to a key: leave the DPoP header out, or cookie.")
)
