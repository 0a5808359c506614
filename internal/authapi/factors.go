package authapi

import (
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"github.com/wsbouncer/wsbouncer"
	"github.com/wsbouncer/wsbouncer/internal/account"
	"github.com/wsbouncer/wsbouncer/internal/httpx"
	"github.com/wsbouncer/wsbouncer/internal/reason"
	"github.com/wsbouncer/wsbouncer/internal/session"
)

// freshFor is how old a login may be that changes an account's factors.
const freshFor = 5 * time.Minute

var (
	factorFailed = &httpx.Problem{
		Status: http.StatusUnauthorized, Code: "factor_failed",
		Detail: "The code is wrong or was used before. Wait for the next one.",
	}
	// factorFailedHere does not unmake the session there is.
	factorFailedHere = &httpx.Problem{Status: http.StatusForbidden, Code: factorFailed.Code, Detail: factorFailed.Detail}
	challengeInvalid = &httpx.Problem{
		Status: http.StatusUnauthorized, Code: "challenge_invalid",
		Detail: "The challenge is unknown, used or too old. Log in with the password again.",
	}
	noFactors    = reason.Forbidden.Because("This server keeps no such factor: passkeys need a page on the host of public_url, and a name there.")
	factorExists = &httpx.Problem{
		Status: http.StatusConflict, Code: "factor_exists",
		Detail: "The account has such a factor already, or as many as it can have. Remove one first.",
	}
)

// factorResponse is the one proof of a second factor in a body.
func factorResponse(code, recovery string, passkey json.RawMessage) (account.FactorResponse, error) {
	given := 0
	for _, there := range []bool{code != "", recovery != "", passkey != nil} {
		if there {
			given++
		}
	}
	if given != 1 {
		return account.FactorResponse{}, invalidRequest("One of code, recovery_code and credential is needed.")
	}
	return account.FactorResponse{Code: code, RecoveryCode: recovery, Passkey: passkey}, nil
}

// beginPasskey is POST AuthPath/factors/webauthn/options.
func (a *API) beginPasskey(w http.ResponseWriter, r *http.Request) error {
	c, err := a.owner(r)
	if err != nil {
		return err
	}
	if err := readNothing(w, r, c); err != nil {
		return err
	}
	ceremony, err := a.o.Accounts.BeginPasskey(r.Context(), c.Subject)
	return writeCeremony(w, ceremony, err)
}

// beginStepUp is POST AuthPath/factors/verify/options.
func (a *API) beginStepUp(w http.ResponseWriter, r *http.Request) error {
	c, err := a.member(r)
	if err != nil {
		return err
	}
	if err := readNothing(w, r, c); err != nil {
		return err
	}
	ceremony, err := a.o.Accounts.BeginStepUp(r.Context(), c.Subject)
	return writeCeremony(w, ceremony, err)
}

// beginPasskeyLogin is POST AuthPath/webauthn/options.
func (a *API) beginPasskeyLogin(w http.ResponseWriter, r *http.Request) error {
	if err := readOptionalJSON(w, r, &struct{}{}); err != nil {
		return err
	}
	ceremony, err := a.o.Accounts.BeginPasskeyLogin()
	return writeCeremony(w, ceremony, err)
}

func writeCeremony(w http.ResponseWriter, c account.Ceremony, err error) error {
	if err != nil {
		return factorProblem(err)
	}
	w.Header().Set("Cache-Control", "no-store")
	return httpx.WriteJSON(w, http.StatusOK, c)
}

// passkeyInput is a browser's answer to a ceremony.
type passkeyInput struct {
	State      string          `json:"state"`
	Credential json.RawMessage `json:"credential"`
	Cookie     bool            `json:"cookie"`
}

func readPasskey(w http.ResponseWriter, r *http.Request) (in passkeyInput, err error) {
	if err = readJSON(w, r, &in); err == nil && (in.State == "" || in.Credential == nil) {
		err = invalidRequest("state and credential are needed.")
	}
	return in, err
}

