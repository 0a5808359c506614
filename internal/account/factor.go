package account

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/go-webauthn/webauthn/webauthn"

	"github.com/wsbouncer/wsbouncer/internal/audit"
	"github.com/wsbouncer/wsbouncer/internal/limit"
)

// Errors of second factors.
var (
	// ErrFactorFailed: the proof is wrong, or was used before.
	ErrFactorFailed = errors.New("the code is wrong or was used before")
	// ErrFactorExists: there is such a factor already.
	ErrFactorExists = errors.New("the account has a factor of this kind already")
	// ErrTooManyFactors: it has as many as it can have.
	ErrTooManyFactors = errors.New("the account has as many factors as it can have")
	// ErrChallenge: the challenge of a login is unknown, used or too old.
	ErrChallenge = errors.New("the login's challenge is unknown, used or too old")
	// ErrNoFactors: this server keeps no second factors.
	ErrNoFactors = errors.New("this server keeps no second factors")
)

// Kinds of factors.
const (
	KindTOTP = "totp"
	// KindRecovery is no Factor of its own: see RecoveryCode.
	KindRecovery = "recovery"
)

// Methods of RFC 8176 that a login can hold.
const (
	AMRPassword = "pwd"
	AMROTP      = "otp"
	AMRMulti    = "mfa"
)

// A Factor is a second factor as it is stored.
type Factor struct {
	// ID is 130 random bits, no secret.
	ID, Account, Kind string
	// Sealed is the factor's secret under Options.FactorKey.
	Sealed []byte
	// Confirmed: its owner has proved to have it. One that is not is no factor yet.
	Confirmed bool
	// Counter is the last TOTP step that was used.
	Counter int64
	// Used is the zero time before the first use.
	Created, Used time.Time
}

// A CodeHash is the SHA-256 of a recovery code and whose it is.
type CodeHash [32]byte

// Bounds of what an account can have.
const (
	maxFactors    = 10
	recoveryCodes = 10
	// recoveryChars of 5 bits each are a code.
	recoveryChars = 16
)

// factorSpread bounds the wrong codes of one account, over all addresses that it
// never logged in from, and of each one that it did. It is narrower than that of
// passwords: a code has six digits, three are good at a time, and who guesses
// them has the password. At its pace a day of guessing finds one in a thousand.
var factorSpread = limit.Rate{PerSecond: 1.0 / 300, Burst: 20}

// FactorInfo is what people see of a factor.
type FactorInfo struct {
	ID, Kind      string
	Created, Used time.Time
}

// A FactorResponse is what somebody offers as a second factor. Exactly one
// field is set.
type FactorResponse struct {
	Code         string
	RecoveryCode string
	// Passkey is a browser's answer, as JSON, and State, in a session, that of the
	// ceremony it answers.
	Passkey []byte
	State   string
}

// Factors are the confirmed factors of an account, and how many recovery codes
// it has left.
func (s *Service) Factors(ctx context.Context, name string) (list []FactorInfo, codes int, err error) {
	fs, err := s.confirmed(ctx, name)
	if err != nil {
		return nil, 0, err
	}
	for _, f := range fs {
		list = append(list, FactorInfo{ID: f.ID, Kind: f.Kind, Created: f.Created, Used: f.Used})
	}
	codes, err = s.o.Store.CountRecoveryCodes(ctx, name)
	return list, codes, err
}

func (s *Service) confirmed(ctx context.Context, name string) ([]Factor, error) {
	fs, err := s.o.Store.Factors(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("look up factors: %w", err)
	}
	return slices.DeleteFunc(fs, func(f Factor) bool { return !f.Confirmed }), nil
}

// BeginTOTP makes a TOTP factor that counts once ConfirmTOTP has seen a code of
// it. One that was begun before is forgotten.
func (s *Service) BeginTOTP(ctx context.Context, name string) (secret, uri string, err error) {
	if len(s.o.FactorKey) == 0 {
		return "", "", ErrNoFactors
	}
	raw := newTOTPSecret()
	f := Factor{ID: rand.Text(), Account: name, Kind: KindTOTP, Created: s.now()}
	if f.Sealed, err = s.seal(f, raw); err != nil {
		return "", "", err
	}
	err = s.o.Store.Tx(ctx, func(ctx context.Context) error {
		if _, err := s.o.Store.Account(ctx, name); err != nil {
			return err
		}
		fs, err := s.o.Store.Factors(ctx, name)
		if err != nil {
			return err
		}
		for _, old := range fs {
			switch {
			case old.Confirmed && old.Kind == KindTOTP:
				return ErrFactorExists
			case !old.Confirmed:
				if err := s.o.Store.DeleteFactor(ctx, name, old.ID); err != nil {
					return err
				}
			}
		}
		if len(fs) >= maxFactors {
			return ErrTooManyFactors
		}
		return s.o.Store.InsertFactor(ctx, f)
	})
	if err != nil {
		return "", "", err
	}
	return base32Text.EncodeToString(raw), totpURI(raw, s.o.FactorIssuer, name), nil
}

