package token

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// KeyState is where a signing key is in its life.
type KeyState string

// The life of a signing key. A published key verifies tokens and is in the
// JWKS document; next, active and retired ones are published.
const (
	KeyNext    KeyState = "next"    // published ahead, signs after the next rotation
	KeyActive  KeyState = "active"  // signs
	KeyRetired KeyState = "retired" // published until the last token it signed is dead
	KeyRevoked KeyState = "revoked" // gone; listed for as long as its tokens would have lived
)

// KeyInfo describes one key of a Ring.
type KeyInfo struct {
	ID        string    `json:"id"` // kid, the RFC 7638 thumbprint
	Algorithm string    `json:"algorithm"`
	State     KeyState  `json:"state"`
	Created   time.Time `json:"created"`
	Since     time.Time `json:"since"` // in this state
	// Until is when a retired or revoked key is forgotten; zero for others.
	Until time.Time `json:"until,omitzero"`
}

// RingOptions say where the keys are and how long they live.
type RingOptions struct {
	// Path is the file that holds the keys, mode 0600. It is written anew, whole
	// and durably, at every change; its folder must exist, and nobody else may
	// write there or open the same file.
	Path string
	// Algorithm of new keys: EdDSA, ES256 or RS256. Keys of another one left
	// from before are replaced in the usual order.
	Algorithm string
	// Rotation is how long a key signs; zero or less: until told otherwise.
	Rotation time.Duration
	// Overlap is how long a key that no longer signs is still published. It is
	// the longest life of a token: Sign refuses longer ones.
	Overlap time.Duration
	// PublishAhead is how long a key is published at least before it signs, so
	// that everybody who caches the JWKS document knows it by then.
	PublishAhead time.Duration
	// Log hears of what Run does; nil for nobody.
	Log *slog.Logger
	// OnRotate, if not nil, is told of every rotation by Run, after it.
	OnRotate func(active KeyInfo)
}

var (
	// ErrUnknownKey is for a key that the ring does not have, or no longer.
	ErrUnknownKey = errors.New("no such signing key")
	// ErrTooSoon is for a next key that has not been published long enough to sign.
	ErrTooSoon = errors.New("the next key has not been published long enough")
)

// A Ring is the signing keys of one's own issuer. It is a KeySet for verifying
// what it signed. It is safe for concurrent use: signing and verifying take no
// lock, changes wait for one another. A change is on disk before it takes
// effect, and all of it in one step, so a crash leaves the old or the new ring.
type Ring struct {
	o RingOptions

	changing sync.Mutex // held while the file is written
	state    atomic.Pointer[ringState]
}

// ringState is one immutable state of a ring, and what follows from it.
type ringState struct {
	keys       []ringKey // active, next, retired…, revoked…
	generation uint64
	byID       map[string][]Key // published
	active     signer
	jwks       []byte
}

