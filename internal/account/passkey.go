package account

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/go-webauthn/webauthn/protocol"
	"github.com/go-webauthn/webauthn/webauthn"

	"github.com/wsbouncer/wsbouncer/internal/audit"
)

// KindPasskey is a WebAuthn credential.
const KindPasskey = "webauthn"

// Methods of RFC 8176 of a passkey: its key is in hardware, or may be copied to
// other devices; and its device verified who holds it.
const (
	amrHardware = "hwk"
	amrSoftware = "swk"
	amrUser     = "user"
)

// errCloned is an ErrFactorFailed: a counter went back, so the key may be in two places.
var errCloned = fmt.Errorf("the passkey's counter went back: it may have been copied: %w", ErrFactorFailed)

// Passkeys says where passkeys are good.
type Passkeys struct {
	// ID is the relying party id: a domain. Origins are pages on it or below it.
	ID      string
	Origins []string
}

// A Ceremony is what a browser is asked for, and what has to come back with its answer.
type Ceremony struct {
	// State is sealed: nobody can change it, and it is good for five minutes.
	State string `json:"state"`
	// PublicKey are the options of navigator.credentials, as JSON.
	PublicKey any `json:"publicKey"`
}

// ceremony is the inside of a State.
type ceremony struct {
	Purpose, Account string
	Session          webauthn.SessionData
	Expires          time.Time
}

// Purposes of a ceremony. The answer to one is never the answer to another.
const (
	forRegistration = "register"
	forLogin        = "login"
	forStepUp       = "verify"
)

// openPasskeys is nil where there are none.
func openPasskeys(p *Passkeys, name string) *webauthn.WebAuthn {
	if p == nil {
		return nil
	}
	w, err := webauthn.New(&webauthn.Config{
		RPID: p.ID, RPDisplayName: name, RPOrigins: p.Origins,
		AttestationPreference: protocol.PreferNoAttestation,
		AuthenticatorSelection: protocol.AuthenticatorSelection{
			ResidentKey: protocol.ResidentKeyRequirementPreferred, UserVerification: protocol.VerificationPreferred,
		},
		// None is asked for, and none means anything here; some password managers send one all the same.
		ExtensionsUnsolicitedOutputPolicy: protocol.UnsolicitedOutputPolicyIgnore,
	})
	if err != nil {
		return nil // no such domain can have passkeys: whoever asks is told ErrNoFactors
	}
	return w
}

// holder is an account as the library wants it.
type holder struct {
	name        string
	handle      []byte
	credentials []webauthn.Credential
	factors     map[string]Factor // by credential id
}

func (h *holder) WebAuthnID() []byte                         { return h.handle }
func (h *holder) WebAuthnName() string                       { return h.name }
func (h *holder) WebAuthnDisplayName() string                { return h.name }
func (h *holder) WebAuthnCredentials() []webauthn.Credential { return h.credentials }

// holder reads an account's passkeys. The user handle says nothing about the
// account to whoever lacks the key, and an account of the same name later has another.
func (s *Service) holder(ctx context.Context, name string) (*holder, Record, error) {
	if s.passkeys == nil || len(s.o.FactorKey) == 0 {
		return nil, Record{}, ErrNoFactors
	}
	r, err := s.o.Store.Account(ctx, name)
	if err != nil {
		return nil, r, err
	}
	mac := hmac.New(sha256.New, s.o.FactorKey)
	fmt.Fprintf(mac, "wsbouncer user handle v1\x00%d\x00%s", r.Created.UnixMilli(), name)
	h := &holder{name: name, handle: mac.Sum(nil), factors: map[string]Factor{}}
	fs, err := s.confirmed(ctx, name)
	if err != nil {
		return nil, r, err
	}
	for _, f := range fs {
		if f.Kind != KindPasskey {
			continue
		}
		raw, err := s.open(f)
		if err != nil {
			return nil, r, err
		}
		var c webauthn.Credential
		if err := json.Unmarshal(raw, &c); err != nil {
			return nil, r, fmt.Errorf("read passkey %s: %w", f.ID, err)
		}
		h.credentials, h.factors[string(c.ID)] = append(h.credentials, c), f
	}
	return h, r, nil
}

// passkeyID is a factor's id by its credential's: what an assertion names finds it.
func passkeyID(credential []byte) string {
	sum := sha256.Sum256(credential)
	return "pk-" + base64.RawURLEncoding.EncodeToString(sum[:24])
}

