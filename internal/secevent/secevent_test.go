package secevent

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/wsbouncer/wsbouncer/token"
)

const (
	corp   = "https://corp.example"
	ending = "https://schemas.openid.net/secevent/caep/event-type/session-revoked"
)

// keys is one key, under any kid.
type keys struct{ private *ecdsa.PrivateKey }

func newKeys(t testing.TB) keys {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return keys{key}
}

func (k keys) Keys(string) ([]token.Key, uint64) {
	return []token.Key{{ID: "k1", Algorithm: "ES256", Public: k.private.Public()}}, 1
}

func (k keys) sign(t testing.TB, typ, payload string) string {
	t.Helper()
	b64 := base64.RawURLEncoding.EncodeToString
	input := b64(fmt.Appendf(nil, `{"alg":"ES256","kid":"k1","typ":%q}`, typ)) + "." + b64([]byte(payload))
	sum := sha256.Sum256([]byte(input))
	r, s, err := ecdsa.Sign(rand.Reader, k.private, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	sig := make([]byte, 64)
	r.FillBytes(sig[:32])
	s.FillBytes(sig[32:])
	return input + "." + b64(sig)
}

func source(k keys) Source {
	return Source{
		Issuer:   token.Issuer{Name: corp, Algorithms: []string{"ES256"}, Keys: k, Leeway: 10 * time.Second},
		Audience: "us", SubjectsOf: corp,
	}
}

// statement is a verified payload.
func statement(payload string) *token.Statement {
	st := &token.Statement{Issuer: corp, ID: "j1", IssuedAt: time.Unix(1_800_000_000, 0), Claims: token.Claims(payload)}
	_, _ = st.Claims.Lookup("sub", &st.Subject)
	_, _ = st.Claims.Lookup("sid", &st.Session)
	return st
}

func TestSubjects(t *testing.T) {
	google := Source{Issuer: token.Issuer{Name: "https://accounts.google.com/"}, SubjectsOf: "https://accounts.google.com"}
	plain := Source{Issuer: token.Issuer{Name: corp}, SubjectsOf: corp}
	user, session, mail := []End{{Subject: "u1"}}, []End{{Session: "s1"}}, []End{{Email: "ann@example.com"}}
	const issSub = `{"format":"iss_sub","iss":"https://corp.example","sub":"u1"}`
	for _, c := range []struct {
		of      Source
		subject string
		session bool
		want    []End
		code    string
	}{
		{plain, issSub, false, user, ""},
		{plain, `{"subject_type":"iss-sub","iss":"https://corp.example","sub":"u1"}`, false, user, ""},
		{google, `{"subject_type":"iss-sub","iss":"https://accounts.google.com/","sub":"u1"}`, false, user, ""},
		{google, `{"format":"iss_sub","iss":"https://accounts.google.com","sub":"u1"}`, false, user, ""},
		{google, issSub, false, nil, AccessDenied},
		{plain, `{"format":"opaque","id":"u1"}`, false, user, ""},
		{plain, `{"format":"opaque","id":"u1"}`, true, []End{{Subject: "u1"}, {Session: "u1"}}, ""},
		{plain, `{"format":"email","email":"Ann@Example.com"}`, false, mail, ""},
		{plain, `{"format":"complex","user":` + issSub + `}`, false, user, ""},
		{plain, `{"format":"complex","user":` + issSub + `,"session":{"format":"opaque","id":"s1"}}`, false, session, ""},
		{plain, `{"format":"complex","session":{"format":"opaque","id":"s1"},"tenant":{"format":"opaque","id":"t"}}`, false, session, ""},
		{plain, `{"user":{"format":"email","email":"ann@example.com"},"device":{"format":"opaque","id":"d"}}`, true, mail, ""},
		{plain, `{"format":"complex","user":` + issSub + `,"session":{"format":"uri","uri":"urn:x"}}`, false, user, ""},
		{plain, `{"format":"complex","tenant":{"format":"opaque","id":"t"}}`, false, nil, ""},
		{plain, `{"format":"aliases","identifiers":[` + issSub + `,{"format":"email","email":"ann@example.com"}]}`, false, []End{{Subject: "u1"}, {Email: "ann@example.com"}}, ""},
		{plain, `{"format":"did","url":"did:x:y"}`, false, nil, ""},
		{plain, `{}`, false, nil, ""},

		{plain, `"u1"`, false, nil, InvalidRequest},
		{plain, `null`, false, nil, InvalidRequest},
		{plain, `[]`, false, nil, InvalidRequest},
		{plain, `{"format":1}`, false, nil, InvalidRequest},
		{plain, `{"format":"iss_sub","sub":"u1"}`, false, nil, InvalidRequest},
		{plain, `{"format":"iss_sub","iss":"https://corp.example","sub":""}`, false, nil, InvalidRequest},
		{plain, `{"format":"opaque","id":""}`, false, nil, InvalidRequest},
		{plain, `{"format":"opaque","id":"a\u0000b"}`, false, nil, InvalidRequest},
		{plain, `{"format":"opaque","id":"` + strings.Repeat("a", 513) + `"}`, false, nil, InvalidRequest},
		{plain, `{"format":"email","email":"ann"}`, false, nil, InvalidRequest},
		{plain, `{"format":"aliases","identifiers":[]}`, false, nil, InvalidRequest},
		{plain, `{"format":"aliases","identifiers":[` + strings.Repeat(issSub+",", 8) + issSub + `]}`, false, nil, InvalidRequest},
		{plain, `{"format":"aliases","identifiers":[{"format":"aliases","identifiers":[{"format":"aliases","identifiers":[` + issSub + `]}]}]}`, false, nil, InvalidRequest},
		{plain, `{"format":"complex","session":"s1"}`, false, nil, InvalidRequest},
		{plain, `{"format":"complex","user":"u1"}`, false, nil, InvalidRequest},
	} {
		got, err := c.of.ends(json.RawMessage(c.subject), c.session, 0)
		var refused *Error
		if errors.As(err, &refused); c.code == "" && err != nil || c.code != "" && (refused == nil || refused.Code != c.code) {
			t.Errorf("%s: %v, want %q", c.subject, err, c.code)
		}
		if len(got)+len(c.want) > 0 && !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %+v, want %+v", c.subject, got, c.want)
		}
	}
}

