package storetest

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/wsbouncer/wsbouncer/internal/login"
)

func identities(t *testing.T, s Store) {
	ctx := t.Context()
	if _, err := s.Identity(ctx, "ID-a"); !errors.Is(err, login.ErrNotFound) {
		t.Errorf("an absent one: %v", err)
	}
	a := login.Identity{ID: "ID-a", Issuer: "https://one.example", Subject: "5", Label: "ann", Created: at, Used: at}
	b := login.Identity{ID: "ID-b", Issuer: "https://two.example", Subject: "5", Created: at, Used: at}
	for _, i := range []login.Identity{b, a} {
		if err := s.InsertIdentity(ctx, i); err != nil {
			t.Fatal(err)
		}
	}
	same := a
	same.ID = "ID-c"
	if err := s.InsertIdentity(ctx, same); err == nil {
		t.Error("one user of an issuer has two identities")
	}
	for _, want := range []login.Identity{a, b} {
		got, err := s.IdentityOf(ctx, want.Issuer, want.Subject)
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%v %s", err, diff)
		}
	}
	if _, err := s.IdentityOf(ctx, a.Issuer, "6"); !errors.Is(err, login.ErrNotFound) {
		t.Errorf("another user: %v", err)
	}
	a.Label, a.Disabled, a.Used = "anna", true, at.Add(time.Hour)
	if err := s.UpdateIdentity(ctx, a); err != nil {
		t.Fatal(err)
	}
	if err := s.UpdateIdentity(ctx, same); !errors.Is(err, login.ErrNotFound) {
		t.Errorf("changing an absent one: %v", err)
	}
	for after, want := range map[string][]login.Identity{"": {a, b}, "ID-a": {b}, "ID-b": nil} {
		got, err := s.Identities(ctx, after, 10)
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("after %q: %v %s", after, err, diff)
		}
	}
	if got, err := s.Identities(ctx, "", 1); err != nil || len(got) != 1 {
		t.Errorf("one of them: %v %v", got, err)
	}
}
