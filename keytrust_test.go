package wsbouncer_test

import (
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/wsbouncer/wsbouncer"
	"github.com/wsbouncer/wsbouncer/internal/reason"
	"github.com/wsbouncer/wsbouncer/token"
)

// believer is a wallet that can stop to believe keys.
type believer struct {
	*wallet
	mu   sync.Mutex
	lost map[string]bool
}

func (b *believer) Trusts(_, keyID string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return !b.lost[keyID]
}

func (b *believer) lose(keyID string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lost[keyID] = true
}

func believing(t *testing.T) (*wsbouncer.Bouncer, *believer) {
	t.Helper()
	v := &believer{wallet: newWallet(), lost: map[string]bool{}}
	b, _ := bouncer(t, func(o *wsbouncer.Options) { o.Verifier = v })
	return b, v
}

func TestReviewEndsWhatLivesByAKeyThatIsGone(t *testing.T) {
	b, v := believing(t)
	signedBy := func(kid string) string { return v.add(func(t *token.Token) { t.KeyID = kid }) }
	_, stays := open(t, b, wsbouncer.Demand{}, signedBy("k1"))
	_, goes := open(t, b, wsbouncer.Demand{}, signedBy("k2"))
	// It was opened with k2 and lives by k1 now: keys are retired in between.
	moved, alsoStays := open(t, b, wsbouncer.Demand{}, signedBy("k2"))
	if _, err := moved.Refresh(t.Context(), v.add(func(t *token.Token) { t.Expiry = time.Now().Add(time.Hour) })); err != nil {
		t.Fatal(err)
	}
	if n := b.Review(); n != 0 {
		t.Errorf("with every key in place %d ended", n)
	}
	v.lose("k2")
	if n := b.Review(); n != 1 {
		t.Errorf("%d ended", n)
	}
	if ends := goes.all(); len(ends) != 1 || ends[0] != reason.KeyRevoked {
		t.Errorf("ended %v", ends)
	}
	if len(stays.all()) != 0 || len(alsoStays.all()) != 0 {
		t.Errorf("others ended: %v, %v", stays.all(), alsoStays.all())
	}
}

// Whichever comes first, the handshake or the review, the other sees it.
func TestReviewMeetsHandshakes(t *testing.T) {
	b, v := believing(t)
	raw := v.token()
	a, err := b.Admit(handshake(bearer(raw)), wsbouncer.Demand{})
	if err != nil {
		t.Fatal(err)
	}
	pending, err := b.Track(a, newEnder())
	if err != nil {
		t.Fatal(err)
	}
	admitted, err := b.Admit(handshake(bearer(raw)), wsbouncer.Demand{})
	if err != nil {
		t.Fatal(err)
	}
	live, e := open(t, b, wsbouncer.Demand{}, raw)
	v.lose("k1")

	_, err = b.Track(admitted, newEnder())
	wantRefusal(t, err, reason.TokenSignature)
	wantRefusal(t, pending.Open(), reason.TokenSignature)
	pending.Release(reason.ClientGone)
	newer := v.add(func(t *token.Token) { t.Expiry = time.Now().Add(time.Hour) })
	if _, err := live.Refresh(t.Context(), newer); !errors.Is(err, reason.TokenSignature) {
		t.Errorf("refreshed with %v", err)
	}
	if ends := e.all(); len(ends) != 1 || ends[0] != reason.KeyRevoked {
		t.Errorf("ended %v", ends)
	}
}
