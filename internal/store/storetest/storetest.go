package storetest

import (
	"context"
	"testing"
	"time"

	"github.com/wsbouncer/wsbouncer"
	"github.com/wsbouncer/wsbouncer/internal/account"
	"github.com/wsbouncer/wsbouncer/internal/audit"
	"github.com/wsbouncer/wsbouncer/internal/login"
	"github.com/wsbouncer/wsbouncer/internal/reason"
	"github.com/wsbouncer/wsbouncer/internal/session"
)

// A Store is all that a database keeps.
type Store interface {
	session.Store
	account.Store
	login.Store
	audit.Sink
	// Events lists those above after in order, EventsBefore those below before
	// (0: any) newest first.
	Events(ctx context.Context, after int64, limit int) ([]audit.Event, error)
	EventsBefore(ctx context.Context, before int64, limit int) ([]audit.Event, error)
}

// Run tests a database; open gives an empty one that is closed with t.
func Run(t *testing.T, open func(t *testing.T) Store) {
	for _, part := range []struct {
		name string
		test func(*testing.T, Store)
	}{
		{"transactions are all or nothing", allOrNothing},
		{"transactions join", joining},
		{"effects come after the commit", effects},
		{"a transaction survives its request", survives},
		{"transactions come one after the other", serial},
		{"sessions", sessions},
		{"tickets", tickets},
		{"tickets are taken once", takenOnce},
		{"revocations", revocations},
		{"revocations are numbered without gaps", gapless},
		{"ends elsewhere", endsElsewhere},
		{"pruning", pruning},
		{"accounts", accounts},
		{"identities", identities},
		{"factors", factors},
		{"recovery codes are taken once", codesOnce},
		{"audit", auditing},
	} {
		t.Run(part.name, func(t *testing.T) { part.test(t, open(t)) })
	}
}

// at is a time as a store keeps it.
var at = time.Date(2026, 11, 24, 10, 0, 0, int(123*time.Millisecond), time.UTC)

func hash(b byte) (h session.Hash) {
	for i := range h {
		h[i] = b
	}
	return h
}

func aSession(id, subject string, b byte) session.Record {
	return session.Record{
		ID: id, Subject: subject, ClientID: "client", Scopes: []string{"chat", "chat:write"}, Method: "password",
		IP: "2001:db8::1", UserAgent: "agent ü", Origin: "https://app.example", Created: at, Used: at.Add(time.Second),
		Expires: at.Add(time.Hour), IdleUntil: at.Add(time.Minute), AccessUntil: at.Add(5 * time.Minute),
		Family: hash(b), Current: hash(b + 1), Key: "thumbprint-" + id,
		Proof: session.Proof{Time: at.Add(-time.Minute), AMR: []string{"pwd", "otp"}, ACR: "urn:example:mfa"}, Claims: []byte(`{"tenant":"ü"}`),
		External: session.External{Provider: "corp", Issuer: "https://sso.example", Subject: "u-" + subject, Session: "x-" + id,
			Email: subject + "@example.com", IssuedAt: at.Add(-2 * time.Second)},
	}
}

func aTicket(b byte, issuer, subject, sid string) session.Ticket {
	return session.Ticket{
		Hash: hash(b), Issuer: issuer, Subject: subject, Session: sid, Connection: "cid", Path: "/chat/a%20b",
		Origin: "https://app.example", Token: []byte{0, 1, 2}, Expires: at.Add(30 * time.Second),
	}
}

func aRevocation(kind, value string) session.LogEntry {
	return session.LogEntry{Actor: "admin", Revocation: wsbouncer.Revocation{
		Kind: kind, Issuer: "https://rt.example", Value: value, At: at, Expires: at.Add(time.Hour),
		Reason: reason.SessionRevoked, Note: "a note",
	}}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func get[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		must(t, err)
		return v
	}
}
