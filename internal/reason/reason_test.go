package reason_test

import (
	"errors"
	"net/http"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/wsbouncer/wsbouncer/internal/reason"
)

func TestSES19EndsAreLegalCloseFrames(t *testing.T) {
	seen := map[reason.End]bool{}
	for _, e := range reason.Ends() {
		if len(e.Text) == 0 || len(e.Text) > 123 || !utf8.ValidString(e.Text) {
			t.Errorf("%q cannot stand in a close frame", e.Text)
		}
		if e.Code < 1000 || e.Code == 1004 || e.Code == 1005 || e.Code == 1006 || e.Code == 1015 || e.Code > 4999 {
			t.Errorf("%s: code %d may not be sent (RFC 6455 section 7.4.1)", e, e.Code)
		}
		if e.Advice() == "" || seen[e] {
			t.Errorf("%s: no advice, or listed twice", e)
		}
		seen[e] = true
	}
}

func TestAUT01ChallengesFollowRFC6750(t *testing.T) {
	for _, c := range []struct {
		refusal *reason.Refusal
		want    string
	}{
		{reason.TokenMissing, "Bearer"},
		{reason.TokenExpired401, `Bearer error="invalid_token"`},
		{reason.TicketInvalid, `Bearer error="invalid_token"`},
		{reason.InsufficientScope.Needs("chat:write"), `Bearer error="insufficient_scope", scope="chat:write"`},
		{reason.InsufficientUserAuthentication, `Bearer error="insufficient_user_authentication"`},
		{reason.InsufficientUserAuthentication.Wants("", 5*time.Minute), `Bearer error="insufficient_user_authentication", max_age="300"`},
		{reason.InsufficientUserAuthentication.Wants("phr mfa", time.Second), `Bearer error="insufficient_user_authentication", acr_values="phr mfa", max_age="1"`},
		{reason.Forbidden, ""},
		{reason.OriginDenied, ""},
	} {
		h := http.Header{}
		c.refusal.ProblemHeader(h)
		if got := h.Get("WWW-Authenticate"); got != c.want {
			t.Errorf("%s: %q, want %q", c.refusal.Code, got, c.want)
		}
	}
	h := http.Header{}
	reason.UpgradeRequired.ProblemHeader(h)
	if h.Get("Sec-WebSocket-Version") != "13" {
		t.Error("426 does not name the version")
	}
	h = http.Header{}
	reason.TooManyHandshakes.After(0).ProblemHeader(h)
	if h.Get("Retry-After") != "1" {
		t.Errorf("Retry-After %q", h.Get("Retry-After"))
	}
}

func TestRefusalsCompareByCodeAndKeepTheTableUntouched(t *testing.T) {
	changed := reason.BadHandshake.Because("why").After(3).Needs("a")
	if !errors.Is(changed, reason.BadHandshake) || errors.Is(changed, reason.NoRoute) {
		t.Error("refusals do not compare by code")
	}
	if reason.BadHandshake.Detail == "why" || reason.BadHandshake.RetryAfter != 0 {
		t.Error("the table was changed")
	}
}
