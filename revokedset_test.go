package wsbouncer

import (
	"fmt"
	"testing"
	"time"
)

// Whoever logs out adds an entry, so entries go when nothing they concern can
// be valid any more, and those that must stay do.
func TestRevocationsAreForgottenWhenTheyHaveExpired(t *testing.T) {
	s := newRevokedSet()
	now := time.Unix(1_800_000_000, 0)
	add := func(r Revocation, expires time.Time) {
		r.Issuer, r.Expires = "i", expires
		r = r.complete("i", now)
		s.add(&r, now)
	}
	size := func() int { return len(s.tokens) + len(s.sessions) + len(s.keys) + len(s.subjects) + len(s.before) }
	for i := range 1000 {
		v := fmt.Sprint(i)
		soon := now.Add(time.Duration(i) * time.Second)
		add(Token(v), soon)
		add(Session(v), soon)
		add(Subject(v), soon)
	}
	add(Session("1"), now.Add(time.Hour)) // made again, it stays longer
	add(Key("k"), time.Time{})
	add(Before(now), time.Time{})
	now = now.Add(20 * time.Minute)
	add(Token("last"), now.Add(time.Hour))
	if n := size(); n != 4 {
		t.Errorf("%d entries are left, want the last token, session 1, the key and the moment", n)
	}
	for what, b := range map[string]bound{
		"the session made again": {issuer: "i", session: "1"},
		"the key":                {issuer: "i", key: "k"},
		"the last token":         {issuer: "i", token: "last", mark: mark{hasIAT: true, issued: now.Unix()}},
	} {
		if !s.has(&b) {
			t.Errorf("%s was forgotten", what)
		}
	}
	gone := bound{issuer: "i", session: "2", mark: mark{hasIAT: true, issued: now.Unix()}}
	if s.has(&gone) {
		t.Error("an expired one is still there")
	}
	// Without an end of its own a revocation is kept for the longest token.
	if r := Session("x").complete("i", now); !r.Expires.Equal(now.Add(longestToken)) {
		t.Errorf("expires %v", r.Expires)
	}
}
