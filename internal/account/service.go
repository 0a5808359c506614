package account

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"sync"
	"time"

	"github.com/go-webauthn/webauthn/webauthn"

	"github.com/wsbouncer/wsbouncer/internal/audit"
	"github.com/wsbouncer/wsbouncer/internal/limit"
)

// Errors of the Service.
var (
	// ErrLoginFailed: no such account, wrong password or disabled; nobody is told which.
	ErrLoginFailed = errors.New("the name or the password is wrong")
	// ErrBusy: too many passwords are being checked; try again shortly.
	ErrBusy = errors.New("too many passwords are being checked at once; try again shortly")
	// ErrNotFound: there is no such account.
	ErrNotFound = errors.New("no such account")
	// ErrExists: the name is taken.
	ErrExists = errors.New("there is an account of that name already")
)

// A ThrottledError says that there were too many failures.
type ThrottledError struct {
	// RetryAfter is when an attempt will be looked at again.
	RetryAfter time.Duration
}

func (e *ThrottledError) Error() string {
	return fmt.Sprintf("too many failed logins; try again in %d s", int(math.Ceil(e.RetryAfter.Seconds())))
}

// A RuleError says why a name or a password was not taken. Its texts are for
// whoever chose it.
type RuleError struct {
	// Rule is stable: name_invalid, password_too_short, password_too_long,
	// password_encoding, password_common, password_context, password_weak,
	// scope_invalid.
	Rule   string
	Detail string
}

func (e *RuleError) Error() string { return e.Detail }

// An Account is what is known of an account, without its secret.
type Account struct {
	// Subject is the account's subject: its canonical name.
	Subject, Name            string
	Scopes                   []string
	Disabled                 bool
	Created, PasswordChanged time.Time
}

// A Record is an account as it is stored.
type Record struct {
	Name string
	// Hash is argon2id in PHC format; empty: no password logs in.
	Hash                     string
	Scopes                   []string
	Disabled                 bool
	Created, PasswordChanged time.Time
}

// A Store keeps accounts. It must be safe for concurrent use; storetest is its
// conformance suite. Tx and AfterCommit are as in internal/session; the other
// methods join the transaction in their context. Names are canonical. Absent is
// ErrNotFound.
type Store interface {
	Tx(ctx context.Context, fn func(ctx context.Context) error) error

	Account(ctx context.Context, name string) (Record, error)
	// Accounts lists names above after, in order, at most limit.
	Accounts(ctx context.Context, after string, limit int) ([]Record, error)
	// InsertAccount fails with ErrExists where the name is taken.
	InsertAccount(ctx context.Context, r Record) error
	// UpdateAccount writes all of r but Name and Created.
	UpdateAccount(ctx context.Context, r Record) error
	// RehashAccount replaces the hash from by to; without effect where it is
	// not from any more.
	RehashAccount(ctx context.Context, name, from, to string) error
	// DeleteAccount deletes its factors and recovery codes too.
	DeleteAccount(ctx context.Context, name string) error

	// Factors are those of an account, oldest first.
	Factors(ctx context.Context, account string) ([]Factor, error)
	// Factor finds one by its id.
	Factor(ctx context.Context, id string) (Factor, error)
	InsertFactor(ctx context.Context, f Factor) error
	// UpdateFactor writes Sealed, Confirmed, Counter and Used.
	UpdateFactor(ctx context.Context, f Factor) error
	DeleteFactor(ctx context.Context, account, id string) error
	// SetRecoveryCodes replaces an account's recovery codes.
	SetRecoveryCodes(ctx context.Context, account string, codes []CodeHash) error
	// TakeRecoveryCode removes a code: of any number of callers, exactly one gets it.
	TakeRecoveryCode(ctx context.Context, account string, code CodeHash) error
	CountRecoveryCodes(ctx context.Context, account string) (int, error)
}