func (s *Service) sealCeremony(purpose, account string, session *webauthn.SessionData, publicKey any) (Ceremony, error) {
	plain, err := json.Marshal(ceremony{purpose, account, *session, s.o.Now().Add(challengeLife)})
	if err != nil {
		return Ceremony{}, err
	}
	a, err := s.aead()
	if err != nil {
		return Ceremony{}, err
	}
	sealed := a.Seal(nil, nil, plain, []byte("wsbouncer ceremony v1")) //nolint:gosec // this AEAD makes its own random nonce
	return Ceremony{State: base64.RawURLEncoding.EncodeToString(sealed), PublicKey: publicKey}, nil
}

func (s *Service) openCeremony(state, purpose, account string) (*webauthn.SessionData, error) {
	sealed, err := base64.RawURLEncoding.Strict().DecodeString(state)
	if err != nil {
		return nil, ErrChallenge
	}
	a, err := s.aead()
	if err != nil {
		return nil, err
	}
	plain, err := a.Open(nil, nil, sealed, []byte("wsbouncer ceremony v1"))
	if err != nil {
		return nil, ErrChallenge
	}
	var c ceremony
	if err := json.Unmarshal(plain, &c); err != nil {
		return nil, fmt.Errorf("read a ceremony: %w", err)
	}
	if c.Purpose != purpose || c.Account != account || !s.o.Now().Before(c.Expires) {
		return nil, ErrChallenge
	}
	return &c.Session, nil
}

// once reports whether nobody has finished this ceremony yet. Only finished ones
// are remembered, so that strangers, who can begin any number, push none out.
func (s *Service) once(session *webauthn.SessionData) error {
	s.finishing.Lock()
	defer s.finishing.Unlock()
	if _, used := s.finished.Get(session.Challenge); used {
		return ErrChallenge
	}
	s.finished.Put(session.Challenge, struct{}{})
	return nil
}

// BeginPasskey asks for a new passkey.
func (s *Service) BeginPasskey(ctx context.Context, name string) (Ceremony, error) {
	h, _, err := s.holder(ctx, name)
	if err != nil {
		return Ceremony{}, err
	}
	options, session, err := s.passkeys.BeginRegistration(h, webauthn.WithExclusions(webauthn.Credentials(h.credentials).CredentialDescriptors()))
	if err != nil {
		return Ceremony{}, fmt.Errorf("begin a passkey: %w", err)
	}
	return s.sealCeremony(forRegistration, name, session, options.Response)
}

// AddPasskey takes a browser's answer to BeginPasskey. With an account's first
// factor come its recovery codes. It fails with ErrFactorFailed or ErrChallenge.
func (s *Service) AddPasskey(ctx context.Context, name, state string, answer []byte) (id string, codes []string, err error) {
	session, err := s.openCeremony(state, forRegistration, name)
	if err != nil {
		return "", nil, err
	}
	parsed, err := protocol.ParseCredentialCreationResponseBytes(answer)
	if err != nil {
		return "", nil, fmt.Errorf("%w: %w", ErrFactorFailed, err)
	}
	err = s.o.Store.Tx(ctx, func(ctx context.Context) error {
		h, _, err := s.holder(ctx, name)
		if err != nil {
			return err
		}
		c, err := s.passkeys.CreateCredential(h, *session, parsed)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrFactorFailed, err)
		}
		if err := s.once(session); err != nil {
			return err
		}
		all, err := s.o.Store.Factors(ctx, name)
		if err != nil {
			return err
		}
		if len(all) >= maxFactors {
			return ErrTooManyFactors
		}
		f := Factor{ID: passkeyID(c.ID), Account: name, Kind: KindPasskey, Confirmed: true, Created: s.now()}
		switch _, err := s.o.Store.Factor(ctx, f.ID); {
		case err == nil:
			return ErrFactorExists // whoever's it is
		case !errors.Is(err, ErrNotFound):
			return err
		}
		c.Attestation = webauthn.CredentialAttestation{} // nobody looks at it again
		if f.Sealed, err = s.sealCredential(f, c); err != nil {
			return err
		}
		if err := s.o.Store.InsertFactor(ctx, f); err != nil {
			return err
		}
		left, err := s.o.Store.CountRecoveryCodes(ctx, name)
		if err != nil {
			return err
		}
		if left == 0 {
			if codes, err = s.newCodes(ctx, name); err != nil {
				return err
			}
		}
		id = f.ID
		return s.tell(ctx, audit.FactorAdded, name, name, "kind", KindPasskey)
	})
	return id, codes, err
}

func (s *Service) sealCredential(f Factor, c *webauthn.Credential) ([]byte, error) {
	raw, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	return s.seal(f, raw)
}

// BeginStepUp asks for one of an account's passkeys.
func (s *Service) BeginStepUp(ctx context.Context, name string) (Ceremony, error) {
	options, session, err := s.ask(ctx, name)
	if err != nil {
		return Ceremony{}, err
	}
	return s.sealCeremony(forStepUp, name, session, options)
}

