package authapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/wsbouncer/wsbouncer"
	"github.com/wsbouncer/wsbouncer/internal/account"
	"github.com/wsbouncer/wsbouncer/internal/httpx"
	"github.com/wsbouncer/wsbouncer/internal/reason"
	"github.com/wsbouncer/wsbouncer/internal/session"
)

// clientID is the client that our own login stands for (RFC 9068 §2.2: every
// access token names one). It is public: it has no secret.
const clientID = "wsbouncer"

const (
	methodPassword = "password"
	methodPasskey  = "passkey"
)

var (
	loginFailed = &httpx.Problem{
		Status: http.StatusUnauthorized, Code: "login_failed",
		Detail: "The name or the password is wrong.",
	}
	wrongPassword = &httpx.Problem{
		Status: http.StatusForbidden, Code: "wrong_password",
		Detail: "The current password is wrong.",
	}
)

// grantAnswer is what an issuing call answers (RFC 6749 §5.1, and session_id).
type grantAnswer struct {
	AccessToken  string   `json:"access_token,omitempty"`
	TokenType    string   `json:"token_type"`
	ExpiresIn    int      `json:"expires_in"`
	RefreshToken string   `json:"refresh_token,omitempty"`
	Scope        string   `json:"scope"`
	SessionID    string   `json:"session_id"`
	Extended     []string `json:"extended,omitzero"`
}

// answer gives g to the caller: in the body, or, in the cookie form, as cookies
// with no token in the body.
func (a *API) answer(w http.ResponseWriter, g session.Grant, cookie bool, extended []string) error {
	out := grantAnswer{TokenType: tokenType(g.Key), ExpiresIn: g.ExpiresIn, Scope: g.Scope, SessionID: g.SessionID, Extended: extended}
	if !cookie {
		out.AccessToken, out.RefreshToken = g.AccessToken, g.RefreshToken
		return httpx.WriteJSON(w, http.StatusOK, out)
	}
	if err := a.setCookies(w, g); err != nil {
		return err
	}
	return httpx.WriteJSON(w, http.StatusOK, out)
}

// setCookies gives the browser both cookies, or on an error none.
func (a *API) setCookies(w http.ResponseWriter, g session.Grant) error {
	err := a.o.Cookies.SetAccess(w, g.AccessToken, time.Duration(g.ExpiresIn)*time.Second)
	if err == nil {
		err = a.o.Cookies.SetRefresh(w, g.RefreshToken, time.Until(g.SessionExpires))
	}
	if err != nil {
		w.Header().Del("Set-Cookie")
		return fmt.Errorf("session %s: %w; give the account fewer scopes", g.SessionID, err)
	}
	return nil
}

// login is POST AuthPath/login.
func (a *API) login(w http.ResponseWriter, r *http.Request) error {
	var in struct {
		Username     *string `json:"username"`
		Password     *string `json:"password"`
		Challenge    *string `json:"challenge"`
		Code         string  `json:"code"`
		RecoveryCode string  `json:"recovery_code"`
		// Credential is a passkey's answer.
		Credential json.RawMessage `json:"credential"`
		Cookie     bool            `json:"cookie"`
	}
	if err := readJSON(w, r, &in); err != nil {
		return err
	}
	second := in.Challenge != nil
	by, err := factorResponse(in.Code, in.RecoveryCode, in.Credential)
	switch {
	case second && (in.Username != nil || in.Password != nil), !second && (in.Username == nil || in.Password == nil || in.Code+in.RecoveryCode != "" || in.Credential != nil):
		return invalidRequest("username and password are needed, or challenge and one of code, recovery_code and credential.")
	case second && err != nil:
		return err
	}
	return a.begin(w, r, in.Cookie, methodPassword, func(begin beginFunc) error {
		ctx := r.Context()
		if second {
			return a.o.Accounts.FinishLogin(ctx, *in.Challenge, by, from(ctx).ip, begin)
		}
		return a.passwordLogin(ctx, *in.Username, *in.Password, begin)
	})
}

// beginFunc begins the session of a login, in the login's transaction.
type beginFunc = func(ctx context.Context, a account.Account, amr []string) error

