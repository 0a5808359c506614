package token

import (
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/wsbouncer/wsbouncer/internal/jws"
)

const (
	// maxLeeway bounds Issuer.Leeway.
	maxLeeway = time.Minute
	// defaultMaxLifetime and maxMaxLifetime are for Issuer.MaxLifetime.
	defaultMaxLifetime = 24 * time.Hour
	maxMaxLifetime     = 720 * time.Hour
	// defaultScopeClaim is RFC 8693 §4.2's.
	defaultScopeClaim = "scope"
)

// An Issuer is whom to believe, and how far.
type Issuer struct {
	// Name is iss, compared byte for byte.
	Name string
	// Audience must be a member of aud. Of issuers that also make ID tokens, do
	// not use a client_id here: it is the audience of those.
	Audience string
	// Algorithms are those allowed: RS256/384/512, PS256/384/512, ES256/384/512,
	// EdDSA, or else HS256/384/512.
	Algorithms []string
	Keys       KeySet
	// Introspection, instead of Algorithms and Keys, is asked about this issuer's
	// tokens. They may be opaque; a Verifier has one such issuer at most whose are.
	Introspection *Introspection
	// AnyType also takes tokens whose typ header is absent or JWT, as many
	// issuers make them. Those that are recognisably ID, refresh, logout, event
	// or DPoP tokens are refused all the same.
	AnyType bool
	// ScopeClaim names the claim with the scopes, a string with spaces or an
	// array of strings; "scope" when empty.
	ScopeClaim string
	// Leeway is the clock difference allowed at exp, nbf and iat, at most 60 s;
	// zero is none.
	Leeway time.Duration
	// MaxLifetime bounds exp - iat, at most 720 h; zero means 24 h.
	MaxLifetime time.Duration
	// Own is one's own issuer: its tokens must carry iat, jti and rev, and its
	// scopes may begin with "wsbouncer:". They may be up to 5 s early whatever
	// Leeway says: the clock that issued them may have been set back since, or be
	// another node's. What "everything issued so far" covers does not hang on
	// it, since rev is a number and no time.
	Own bool

	alone []string // Audience, for the many tokens that are for nobody else
}

// ownEarly is how far ahead iat and nbf of own tokens may be.
const ownEarly = 5 * time.Second

// early is how far ahead iat and nbf may be.
func (i *Issuer) early() time.Duration {
	if i.Own {
		return max(i.Leeway, ownEarly)
	}
	return i.Leeway
}

func (i Issuer) checked() (Issuer, error) {
	if i.ScopeClaim == "" {
		i.ScopeClaim = defaultScopeClaim
	}
	if i.MaxLifetime == 0 {
		i.MaxLifetime = defaultMaxLifetime
	}
	fail := func(err error) (Issuer, error) {
		return Issuer{}, fmt.Errorf("token: issuer %q: %w", i.Name, err)
	}
	if i.Name == "" || jws.Name(i.Name) != nil {
		return fail(errors.New("its name is empty, too long, or has control characters"))
	}
	if i.Audience == "" {
		return fail(errors.New("it has no audience: tokens for anybody would be accepted"))
	}
	if err := i.checkKeys(); err != nil {
		return fail(err)
	}
	if i.Leeway < 0 || i.Leeway > maxLeeway {
		return fail(fmt.Errorf("the leeway %s is not between 0 and %s", i.Leeway, maxLeeway))
	}
	if i.MaxLifetime < 0 || i.MaxLifetime > maxMaxLifetime {
		return fail(fmt.Errorf("the greatest lifetime %s is not between 0 and %s", i.MaxLifetime, maxMaxLifetime))
	}
	i.Algorithms = slices.Clone(i.Algorithms)
	i.alone = []string{i.Audience}
	return i, nil
}

// checkKeys: tokens are verified by keys, or asked about.
func (i *Issuer) checkKeys() error {
	switch {
	case i.Introspection != nil && (i.Keys != nil || len(i.Algorithms) > 0 || i.Own):
		return errors.New("with introspection it has no keys and no algorithms, and is not one's own")
	case i.Introspection != nil:
		i.Keys = &staticKeys{}
		return nil
	case i.Keys == nil:
		return errors.New("it has no keys")
	}
	return checkAlgorithms(i.Algorithms)
}

// issuers is one configuration. Entries of the cache name it by its address:
// nothing verified under another one counts.
type issuers struct {
	byName   map[string]*Issuer
	opaque   *Issuer // that is asked about tokens which are no JWT
	fallback string
	last     map[string]*last // by issuer
}

// last is what an issuer's last token had in common with most of its others, who
// share it.
type last struct {
	under  atomic.Pointer[under]
	scopes atomic.Pointer[[]string]
}

func (s *issuers) under(issuer, kid string, generation uint64) *under {
	last := &s.last[issuer].under
	u := last.Load()
	if u == nil || u.kid != kid || u.generation != generation {
		u = &under{s, kid, generation}
		last.Store(u)
	}
	return u
}

func (s *issuers) scopes(issuer string, list []string) []string {
	last := &s.last[issuer].scopes
	if was := last.Load(); was != nil && slices.Equal(*was, list) {
		return *was
	}
	last.Store(&list)
	return list
}

func checkedIssuers(list []Issuer) (*issuers, error) {
	if len(list) == 0 {
		return nil, errors.New("token: no issuer is trusted: every token would be refused")
	}
	s := &issuers{byName: make(map[string]*Issuer, len(list)), last: make(map[string]*last, len(list))}
	own := ""
	for _, i := range list {
		i, err := i.checked()
		if err != nil {
			return nil, err
		}
		if s.byName[i.Name] != nil {
			return nil, fmt.Errorf("token: issuer %q is there twice", i.Name)
		}
		if i.Own && own != "" {
			return nil, fmt.Errorf("token: %q and %q cannot both be one's own issuer", own, i.Name)
		}
		if i.Own {
			own = i.Name
		}
		if i.Introspection != nil {
			if s.opaque != nil {
				return nil, fmt.Errorf("token: %q and %q cannot both be asked about opaque tokens, which do not say whose they are", s.opaque.Name, i.Name)
			}
			s.opaque = &i
		}
		s.byName[i.Name], s.last[i.Name] = &i, new(last)
	}
	switch {
	case own != "":
		s.fallback = own
	case len(list) == 1:
		s.fallback = list[0].Name
	}
	return s, nil
}
