package wsbouncer

import (
	"context"
	"errors"
	"net/http"
	"strings"

	"github.com/wsbouncer/wsbouncer/internal/reason"
	"github.com/wsbouncer/wsbouncer/token"
)

// VerifyRequest is Verify for a token that came with r: in its Authorization
// header or, where bearer is true, somewhere else. A token bound to a key (cnf)
// needs the proof of it: a DPoP header (RFC 9449) with the scheme DPoP, or the
// certificate that r's connection was opened with (RFC 8705), whatever the place.
func (b *Bouncer) VerifyRequest(r *http.Request, raw string, bearer bool) (*token.Token, error) {
	if len(raw) > b.limits.TokenBytes {
		return nil, reason.TokenTooLarge
	}
	return b.verifyRequest(r.Context(), r, raw, !bearer && hasScheme(r.Header, "DPoP"))
}

func (c *core) verifyRequest(ctx context.Context, r *http.Request, raw string, dpop bool) (*token.Token, error) {
	ctx = certified(ctx, r)
	if !dpop {
		return c.verify(ctx, raw)
	}
	if c.proofs == nil {
		return nil, reason.TokenBinding.Because("DPoP proofs are not taken here.")
	}
	algs := strings.Join(token.ProofAlgorithms(), " ")
	t, err := c.verifyProved(ctx, r, raw)
	var ref *Refusal
	switch {
	case err == nil:
		return t, nil
	case errors.As(err, &ref) && ref.Code == reason.UseDPoPNonce.Code:
		return nil, ref.Proves(algs, c.proofs.Nonce())
	case errors.As(err, &ref) && ref.Status == http.StatusUnauthorized:
		return nil, ref.Proves(algs, "")
	}
	return nil, err
}

func (c *core) verifyProved(ctx context.Context, r *http.Request, raw string) (*token.Token, error) {
	if raw == "" {
		return nil, reason.TokenMalformed
	}
	p, err := c.proofs.Check(r.Header["Dpop"], r.Method, r.URL.EscapedPath(), raw)
	if err != nil {
		return nil, c.refusal(err, "checking a proof of possession")
	}
	t, err := c.verify(token.WithProof(ctx, p.Binding), raw)
	if err != nil {
		return nil, err
	}
	// The scheme says that the token is bound to that key (RFC 9449 §7.1).
	if t.Binding != p.Binding {
		return nil, reason.TokenBinding.Because("The token is not bound to the key of the proof.")
	}
	if err := c.proofs.Spend(p); err != nil {
		return nil, c.refusal(err, "spending a proof of possession")
	}
	return t, nil
}

// certified is ctx with the certificate that r's connection was opened with. What
// a header says of one is not looked at.
func certified(ctx context.Context, r *http.Request) context.Context {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 || len(r.TLS.VerifiedChains) == 0 {
		return ctx
	}
	return token.WithProof(ctx, token.CertificateBinding(r.TLS.PeerCertificates[0]))
}

// hasScheme reports whether h's first Authorization line is of that scheme.
func hasScheme(h http.Header, scheme string) bool {
	lines := h["Authorization"]
	if len(lines) == 0 {
		return false
	}
	is, _, _ := strings.Cut(strings.TrimSpace(lines[0]), " ")
	return strings.EqualFold(is, scheme)
}