// ConfirmTOTP makes the TOTP factor that was begun count, by a code of it, and
// returns the account's recovery codes, which nobody can see again.
func (s *Service) ConfirmTOTP(ctx context.Context, name, code string, addr netip.Addr) (codes []string, err error) {
	err = s.guarded(ctx, name, addr, func(ctx context.Context) error {
		fs, err := s.o.Store.Factors(ctx, name)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(fs, func(f Factor) bool { return f.Kind == KindTOTP && !f.Confirmed })
		if i < 0 {
			return ErrNotFound
		}
		if err := s.useTOTP(ctx, fs[i], code, true); err != nil {
			return err
		}
		if codes, err = s.newCodes(ctx, name); err != nil {
			return err
		}
		return s.tell(ctx, audit.FactorAdded, name, name, "kind", KindTOTP)
	})
	return codes, err
}

// NewRecoveryCodes replaces an account's recovery codes.
func (s *Service) NewRecoveryCodes(ctx context.Context, name string) (codes []string, err error) {
	err = s.o.Store.Tx(ctx, func(ctx context.Context) error {
		fs, err := s.confirmed(ctx, name)
		if err != nil {
			return err
		}
		if len(fs) == 0 {
			return ErrNotFound
		}
		if codes, err = s.newCodes(ctx, name); err != nil {
			return err
		}
		return s.tell(ctx, audit.RecoveryCodes, name, name)
	})
	return codes, err
}

func (s *Service) newCodes(ctx context.Context, name string) ([]string, error) {
	codes, hashes := make([]string, recoveryCodes), make([]CodeHash, recoveryCodes)
	for i := range codes {
		t := rand.Text()[:recoveryChars]
		hashes[i] = codeHash(name, t)
		codes[i] = t[:4] + "-" + t[4:8] + "-" + t[8:12] + "-" + t[12:]
	}
	return codes, s.o.Store.SetRecoveryCodes(ctx, name, hashes)
}

// codeHash takes a code as people type it. It has 80 random bits: a fast hash is enough.
func codeHash(name, code string) CodeHash {
	code = strings.ToUpper(strings.NewReplacer("-", "", " ", "").Replace(code))
	return sha256.Sum256([]byte("wsbouncer recovery code\x00" + name + "\x00" + code))
}

// RemoveFactor takes a factor from an account. With the last one the recovery
// codes go. It fails with ErrNotFound.
func (s *Service) RemoveFactor(ctx context.Context, name, id, actor string) error {
	return s.o.Store.Tx(ctx, func(ctx context.Context) error {
		if err := s.o.Store.DeleteFactor(ctx, name, id); err != nil {
			return err
		}
		left, err := s.confirmed(ctx, name)
		if err != nil {
			return err
		}
		if len(left) == 0 {
			if err := s.o.Store.SetRecoveryCodes(ctx, name, nil); err != nil {
				return err
			}
		}
		return s.tell(ctx, audit.FactorRemoved, name, actor, "factor", id)
	})
}

// ResetFactors takes all factors and recovery codes from an account. Ending its
// sessions is the caller's, in the same transaction.
func (s *Service) ResetFactors(ctx context.Context, name, actor string) error {
	return s.o.Store.Tx(ctx, func(ctx context.Context) error {
		r, err := s.find(ctx, name)
		if err != nil {
			return err
		}
		fs, err := s.o.Store.Factors(ctx, r.Name)
		if err != nil {
			return err
		}
		for _, f := range fs {
			if err := s.o.Store.DeleteFactor(ctx, r.Name, f.ID); err != nil {
				return err
			}
		}
		if err := s.o.Store.SetRecoveryCodes(ctx, r.Name, nil); err != nil {
			return err
		}
		s.challenges.forget(r.Name)
		return s.tell(ctx, audit.FactorRemoved, r.Name, actor, "factor", "all")
	})
}

// VerifyFactor takes a proof of a factor, once, and returns the methods (RFC
// 8176) that it stands for besides the password. What else has to hold goes into
// also, in the same transaction. It fails with ErrFactorFailed or *ThrottledError.
func (s *Service) VerifyFactor(ctx context.Context, name string, by FactorResponse, addr netip.Addr, also ...func(context.Context) error) (amr []string, err error) {
	asked, err := s.sessionOf(name, by)
	if err != nil {
		return nil, err
	}
	err = s.attempted(by)(ctx, name, addr, func(ctx context.Context) error {
		amr, err = s.use(ctx, name, by, asked)
		for _, fn := range also {
			if err == nil {
				err = fn(ctx)
			}
		}
		return err
	})
	return amr, err
}

