package login

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/oauth2"

	"github.com/wsbouncer/wsbouncer/internal/audit"
	"github.com/wsbouncer/wsbouncer/internal/httpx"
)

// Options configure a Service. Store, Base, AuthPath, Origins and First are needed.
type Options struct {
	Store Store
	// Base is our public URL without a trailing slash; AuthPath the prefix of the
	// HTTP API.
	Base, AuthPath string
	// Origins are whose pages a login may end at, First the one where it ends
	// unless it is told.
	Origins *httpx.Origins
	First   string
	// Audit keeps events; nil: nothing does.
	Audit audit.Sink
	// Log is for the operator; nil: slog.Default.
	Log *slog.Logger
	// Now is the clock; nil: time.Now.
	Now func() time.Time
}

// A Service is the logins at all providers. It is safe for concurrent use.
type Service struct {
	o         Options
	states    *states
	providers atomic.Pointer[map[string]*live]
}

// live is a provider and what is known of it.
type live struct {
	Provider
	client *http.Client
	places chan struct{} // of logins under way
	known  discovery
}

// New is a Service without providers. It starts nothing.
func New(o Options) *Service {
	if o.Audit == nil {
		o.Audit = audit.Discard
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	s := &Service{o: o, states: newStates()}
	s.SetProviders(nil)
	return s
}

// SetProviders replaces all providers. Logins under way go on with the new ones.
func (s *Service) SetProviders(list []Provider) {
	all := make(map[string]*live, len(list))
	for _, p := range list {
		all[p.Name] = &live{Provider: p, client: client(p.Roots), places: make(chan struct{}, maxInFlight)}
	}
	if old := s.providers.Swap(&all); old != nil {
		for _, p := range *old {
			p.client.CloseIdleConnections()
		}
	}
}

// Providers are the names of all, in order.
func (s *Service) Providers() []string {
	names := []string{}
	for name := range *s.providers.Load() {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func (s *Service) provider(name string) (*live, error) {
	if p, ok := (*s.providers.Load())[name]; ok {
		return p, nil
	}
	return nil, unknownProvider()
}

// enter takes one of p's places; leave gives it back. One slow provider can only
// ever hold up its own.
func (p *live) enter() (leave func(), err error) {
	select {
	case p.places <- struct{}{}:
		return func() { <-p.places }, nil
	default:
		return nil, busy()
	}
}

// redirectURI is the callback of one provider alone, so that another's answer
// can never be taken for its (RFC 9700 §4.4.2.2).
func (s *Service) redirectURI(provider string) string {
	return s.o.Base + s.o.AuthPath + "/callback/" + provider
}

// A Request begins a login.
type Request struct {
	Provider, ReturnTo string
	// Browser is what the browser's cookie holds.
	Browser string
	// Replaces is the session that the new one takes the place of, or empty.
	Replaces string
}

// Begin gives the address at the provider where the browser goes. The error is a
// *Failure.
func (s *Service) Begin(ctx context.Context, q Request) (address string, err error) {
	p, err := s.provider(q.Provider)
	if err != nil {
		return "", err
	}
	back, ok := returnTo(q.ReturnTo, s.o.Base, s.o.First, s.o.Origins)
	if !ok {
		return "", badReturn()
	}
	leave, err := p.enter()
	if err != nil {
		return "", err
	}
	defer leave()
	to, err := p.endpoints(ctx, s.o.Now())
	if err != nil {
		return "", asFailure(err, "discovery")
	}
	t := transaction{
		Provider: p.Name, Nonce: secret(), Verifier: oauth2.GenerateVerifier(), ReturnTo: back,
		Browser: browserHash(q.Browser), Replaces: q.Replaces, Begun: s.o.Now().Unix(),
	}
	state, err := s.states.seal(t)
	if err != nil {
		return "", asFailure(err, "state")
	}
	challenge := sha256.Sum256([]byte(t.Verifier))
	u, err := url.Parse(to.endpoint.AuthURL)
	if err != nil {
		return "", providerFailed("authorization endpoint", err)
	}
	query := u.Query()
	for name, value := range map[string]string{
		"response_type": "code", "client_id": p.ClientID, "redirect_uri": s.redirectURI(p.Name),
		"scope": strings.Join(p.Scopes, " "), "state": state,
		"code_challenge": base64.RawURLEncoding.EncodeToString(challenge[:]), "code_challenge_method": "S256",
	} {
		query.Set(name, value)
	}
	if p.Type == OIDC {
		query.Set("nonce", t.Nonce)
	}
	u.RawQuery = query.Encode()
	return u.String(), nil
}

// A Result is a login that a provider vouches for and that may come in here.
type Result struct {
	Provider, Type string
	// Issuer and Subject are whose login it is there, and Session is sid there,
	// or empty.
	Issuer, Subject, Session string
	// Email is the address that the provider says it has verified, in lower case.
	Email string
	// IssuedAt is when the provider vouched for the login.
	IssuedAt time.Time
	// Label is a name for people to read.
	Label string
	// AuthTime is when the provider says the user proved who it is; zero: it does
	// not say.
	AuthTime time.Time
	AMR      []string
	ACR      string
	// Scopes and Claims are for our access tokens, TTL is for the session.
	Scopes []string
	Claims map[string]any
	TTL    time.Duration
	// ReturnTo is where the browser goes, a whole URL.
	ReturnTo string
	// Replaces is the session whose place it takes, or empty.
	Replaces string
}

// Finish looks at a callback and asks the provider about it. The error is a
// *Failure.
func (s *Service) Finish(ctx context.Context, provider string, query url.Values, browser string) (*Result, error) {
	p, err := s.provider(provider)
	if err != nil {
		return nil, err
	}
	for _, name := range []string{"state", "code", "iss", "error", "error_description"} {
		if len(query[name]) > 1 {
			return nil, badAnswer(name + " is there twice")
		}
	}
	t, err := s.states.take(query.Get("state"), browser, provider, s.o.Now())
	if err != nil {
		return nil, badState("state: " + err.Error())
	}
	leave, err := p.enter()
	if err != nil {
		return nil, err
	}
	defer leave()
	to, err := p.endpoints(ctx, s.o.Now())
	if err != nil {
		return nil, asFailure(err, "discovery")
	}
	// RFC 9207 §2.4, for errors too.
	switch _, there := query["iss"]; {
	case there && p.Issuer != "" && query.Get("iss") != p.Issuer:
		return nil, badAnswer("iss is another issuer's")
	case !there && to.issNeeded:
		return nil, badAnswer("iss is absent, which this provider always sends")
	}
	if code := query.Get("error"); code != "" {
		return nil, refusedThere(code, query.Get("error_description"))
	}
	if query.Get("code") == "" {
		return nil, badAnswer("there is no code")
	}
	r, document, err := s.ask(ctx, p, to, t, query.Get("code"))
	if err != nil {
		return nil, err
	}
	r.Provider, r.Type, r.TTL, r.ReturnTo, r.Replaces = p.Name, p.Type, p.SessionTTL, t.ReturnTo, t.Replaces
	return r, s.judge(ctx, p, r, document)
}
