package token

import (
	"bytes"
	"encoding/json"
	"time"

	"github.com/wsbouncer/wsbouncer/internal/jws"
)

// maxFrom bounds how often a token may be exchanged for another.
const maxFrom = 4

// source is the claim src of an own token that was exchanged for another (RFC
// 8693): what a revocation can name of that other one. So that the one dies with
// the other, wherever the other came from.
type source struct {
	Issuer  string `json:"iss"`
	Subject string `json:"sub"`
	Session string `json:"sid,omitempty"`
	ID      string `json:"jti,omitempty"`
	KeyID   string `json:"kid,omitempty"`
	// IssuedAt is iat less the issuer's leeway: what is compared with it needs to
	// know of no leeway then.
	IssuedAt int64   `json:"iat,omitempty"`
	Rev      *int64  `json:"rev,omitempty"`
	From     *source `json:"src,omitempty"`
}

func sourceOf(t *Token) *source {
	if t == nil {
		return nil
	}
	s := &source{Issuer: t.Issuer, Subject: t.Subject, Session: t.Session, ID: t.ID, KeyID: t.KeyID, From: sourceOf(t.From)}
	if !t.IssuedAt.IsZero() {
		s.IssuedAt = t.IssuedAt.Unix()
		if !t.Own {
			s.IssuedAt -= int64((t.Leeway + time.Second - 1) / time.Second)
		}
	}
	if t.HasRev {
		s.Rev = &t.Rev
	}
	return s
}

// readSource reads src. Whatever is odd refuses the token: without it the token
// would outlive what it was exchanged for.
func readSource(value []byte, own string) (*Token, *Error) {
	var s *source
	d := json.NewDecoder(bytes.NewReader(value))
	d.DisallowUnknownFields()
	if err := d.Decode(&s); err != nil || s == nil {
		return nil, refuse(CodeMalformed, "src is not what it was exchanged for")
	}
	return s.token(own, maxFrom)
}

func (s *source) token(own string, left int) (*Token, *Error) {
	if left == 0 || s.Issuer == "" || s.Subject == "" {
		return nil, refuse(CodeMalformed, "src is not what it was exchanged for")
	}
	for _, name := range []string{s.Issuer, s.Subject, s.Session, s.ID, s.KeyID} {
		if err := jws.Name(name); name != "" && err != nil {
			return nil, refuseFor(CodeMalformed, "src", err)
		}
	}
	t := &Token{Issuer: s.Issuer, Subject: s.Subject, Session: s.Session, ID: s.ID, KeyID: s.KeyID, Own: s.Issuer == own}
	if s.IssuedAt != 0 {
		t.IssuedAt = time.Unix(s.IssuedAt, 0)
	}
	if s.Rev != nil {
		t.Rev, t.HasRev = *s.Rev, true
	}
	if s.From != nil {
		from, err := s.From.token(own, left-1)
		if err != nil {
			return nil, err
		}
		t.From = from
	}
	return t, nil
}

// Exchangeable reports whether another token can be made From t.
func (t *Token) Exchangeable() bool {
	n := 0
	for f := t; f != nil; f = f.From {
		n++
	}
	return n <= maxFrom
}

// An Actor is who uses an exchanged token in its subject's place (RFC 8693 §4.1);
// Actor.Actor is who had exchanged the token before.
type Actor struct {
	Subject string `json:"sub"`
	Actor   *Actor `json:"act,omitempty"`
}