// addPasskey is POST AuthPath/factors/webauthn.
func (a *API) addPasskey(w http.ResponseWriter, r *http.Request) error {
	c, err := a.owner(r)
	if err != nil {
		return err
	}
	in, err := readPasskey(w, r)
	if err != nil {
		return err
	}
	id, codes, err := a.o.Accounts.AddPasskey(r.Context(), c.Subject, in.State, in.Credential)
	if err != nil {
		return factorProblem(err)
	}
	w.Header().Set("Cache-Control", "no-store")
	return httpx.WriteJSON(w, http.StatusOK, struct {
		ID    string   `json:"id"`
		Codes []string `json:"recovery_codes,omitempty"`
	}{id, codes})
}

// passkeyLogin is POST AuthPath/webauthn: a login without a password.
func (a *API) passkeyLogin(w http.ResponseWriter, r *http.Request) error {
	in, err := readPasskey(w, r)
	if err != nil {
		return err
	}
	return a.begin(w, r, in.Cookie, methodPasskey, func(begin beginFunc) error {
		return a.o.Accounts.PasskeyLogin(r.Context(), in.State, in.Credential, from(r.Context()).ip, begin)
	})
}

// readNothing reads a body without members. With a cookie it must be there: a
// page of another site could not send it unasked.
func readNothing(w http.ResponseWriter, r *http.Request, c caller) error {
	if c.cookie {
		return readJSON(w, r, &struct{}{})
	}
	return readOptionalJSON(w, r, &struct{}{})
}

// owner is member for calls that change the caller's factors: the login must be
// recent, and made with a factor where the account has one (RFC 9470).
func (a *API) owner(r *http.Request) (caller, error) {
	c, err := a.member(r)
	if err != nil {
		return c, err
	}
	have, _, err := a.o.Accounts.Factors(r.Context(), c.Subject)
	if err != nil {
		return c, err
	}
	need := wsbouncer.Demand{MaxAuthAge: freshFor}
	if len(have) > 0 {
		need.RequireAMR = []string{account.AMRMulti}
	}
	return c, need.CheckStrength(c.Token)
}

func factorProblem(err error) error {
	switch {
	case errors.Is(err, account.ErrNotFound):
		return notFound
	case errors.Is(err, account.ErrFactorExists), errors.Is(err, account.ErrTooManyFactors):
		return factorExists
	case errors.Is(err, account.ErrFactorFailed):
		return factorFailedHere
	}
	return accountProblem(err)
}

type factorAnswer struct {
	ID      string     `json:"id"`
	Kind    string     `json:"kind"`
	Created time.Time  `json:"created"`
	Used    *time.Time `json:"last_used,omitempty"`
}

// factors is GET AuthPath/factors. account bounds how many there are.
func (a *API) factors(w http.ResponseWriter, r *http.Request) error {
	c, err := a.member(r)
	if err != nil {
		return err
	}
	list, codes, err := a.o.Accounts.Factors(r.Context(), c.Subject)
	if err != nil {
		return err
	}
	out := make([]factorAnswer, len(list))
	for i, f := range list {
		out[i] = factorAnswer{ID: f.ID, Kind: f.Kind, Created: f.Created.UTC()}
		if !f.Used.IsZero() {
			out[i].Used = &list[i].Used
		}
	}
	return httpx.WriteJSON(w, http.StatusOK, struct {
		Factors []factorAnswer `json:"factors"`
		Codes   int            `json:"recovery_codes_left"`
	}{out, codes})
}

// beginTOTP is POST AuthPath/factors/totp.
func (a *API) beginTOTP(w http.ResponseWriter, r *http.Request) error {
	c, err := a.owner(r)
	if err != nil {
		return err
	}
	if err := readNothing(w, r, c); err != nil {
		return err
	}
	secret, uri, err := a.o.Accounts.BeginTOTP(r.Context(), c.Subject)
	if err != nil {
		return factorProblem(err)
	}
	w.Header().Set("Cache-Control", "no-store")
	return httpx.WriteJSON(w, http.StatusOK, struct {
		Secret string `json:"secret"`
		URI    string `json:"uri"`
	}{secret, uri})
}

