package token_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wsbouncer/wsbouncer/token"
)

func ringOptions(t testing.TB) token.RingOptions {
	t.Helper()
	return token.RingOptions{
		Path: filepath.Join(t.TempDir(), "keys.json"), Algorithm: "EdDSA",
		Rotation: 24 * time.Hour, Overlap: 10 * time.Minute, PublishAhead: time.Hour,
	}
}

func openRing(t testing.TB, o token.RingOptions) *token.Ring {
	t.Helper()
	r, err := token.OpenRing(o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func accessToken(now time.Time) token.AccessToken {
	return token.AccessToken{
		Issuer: "https://own.example", Audience: "gw", Subject: "alice", Session: "s1", ClientID: "web",
		Scopes: []string{"chat", "wsbouncer:admin"}, IssuedAt: now, Expiry: now.Add(5 * time.Minute), Rev: 3,
		Extra: map[string]any{"rooms": []string{"lobby"}},
	}
}

func ownVerifier(t testing.TB, r *token.Ring, alg string) *token.Verifier {
	t.Helper()
	return verifier(t, token.Options{Issuers: []token.Issuer{{
		Name: "https://own.example", Audience: "gw", Algorithms: []string{alg}, Keys: r, Own: true,
	}}})
}

func mustSign(t testing.TB, r *token.Ring) string {
	t.Helper()
	raw, err := r.Sign(accessToken(time.Now()))
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// states is "state state …" with the ids of two keys per state at most.
func states(r *token.Ring) (text string, ids []string) {
	var words []string
	for _, k := range r.List() {
		words = append(words, string(k.State))
		ids = append(ids, k.ID)
	}
	return strings.Join(words, " "), ids
}

func wantStates(t testing.TB, r *token.Ring, want string) []string {
	t.Helper()
	got, ids := states(r)
	if got != want {
		t.Fatalf("keys are %q, want %q", got, want)
	}
	return ids
}

func TestRingSignsWhatTheVerifierTakes(t *testing.T) {
	for _, alg := range []string{"EdDSA", "ES256", "RS256"} {
		t.Run(alg, func(t *testing.T) {
			o := ringOptions(t)
			o.Algorithm = alg
			r := openRing(t, o)
			raw := mustSign(t, r)
			got, err := ownVerifier(t, r, alg).Verify(context.Background(), raw)
			if err != nil {
				t.Fatal(err)
			}
			if got.Subject != "alice" || got.Session != "s1" || got.ClientID != "web" || got.ID == "" || got.Rev != 3 || !got.HasRev || !got.Own ||
				len(got.Scopes) != 2 || got.KeyID != r.List()[0].ID || got.Deadline() != got.Expiry {
				t.Errorf("%+v", got)
			}
			var rooms []string
			if ok, err := got.Claims.Lookup("rooms", &rooms); !ok || err != nil || rooms[0] != "lobby" {
				t.Error(ok, err, rooms)
			}
			header, _, err := token.Inspect(raw)
			if err != nil || !strings.Contains(string(header), `"typ":"at+jwt"`) {
				t.Error(string(header), err)
			}
			// Others verify with the published document alone.
			set, err := token.JWKS(r.JWKS(), []string{alg})
			if err != nil {
				t.Fatal(err)
			}
			other := verifier(t, token.Options{Issuers: []token.Issuer{{Name: "https://own.example", Audience: "gw", Algorithms: []string{alg}, Keys: set}}})
			foreign, err := other.Verify(context.Background(), raw)
			if err != nil {
				t.Fatal(err)
			}
			if foreign.Own || foreign.HasRev || len(foreign.Scopes) != 1 {
				t.Errorf("as another issuer's: %+v", foreign)
			}
			if bytes.Contains(r.JWKS(), []byte(`"d":`)) {
				t.Error("the document has private keys")
			}
			// Reopened, it is the same ring.
			again := openRing(t, o)
			if _, err := ownVerifier(t, again, alg).Verify(context.Background(), raw); err != nil {
				t.Error(err)
			}
			if !bytes.Equal(again.JWKS(), r.JWKS()) {
				t.Error("the document changed by reopening")
			}
		})
	}
}

func TestSignRefuses(t *testing.T) {
	r := openRing(t, ringOptions(t))
	now := time.Now()
	for name, change := range map[string]func(*token.AccessToken){
		"no issuer":             func(a *token.AccessToken) { a.Issuer = "" },
		"no audience":           func(a *token.AccessToken) { a.Audience = "" },
		"no subject":            func(a *token.AccessToken) { a.Subject = "" },
		"NUL in the subject":    func(a *token.AccessToken) { a.Subject = "a\x00" },
		"long session":          func(a *token.AccessToken) { a.Session = strings.Repeat("s", 600) },
		"longer than the key":   func(a *token.AccessToken) { a.Expiry = now.Add(11 * time.Minute) },
		"no iat":                func(a *token.AccessToken) { a.IssuedAt = time.Time{} },
		"exp before iat":        func(a *token.AccessToken) { a.Expiry = now.Add(-1) },
		"rev below 0":           func(a *token.AccessToken) { a.Rev = -1 },
		"scope with a space":    func(a *token.AccessToken) { a.Scopes = []string{"chat wsbouncer:admin"} },
		"empty scope":           func(a *token.AccessToken) { a.Scopes = []string{""} },
		"extra sub":             func(a *token.AccessToken) { a.Extra = map[string]any{"sub": "admin"} },
		"extra SUB":             func(a *token.AccessToken) { a.Extra = map[string]any{"SUB": "admin"} },
		"extra cnf":             func(a *token.AccessToken) { a.Extra = map[string]any{"cnf": 1} },
		"extras that collide":   func(a *token.AccessToken) { a.Extra = map[string]any{"role": 1, "Role": 2} },
		"extra that is no JSON": func(a *token.AccessToken) { a.Extra = map[string]any{"f": func() {}} },
	} {
		a := accessToken(now)
		change(&a)
		if raw, err := r.Sign(a); err == nil || raw != "" {
			t.Errorf("%s: signed", name)
		}
	}
}

func TestJWT11AssertionsAreNoAccessTokens(t *testing.T) {
	r := openRing(t, ringOptions(t))
	claims := map[string]any{"iss": "https://own.example", "sub": "alice", "aud": "gw", "iat": time.Now().Unix(), "exp": time.Now().Unix() + 60, "jti": "x", "rev": 1}
	for _, typ := range []string{"", "JWT", "application/jwt", "at+jwt", "AT+JWT", "application/at+jwt"} {
		if _, err := r.SignAssertion(claims, typ); err == nil {
			t.Errorf("typ %q: signed", typ)
		}
	}
	raw, err := r.SignAssertion(claims, "wsbouncer-assertion+jwt")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ownVerifier(t, r, "EdDSA").Verify(context.Background(), raw); code(t, err) != token.CodeType {
		t.Errorf("an assertion as access token: %v", err)
	}
}

func TestRingLife(t *testing.T) {
	o := ringOptions(t)
	r := openRing(t, o)
	v := ownVerifier(t, r, "EdDSA")
	ctx := context.Background()
	start := time.Now()
	ids := wantStates(t, r, "active next")
	first, second := ids[0], ids[1]
	raw := mustSign(t, r)

	// The next key has not been published for long enough.
	if _, err := r.Rotate(start.Add(59 * time.Minute)); !errors.Is(err, token.ErrTooSoon) {
		t.Fatalf("rotated too soon: %v", err)
	}
	wantStates(t, r, "active next")
	active, err := r.Rotate(start.Add(61 * time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	ids = wantStates(t, r, "active next retired")
	if active.ID != second || ids[0] != second || ids[2] != first {
		t.Fatalf("%v after %s, %s", ids, first, second)
	}
	if !strings.Contains(string(r.JWKS()), first) {
		t.Error("the retired key is not published")
	}
	if _, err := v.Verify(ctx, raw); err != nil {
		t.Errorf("a token of the retired key: %v", err)
	}
	if got, err := v.Verify(ctx, mustSign(t, r)); err != nil || got.KeyID != second {
		t.Error(got, err)
	}
	// When its tokens are dead, so is the retired key.
	if _, err := r.Tick(start.Add(62*time.Minute + o.Overlap - 1)); err != nil {
		t.Fatal(err)
	}
	wantStates(t, r, "active next retired")
	if _, err := r.Tick(start.Add(62*time.Minute + o.Overlap)); err != nil {
		t.Fatal(err)
	}
	wantStates(t, r, "active next")
	if strings.Contains(string(r.JWKS()), first) {
		t.Error("the forgotten key is still published")
	}
	if _, err := v.Verify(ctx, raw); code(t, err) != token.CodeSignature {
		t.Errorf("a token of a forgotten key: %v", err)
	}
}

func TestRingTickRotatesOnSchedule(t *testing.T) {
	o := ringOptions(t)
	r := openRing(t, o)
	start := r.List()[0].Since
	for _, step := range []struct {
		at      time.Duration
		rotated bool
	}{{0, false}, {o.Rotation - 1, false}, {o.Rotation, true}, {o.Rotation + time.Hour, false}, {2 * o.Rotation, true}} {
		if got, err := r.Tick(start.Add(step.at)); err != nil || got != step.rotated {
			t.Errorf("at %s: rotated %v, %v", step.at, got, err)
		}
	}
	o.Rotation = 0
	o.Path = filepath.Join(t.TempDir(), "k")
	r = openRing(t, o)
	if got, err := r.Tick(start.Add(10000 * time.Hour)); err != nil || got {
		t.Errorf("rotated without a schedule: %v", err)
	}
}

func TestRevokedKeyIsGoneAtOnce(t *testing.T) {
	r := openRing(t, ringOptions(t))
	v := ownVerifier(t, r, "EdDSA")
	ctx := context.Background()
	now := time.Now()
	raw := mustSign(t, r)
	if _, err := v.Verify(ctx, raw); err != nil {
		t.Fatal(err)
	}
	ids := wantStates(t, r, "active next")
	if err := r.Revoke("no such key", now); !errors.Is(err, token.ErrUnknownKey) {
		t.Fatal(err)
	}
	// The active one: the next takes over, however new it is.
	if err := r.Revoke(ids[0], now); err != nil {
		t.Fatal(err)
	}
	if _, err := v.Verify(ctx, raw); code(t, err) != token.CodeSignature {
		t.Fatalf("a cached token of a revoked key: %v", err)
	}
	after := wantStates(t, r, "active next revoked")
	if after[0] != ids[1] || after[2] != ids[0] || bytes.Contains(r.JWKS(), []byte(ids[0])) {
		t.Fatal(after, string(r.JWKS()))
	}
	if got, err := v.Verify(ctx, mustSign(t, r)); err != nil || got.KeyID != ids[1] {
		t.Fatal(got, err)
	}
	// Again changes nothing; the next one is replaced by another next one.
	if err := r.Revoke(ids[0], now); err != nil {
		t.Fatal(err)
	}
	if err := r.Revoke(after[1], now); err != nil {
		t.Fatal(err)
	}
	last := wantStates(t, r, "active next revoked revoked")
	if last[1] == after[1] {
		t.Error("the revoked next key is still the next")
	}
}

func TestRevokedKeysSecretLeavesTheFile(t *testing.T) {
	o := ringOptions(t)
	r := openRing(t, o)
	secretOf := func(id string) string {
		var file struct {
			Keys []struct{ ID, Private string }
		}
		b, err := os.ReadFile(o.Path)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(b, &file); err != nil {
			t.Fatal(err)
		}
		for _, k := range file.Keys {
			if k.ID == id {
				return k.Private
			}
		}
		t.Fatalf("no key %s", id)
		return ""
	}
	id := r.List()[0].ID
	if secretOf(id) == "" {
		t.Fatal("the active key has no secret")
	}
	if err := r.Revoke(id, time.Now()); err != nil {
		t.Fatal(err)
	}
	if secretOf(id) != "" {
		t.Error("the revoked key's secret is still in the file")
	}
	again := openRing(t, o)
	if got := again.List()[2]; got.ID != id || got.State != token.KeyRevoked {
		t.Errorf("%+v", again.List())
	}
	if keys, _ := again.Keys(id); keys != nil {
		t.Error("the revoked key is back")
	}
}

func TestRingFileIsPrivate(t *testing.T) {
	o := ringOptions(t)
	openRing(t, o)
	info, err := os.Stat(o.Path)
	if err != nil || info.Mode() != 0o600 {
		t.Fatal(info.Mode(), err)
	}
	for _, mode := range []os.FileMode{0o644, 0o640, 0o660, 0o602, 0o700} {
		if err := os.Chmod(o.Path, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := token.OpenRing(o); err == nil || !strings.Contains(err.Error(), "chmod 600") {
			t.Errorf("mode %o: %v", mode, err)
		}
	}
}

// A file that is not understood is never replaced: every token would end.
func TestRingRefusesFilesItDoesNotUnderstand(t *testing.T) {
	o := ringOptions(t)
	openRing(t, o)
	good, err := os.ReadFile(o.Path)
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{
		"empty":         "",
		"half":          string(good[:len(good)/2]),
		"other version": strings.Replace(string(good), `"version": 1`, `"version": 2`, 1),
		"unknown field": strings.Replace(string(good), `"version": 1`, `"version": 1, "x": 1`, 1),
		"two active":    strings.Replace(string(good), `"next"`, `"active"`, 1),
		"unknown state": strings.Replace(string(good), `"next"`, `"later"`, 1),
		"no keys":       `{"version": 1, "keys": []}`,
		"other alg":     strings.Replace(string(good), `"EdDSA"`, `"RS256"`, 1),
		"other id":      strings.Replace(string(good), `"id": "`, `"id": "x`, 1),
		"broken secret": strings.Replace(string(good), `"private": "`, `"private": "AAAA`, 1),
	} {
		if err := os.WriteFile(o.Path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := token.OpenRing(o); err == nil {
			t.Errorf("%s: opened", name)
		}
		if after, _ := os.ReadFile(o.Path); string(after) != content {
			t.Errorf("%s: the file was changed", name)
		}
	}
	if err := os.Remove(o.Path); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(o.Path, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := token.OpenRing(o); err == nil {
		t.Error("a folder is opened")
	}
}

// When the disk refuses, nothing has happened, and it is said.
func TestRingChangesNothingItCannotWrite(t *testing.T) {
	o := ringOptions(t)
	r := openRing(t, o)
	before, ids := states(r)
	// A folder in the place of the temporary file, with something in it.
	if err := os.MkdirAll(filepath.Join(o.Path+".new", "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Rotate(time.Now().Add(2 * time.Hour)); err == nil {
		t.Error("rotated without writing")
	}
	if err := r.Revoke(ids[0], time.Now()); err == nil {
		t.Error("revoked without writing")
	}
	if after, afterIDs := states(r); after != before || afterIDs[0] != ids[0] {
		t.Errorf("%q became %q", before, after)
	}
	if err := os.RemoveAll(o.Path + ".new"); err != nil {
		t.Fatal(err)
	}
	if err := r.Revoke(ids[0], time.Now()); err != nil {
		t.Error(err)
	}
}

func TestRingChangesAlgorithmInOrder(t *testing.T) {
	o := ringOptions(t)
	r := openRing(t, o)
	raw := mustSign(t, r)
	o.Algorithm = "ES256"
	r = openRing(t, o)
	list := r.List()
	if list[0].Algorithm != "EdDSA" || list[1].Algorithm != "ES256" || list[1].State != token.KeyNext {
		t.Fatalf("%+v", list)
	}
	since := list[1].Created
	if rotated, err := r.Tick(since.Add(o.PublishAhead - 1)); rotated || err != nil {
		t.Fatal("the new algorithm signs before it was published long enough", err)
	}
	if rotated, err := r.Tick(since.Add(o.PublishAhead)); !rotated || err != nil {
		t.Fatal("the new algorithm does not sign", err)
	}
	v := verifier(t, token.Options{Issuers: []token.Issuer{{Name: "https://own.example", Audience: "gw", Algorithms: []string{"EdDSA", "ES256"}, Keys: r, Own: true}}})
	for _, raw := range []string{raw, mustSign(t, r)} {
		if _, err := v.Verify(context.Background(), raw); err != nil {
			t.Error(err)
		}
	}
}

func TestOpenRingRefusesOptions(t *testing.T) {
	for name, change := range map[string]func(*token.RingOptions){
		"HS256":        func(o *token.RingOptions) { o.Algorithm = "HS256" },
		"no algorithm": func(o *token.RingOptions) { o.Algorithm = "" },
		"no overlap":   func(o *token.RingOptions) { o.Overlap = 0 },
		"ahead < 0":    func(o *token.RingOptions) { o.PublishAhead = -1 },
		"no folder":    func(o *token.RingOptions) { o.Path = filepath.Join(o.Path, "x", "y") },
	} {
		o := ringOptions(t)
		change(&o)
		if _, err := token.OpenRing(o); err == nil {
			t.Errorf("%s: opened", name)
		}
	}
}

// Everything at once: no token of a key that was not revoked is ever refused.
func TestRingConcurrently(t *testing.T) {
	o := ringOptions(t)
	o.PublishAhead = 0
	r := openRing(t, o)
	v := ownVerifier(t, r, "EdDSA")
	ctx, cancel := context.WithCancel(context.Background())
	var work, changes sync.WaitGroup
	var rotations atomic.Int64
	for range 4 {
		work.Go(func() {
			for ctx.Err() == nil {
				raw := mustSign(t, r)
				if _, err := v.Verify(context.Background(), raw); err != nil {
					t.Error(err)
					return
				}
				_, _ = r.JWKS(), r.List()
			}
		})
	}
	for range 2 {
		changes.Go(func() {
			for range 8 {
				// Too soon is when the other made the next key after this Now.
				if _, err := r.Rotate(time.Now()); err == nil {
					rotations.Add(1)
				} else if !errors.Is(err, token.ErrTooSoon) {
					t.Error(err)
				}
				if _, err := r.Tick(time.Now()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	changes.Wait()
	cancel()
	work.Wait()
	if got, n := len(r.List()), int(rotations.Load()); got != n+2 || n < 8 {
		t.Errorf("%d keys after %d rotations", got, n)
	}
}

func TestRingRun(t *testing.T) {
	o := ringOptions(t)
	synctest.Test(t, func(t *testing.T) {
		rotations := make(chan token.KeyInfo, 10)
		o.OnRotate = func(k token.KeyInfo) { rotations <- k }
		r := openRing(t, o)
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error)
		go func() { done <- r.Run(ctx) }()
		time.Sleep(o.Rotation - time.Second)
		synctest.Wait()
		if len(rotations) != 0 {
			t.Error("rotated early")
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if len(rotations) != 1 || (<-rotations).ID != r.List()[0].ID {
			t.Error("the rotation was not told")
		}
		wantStates(t, r, "active next retired")
		time.Sleep(o.Overlap + time.Minute)
		synctest.Wait()
		wantStates(t, r, "active next")
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