// A party says so much at once, and is told to come again.
func TestOnePartyIsLimited(t *testing.T) {
	k := newKeys(t)
	r := New()
	now := time.Now()
	r.now = func() time.Time { return now }
	r.Set([]Source{source(k)}, nil)
	for range perSource.Burst - 1 {
		if ok, _ := r.rates.Allow(corp, now); !ok {
			t.Fatal("the burst is smaller than it says")
		}
	}
	raw := func(jti string) string {
		return k.sign(t, "logout+jwt", fmt.Sprintf(`{"iss":%q,"aud":"us","iat":%d,"jti":%q,"sub":"u1","events":{%q:{}}}`, corp, now.Unix(), jti, logoutEvent))
	}
	if _, err := r.Logout(t.Context(), raw("a")); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Logout(t.Context(), raw("b")); !errors.Is(err, ErrTooMany) {
		t.Errorf("%v", err)
	}
	r.Repeated(&Statement{Issuer: corp})
	if _, err := r.Logout(t.Context(), raw("b")); err != nil {
		t.Errorf("a repetition was charged: %v", err)
	}
	now = now.Add(time.Second)
	if st, err := r.Logout(t.Context(), raw("c")); err != nil || st.Ends[0] != (End{Issuer: corp, Subject: "u1", Type: logoutEvent}) {
		t.Errorf("%+v, %v", st, err)
	}
}

