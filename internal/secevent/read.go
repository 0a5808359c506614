package secevent

import (
	"encoding/json"
	"errors"
	"strings"
	"time"
	"unicode"

	"github.com/wsbouncer/wsbouncer/internal/jsonscan"
	"github.com/wsbouncer/wsbouncer/token"
)

// bounds of a payload; what a token is bounded by holds too.
var bounds = jsonscan.Options{MaxDepth: 32, MaxMembers: 512, MaxBytes: 64 << 10, FoldKeys: true}

const (
	maxEvents = 8   // of one SET
	maxNames  = 8   // identifiers of one subject
	maxValue  = 512 // bytes of an identifier
)

const logoutEvent = "http://schemas.openid.net/event/backchannel-logout"

// readLogout reads what a verified logout token says.
func readLogout(s *Source, st *token.Statement) (*Statement, error) {
	bad := func(detail string) (*Statement, error) { return nil, refuse(InvalidRequest, detail) }
	var any json.RawMessage
	if found, _ := st.Claims.Lookup("nonce", &any); found {
		return bad("It has a nonce, as ID tokens have.")
	}
	events, err := members(st.Claims, "events")
	switch {
	case err != nil || len(events) != 1 || events[0].name != logoutEvent:
		return bad("Its events claim is not that of a logout token.")
	case !isObject(events[0].value):
		return bad("Its logout event is not an object.")
	case st.ID == "":
		return bad("It has no jti.")
	case st.Subject == "" && st.Session == "":
		return bad("It has neither sub nor sid.")
	}
	e := End{Issuer: s.SubjectsOf, Session: st.Session, Trusted: s.Trusted, Why: LoggedOut, Type: logoutEvent}
	if e.Session == "" {
		e.Subject = st.Subject
	}
	if err := checkValue(e.Session + e.Subject); err != nil {
		return bad("Its sub or sid is too long.")
	}
	return &Statement{Issuer: st.Issuer, ID: st.ID, At: st.IssuedAt, Types: []string{logoutEvent}, Ends: []End{e}}, nil
}

// What an event type means here. Those that are not listed have no effect.
var meanings = map[string]Cause{
	"https://schemas.openid.net/secevent/caep/event-type/session-revoked":       SessionRevoked,
	"https://schemas.openid.net/secevent/caep/event-type/credential-change":     SubjectRevoked,
	"https://schemas.openid.net/secevent/caep/event-type/token-claims-change":   SubjectRevoked,
	"https://schemas.openid.net/secevent/risc/event-type/account-disabled":      SubjectRevoked,
	"https://schemas.openid.net/secevent/risc/event-type/account-purged":        SubjectRevoked,
	"https://schemas.openid.net/secevent/risc/event-type/credential-compromise": SubjectRevoked,
	"https://schemas.openid.net/secevent/risc/event-type/sessions-revoked":      SessionRevoked,
	"https://schemas.openid.net/secevent/oauth/event-type/tokens-revoked":       SessionRevoked, // Google
}

const sessionRevoked = "https://schemas.openid.net/secevent/caep/event-type/session-revoked"

// verifications are sent to see whether we are there; they have no subject.
var verifications = map[string]bool{
	"https://schemas.openid.net/secevent/ssf/event-type/verification":  true,
	"https://schemas.openid.net/secevent/sse/event-type/verification":  true,
	"https://schemas.openid.net/secevent/risc/event-type/verification": true,
}

// readEvents reads what a verified Security Event Token says.
func readEvents(s *Source, st *token.Statement) (*Statement, error) {
	events, err := members(st.Claims, "events")
	switch {
	case err != nil || len(events) == 0:
		return nil, refuse(InvalidRequest, "It has no events.")
	case len(events) > maxEvents:
		return nil, refuse(InvalidRequest, "It has too many events.")
	case st.ID == "":
		return nil, refuse(InvalidRequest, "It has no jti.")
	}
	out := &Statement{Issuer: st.Issuer, ID: st.ID, At: st.IssuedAt}
	for _, e := range events {
		out.Types = append(out.Types, e.name)
		if !isObject(e.value) {
			return nil, refuse(InvalidRequest, "An event is not an object.")
		}
		cause, known := meanings[e.name]
		switch {
		case verifications[e.name]:
			if err := find(e.value, "state", &out.State); err != nil {
				return nil, refuse(InvalidRequest, "The state of a verification event is not a string.")
			}
			continue
		case !known:
			out.Ignored = "unknown event"
			continue
		}
		if err := checkEventTime(e.value, st.IssuedAt, s.Issuer.Leeway); err != nil {
			return nil, err
		}
		subject, err := subjectOf(st, e.value)
		if err != nil {
			return nil, err
		}
		ends, err := s.ends(subject, e.name == sessionRevoked, 0)
		if err != nil {
			return nil, err
		}
		if len(ends) == 0 {
			out.Ignored = "its subject is not known by what it names"
		}
		for _, end := range ends {
			end.Trusted, end.Issuer, end.Why, end.Type = s.Trusted, s.SubjectsOf, cause, e.name
			out.Ends = append(out.Ends, end)
		}
	}
	return out, nil
}

// checkEventTime bounds event_timestamp, which says when it happened: before the
// token was made, and not so long before that it is another unit. What the event
// covers is judged by iat, which is never earlier.
func checkEventTime(event json.RawMessage, issued time.Time, leeway time.Duration) error {
	var at *float64
	if err := find(event, "event_timestamp", &at); err != nil {
		return refuse(InvalidRequest, "event_timestamp is not a number of seconds since 1970.")
	}
	if at == nil {
		return nil
	}
	const longest = 366 * 24 * time.Hour
	iat := float64(issued.Unix())
	if *at > iat+leeway.Seconds()+1 || *at < iat-longest.Seconds() {
		return refuse(InvalidRequest, "event_timestamp is after iat, or more than a year before.")
	}
	return nil
}

