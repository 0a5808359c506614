package session_test

import (
	"testing"

	"github.com/wsbouncer/wsbouncer/internal/session"
)

func BenchmarkBegin(b *testing.B) {
	h := newHouse(b)
	for b.Loop() {
		h.begin(b, "ann")
	}
}

func BenchmarkRefresh(b *testing.B) {
	h := newHouse(b)
	g := h.begin(b, "ann")
	for b.Loop() {
		g = h.refresh(b, g.RefreshToken)
	}
}

func BenchmarkTicketAndRedeem(b *testing.B) {
	h := newHouse(b)
	tok := verified(b, h.begin(b, "ann").AccessToken)
	for b.Loop() {
		g := h.ticket(b, tok)
		if _, _, err := h.Redeem(b.Context(), g.Ticket, "/chat/lobby", page); err != nil {
			b.Fatal(err)
		}
	}
}

// Guesses never reach the writer.
func BenchmarkRefreshGuess(b *testing.B) {
	h := newHouse(b)
	for b.Loop() {
		if _, err := h.Refresh(b.Context(), session.RefreshRequest{Token: "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}); err == nil {
			b.Fatal("let in")
		}
	}
}