// Of two entries for one issuer the one that is addressed counts.
func TestTheAddressedSourceCounts(t *testing.T) {
	k := newKeys(t)
	one, two := source(k), source(k)
	two.Audience, two.Trusted = "them", true
	r := New()
	r.Set([]Source{one, two}, nil)
	for aud, trusted := range map[string]bool{`"us"`: false, `["x","them"]`: true} {
		st, err := r.Logout(t.Context(), k.sign(t, "logout+jwt", fmt.Sprintf(`{"iss":%q,"aud":%s,"iat":%d,"jti":"a","sub":"u1","events":{%q:{}}}`, corp, aud, time.Now().Unix(), logoutEvent)))
		if err != nil || st.Ends[0].Trusted != trusted {
			t.Errorf("%s: %+v, %v", aud, st, err)
		}
	}
	_, err := New().Logout(t.Context(), "x.y.z")
	var refused *Error
	if !errors.As(err, &refused) {
		t.Error(err)
	}
}

// waiting keys come while somebody waits.
type waiting struct {
	known *keys
	next  keys
}

func (w *waiting) Keys(kid string) ([]token.Key, uint64) {
	if w.known == nil {
		return nil, 0
	}
	return w.known.Keys(kid)
}

func (w *waiting) Await(context.Context) error {
	w.known = &w.next
	return nil
}

func TestAKeyThatIsNewIsWaitedFor(t *testing.T) {
	k := newKeys(t)
	s := source(k)
	s.Issuer.Keys = &waiting{next: k}
	r := New()
	r.Set([]Source{s}, nil)
	raw := k.sign(t, "logout+jwt", fmt.Sprintf(`{"iss":%q,"aud":"us","iat":%d,"jti":"a","sub":"u1","events":{%q:{}}}`, corp, time.Now().Unix(), logoutEvent))
	if _, err := r.Logout(t.Context(), raw); err != nil {
		t.Error(err)
	}
}

// Whatever stands in a verified payload: an answer, and no subject of others.
func FuzzStatements(f *testing.F) {
	for _, seed := range []string{
		`{"events":{"` + logoutEvent + `":{}},"sub":"u1","sid":"s1"}`,
		`{"events":{"` + ending + `":{"event_timestamp":1800000000}},"sub_id":{"format":"iss_sub","iss":"https://corp.example","sub":"u1"}}`,
		`{"events":{"` + ending + `":{"subject":{"subject_type":"iss-sub","iss":"https://corp.example","sub":"u1"}}}}`,
		`{"events":{"` + ending + `":{}},"sub_id":{"format":"complex","user":{"format":"email","email":"A@b"},"session":{"format":"opaque","id":"s1"}}}`,
		`{"events":{"` + ending + `":{}},"sub_id":{"format":"aliases","identifiers":[{"format":"opaque","id":"x"}]}}`,
		`{"events":{"https://schemas.openid.net/secevent/ssf/event-type/verification":{"state":"x"}}}`,
		`{"events":{"x":null},"sub":"u1"}`, `{"events":[]}`, `{}`,
	} {
		f.Add(seed)
	}
	s := Source{Issuer: token.Issuer{Name: corp}, SubjectsOf: "https://theirs.example"}
	f.Fuzz(func(t *testing.T, payload string) {
		if _, err := token.Claims(payload).Lookup("x", new(any)); err != nil {
			return // not what a verified token can hold
		}
		for name, read := range map[string]func(*Source, *token.Statement) (*Statement, error){"logout": readLogout, "events": readEvents} {
			out, err := read(&s, statement(payload))
			var refused *Error
			if err != nil {
				if !errors.As(err, &refused) || refused.Detail == "" || out != nil {
					t.Fatalf("%s: %v", name, err)
				}
				continue
			}
			if len(out.Types) == 0 || len(out.Types) > maxEvents || len(out.Ends) > maxEvents*maxNames*maxNames {
				t.Fatalf("%s: %+v", name, out)
			}
			for _, e := range out.Ends {
				named := 0
				for _, v := range []string{e.Subject, e.Session, e.Email} {
					if v != "" {
						named++
					}
					if checkValue(v) != nil {
						t.Fatalf("%s: %q", name, v)
					}
				}
				if e.Issuer != s.SubjectsOf || named != 1 || e.Type == "" {
					t.Fatalf("%s: %+v", name, e)
				}
			}
		}
	})
}
