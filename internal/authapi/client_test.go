package authapi_test

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/wsbouncer/wsbouncer/internal/audit"
	"github.com/wsbouncer/wsbouncer/internal/authapi"
	"github.com/wsbouncer/wsbouncer/internal/session"
)

const clientSecret = "8f0b2c6d9e1a47358f0b2c6d9e1a4735"

// machineRig is a rig with one client that may do everything.
func machineRig(t *testing.T, change func(*authapi.Options)) *rig {
	t.Helper()
	sum := sha256.Sum256([]byte(clientSecret))
	clients := &authapi.Clients{}
	clients.Set([]authapi.Client{{
		ID: "backend", Secret: &sum, Scopes: []string{"chat"}, Introspect: true, TokenTTL: time.Minute,
		Grants: []string{authapi.GrantClientCredentials, authapi.GrantTokenExchange},
	}})
	r := newRig(t, setup{foreign: foreignIssuer(t), api: func(o *authapi.Options) {
		o.Clients, o.Audience = clients, "wsbouncer"
		if change != nil {
			change(o)
		}
	}})
	r.secrets = append(r.secrets, clientSecret)
	return r
}

func asBackend(r *http.Request) { r.SetBasicAuth("backend", clientSecret) }

func TestMachineClientsAnswerAsDescribed(t *testing.T) {
	r := machineRig(t, func(o *authapi.Options) { o.Audit = nil })
	own := r.want(r.do("POST", "/auth/token", url.Values{"grant_type": {"client_credentials"}}, asBackend), 200, "")
	if own.str("access_token") == "" || own.str("scope") != "chat" || own.json["expires_in"] != 60.0 {
		t.Errorf("%s", own.body)
	}
	exchange := func(raw string) *answer {
		return r.do("POST", "/auth/token", url.Values{
			"grant_type": {authapi.GrantTokenExchange}, "subject_token": {raw}, "subject_token_type": {"urn:ietf:params:oauth:token-type:access_token"},
		}, asBackend)
	}
	ann := r.login(anns, secret).str("access_token")
	s := r.dial(r.want(exchange(ann), 200, "").str("access_token"))
	r.want(exchange("x"), 400, "invalid_request")
	foreign := r.want(exchange(foreignToken(t, time.Minute)), 200, "").str("access_token")
	for raw, active := range map[string]bool{own.str("access_token"): true, ann: true, foreign: true, "x": false} {
		a := r.want(r.do("POST", "/auth/introspect", url.Values{"token": {raw}}, asBackend), 200, "")
		if a.json["active"] != active || !active && len(a.json) != 1 {
			t.Errorf("%s", a.body)
		}
	}
	r.want(r.do("POST", "/auth/introspect", url.Values{"token": {ann}}), 401, "invalid_client")
	r.want(r.do("POST", "/auth/revoke", url.Values{"token": {ann}}, asBackend), 400, "invalid_grant")
	r.want(r.do("GET", "/.well-known/oauth-authorization-server", nil), 200, "")
	// A page has no business here, whatever it knows.
	r.want(r.do("POST", "/auth/introspect", url.Values{"token": {ann}}, asBackend, origin(evil)), 403, "origin_denied")
	s.ping()
	r.want(r.do("POST", "/auth/revoke", url.Values{"token": {ann}}), 200, "")
	s.closes(3000, "token_revoked")
}

func TestFailuresOfClientsAreKeptAndBounded(t *testing.T) {
	r := machineRig(t, nil)
	wrong := func(r *http.Request) { r.SetBasicAuth("backend", "wrong") }
	codes := map[int]int{}
	for range 40 {
		codes[r.do("POST", "/auth/token", url.Values{"grant_type": {"client_credentials"}}, wrong).status]++
	}
	if codes[401] != 5 || codes[429] != 35 {
		t.Errorf("%v", codes)
	}
	failed, throttled := r.events(audit.ClientFailed), r.events(audit.ClientThrottled)
	if len(failed) != 5 || failed[0].Subject != "client:backend" || !failed[0].IP.IsLoopback() || len(throttled) == 0 || len(throttled) > 15 {
		t.Errorf("%d failures, %d throttled: %+v", len(failed), len(throttled), failed)
	}
	for range 40 {
		r.want(r.do("POST", "/auth/token", url.Values{"grant_type": {clientSecret}}), 400, "unsupported_grant_type")
	}
	refused := r.events(audit.GrantRefused)
	if len(refused) == 0 || len(refused) > 15 || refused[0].Detail["grant"] != "unknown" {
		t.Errorf("%d events: %+v", len(refused), refused)
	}
	r.want(r.do("POST", "/auth/token", url.Values{"grant_type": {"client_credentials"}}, asBackend), 200, "")
}