// use takes a proof; asked is what a passkey was asked for, nil for nothing.
func (s *Service) use(ctx context.Context, name string, by FactorResponse, asked *webauthn.SessionData) (amr []string, err error) {
	if by.Passkey != nil {
		return s.usePasskey(ctx, name, asked, by.Passkey)
	}
	if by.RecoveryCode != "" {
		err := s.o.Store.TakeRecoveryCode(ctx, name, codeHash(name, by.RecoveryCode))
		if errors.Is(err, ErrNotFound) {
			return nil, ErrFactorFailed
		}
		if err != nil {
			return nil, err
		}
		return []string{AMRMulti}, s.tell(ctx, audit.RecoveryUsed, name, name)
	}
	fs, err := s.confirmed(ctx, name)
	if err != nil {
		return nil, err
	}
	for _, f := range fs {
		if f.Kind == KindTOTP {
			return []string{AMROTP, AMRMulti}, s.useTOTP(ctx, f, by.Code, false)
		}
	}
	return nil, ErrFactorFailed
}

// useTOTP takes a code and notes its step, so that it is not taken again.
func (s *Service) useTOTP(ctx context.Context, f Factor, code string, confirms bool) error {
	secret, err := s.open(f)
	if err != nil {
		return err
	}
	step, ok := totpMatch(secret, code, f.Counter, s.o.Now())
	if !ok {
		return ErrFactorFailed
	}
	f.Counter, f.Used = step, s.now()
	f.Confirmed = f.Confirmed || confirms
	return s.o.Store.UpdateFactor(ctx, f)
}

// attempted is the throttle for a kind of proof: nobody guesses a signature.
func (s *Service) attempted(by FactorResponse) func(context.Context, string, netip.Addr, func(context.Context) error) error {
	if by.Passkey != nil {
		return s.throttled
	}
	return s.guarded
}

// guarded is throttled for what can be guessed.
func (s *Service) guarded(ctx context.Context, name string, addr netip.Addr, fn func(context.Context) error) error {
	key := whoFrom{who: whoOf(name), from: limit.IPKey(addr)}
	if ok, retry := s.guesses.Allow(key, s.o.Now()); !ok {
		return s.tooMany(ctx, name, addr, retry)
	}
	err := s.throttled(ctx, name, addr, fn)
	if !errors.Is(err, ErrFactorFailed) {
		s.guesses.Forgive(key)
	}
	return err
}

func (s *Service) tooMany(ctx context.Context, name string, addr netip.Addr, retry time.Duration) error {
	if report, _ := s.reports.Allow(struct{}{}, s.o.Now()); report {
		if err := s.failed(ctx, audit.LoginThrottled, name, addr); err != nil {
			return err
		}
	}
	return &ThrottledError{RetryAfter: retry}
}

// throttled runs fn in a transaction as an attempt at name's factor: paid for
// before, given back unless it fails with ErrFactorFailed.
func (s *Service) throttled(ctx context.Context, name string, addr netip.Addr, fn func(context.Context) error) error {
	attempt, retry, ok := s.codes.begin(name, addr, s.o.Now())
	if !ok {
		return s.tooMany(ctx, name, addr, retry)
	}
	err := s.o.Store.Tx(ctx, fn)
	switch {
	case err == nil:
		attempt.succeeded()
		return nil
	case errors.Is(err, ErrFactorFailed):
		attempt.failed()
		why := audit.FactorFailed
		if errors.Is(err, errCloned) {
			why = audit.PasskeyCloned
		}
		return errors.Join(err, s.failed(ctx, why, name, addr))
	}
	attempt.refund()
	return err
}

// aead seals factors' secrets, each bound to its factor.
func (s *Service) aead() (cipher.AEAD, error) {
	if len(s.o.FactorKey) == 0 {
		return nil, ErrNoFactors
	}
	block, err := aes.NewCipher(s.o.FactorKey)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

func (f Factor) label() []byte { return []byte("wsbouncer factor v1\x00" + f.ID + "\x00" + f.Account) }

func (s *Service) seal(f Factor, secret []byte) ([]byte, error) {
	a, err := s.aead()
	if err != nil {
		return nil, err
	}
	return a.Seal(nil, nil, secret, f.label()), nil //nolint:gosec // this AEAD makes its own random nonce
}

func (s *Service) open(f Factor) ([]byte, error) {
	a, err := s.aead()
	if err != nil {
		return nil, err
	}
	secret, err := a.Open(nil, nil, f.Sealed, f.label())
	if err != nil {
		return nil, fmt.Errorf("factor %s of %s cannot be opened with this server's key: %w", f.ID, f.Account, err)
	}
	return secret, nil
}