// ask is what a browser is asked for as a second factor.
func (s *Service) ask(ctx context.Context, name string) (any, *webauthn.SessionData, error) {
	h, _, err := s.holder(ctx, name)
	if err != nil {
		return nil, nil, err
	}
	if len(h.credentials) == 0 {
		return nil, nil, ErrNotFound
	}
	options, session, err := s.passkeys.BeginLogin(h)
	if err != nil {
		return nil, nil, fmt.Errorf("ask for a passkey: %w", err)
	}
	return options.Response, session, nil
}

// usePasskey takes an answer to ask.
func (s *Service) usePasskey(ctx context.Context, name string, session *webauthn.SessionData, answer []byte) (amr []string, err error) {
	if session == nil {
		return nil, ErrFactorFailed // none was asked for
	}
	h, _, err := s.holder(ctx, name)
	if err != nil {
		return nil, err
	}
	parsed, err := protocol.ParseCredentialRequestResponseBytes(answer)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFactorFailed, err)
	}
	c, err := s.passkeys.ValidateLogin(h, *session, parsed)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFactorFailed, err)
	}
	return s.used(ctx, h, session, c, parsed)
}

// used keeps what an assertion changed, once, and says what it proved.
func (s *Service) used(ctx context.Context, h *holder, session *webauthn.SessionData, c *webauthn.Credential, parsed *protocol.ParsedCredentialAssertionData) (amr []string, err error) {
	if err := s.once(session); err != nil { // before the counter: an answer sent twice is no copied key
		return nil, err
	}
	if c.Authenticator.CloneWarning {
		return nil, errCloned
	}
	f := h.factors[string(c.ID)]
	if f.Sealed, err = s.sealCredential(f, c); err != nil {
		return nil, err
	}
	f.Used = s.now()
	if err := s.o.Store.UpdateFactor(ctx, f); err != nil {
		return nil, err
	}
	amr = []string{amrHardware, AMRMulti}
	if c.Flags.BackupEligible {
		amr[0] = amrSoftware
	}
	if parsed.Response.AuthenticatorData.Flags.HasUserVerified() {
		amr = append(amr, amrUser)
	}
	return amr, nil
}

// BeginPasskeyLogin asks for any passkey of this server, of a device that verifies
// its holder.
func (s *Service) BeginPasskeyLogin() (Ceremony, error) {
	if s.passkeys == nil {
		return Ceremony{}, ErrNoFactors
	}
	options, session, err := s.passkeys.BeginDiscoverableLogin(webauthn.WithUserVerification(protocol.VerificationRequired))
	if err != nil {
		return Ceremony{}, fmt.Errorf("ask for a passkey: %w", err)
	}
	return s.sealCeremony(forLogin, "", session, options.Response)
}

// PasskeyLogin is a login with a passkey and nothing else. What begins with it
// goes into also, as in FinishLogin. It fails with ErrChallenge, ErrFactorFailed
// or *ThrottledError.
func (s *Service) PasskeyLogin(ctx context.Context, state string, answer []byte, addr netip.Addr, also func(ctx context.Context, a Account, amr []string) error) error {
	if s.passkeys == nil {
		return ErrNoFactors
	}
	session, err := s.openCeremony(state, forLogin, "")
	if err != nil {
		return err
	}
	parsed, err := protocol.ParseCredentialRequestResponseBytes(answer)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrFactorFailed, err)
	}
	// An unknown credential is throttled as one: its "account" has no name.
	known, err := s.o.Store.Factor(ctx, passkeyID(parsed.RawID))
	if err != nil && !errors.Is(err, ErrNotFound) {
		return err
	}
	return s.throttled(ctx, known.Account, addr, func(ctx context.Context) error {
		if known.Account == "" {
			return ErrFactorFailed
		}
		h, r, err := s.holder(ctx, known.Account)
		if errors.Is(err, ErrNotFound) {
			return ErrFactorFailed
		}
		if err != nil {
			return err
		}
		find := func(_, handle []byte) (webauthn.User, error) {
			if !hmac.Equal(handle, h.handle) {
				return nil, ErrNotFound
			}
			return h, nil
		}
		c, err := s.passkeys.ValidateDiscoverableLogin(find, *session, parsed)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrFactorFailed, err)
		}
		if r.Disabled {
			return ErrFactorFailed
		}
		amr, err := s.used(ctx, h, session, c, parsed)
		if err != nil {
			return err
		}
		return also(ctx, r.account(), amr)
	})
}

// sessionOf is the ceremony that a response answers: of its State, in a session;
// of the login's challenge else.
func (s *Service) sessionOf(name string, by FactorResponse) (*webauthn.SessionData, error) {
	if by.Passkey == nil {
		return nil, nil
	}
	return s.openCeremony(by.State, forStepUp, name)
}
