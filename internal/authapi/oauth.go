package authapi

import (
	"errors"
	"net/http"
	"net/url"
	"strings"

	"github.com/wsbouncer/wsbouncer/internal/httpx"
)

// oauthError is an error of RFC 6749 §5.2. Code is one of that section.
func oauthError(code, detail string) *httpx.Problem {
	return &httpx.Problem{Status: http.StatusBadRequest, Code: code, Detail: detail}
}

// writeOAuthError answers in the shape of RFC 6749 §5.2. Errors that the section
// has no name for keep their own (§8.5). An error that is nobody's refusal goes
// back to be logged and answered as every other.
func writeOAuthError(w http.ResponseWriter, err error) error {
	var p httpx.Problemer
	if !errors.As(err, &p) {
		return err
	}
	status, code, detail := p.Problem()
	if status >= http.StatusInternalServerError && err != error(p) { //nolint:errorlint // is err more than p itself?
		return err // wrapped to say why: for the log
	}
	h := w.Header()
	if hp, ok := p.(httpx.HeaderProblemer); ok {
		hp.ProblemHeader(h)
	}
	h.Set("Cache-Control", "no-store")
	return httpx.WriteJSON(w, status, struct {
		Error       string `json:"error"`
		Description string `json:"error_description,omitempty"`
	}{code, describable(detail)})
}

// describable keeps to the characters of error_description (RFC 6749 §5.2).
func describable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < 0x20 || r == '"' || r == '\\' || r > 0x7e {
			return '\''
		}
		return r
	}, s)
}

// readForm reads a form whose parameters stand once each, but those named in
// repeatable. Parameters without a value are as if they were not there (RFC 6749 §3.2).
func readForm(w http.ResponseWriter, r *http.Request, repeatable string) (url.Values, error) {
	body, err := httpx.ReadBody(w, r, maxBody, "application/x-www-form-urlencoded")
	if err != nil {
		return nil, err
	}
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return nil, invalidRequest("The body is not a form.")
	}
	for name, values := range form {
		if len(values) > 1 && name != repeatable {
			return nil, invalidRequest("A parameter was sent twice.")
		}
	}
	return form, nil
}

// isForm: the request's body says it is a form. One that is neither form nor
// JSON counts as a form, which is what the standard asks for.
func isForm(r *http.Request) bool {
	media, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";")
	return !strings.EqualFold(strings.TrimSpace(media), "application/json")
}
