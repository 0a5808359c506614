package token

import "strings"

// The codes of [Error]: why a token was refused.
const (
	CodeTooLarge    = "token_too_large"     // longer than Options.MaxBytes
	CodeMalformed   = "token_malformed"     // not one well-formed signed JWT
	CodeIssuer      = "token_issuer"        // of an issuer that is not trusted
	CodeType        = "token_type"          // some other kind of token than an access token
	CodeSignature   = "token_signature"     // not signed by a key of the issuer with its algorithm
	CodeAudience    = "token_audience"      // meant for somebody else
	CodeExpired     = "token_expired"       // exp has passed
	CodeNotYetValid = "token_not_yet_valid" // nbf or iat is in the future
	CodeLifetime    = "token_lifetime"      // lives longer than the issuer's tokens may
	CodeBinding     = "token_binding"       // bound to a key (cnf) and came without proof of it
	// CodeProof: a proof of possession (DPoP) is not good. CodeNonce: it needs a
	// nonce of ours (RFC 9449 §8, §9).
	CodeProof = "invalid_dpop_proof"
	CodeNonce = "use_dpop_nonce"
	// CodeInactive: the issuer was asked, and says that the token does not count.
	CodeInactive = "token_revoked"
	// CodeUnavailable: whoever could tell is out of reach. The token may be good.
	CodeUnavailable = "not_ready"
)

// An Error says why a token was refused. Code is stable and for programs.
// Detail is a sentence for the operator's log; it repeats nothing of the token
// but names of claims, so it is safe to write down, and is not meant for
// whoever sent the token. Err is the cause, where there is one.
type Error struct {
	Code   string
	Detail string
	Err    error
}

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Code)
	if e.Detail != "" {
		b.WriteString(": ")
		b.WriteString(e.Detail)
	}
	if e.Err != nil {
		b.WriteString(": ")
		b.WriteString(e.Err.Error())
	}
	return b.String()
}

func (e *Error) Unwrap() error { return e.Err }

// Is makes errors.Is compare by code.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code
}

func refuse(code, detail string) *Error { return &Error{Code: code, Detail: detail} }

func refuseFor(code, detail string, cause error) *Error {
	return &Error{Code: code, Detail: detail, Err: cause}
}
