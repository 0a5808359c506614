package reason

import (
	"net/http"
	"strconv"
	"strings"
	"time"
)

// A Refusal is one way a request or a handshake is refused. It is the error
// strangers see: Detail says what to do and never what is inside.
type Refusal struct {
	// Code is the stable name, for programs.
	Code string
	// Status is the HTTP status.
	Status int
	// CloseCode is what a route with reject: close sends after a 101, or 0
	// where the refusal stays HTTP.
	CloseCode uint16
	// Detail is a sentence for people: what was wrong and what to do.
	Detail string
	// RetryAfter is the Retry-After header in seconds, 0 for none.
	RetryAfter int
	// Scope is the scope needed, space-separated, with insufficient_scope.
	Scope string
	// ACR are the acr values of which one is needed, space-separated, and MaxAge
	// how old the login may be, with insufficient_user_authentication.
	ACR    string
	MaxAge time.Duration
	// Algs are the algorithms that a proof of possession may have, space-separated,
	// and Nonce one that it must carry: the answer to a call with the scheme DPoP.
	Algs, Nonce string
}

// Error implements error with the code alone: a refusal's text may reach logs.
func (r *Refusal) Error() string { return r.Code }

// Is makes errors.Is compare refusals by code.
func (r *Refusal) Is(target error) bool {
	t, ok := target.(*Refusal)
	return ok && t.Code == r.Code
}

// Because is r with another detail.
func (r *Refusal) Because(detail string) *Refusal {
	c := *r
	c.Detail = detail
	return &c
}

// After is r with a Retry-After of so many seconds, at least one.
func (r *Refusal) After(seconds int) *Refusal {
	c := *r
	c.RetryAfter = max(1, seconds)
	return &c
}

// Needs is r with the scope that was missing.
func (r *Refusal) Needs(scope string) *Refusal {
	c := *r
	c.Scope = scope
	return &c
}

// Wants is r with what a login needs to be good enough (RFC 9470 §3).
func (r *Refusal) Wants(acr string, maxAge time.Duration) *Refusal {
	c := *r
	c.ACR, c.MaxAge = acr, maxAge
	return &c
}

// Proves is r as the answer to a call with the scheme DPoP (RFC 9449 §7.1, §9).
func (r *Refusal) Proves(algs, nonce string) *Refusal {
	c := *r
	c.Algs, c.Nonce = algs, nonce
	return &c
}

// ACRValue reports whether s can be one of several acr values in a challenge
// (RFC 6750 §3, RFC 9110 §5.6.4): printable ASCII without space, quote and backslash.
func ACRValue(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(c rune) bool { return c <= ' ' || c > '~' || c == '"' || c == '\\' })
}

// Problem is what httpx writes out (RFC 9457).
func (r *Refusal) Problem() (status int, code, detail string) {
	return r.Status, r.Code, r.Detail
}

// ProblemHeader adds the headers that go with r: the challenge of RFC 6750
// section 3 (without an error when no credential was sent), the pause of RFC
// 9110 section 10.2.3, and the version we speak (RFC 6455 section 4.2.2).
func (r *Refusal) ProblemHeader(h http.Header) {
	switch {
	case r.Code == TokenMissing.Code:
		h.Set("WWW-Authenticate", "Bearer")
	case r.Code == InsufficientUserAuthentication.Code:
		challenge := `Bearer error="insufficient_user_authentication"`
		if r.ACR != "" {
			challenge += `, acr_values="` + r.ACR + `"`
		}
		if r.MaxAge > 0 {
			challenge += `, max_age="` + strconv.Itoa(int(r.MaxAge/time.Second)) + `"`
		}
		h.Set("WWW-Authenticate", challenge)
	case r.Code == InvalidDPoPProof.Code, r.Code == UseDPoPNonce.Code, r.Algs != "":
		h.Set("WWW-Authenticate", r.proofChallenge())
	case r.Status == http.StatusUnauthorized:
		h.Set("WWW-Authenticate", `Bearer error="invalid_token"`)
	case r.Code == InsufficientScope.Code:
		challenge := `Bearer error="insufficient_scope"`
		if r.Scope != "" {
			challenge += `, scope="` + r.Scope + `"`
		}
		h.Set("WWW-Authenticate", challenge)
	}
	if r.Nonce != "" {
		h.Set("DPoP-Nonce", r.Nonce)
	}
	if r.RetryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(r.RetryAfter))
	}
	switch r.Status {
	case http.StatusUpgradeRequired:
		h.Set("Upgrade", "websocket")
		h.Set("Sec-WebSocket-Version", "13")
	case http.StatusMethodNotAllowed:
		h.Set("Allow", http.MethodGet)
	}
}