// OpenRing reads the ring at o.Path, or makes a new one where there is none. It
// refuses a file that others than its owner can touch, and one that it does not
// understand; it never replaces one.
func OpenRing(o RingOptions) (*Ring, error) {
	if !slices.Contains(ringAlgorithms, o.Algorithm) {
		return nil, fmt.Errorf("token: keys for %q cannot be made: choose EdDSA, ES256 or RS256", o.Algorithm)
	}
	if o.Overlap <= 0 {
		return nil, errors.New("token: the overlap of signing keys must be the longest life of a token, not zero")
	}
	if o.PublishAhead < 0 {
		return nil, errors.New("token: the time a key is published ahead is negative")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	r := &Ring{o: o}
	keys, err := readRing(o.Path)
	if err != nil {
		return nil, fmt.Errorf("token: signing keys: %w", err)
	}
	now := time.Now()
	next, err := r.o.settle(slices.Clone(keys), now)
	if err != nil {
		return nil, fmt.Errorf("token: signing keys: %w", err)
	}
	r.state.Store(&ringState{}) // generation 0 is nobody's
	if !sameKeys(keys, next) {
		err = r.commit(next)
	} else {
		err = r.publish(next)
	}
	if err != nil {
		return nil, fmt.Errorf("token: signing keys: %w", err)
	}
	return r, nil
}

// Keys implements KeySet with the published keys. Own tokens always name their
// key, so without a kid there is none.
func (r *Ring) Keys(kid string) ([]Key, uint64) {
	s := r.state.Load()
	return s.byID[kid], s.generation
}

// JWKS is the published keys as a JWK Set document (RFC 7517 §5).
func (r *Ring) JWKS() []byte { return slices.Clone(r.state.Load().jwks) }

// List describes every key: the active one, the next one, then retired and
// revoked ones.
func (r *Ring) List() []KeyInfo {
	s := r.state.Load()
	out := make([]KeyInfo, len(s.keys))
	for i, k := range s.keys {
		out[i] = k.info()
	}
	return out
}

// Rotate makes the next key the active one, retires the active one and
// publishes a new next one. It returns the key that signs now. ErrTooSoon when
// the next key is too new; a key that must not sign any longer is revoked, not
// rotated.
func (r *Ring) Rotate(now time.Time) (KeyInfo, error) {
	err := r.change(func(keys []ringKey) ([]ringKey, error) {
		next := find(keys, KeyNext)
		if from := next.Created.Add(r.o.PublishAhead); now.Before(from) {
			return nil, fmt.Errorf("%w: it may sign from %s on", ErrTooSoon, from.UTC().Format(time.RFC3339))
		}
		return r.o.rotate(keys, now)
	})
	if err != nil {
		return KeyInfo{}, err
	}
	return r.List()[0], nil
}

// Revoke ends a key: it verifies and signs nothing from this moment, and is
// gone from the JWKS document. An active key is replaced by the next one at
// once, however new that is. Revoking a revoked key changes nothing.
func (r *Ring) Revoke(kid string, now time.Time) error {
	return r.change(func(keys []ringKey) ([]ringKey, error) { return r.o.revoke(keys, kid, now) })
}

// Tick does what is due: forgets keys whose tokens are dead, and rotates when
// the active key has signed for long enough and the next one is published long
// enough. It reports whether it rotated.
func (r *Ring) Tick(now time.Time) (rotated bool, err error) {
	err = r.change(func(keys []ringKey) ([]ringKey, error) {
		if r.o.rotationDue(keys, now) {
			rotated = true
			return r.o.rotate(keys, now)
		}
		return r.o.settle(keys, now)
	})
	return rotated && err == nil, err
}

const (
	// longestNap bounds how late Run notices a stepped clock.
	longestNap = time.Minute
	// shortestNap keeps Run from spinning when a change fails.
	shortestNap = time.Second
)

// Run calls Tick whenever something is due, until ctx ends. A change that fails
// is logged and tried again: keys that could not be replaced go on signing.
func (r *Ring) Run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		}
		rotated, err := r.Tick(time.Now())
		switch {
		case err != nil:
			r.o.Log.Error("signing keys could not be rotated; trying again", "error", err)
		case rotated:
			active := r.List()[0]
			r.o.Log.Info("signing key rotated", "kid", active.ID, "algorithm", active.Algorithm)
			if r.o.OnRotate != nil {
				r.o.OnRotate(active)
			}
		}
		nap := longestNap
		if due := r.o.due(r.state.Load().keys); !due.IsZero() {
			nap = min(nap, max(shortestNap, time.Until(due)))
		}
		timer.Reset(nap)
	}
}

// change applies step to the keys and makes the result durable, then effective.
func (r *Ring) change(step func([]ringKey) ([]ringKey, error)) error {
	r.changing.Lock()
	defer r.changing.Unlock()
	before := r.state.Load().keys
	after, err := step(slices.Clone(before))
	if err != nil {
		return fmt.Errorf("token: signing keys: %w", err)
	}
	if sameKeys(before, after) {
		return nil
	}
	if err := r.commit(after); err != nil {
		return fmt.Errorf("token: signing keys: %w", err)
	}
	return nil
}

// commit writes keys down and then puts them into effect.
func (r *Ring) commit(keys []ringKey) error {
	if err := writeRing(r.o.Path, keys); err != nil {
		return err
	}
	return r.publish(keys)
}

func (r *Ring) publish(keys []ringKey) error {
	s, err := newRingState(keys, r.state.Load().generation+1)
	if err != nil {
		return err
	}
	r.state.Store(s)
	return nil
}
