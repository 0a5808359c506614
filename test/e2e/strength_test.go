package e2e_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

const strengthRoutes = `
  - {path: /mfa, upstream: "ws://UPSTREAM", require_amr: [mfa, otp], token_from: [ticket, header, subprotocol, query, cookie]}
  - {path: /acr, upstream: "ws://UPSTREAM", require_acr: [phr, phrh]}
  - {path: /fresh, upstream: "ws://UPSTREAM", max_auth_age: 5m, in_band_refresh: true}
  - {path: /all, upstream: "ws://UPSTREAM", require_amr: [mfa], require_acr: [phr, phrh], max_auth_age: 1m}
  - {path: /close, upstream: "ws://UPSTREAM", require_amr: [mfa], reject: close}
  - {path: /first, upstream: "ws://UPSTREAM", require_amr: [mfa], token_from: [first_message]}
  - {path: /plain, upstream: "ws://UPSTREAM", token_from: [ticket, header, subprotocol, query, cookie]}
`

const tooWeak = "insufficient_user_authentication"

// authAge are claims of a login so long ago.
func authAge(d time.Duration) claims { return claims{"auth_time": time.Now().Add(-d).Unix()} }

func TestOAU08StrengthAndFreshness(t *testing.T) {
	t.Parallel()
	up := newUpstream(t, echo)
	s, iss := gate(t, up, strengthRoutes)

	challenge := func(want string, a *answer) {
		t.Helper()
		if got := a.header.Get("WWW-Authenticate"); got != `Bearer error="insufficient_user_authentication"`+want {
			t.Errorf("challenge %q, want …%s", got, want)
		}
	}
	both := claims{"amr": []string{"pwd", "otp", "mfa"}}
	each(t, s, map[string]struct {
		path string
		c    claims
		good bool
	}{
		"amr":                  {"/mfa", both, true},
		"no amr":               {"/mfa", nil, false},
		"one of two":           {"/mfa", claims{"amr": []string{"pwd", "mfa"}}, false},
		"a string":             {"/mfa", claims{"amr": "mfa otp"}, false},
		"null":                 {"/mfa", claims{"amr": []any{nil}}, false},
		"null beside":          {"/mfa", claims{"amr": []any{"mfa", "otp", nil}}, false},
		"a number beside":      {"/mfa", claims{"amr": []any{"mfa", "otp", 1}}, false},
		"other letters":        {"/mfa", claims{"amr": []string{"MFA", "OTP"}}, false},
		"an object":            {"/mfa", claims{"amr": map[string]any{"mfa": true, "otp": true}}, false},
		"acr":                  {"/acr", claims{"acr": "phrh"}, true},
		"no acr":               {"/acr", both, false},
		"another acr":          {"/acr", claims{"acr": "1"}, false},
		"an array of acr":      {"/acr", claims{"acr": []string{"phr"}}, false},
		"two acr":              {"/acr", claims{"acr": "phr phrh"}, false},
		"fresh":                {"/fresh", authAge(4 * time.Minute), true},
		"a decimal":            {"/fresh", claims{"auth_time": float64(time.Now().Unix()) - 0.5}, true},
		"a little early":       {"/fresh", authAge(-2 * time.Second), true},
		"old":                  {"/fresh", authAge(6 * time.Minute), false},
		"without auth_time":    {"/fresh", nil, false},
		"iat is no auth_time":  {"/fresh", claims{"iat": time.Now().Unix()}, false},
		"in the future":        {"/fresh", authAge(-time.Hour), false},
		"in the far future":    {"/fresh", claims{"auth_time": 1e300}, false},
		"auth_time a string":   {"/fresh", claims{"auth_time": fmt.Sprint(time.Now().Unix())}, false},
		"auth_time null":       {"/fresh", claims{"auth_time": []any{nil}}, false},
		"auth_time is a truth": {"/fresh", claims{"auth_time": true}, false},
		"auth_time below zero": {"/fresh", claims{"auth_time": -1}, false},
		"in milliseconds":      {"/fresh", claims{"auth_time": time.Now().UnixMilli()}, false},
	}, func(t *testing.T, s *server, c struct {
		path string
		c    claims
		good bool
	}) {
		raw := iss.token(c.c)
		if c.good {
			s.connect(c.path, bearer(raw)).alive()
			s.want(s.ticket(raw, c.path), 200, "")
			return
		}
		s.refused(http.StatusUnauthorized, tooWeak, c.path, bearer(raw))
		s.want(s.ticket(raw, c.path), http.StatusUnauthorized, tooWeak)
	})

	challenge("", s.refused(401, tooWeak, "/mfa", bearer(iss.token())))
	challenge(`, acr_values="phr phrh"`, s.refused(401, tooWeak, "/acr", bearer(iss.token())))
	challenge(`, max_age="300"`, s.refused(401, tooWeak, "/fresh", bearer(iss.token())))
	challenge(`, acr_values="phr phrh", max_age="60"`, s.refused(401, tooWeak, "/all", bearer(iss.token(both))))
	if n := up.count(); n != 5 {
		t.Errorf("%d connections reached the upstream, want the 5 good ones", n)
	}

	t.Run("at a refresh", func(t *testing.T) {
		s := s.within(t)
		long := inSeconds(60)
		c := s.connect("/fresh", bearer(iss.token(authAge(0), expires(inSeconds(30))))).alive()
		c.text(refreshMessage(iss.token(authAge(time.Minute), expires(long)))).replies("ok", long)
		c = s.connect("/fresh", bearer(iss.token(authAge(0)))).alive()
		c.text(refreshMessage(iss.token(authAge(10*time.Minute), expires(inSeconds(90)))))
		c.closes(3003, "not_allowed")

		c, a := s.handshake("/fresh", bearer(iss.token(authAge(0))))
		cid := a.header.Get("X-Wsbouncer-Connection")
		x := s.call("POST", "/auth/extend", map[string]any{"connections": []string{cid}}, bearer(iss.token(authAge(10*time.Minute), expires(inSeconds(600)))))
		if s.want(x, 200, ""); len(x.json["extended"].([]any)) != 0 {
			t.Errorf("extended: %s", x.body)
		}
		c.closes(3003, "not_allowed")
	})

	t.Run("a ticket goes stale with its login", func(t *testing.T) {
		s := s.within(t)
		login := claims{"amr": []string{"mfa"}, "acr": "phr", "auth_time": time.Now().Add(-58 * time.Second).Unix()}
		ticket := s.want(s.ticket(iss.token(login), "/all"), 200, "").str("ticket")
		other := iss.token(login, claims{"sub": "bob"}) // as old, and its tickets push out nobody else's
		eventually(t, "the login is too old", func() bool { return s.ticket(other, "/all").code() == tooWeak })
		s.refused(401, tooWeak, "/all?ticket="+ticket)
	})
}

