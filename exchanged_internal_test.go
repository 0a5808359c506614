package wsbouncer

import (
	"testing"

	"github.com/wsbouncer/wsbouncer/token"
)

// What has ended leaves nothing behind.
func TestExchangedForgets(t *testing.T) {
	var e exchanged
	from := func(jti string) *token.Token {
		return &token.Token{From: &token.Token{Issuer: "i", Subject: "s", Session: "sid", ID: jti, From: &token.Token{Issuer: "j", Subject: "s"}}}
	}
	a, b := new(Live), new(Live)
	e.add(a, from("1"))
	e.add(b, from("1"))
	e.add(a, from("2"))
	e.add(a, &token.Token{Issuer: "i", ID: "3"})
	if len(e.live) != 5 {
		t.Errorf("%d names, want 5", len(e.live))
	}
	e.remove(a, from("2"))
	n := 0
	e.each(byToken, name{"i", "1"}, func(*Live) { n++ })
	e.remove(a, from("1"))
	e.remove(b, from("1"))
	if n != 2 || len(e.live) != 0 {
		t.Errorf("%d found, %d names left", n, len(e.live))
	}
}