// subjectOf is the subject of an event: sub_id (RFC 9493) of the token, the older
// subject inside of the event, or the token's sub.
func subjectOf(st *token.Statement, event json.RawMessage) (json.RawMessage, error) {
	var subject json.RawMessage
	if found, err := st.Claims.Lookup("sub_id", &subject); found && err == nil {
		return subject, nil
	}
	if err := find(event, "subject", &subject); err == nil && subject != nil {
		return subject, nil
	}
	if st.Subject != "" {
		return json.Marshal(identifier{Format: "iss_sub", Issuer: st.Issuer, Subject: st.Subject})
	}
	return nil, refuse(InvalidRequest, "It names no subject.")
}

// identifier is a subject identifier in each of the formats that are known.
type identifier struct {
	Format      string            `json:"format"`
	SubjectType string            `json:"subject_type,omitempty"` // before RFC 9493
	Issuer      string            `json:"iss,omitempty"`
	Subject     string            `json:"sub,omitempty"`
	ID          string            `json:"id,omitempty"`
	Email       string            `json:"email,omitempty"`
	Identifiers []json.RawMessage `json:"identifiers,omitempty"`
	User        json.RawMessage   `json:"user,omitempty"`
	Session     json.RawMessage   `json:"session,omitempty"`
}

// ends is whom a subject names: nobody where it is known by nothing that a login
// is known by. session: a plain opaque id may be that of a session.
func (s *Source) ends(raw json.RawMessage, session bool, depth int) ([]End, error) {
	bad := refuse(InvalidRequest, "Its subject is not a subject identifier.")
	if depth > 2 || !isObject(raw) {
		return nil, bad
	}
	var id identifier
	if json.Unmarshal(raw, &id) != nil { // strict already, and other members are fine
		return nil, bad
	}
	for _, v := range []string{id.Issuer, id.Subject, id.ID, id.Email} {
		if checkValue(v) != nil {
			return nil, bad
		}
	}
	format := id.Format
	if format == "" {
		format = strings.ReplaceAll(id.SubjectType, "-", "_")
	}
	if format == "" && (id.User != nil || id.Session != nil) {
		format = "complex"
	}
	switch format {
	case "iss_sub":
		switch {
		case id.Subject == "" || id.Issuer == "":
			return nil, bad
		case id.Issuer != s.SubjectsOf && id.Issuer != s.Issuer.Name:
			return nil, refuse(AccessDenied, "It speaks of another issuer's subject.")
		}
		return []End{{Subject: id.Subject}}, nil
	case "opaque":
		if id.ID == "" {
			return nil, bad
		}
		ends := []End{{Subject: id.ID}}
		if session {
			ends = append(ends, End{Session: id.ID})
		}
		return ends, nil
	case "email":
		if !strings.Contains(id.Email, "@") {
			return nil, bad
		}
		return []End{{Email: strings.ToLower(id.Email)}}, nil
	case "aliases":
		if len(id.Identifiers) == 0 || len(id.Identifiers) > maxNames {
			return nil, bad
		}
		var all []End
		for _, one := range id.Identifiers {
			ends, err := s.ends(one, session, depth+1)
			if err != nil {
				return nil, err
			}
			all = append(all, ends...)
		}
		return all, nil
	case "complex":
		return s.complexEnds(&id, depth)
	}
	return nil, nil // a phone number, a DID: nobody here is known by it
}

// complexEnds: members narrow one another. A session is enough to find one; of a
// user, whatever device or group is named beside, all end: rather too many.
func (s *Source) complexEnds(id *identifier, depth int) ([]End, error) {
	if id.Session == nil {
		if id.User == nil {
			return nil, nil
		}
		return s.ends(id.User, false, depth+1)
	}
	var user []End
	if id.User != nil {
		var err error
		// Also to see that it is the source's own.
		if user, err = s.ends(id.User, false, depth+1); err != nil {
			return nil, err
		}
	}
	var session identifier
	if !isObject(id.Session) || json.Unmarshal(id.Session, &session) != nil || checkValue(session.ID) != nil {
		return nil, refuse(InvalidRequest, "Its session is not a subject identifier.")
	}
	if session.ID == "" {
		return user, nil // named in a way that is not known: all of the user's
	}
	return []End{{Session: session.ID}}, nil
}

type member struct {
	name  string
	value json.RawMessage
}

// members are those of a claim that is an object.
func members(c token.Claims, name string) (out []member, err error) {
	var raw json.RawMessage
	if found, err := c.Lookup(name, &raw); err != nil || !found {
		return nil, errors.New("it is absent")
	}
	err = jsonscan.Object(raw, bounds, func(key, value []byte) error {
		out = append(out, member{string(key), append(json.RawMessage(nil), value...)})
		return nil
	})
	return out, err
}

// find decodes the member name of an object into v, if it is there.
func find(object json.RawMessage, name string, v any) error {
	raw, found, err := jsonscan.Find(object, bounds, name)
	if err != nil || !found {
		return err
	}
	if string(raw) == "null" {
		return errors.New("it is null")
	}
	return json.Unmarshal(raw, v)
}

func isObject(raw json.RawMessage) bool { return len(raw) > 0 && raw[0] == '{' }

// checkValue bounds what is stored and logged.
func checkValue(s string) error {
	if len(s) > maxValue || strings.ContainsFunc(s, unicode.IsControl) {
		return errors.New("it is too long, or has control characters")
	}
	return nil
}
