package authapi_test

import (
	"net/http"
	"testing"

	"github.com/wsbouncer/wsbouncer/internal/audit"
)

// What anybody can cause is not kept as often as they do it.
func TestRefusedProofsAreKeptAndBounded(t *testing.T) {
	r := newRig(t, setup{})
	bad := func(r *http.Request) { r.Header.Set("DPoP", "nonsense") }
	for range 40 {
		r.want(r.do("POST", "/auth/login", map[string]any{"username": "ann", "password": "a good long password"}, bad), 400, "invalid_dpop_proof")
	}
	kept := r.events(audit.ProofRefused)
	if len(kept) == 0 || len(kept) > 15 || !audit.ProofRefused.Stranger() || kept[0].Detail["error"] != "invalid_dpop_proof" || !kept[0].IP.IsLoopback() {
		t.Errorf("%d events: %+v", len(kept), kept)
	}
}
