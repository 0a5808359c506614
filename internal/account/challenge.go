package account

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-webauthn/webauthn/webauthn"

	"github.com/wsbouncer/wsbouncer/internal/limit"
)

// A FactorRequiredError says that the password was right and a second factor
// has to follow.
type FactorRequiredError struct {
	// Challenge stands for the password that was given: FinishLogin takes it once.
	Challenge string
	// Kinds are what the account can answer with.
	Kinds []string
	// PublicKey is what the browser is asked for where the account has passkeys.
	PublicKey any
}

func (*FactorRequiredError) Error() string { return "a second factor is required" }

// Bounds of logins that wait for their second factor.
const (
	challengeLife = 5 * time.Minute
	// challengesPerAccount at once; one more takes the place of the oldest.
	challengesPerAccount = 4
	challengeAttempts    = 5
	maxChallenged        = 1 << 14 // accounts
)

// challenge is a login whose password was right.
type challenge struct {
	sum      [sha256.Size]byte // of its secret
	account  Account
	asked    *webauthn.SessionData // of a passkey; nil: there is none
	expires  time.Time
	attempts int
}

// challenges are in memory alone: after a restart the password is given again.
type challenges struct {
	mu  sync.Mutex
	all *limit.Cache[who, []*challenge]
}

func newChallenges() *challenges {
	return &challenges{all: limit.NewCache[who, []*challenge](maxChallenged)}
}

const challengeSecret = 32 // bytes

var challengeText = base64.RawURLEncoding.Strict()

// add makes a challenge. Its text begins with the account's hash, by which it is found.
func (c *challenges) add(a Account, asked *webauthn.SessionData, now time.Time) string {
	raw := make([]byte, len(who{})+challengeSecret)
	key := whoOf(a.Name)
	copy(raw, key[:])
	_, _ = rand.Read(raw[len(key):]) // never fails
	c.mu.Lock()
	defer c.mu.Unlock()
	list := c.alive(key, now)
	if len(list) >= challengesPerAccount {
		list = list[1:]
	}
	c.all.Put(key, append(list, &challenge{sum: sha256.Sum256(raw), account: a, asked: asked, expires: now.Add(challengeLife)}))
	return challengeText.EncodeToString(raw)
}

// alive is a new list without those that are over.
func (c *challenges) alive(key who, now time.Time) []*challenge {
	list, _ := c.all.Get(key)
	return slices.DeleteFunc(slices.Clone(list), func(ch *challenge) bool {
		return !now.Before(ch.expires) || ch.attempts >= challengeAttempts
	})
}

// find is the challenge of that text.
func (c *challenges) find(text string, now time.Time) (key who, ch *challenge, ok bool) {
	if len(text) != challengeText.EncodedLen(len(key)+challengeSecret) {
		return key, nil, false
	}
	raw, err := challengeText.DecodeString(text)
	if err != nil {
		return key, nil, false
	}
	copy(key[:], raw)
	sum := sha256.Sum256(raw)
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, ch := range c.alive(key, now) {
		if ch.sum == sum {
			return key, ch, true
		}
	}
	return key, nil, false
}

// spend counts a failed attempt.
func (c *challenges) spend(ch *challenge) {
	c.mu.Lock()
	defer c.mu.Unlock()
	ch.attempts++
}

// take removes ch, and reports whether it was still there: of any number of
// callers exactly one gets it.
func (c *challenges) take(key who, ch *challenge, now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	list := c.alive(key, now)
	i := slices.Index(list, ch)
	if i < 0 {
		return false
	}
	c.all.Put(key, slices.Delete(list, i, i+1))
	return true
}

func (c *challenges) forget(name string) { c.all.Delete(whoOf(name)) }

// challenge answers a right password of an account that has factors; nil: it has none.
func (s *Service) challenge(ctx context.Context, a Account) (*FactorRequiredError, error) {
	fs, err := s.confirmed(ctx, a.Name)
	if err != nil || len(fs) == 0 {
		return nil, err
	}
	need := &FactorRequiredError{}
	for _, f := range fs {
		if !slices.Contains(need.Kinds, f.Kind) {
			need.Kinds = append(need.Kinds, f.Kind)
		}
	}
	codes, err := s.o.Store.CountRecoveryCodes(ctx, a.Name)
	if err != nil {
		return nil, fmt.Errorf("count recovery codes: %w", err)
	}
	if codes > 0 {
		need.Kinds = append(need.Kinds, KindRecovery)
	}
	var asked *webauthn.SessionData
	if slices.Contains(need.Kinds, KindPasskey) && s.passkeys != nil {
		// Where its key is lost or its passkeys cannot be read, another factor may still do.
		need.PublicKey, asked, _ = s.ask(ctx, a.Name)
	}
	need.Challenge = s.challenges.add(a, asked, s.o.Now())
	return need, nil
}

// FinishLogin ends a login that Authenticate left at a *FactorRequiredError. What
// begins with it goes into also, which runs in the transaction that takes the
// proof, with the account and the methods (RFC 8176) of the whole login; it
// fails with ErrChallenge, ErrFactorFailed, ErrLoginFailed (the account changed
// meanwhile) or *ThrottledError.
func (s *Service) FinishLogin(ctx context.Context, text string, by FactorResponse, addr netip.Addr, also func(ctx context.Context, a Account, amr []string) error) error {
	key, ch, ok := s.challenges.find(strings.TrimSpace(text), s.o.Now())
	if !ok {
		return ErrChallenge
	}
	err := s.attempted(by)(ctx, ch.account.Name, addr, func(ctx context.Context) error {
		amr, err := s.use(ctx, ch.account.Name, by, ch.asked)
		if err != nil {
			return err
		}
		if err := s.Confirm(ctx, ch.account); err != nil {
			return err
		}
		// From here on it is used, whatever becomes of the rest.
		if !s.challenges.take(key, ch, s.o.Now()) {
			return ErrChallenge
		}
		return also(ctx, ch.account, append([]string{AMRPassword}, amr...))
	})
	if errors.Is(err, ErrFactorFailed) {
		s.challenges.spend(ch)
	}
	return err
}