func (r *Refusal) proofChallenge() string {
	what := "invalid_token"
	if r.Code == InvalidDPoPProof.Code || r.Code == UseDPoPNonce.Code {
		what = r.Code
	}
	challenge := `DPoP error="` + what + `"`
	if r.Algs != "" {
		challenge += `, algs="` + r.Algs + `"`
	}
	return challenge
}

// Every refusal of a handshake (contract section 5) and of the HTTP API.
var (
	BadHandshake        = &Refusal{Code: "bad_handshake", Status: http.StatusBadRequest, Detail: "This is not a WebSocket handshake as RFC 6455 section 4.1 describes it."}
	OddTarget           = BadHandshake.Because("The request target has a form that servers read differently: an encoded slash, backslash or NUL, a semicolon, an empty or dot segment, a fragment, or a full URL.")
	MethodNotAllowed    = &Refusal{Code: "bad_handshake", Status: http.StatusMethodNotAllowed, Detail: "A WebSocket is opened with GET."}
	CredentialAmbiguous = &Refusal{Code: "credential_ambiguous", Status: http.StatusBadRequest, Detail: "More than one credential was sent. Send exactly one, once."}
	UnknownHost         = &Refusal{Code: "unknown_host", Status: http.StatusMisdirectedRequest, Detail: "This server does not answer to that Host name. Use the public URL."}

	TokenMissing     = &Refusal{Code: "token_missing", Status: http.StatusUnauthorized, CloseCode: CodeUnauthorized, Detail: "No credential this route takes was sent. Log in and send an access token or a ticket."}
	TokenMalformed   = &Refusal{Code: "token_malformed", Status: http.StatusUnauthorized, CloseCode: CodeUnauthorized, Detail: "The token is not a well-formed signed JWT."}
	TokenSignature   = &Refusal{Code: "token_signature", Status: http.StatusUnauthorized, CloseCode: CodeUnauthorized, Detail: "The token's signature is not one of a key trusted for its issuer."}
	TokenExpired401  = &Refusal{Code: "token_expired", Status: http.StatusUnauthorized, CloseCode: CodeUnauthorized, Detail: "The token has expired. Refresh it and try again."}
	TokenNotYetValid = &Refusal{Code: "token_not_yet_valid", Status: http.StatusUnauthorized, CloseCode: CodeUnauthorized, Detail: "The token is not valid yet. Check the clocks of the issuer and of this server."}
	TokenIssuer      = &Refusal{Code: "token_issuer", Status: http.StatusUnauthorized, CloseCode: CodeUnauthorized, Detail: "The token is of an issuer that is not trusted here."}
	TokenAudience    = &Refusal{Code: "token_audience", Status: http.StatusUnauthorized, CloseCode: CodeUnauthorized, Detail: "The token is meant for another audience."}
	TokenType        = &Refusal{Code: "token_type", Status: http.StatusUnauthorized, CloseCode: CodeUnauthorized, Detail: "The token is not an access token."}
	TokenLifetime    = &Refusal{Code: "token_lifetime", Status: http.StatusUnauthorized, CloseCode: CodeUnauthorized, Detail: "The token lives longer than is allowed here."}
	TokenBinding     = &Refusal{Code: "token_binding", Status: http.StatusUnauthorized, CloseCode: CodeUnauthorized, Detail: "The token is bound to a key, and no proof of that key came with it."}
	InvalidDPoPProof = &Refusal{Code: "invalid_dpop_proof", Status: http.StatusUnauthorized, CloseCode: CodeUnauthorized, Detail: "The DPoP header is no good proof for this request and token. Make a new one for every request."}
	UseDPoPNonce     = &Refusal{Code: "use_dpop_nonce", Status: http.StatusUnauthorized, CloseCode: CodeUnauthorized, Detail: "The proof needs the nonce of this answer's DPoP-Nonce header. Make a new one with it."}
	TokenRevoked401  = &Refusal{Code: "token_revoked", Status: http.StatusUnauthorized, CloseCode: CodeUnauthorized, Detail: "The token has been revoked. Log in again."}
	TicketInvalid    = &Refusal{Code: "ticket_invalid", Status: http.StatusUnauthorized, CloseCode: CodeUnauthorized, Detail: "The ticket is unknown, used, expired, or was made for another path or Origin. Ask for a new one for every attempt."}

	// Its close code tells the client to stop: the session is good, and coming back
	// with another token of it would be refused again.
	InsufficientUserAuthentication = &Refusal{Code: "insufficient_user_authentication", Status: http.StatusUnauthorized, CloseCode: CodeForbidden, Detail: "This route needs a stronger or a more recent login. Log in again."}

	InsufficientScope = &Refusal{Code: "insufficient_scope", Status: http.StatusForbidden, CloseCode: CodeForbidden, Detail: "The token lacks a scope this route needs."}
	Forbidden         = &Refusal{Code: "not_allowed", Status: http.StatusForbidden, CloseCode: CodeForbidden, Detail: "This identity may not do this."}
	OriginDenied      = &Refusal{Code: "origin_denied", Status: http.StatusForbidden, Detail: "Pages of this Origin may not connect. The operator lists allowed ones under origins."}

	NoRoute           = &Refusal{Code: "no_route", Status: http.StatusNotFound, Detail: "Nothing is served at this path."}
	TokenTooLarge     = &Refusal{Code: "token_too_large", Status: http.StatusRequestEntityTooLarge, Detail: "The credential is larger than is allowed here."}
	UpgradeRequired   = &Refusal{Code: "upgrade_required", Status: http.StatusUpgradeRequired, Detail: "This path speaks WebSocket, version 13."}
	TooManyHandshakes = &Refusal{Code: "too_many_handshakes", Status: http.StatusTooManyRequests, CloseCode: CodeTryLater, Detail: "Too many handshakes from this address. Wait, then try again.", RetryAfter: 1}
	TooManyConns      = &Refusal{Code: "too_many_connections", Status: http.StatusTooManyRequests, CloseCode: CodeTryLater, Detail: "Too many connections. Close one, or wait.", RetryAfter: 5}
	UpstreamRefused   = &Refusal{Code: "upstream_refused", Status: http.StatusBadGateway, CloseCode: CodeTryLater, Detail: "The server behind this route did not accept the connection."}
	UpstreamTimeout   = &Refusal{Code: "upstream_timeout", Status: http.StatusGatewayTimeout, CloseCode: CodeTryLater, Detail: "The server behind this route did not answer in time."}
	NotReady          = &Refusal{Code: "not_ready", Status: http.StatusServiceUnavailable, CloseCode: CodeTryLater, Detail: "This server is not ready. Try again shortly.", RetryAfter: 1}
	Overloaded503     = &Refusal{Code: "overloaded", Status: http.StatusServiceUnavailable, CloseCode: CodeTryLater, Detail: "This server is at its limit. Try again shortly.", RetryAfter: 5}
)

// Refusals lists every refusal above, in the order of the documentation.
func Refusals() []*Refusal {
	return []*Refusal{
		BadHandshake, MethodNotAllowed, CredentialAmbiguous, UnknownHost,
		TokenMissing, TokenMalformed, TokenSignature, TokenExpired401, TokenNotYetValid, TokenIssuer,
		TokenAudience, TokenType, TokenLifetime, TokenBinding, InvalidDPoPProof, UseDPoPNonce, TokenRevoked401, TicketInvalid, InsufficientUserAuthentication,
		InsufficientScope, Forbidden, OriginDenied, NoRoute, TokenTooLarge, UpgradeRequired,
		TooManyHandshakes, TooManyConns, UpstreamRefused, UpstreamTimeout, NotReady, Overloaded503,
	}
}
