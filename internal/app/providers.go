package app

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"os"

	"github.com/wsbouncer/wsbouncer/internal/account"
	"github.com/wsbouncer/wsbouncer/internal/config"
	"github.com/wsbouncer/wsbouncer/internal/httpx"
	"github.com/wsbouncer/wsbouncer/internal/login"
	"github.com/wsbouncer/wsbouncer/policy"
)

// providerOf is a configured login provider; key names what is wrong with it.
func providerOf(c *config.LoginProvider) (p login.Provider, key string, err error) {
	p = login.Provider{
		Name: c.Name, Type: c.Type, Issuer: c.Issuer, AuthURL: c.AuthURL, TokenURL: c.TokenURL, UserinfoURL: c.UserinfoURL, Subject: c.Subject,
		ClientID: c.ClientID, Scopes: c.Scopes, DefaultScopes: c.DefaultScopes, SessionTTL: c.SessionTTL.D(),
	}
	if c.ClientAuth != "auto" {
		p.ClientAuth = c.ClientAuth
	}
	secret, err := os.ReadFile(c.ClientSecretFile)
	if err != nil {
		return p, "client_secret_file", err
	}
	if p.ClientSecret = string(trimLine(secret)); p.ClientSecret == "" {
		return p, "client_secret_file", errors.New("is empty")
	}
	if p.Allow, err = policy.Logins.Compile(c.Allow); err != nil {
		return p, "allow", err
	}
	for i, rule := range c.ScopesFor {
		when, err := policy.Logins.Compile(rule.When)
		if err != nil {
			return p, fmt.Sprintf("scopes_for[%d].when", i), err
		}
		p.ScopesFor = append(p.ScopesFor, login.ScopeRule{When: when, Scopes: rule.Scopes})
	}
	for name, text := range c.TokenClaims {
		program, err := policy.Logins.CompileValue(text)
		if err != nil {
			return p, "token_claims." + name, err
		}
		if p.TokenClaims == nil {
			p.TokenClaims = map[string]*policy.Program{}
		}
		p.TokenClaims[name] = program
	}
	if c.CA != "" {
		pem, err := os.ReadFile(c.CA)
		if err != nil {
			return p, "ca", err
		}
		if p.Roots = x509.NewCertPool(); !p.Roots.AppendCertsFromPEM(pem) {
			return p, "ca", fmt.Errorf("%s holds no certificate in PEM", c.CA)
		}
	}
	return p, "", nil
}

// openLogin builds the logins at other providers.
func (a *App) openLogin(p *plan) error {
	c := a.o.Config
	origins, err := httpx.ParseOrigins(c.OriginList())
	if err != nil {
		return err
	}
	first := c.PublicURL.Scheme + "://" + c.PublicURL.Host
	if list := c.OriginList(); len(list) > 0 && list[0] != "*" {
		first = list[0]
	}
	a.login = login.New(login.Options{
		Store: a.store, Base: c.PublicURL.Scheme + "://" + c.PublicURL.Host, AuthPath: c.AuthPath,
		Origins: origins, First: first, Audit: a.events, Log: a.log,
	})
	a.login.SetProviders(p.providers)
	return nil
}

// subjects says what any subject of our own may do: an account's, or that of a
// provider's user.
type subjects struct {
	accounts   *account.Service
	identities *login.Service
}

func (s subjects) Grants(ctx context.Context, subject string) (scopes []string, active bool, err error) {
	if login.IsIdentity(subject) {
		return s.identities.Grants(ctx, subject)
	}
	return s.accounts.Grants(ctx, subject)
}

// sameLogins reports whether two configurations log people in alike but for the
// providers' details, which a reload takes. The paths of the HTTP API follow
// their being there.
func sameLogins(a, b *config.Config) bool {
	return a.Login.Password == b.Login.Password && (len(a.Login.Providers) == 0) == (len(b.Login.Providers) == 0)
}