// begin is every login of an account: prove is given what begins the session once
// it is proved whose it is.
func (a *API) begin(w http.ResponseWriter, r *http.Request, cookie bool, method string, prove func(beginFunc) error) error {
	if cookie {
		if err := a.guardCookies(r); err != nil {
			return err
		}
	}
	proof, err := a.issueProof(r)
	switch {
	case err != nil:
		return a.proofRefused(r, session.KeyError{}, err)
	case proof != nil && cookie:
		return errBoundCookie
	}
	spend := a.spending(proof)
	ctx, who := r.Context(), from(r.Context())
	var g session.Grant
	err = prove(func(ctx context.Context, acct account.Account, amr []string) (err error) {
		if spend != nil { // nobody without the password can use up the room for proofs
			if err := spend(); err != nil {
				return err
			}
		}
		g, err = a.o.Sessions.Begin(ctx, session.Start{
			Subject: acct.Subject, ClientID: clientID, Method: method, Proof: session.Proof{AMR: amr},
			IP: who.ip, UserAgent: who.agent, Origin: who.origin, Key: keyOf(proof),
		})
		return err
	})
	if err != nil {
		return a.proofRefused(r, session.KeyError{}, accountProblem(err))
	}
	if cookie {
		a.endReplaced(r)
	}
	if err := a.answer(w, g, cookie, nil); err != nil {
		// Nobody holds its tokens.
		_, endErr := a.o.Sessions.End(ctx, g.SessionID, wsbouncer.LoggedOut, g.Subject)
		return errors.Join(err, endErr)
	}
	return nil
}

// passwordLogin is a login with nothing but a password.
func (a *API) passwordLogin(ctx context.Context, name, password string, begin beginFunc) error {
	acct, err := a.o.Accounts.Authenticate(ctx, name, password, from(ctx).ip)
	if err != nil {
		return err
	}
	return a.o.Tx(ctx, func(ctx context.Context) error {
		if err := a.o.Accounts.Confirm(ctx, acct); err != nil {
			return err
		}
		return begin(ctx, acct, []string{account.AMRPassword})
	})
}

// endReplaced ends the session whose cookies a login in the cookie form is about
// to replace: nobody could end it any more. Errors are logged: the login holds.
func (a *API) endReplaced(r *http.Request) {
	old, present, err := a.o.Cookies.Refresh(r)
	if err != nil || !present || old == "" {
		return // two of them: one was planted, and which is anybody's guess
	}
	if _, err := a.o.Sessions.RevokeRefresh(r.Context(), old, clientID, ""); err != nil {
		a.o.Log.ErrorContext(r.Context(), "ending the session that a login replaces", "error", err)
	}
}

// accountProblem is what a caller learns of an error of the account service.
func accountProblem(err error) error {
	var throttled *account.ThrottledError
	var rule *account.RuleError
	var factor *account.FactorRequiredError
	switch {
	case errors.As(err, &factor):
		p := &httpx.Problem{
			Status: http.StatusUnauthorized, Code: "factor_required",
			Detail:  "The password is right. Send the challenge with a code of the second factor.",
			Members: map[string]any{"challenge": factor.Challenge, "factors": factor.Kinds},
		}
		if factor.PublicKey != nil {
			p.Members["publicKey"] = factor.PublicKey
		}
		return p
	case errors.Is(err, account.ErrChallenge):
		return challengeInvalid
	case errors.Is(err, account.ErrFactorFailed):
		return factorFailed
	case errors.Is(err, account.ErrNoFactors):
		return noFactors
	case errors.As(err, &throttled):
		return tooMany(failedLogins, throttled.RetryAfter)
	case errors.Is(err, account.ErrBusy):
		return reason.Overloaded503.Because("Too many logins at once. Try again shortly.").After(1)
	case errors.Is(err, account.ErrLoginFailed), errors.Is(err, session.ErrInactive):
		return loginFailed
	case errors.As(err, &rule):
		return &httpx.Problem{Status: http.StatusBadRequest, Code: "password_refused", Detail: rule.Detail}
	}
	return err
}

const failedLogins = "failed logins"

// tooMany is the answer to more failures than are allowed, of what is named.
func tooMany(of string, retry time.Duration) *httpx.Problem {
	return &httpx.Problem{
		Status: http.StatusTooManyRequests, Code: "login_throttled",
		Detail: "Too many " + of + ". Wait, then try again.",
		Header: http.Header{"Retry-After": {strconv.Itoa(max(1, int(math.Ceil(retry.Seconds()))))}},
	}
}

// password is POST AuthPath/password: the current password is needed, and the
// other sessions end in the same transaction.
func (a *API) password(w http.ResponseWriter, r *http.Request) error {
	c, err := a.member(r)
	if err != nil {
		return err
	}
	var in struct {
		Current string  `json:"current_password"`
		New     *string `json:"new_password"`
	}
	if err := readJSON(w, r, &in); err != nil {
		return err
	}
	if in.New == nil {
		return invalidRequest("current_password and new_password are needed.")
	}
	err = a.o.Accounts.ChangePassword(r.Context(), c.Subject, in.Current, *in.New, from(r.Context()).ip, func(ctx context.Context) error {
		_, err := a.o.Sessions.EndOthers(ctx, c.Subject, c.Session, reason.SessionRevoked, c.Subject)
		return err
	})
	switch {
	case errors.Is(err, account.ErrLoginFailed), errors.Is(err, account.ErrNotFound):
		return wrongPassword
	case err != nil:
		return accountProblem(err)
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