// confirmTOTP is POST AuthPath/factors/totp/confirm.
func (a *API) confirmTOTP(w http.ResponseWriter, r *http.Request) error {
	c, err := a.owner(r)
	if err != nil {
		return err
	}
	var in struct {
		Code string `json:"code"`
	}
	if err := readJSON(w, r, &in); err != nil {
		return err
	}
	codes, err := a.o.Accounts.ConfirmTOTP(r.Context(), c.Subject, in.Code, from(r.Context()).ip)
	return writeCodes(w, codes, err)
}

// newRecoveryCodes is POST AuthPath/factors/recovery-codes.
func (a *API) newRecoveryCodes(w http.ResponseWriter, r *http.Request) error {
	c, err := a.owner(r)
	if err != nil {
		return err
	}
	if err := readNothing(w, r, c); err != nil {
		return err
	}
	codes, err := a.o.Accounts.NewRecoveryCodes(r.Context(), c.Subject)
	return writeCodes(w, codes, err)
}

func writeCodes(w http.ResponseWriter, codes []string, err error) error {
	if err != nil {
		return factorProblem(err)
	}
	w.Header().Set("Cache-Control", "no-store")
	return httpx.WriteJSON(w, http.StatusOK, struct {
		Codes []string `json:"recovery_codes"`
	}{codes})
}

// removeFactor is DELETE AuthPath/factors/{id}.
func (a *API) removeFactor(w http.ResponseWriter, r *http.Request) error {
	c, err := a.owner(r)
	if err != nil {
		return err
	}
	id := r.PathValue("id")
	if len(id) > maxID {
		return notFound
	}
	if err := a.o.Accounts.RemoveFactor(r.Context(), c.Subject, id, c.Subject); err != nil {
		return factorProblem(err)
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// verifyFactor is POST AuthPath/factors/verify: the session's proof grows, and
// its refresh token rotates with that, so that the new tokens are the caller's alone.
func (a *API) verifyFactor(w http.ResponseWriter, r *http.Request) error {
	c, err := a.member(r)
	if err != nil {
		return err
	}
	var in struct {
		Code         string          `json:"code"`
		RecoveryCode string          `json:"recovery_code"`
		State        string          `json:"state"`
		Credential   json.RawMessage `json:"credential"`
		RefreshToken string          `json:"refresh_token"`
		Connection   []string        `json:"connection"`
	}
	if err := readJSON(w, r, &in); err != nil {
		return err
	}
	by, err := factorResponse(in.Code, in.RecoveryCode, in.Credential)
	if err != nil {
		return err
	}
	by.State = in.State
	if err := checkIDs(in.Connection); err != nil {
		return err
	}
	raw, err := a.refreshOf(r, c, in.RefreshToken)
	if err != nil {
		return err
	}
	ctx, who := r.Context(), from(r.Context())
	amr, err := a.o.Accounts.VerifyFactor(ctx, c.Subject, by, who.ip)
	if err != nil {
		return factorProblem(err)
	}
	g, err := a.o.Sessions.Refresh(ctx, session.RefreshRequest{
		Token: raw, ClientID: clientID, IP: who.ip, UserAgent: who.agent,
		Raise: &session.Proof{AMR: amr}, Session: c.Session, Subject: c.Subject,
		Key: c.provedKey(),
	})
	if errors.Is(err, session.ErrInvalidGrant) {
		return invalidGrant
	}
	if err != nil {
		return err
	}
	return a.answer(w, g, c.cookie, a.extendTo(ctx, g, in.Connection))
}

// invalidGrant: in a call that is not the token endpoint.
var invalidGrant = oauthError("invalid_grant", "The refresh token is unknown, used or expired, or not of this session.")

// refreshOf is the refresh token that goes with the caller's access token: in the
// body, or in its cookie where that came in one.
func (a *API) refreshOf(r *http.Request, c caller, given string) (string, error) {
	if c.cookie {
		raw, present, err := a.o.Cookies.Refresh(r)
		switch {
		case err != nil:
			return "", err
		case given != "":
			return "", invalidRequest("The refresh token is in its cookie; leave refresh_token out.")
		case !present || raw == "":
			return "", invalidGrant
		}
		return raw, nil
	}
	if given == "" {
		return "", invalidRequest("refresh_token is needed: it is replaced by one of the raised session.")
	}
	return given, nil
}
