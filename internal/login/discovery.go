package login

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"
)

// How long a provider's metadata is good, and how soon one that failed is asked
// again.
const (
	metadataLife = time.Hour
	metadataWait = 3 * time.Second
)

// endpoints are where a provider is.
type endpoints struct {
	endpoint oauth2.Endpoint
	verifier *oidc.IDTokenVerifier // of OIDC
	// issNeeded: its callbacks always say who it is (RFC 9207 §3).
	issNeeded bool
}

// discovery is a provider's metadata, asked for when it is needed, by one caller
// for all that wait.
type discovery struct {
	mu    sync.Mutex
	asked chan struct{} // closed when the answer is there; nil: nobody asks
	is    *endpoints
	next  time.Time // not before this is it asked again
	err   error     // of the last time
}

// endpoints are p's, from its metadata where it has them. While a provider cannot
// be reached, what it said before stays good.
func (p *live) endpoints(ctx context.Context, now time.Time) (*endpoints, error) {
	if p.Type == OAuth2 {
		return &endpoints{endpoint: oauth2.Endpoint{AuthURL: p.AuthURL, TokenURL: p.TokenURL, AuthStyle: authStyle(p.ClientAuth, nil)}}, nil
	}
	d := &p.known
	for {
		d.mu.Lock()
		if now.Before(d.next) {
			defer d.mu.Unlock()
			if d.is == nil {
				return nil, d.err
			}
			return d.is, nil
		}
		asked := d.asked
		if asked == nil {
			break
		}
		if is := d.is; is != nil { // old, and good while somebody asks
			d.mu.Unlock()
			return is, nil
		}
		d.mu.Unlock()
		select {
		case <-asked:
			// Whatever came of it holds for this caller too.
			d.mu.Lock()
			defer d.mu.Unlock()
			if d.is == nil {
				return nil, d.err
			}
			return d.is, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	asked := make(chan struct{})
	d.asked = asked
	d.mu.Unlock()
	// Others wait for it too, so it does not end with this caller's request.
	ask, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
	defer cancel()
	is, err := p.discover(ask)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.asked = nil
	close(asked)
	if err != nil {
		d.err, d.next = err, now.Add(metadataWait)
		if d.is == nil {
			return nil, err
		}
		return d.is, nil
	}
	d.is, d.err, d.next = is, nil, now.Add(metadataLife)
	return is, nil
}

// discover asks for OpenID Connect Discovery 1.0's document. go-oidc compares the
// issuer in it (§4.3) and passes over algorithms that are not of public keys.
func (p *live) discover(ctx context.Context) (*endpoints, error) {
	found, err := oidc.NewProvider(oidc.ClientContext(ctx, p.client), p.Issuer)
	if err != nil {
		return nil, plain(err)
	}
	var more struct {
		Iss      bool     `json:"authorization_response_iss_parameter_supported"`
		Auth     []string `json:"token_endpoint_auth_methods_supported"`
		JWKS     string   `json:"jwks_uri"`
		Userinfo string   `json:"userinfo_endpoint"`
	}
	if err := found.Claims(&more); err != nil {
		return nil, errors.New("its metadata is not what it must be")
	}
	e := found.Endpoint()
	for name, address := range map[string]string{"authorization_endpoint": e.AuthURL, "token_endpoint": e.TokenURL, "jwks_uri": more.JWKS} {
		u, err := url.Parse(address)
		if err != nil || safe(u) != nil {
			return nil, fmt.Errorf("its %s is neither https nor on loopback", name)
		}
	}
	e.AuthStyle = authStyle(p.ClientAuth, more.Auth)
	return &endpoints{
		endpoint:  e,
		issNeeded: more.Iss,
		verifier:  found.VerifierContext(oidc.ClientContext(context.WithoutCancel(ctx), p.client), &oidc.Config{ClientID: p.ClientID}),
	}, nil
}

// authStyle is how we authenticate: never by trying one way and then the other,
// which would send a code twice.
func authStyle(configured string, offered []string) oauth2.AuthStyle {
	if configured == SecretPost || configured == "" && len(offered) > 0 && !slices.Contains(offered, SecretBasic) && slices.Contains(offered, SecretPost) {
		return oauth2.AuthStyleInParams
	}
	return oauth2.AuthStyleInHeader
}

// plain is err without what the provider wrote: that may be anything.
func plain(err error) error {
	var mismatch *oidc.IssuerMismatchError
	var u *url.Error
	switch {
	case errors.As(err, &mismatch):
		return errors.New("its metadata names another issuer")
	case errors.As(err, &u):
		return u.Err
	case errors.Is(err, errTooLarge), errors.Is(err, context.DeadlineExceeded):
		return err
	}
	return errors.New("its metadata is not what it must be")
}