func TestAUT07StrengthHoldsForEveryCarrier(t *testing.T) {
	t.Parallel()
	up := newUpstream(t, echo)
	s, iss := gate(t, up, strengthRoutes)
	strong, weak := iss.token(claims{"amr": []string{"mfa", "otp"}}), iss.token(claims{"amr": []string{"pwd"}})
	for _, c := range carriers(s, "/mfa") {
		target, lines := c.use("/mfa", strong)
		s.connect(target, lines...).alive()
		if c.name == "ticket" { // of a route that asks for less
			other := s.want(s.ticket(weak, "/plain"), 200, "").str("ticket")
			s.refused(401, "ticket_invalid", "/mfa?ticket="+other)
			continue
		}
		before := up.count()
		target, lines = c.use("/mfa", weak)
		s.refused(401, tooWeak, target, lines...)
		target, lines = c.use("/plain", weak)
		s.connect(target, lines...).alive()
		if up.count() != before+1 {
			t.Errorf("%s: a refused handshake reached the upstream", c.name)
		}
	}
	s.connect("/first").first(weak).closes(3003, tooWeak)
	s.connect("/first").first(strong).told("ok")
	// A page that tries with reject: close reads the name, and a code that means stop.
	s.connect("/close", bearer(weak)).closes(3003, tooWeak)
	s.connect("/close", bearer(strong)).alive()

	text := s.refused(401, tooWeak, "/mfa?x="+strings.Repeat("mfa", 3), bearer(weak), "X-Wsbouncer-Amr: mfa")
	if !strings.Contains(string(text.body), "otp") {
		t.Errorf("the answer does not say what is lacking: %s", text.body)
	}
}
