package httpx

import (
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
)

// DocsBase is the page that explains every problem code; a problem's type is
// this page with the code as its fragment.
const DocsBase = "https://github.com/wsbouncer/wsbouncer/blob/main/docs/errors.md"

// A Problemer is an error that knows how to present itself to a stranger
// (RFC 9457). Nothing but these three values leaves the process.
type Problemer interface {
	error
	Problem() (status int, code, detail string)
}

// A HeaderProblemer is a Problemer with header fields of its own, such as
// Retry-After. ProblemHeader sets them on the answer's header.
type HeaderProblemer interface {
	Problemer
	ProblemHeader(h http.Header)
}

// A Problem is a refusal to be written out as it is.
type Problem struct {
	// Status is the HTTP status, 400 to 599.
	Status int
	// Code is the stable name, for programs; Detail a sentence for people that
	// says what to do and nothing of the inside.
	Code, Detail string
	// Header is sent with the answer; nil for none.
	Header http.Header
	// Members are further members of the body (RFC 9457 §3.2); nil for none.
	Members map[string]any
}

// Error implements error with the code alone.
func (p *Problem) Error() string { return p.Code }

// Problem implements Problemer.
func (p *Problem) Problem() (status int, code, detail string) { return p.Status, p.Code, p.Detail }

// ProblemHeader implements HeaderProblemer.
func (p *Problem) ProblemHeader(h http.Header) {
	for k, v := range p.Header {
		h[k] = v
	}
}

// internal is what a stranger learns of an error that is nobody's refusal.
var internal = &Problem{
	Status: http.StatusInternalServerError, Code: "internal",
	Detail: "Something went wrong here. Try again; the operator finds it in the log.",
}

// WriteProblem answers with err as application/problem+json: type, title,
// status, code and detail of the first Problemer in err's chain. An error
// without one is a 500 that says nothing. The answer is never cached, and
// carries what HTTP demands with the status (a challenge with 401, Allow with
// 405, the version with 426), unless the error or w's header already has it.
func WriteProblem(w http.ResponseWriter, err error) {
	p := problemOf(err)
	status, code, detail := p.Problem()
	if status < 400 || status > 599 {
		p = internal
		status, code, detail = internal.Problem()
	}
	h := w.Header()
	if hp, ok := p.(HeaderProblemer); ok {
		hp.ProblemHeader(h)
	}
	requiredHeader(h, status, code)
	body, _ := json.Marshal(struct {
		Type   string `json:"type"`
		Title  string `json:"title"`
		Status int    `json:"status"`
		Code   string `json:"code"`
		Detail string `json:"detail,omitempty"`
	}{DocsBase + "#" + code, http.StatusText(status), status, code, detail})
	if own, ok := p.(*Problem); ok && len(own.Members) > 0 {
		if more, err := json.Marshal(own.Members); err == nil {
			body = append(append(body[:len(body)-1], ','), more[1:]...)
		}
	}
	body = append(body, '\n')
	h.Set("Content-Type", "application/problem+json")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	// What the handler had set for the answer it did not give.
	h.Del("Content-Encoding")
	h.Del("ETag")
	h.Del("Last-Modified")
	w.WriteHeader(status)
	_, _ = w.Write(body)
}

func problemOf(err error) Problemer {
	var p Problemer
	if errors.As(err, &p) {
		return p
	}
	var tooBig *http.MaxBytesError
	if errors.As(err, &tooBig) {
		return bodyTooLarge
	}
	return internal
}

// requiredHeader adds what RFC 9110 and RFC 6750 demand beside a status.
func requiredHeader(h http.Header, status int, code string) {
	set := func(k, v string) {
		if h.Get(k) == "" {
			h.Set(k, v)
		}
	}
	switch status {
	case http.StatusUnauthorized:
		// RFC 6750 §3.1: no error attribute when there was no credential.
		switch code {
		case "token_missing", "login_failed", "factor_required", "factor_failed", "challenge_invalid":
			set("WWW-Authenticate", "Bearer")
		default:
			set("WWW-Authenticate", `Bearer error="invalid_token"`)
		}
	case http.StatusForbidden:
		if code == "insufficient_scope" {
			set("WWW-Authenticate", `Bearer error="insufficient_scope"`)
		}
	case http.StatusMethodNotAllowed:
		set("Allow", http.MethodGet)
	case http.StatusUpgradeRequired:
		// RFC 9110 §15.5.22 and RFC 6455 §4.4.
		set("Upgrade", "websocket")
		h.Add("Connection", "Upgrade")
		set("Sec-WebSocket-Version", "13")
	}
}

// WriteJSON answers with v as JSON. It returns the error of marshalling, with
// nothing written; a failed write to the client is nobody's error.
func WriteJSON(w http.ResponseWriter, status int, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	body = append(body, '\n')
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	_, _ = w.Write(body)
	return nil
}
