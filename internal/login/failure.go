package login

import (
	"errors"
	"net/http"

	"github.com/wsbouncer/wsbouncer/internal/audit"
	"github.com/wsbouncer/wsbouncer/internal/httpx"
)

// A Failure is a login that did not come about: what its user learns, and what
// the audit trail keeps.
type Failure struct {
	httpx.Problem
	// Reason is for the operator, and holds nothing secret.
	Reason string
	// Cause is what went wrong beneath; nil: nothing did.
	Cause error
}

func (f *Failure) Error() string {
	if f.Cause != nil {
		return f.Code + ": " + f.Reason + ": " + f.Cause.Error()
	}
	return f.Code + ": " + f.Reason
}

// Unwrap gives the cause.
func (f *Failure) Unwrap() error { return f.Cause }

func failure(status int, code, detail, reason string) *Failure {
	return &Failure{Problem: httpx.Problem{Status: status, Code: code, Detail: detail}, Reason: audit.Cut(reason, 300)}
}

// unknownProvider: nobody is configured by that name.
func unknownProvider() *Failure {
	return failure(http.StatusNotFound, "login_provider_unknown", "There is no login provider of that name here.", "unknown provider")
}

// badReturn: return_to would lead away.
func badReturn() *Failure {
	return failure(http.StatusBadRequest, "return_to_denied",
		"return_to must be a path here or a page of an allowed origin. The operator lists those under origins.", "return_to")
}

// badState: the callback is not the answer to a login that this browser began.
func badState(reason string) *Failure {
	return failure(http.StatusBadRequest, "login_state",
		"This is not the answer to a login that this browser began here in the last ten minutes, or it was used already. Begin the login again.", reason)
}

// badAnswer: the callback does not say what it must.
func badAnswer(reason string) *Failure {
	return failure(http.StatusBadRequest, "login_response", "The login provider's answer is not what it must be. Begin the login again.", reason)
}

// refusedThere: the provider itself said no.
func refusedThere(code, description string) *Failure {
	detail := "The login provider refused: " + audit.Cut(code, 100)
	if description != "" {
		detail += " (" + audit.Cut(description, 200) + ")"
	}
	return failure(http.StatusForbidden, "login_refused", detail, "the provider answered "+code)
}

// denied: the user is who they say, and may not come in.
func denied(reason string) *Failure {
	return failure(http.StatusForbidden, "login_denied",
		"You are logged in at the login provider, but may not log in here. The operator decides who may.", reason)
}

// providerFailed: the provider is down, slow, or says what cannot be true.
func providerFailed(reason string, cause error) *Failure {
	f := failure(http.StatusBadGateway, "login_provider_failed",
		"The login provider did not answer as it must. Try again in a while; other ways to log in are not affected.", reason)
	f.Cause = cause
	return f
}

func busy() *Failure {
	f := failure(http.StatusServiceUnavailable, "overloaded", "Too many logins at once. Try again shortly.", "too many logins at once")
	f.Header = http.Header{"Retry-After": {"1"}}
	return f
}

// asFailure makes any error of an exchange one that names no secret.
func asFailure(err error, reason string) *Failure {
	var f *Failure
	if errors.As(err, &f) {
		return f
	}
	return providerFailed(reason, err)
}