func TestNobodyLogsInAsAClient(t *testing.T) {
	r := machineRig(t, nil)
	for _, subject := range []string{"client:backend", "foreign:x"} {
		if _, err := r.sessions.Begin(t.Context(), session.Start{Subject: subject, ClientID: "wsbouncer"}); err == nil || !strings.Contains(err.Error(), "no subject of an account") {
			t.Errorf("%s has a session: %v", subject, err)
		}
	}
}

// Each assertion is remembered until it cannot be used, and no more of them than
// there is room for, of each client.
func TestUsedAssertionsAreBounded(t *testing.T) {
	var u authapi.UsedAssertions
	now := time.Unix(1_800_000_000, 0)
	until := now.Add(5 * time.Minute)
	take := func(client, jti string) string {
		first, room := u.First(client, jti, until, now)
		return fmt.Sprint(first, room)
	}
	for i := range authapi.MaxAssertions {
		if got := take("a", fmt.Sprint(i)); got != "true true" {
			t.Fatalf("%d: %s", i, got)
		}
	}
	if got := take("a", "0"); got != "false true" {
		t.Errorf("a replay: %s", got)
	}
	if got := take("a", "one more"); got != "false false" {
		t.Errorf("one too many: %s", got)
	}
	if got := take("b", "0"); got != "true true" {
		t.Errorf("another client: %s", got)
	}
	now = until.Add(-time.Second)
	if got := take("a", "0"); got != "false true" {
		t.Errorf("forgotten before its end: %s", got)
	}
	now = until.Add(2 * time.Second)
	if got := take("a", "one more"); got != "true true" || u.Len() != 1 {
		t.Errorf("%s, %d remembered", got, u.Len())
	}
}

func TestOneAssertionIsUsedOnceAtOnce(t *testing.T) {
	var u authapi.UsedAssertions
	var all sync.WaitGroup
	var used atomic.Int32
	now := time.Now()
	for range 64 {
		all.Go(func() {
			if first, _ := u.First("a", "jti", now.Add(time.Minute), now); first {
				used.Add(1)
			}
		})
	}
	all.Wait()
	if used.Load() != 1 {
		t.Errorf("used %d times", used.Load())
	}
}

// Whatever stands in a header or a form, at most one claim comes of it, and one
// that is not read to its end names nobody.
func FuzzClaim(f *testing.F) {
	f.Add("Basic YmFja2VuZDp4", "", "", "", "")
	f.Add("Basic YmFj!", "backend", "secret", "", "")
	f.Add("basic JTNh OiUzYQ==", "", "", "a.b.c", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer")
	f.Add("Bearer x", "", "", "", "urn:x")
	f.Fuzz(func(t *testing.T, header, id, secret, assertion, kind string) {
		r := httptest.NewRequest(http.MethodPost, "/", nil)
		if header != "" {
			r.Header["Authorization"] = []string{header}
		}
		gotID, gotSecret, gotAssertion, there, err := authapi.ClaimOf(r, url.Values{"client_id": {id}, "client_secret": {secret}, "client_assertion": {assertion}, "client_assertion_type": {kind}})
		methods := 0
		for _, used := range []bool{header != "", secret != "", assertion != "" || kind != ""} {
			if used {
				methods++
			}
		}
		switch {
		case there != (methods > 0), (err != nil) != (methods > 1):
			t.Fatalf("%d methods: there %v, %v", methods, there, err)
		case methods != 1:
			if gotID+gotSecret+gotAssertion != "" {
				t.Fatalf("a claim of %d methods", methods)
			}
		case gotAssertion != "" && (gotAssertion != assertion || gotSecret != ""):
			t.Fatal("an assertion out of nothing")
		case header != "" && gotSecret != "":
			scheme, value, _ := strings.Cut(header, " ")
			raw, err := base64.StdEncoding.DecodeString(strings.Trim(value, " "))
			if !strings.EqualFold(scheme, "Basic") || err != nil || id != "" && gotID != "" && gotID != id {
				t.Fatalf("%q became %q, %q", raw, gotID, gotSecret)
			}
		}
	})
}