// Options configure a Service. Store is needed; a zero value is the default of
// the configuration.
type Options struct {
	Store Store
	// MinLength of a password, in characters.
	MinLength int
	// Blocklist holds passwords that are refused besides the ones shipped; nil: none.
	Blocklist *Blocklist
	// Words that a password may not rest on: the product's, the host's.
	Words []string
	// HashesInFlight is how many passwords are checked at once; each needs 19 MiB
	// and a processor. 0: one processor is left to everything else.
	HashesInFlight int
	// PerAccount bounds failures for one account from one address, PerIP those
	// from one address.
	PerAccount, PerIP limit.Rate
	// FactorKey seals the secrets of second factors, with 32 bytes; without it no
	// account can get one. FactorIssuer is the name that authenticator apps show.
	FactorKey    []byte
	FactorIssuer string
	// Passkeys says where passkeys are good; nil: nowhere.
	Passkeys *Passkeys
	// Audit keeps events; nil: nothing does.
	Audit audit.Sink
	// Now is the clock; nil: time.Now.
	Now func() time.Time
}

// A Service is what can be done with accounts. It is safe for concurrent use.
type Service struct {
	o        Options
	rules    *rules
	throttle *throttle
	hasher   *hasher
	reports  *limit.Keyed[struct{}]
	// codes is the throttle of second factors, challenges the logins that wait for one.
	codes      *throttle
	guesses    *limit.Keyed[whoFrom]
	challenges *challenges

	passkeys  *webauthn.WebAuthn // nil: there are none
	finishing sync.Mutex
	finished  *limit.Cache[string, struct{}] // ceremonies, by their challenge
}

// reported bounds the audit rows about refused attempts: they cost an attacker
// nothing.
var reported = limit.Rate{PerSecond: 1, Burst: 10}

// New is a Service. It starts nothing.
func New(o Options) *Service {
	if o.MinLength <= 0 {
		o.MinLength = defaultMinLength
	}
	if o.HashesInFlight <= 0 {
		o.HashesInFlight = max(1, runtime.GOMAXPROCS(0)-1)
	}
	if o.Audit == nil {
		o.Audit = audit.Discard
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Service{
		o:        o,
		rules:    &rules{min: o.MinLength, extra: o.Blocklist, words: o.Words},
		throttle: newThrottle(o.PerAccount, o.PerIP, spread),
		hasher:   newHasher(o.HashesInFlight),
		reports:  limit.NewKeyed[struct{}](reported, 1),

		codes:      newThrottle(o.PerAccount, o.PerIP, factorSpread),
		guesses:    limit.NewKeyed[whoFrom](factorSpread, maxThrottled),
		challenges: newChallenges(),

		passkeys: openPasskeys(o.Passkeys, o.FactorIssuer),
		finished: limit.NewCache[string, struct{}](maxKnown),
	}
}

// Grants says which scopes an account has and whether it may have sessions. An
// unknown one may not.
func (s *Service) Grants(ctx context.Context, subject string) (scopes []string, active bool, err error) {
	r, err := s.o.Store.Account(ctx, subject)
	if errors.Is(err, ErrNotFound) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	return r.Scopes, !r.Disabled, nil
}

// Get finds an account by any form of its name.
func (s *Service) Get(ctx context.Context, name string) (Account, error) {
	r, err := s.find(ctx, name)
	if err != nil {
		return Account{}, err
	}
	return r.account(), nil
}

// List lists accounts whose names come after after, in order, at most limit.
func (s *Service) List(ctx context.Context, after string, limit int) ([]Account, error) {
	rs, err := s.o.Store.Accounts(ctx, after, limit)
	if err != nil {
		return nil, err
	}
	out := make([]Account, len(rs))
	for i, r := range rs {
		out[i] = r.account()
	}
	return out, nil
}

func (s *Service) find(ctx context.Context, name string) (Record, error) {
	c, err := Canonical(name)
	if err != nil {
		return Record{}, ErrNotFound
	}
	return s.o.Store.Account(ctx, c)
}

func (r Record) account() Account {
	return Account{
		Subject: r.Name, Name: r.Name, Scopes: r.Scopes, Disabled: r.Disabled,
		Created: r.Created, PasswordChanged: r.PasswordChanged,
	}
}

// sameLogin reports whether what was proved of a still holds of r.
func (r Record) sameLogin(a Account) bool {
	return !r.Disabled && r.Created.Equal(a.Created) && r.PasswordChanged.Equal(a.PasswordChanged)
}
