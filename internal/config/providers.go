package config

import (
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"
)

// LoginProvider is where people log in besides here.
type LoginProvider struct {
	Name   string `yaml:"name"`
	Type   string `yaml:"type" oneof:"oidc oauth2"`
	Issuer string `yaml:"issuer,omitempty"`
	// AuthURL, TokenURL, UserinfoURL and Subject are for oauth2; oidc discovers.
	AuthURL          string   `yaml:"auth_url,omitempty"`
	TokenURL         string   `yaml:"token_url,omitempty"`
	UserinfoURL      string   `yaml:"userinfo_url,omitempty"`
	Subject          string   `yaml:"subject,omitempty"`
	ClientID         string   `yaml:"client_id"`
	ClientSecretFile string   `yaml:"client_secret_file" path:"file"`
	ClientAuth       string   `yaml:"client_auth" oneof:"auto client_secret_basic client_secret_post"`
	Scopes           []string `yaml:"scopes"`
	// Allow, ScopesFor and TokenClaims hold CEL over claims and provider.
	Allow         string            `yaml:"allow"`
	DefaultScopes []string          `yaml:"default_scopes"`
	ScopesFor     []ScopesFor       `yaml:"scopes_for"`
	TokenClaims   map[string]string `yaml:"token_claims"`
	SessionTTL    Duration          `yaml:"session_ttl"`
	CA            string            `yaml:"ca,omitempty" path:"file"`
}

// ScopesFor gives scopes to those whom a rule holds for.
type ScopesFor struct {
	When   string   `yaml:"when"`
	Scopes []string `yaml:"scopes"`
}

func (p *LoginProvider) setDefaults() { *p = LoginProvider{Type: "oidc", ClientAuth: "auto"} }

var (
	providerName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,31}$`)
	claimName    = regexp.MustCompile(`^[A-Za-z0-9_.:/-]{1,128}$`)
	// registered are claims that our own tokens have by themselves.
	registered = []string{"iss", "sub", "aud", "exp", "nbf", "iat", "jti", "sid", "client_id", "azp", "scope", "rev", "cnf", "auth_time", "amr", "acr", "act", "may_act", "nonce", "events"}
)

func (v *validator) providers() {
	c := v.c
	if len(c.Login.Providers) == 0 {
		return
	}
	if c.Issuer == nil {
		v.wrong("login.providers", "need an issuer, which gives those who log in their sessions: issuer: {}")
	}
	if slices.Contains(c.Origins, "*") {
		v.wrong("login.providers", `cannot go with origins "*": a login ends in cookies, and on a page of an origin that is named`)
	}
	seen := map[string]bool{}
	for n := range c.Login.Providers {
		p := &c.Login.Providers[n]
		at := fmt.Sprintf("login.providers[%d]", n)
		switch {
		case p.Name == "":
			v.wrong(at, "name is missing: a short one, which the login's address ends with")
		case !providerName.MatchString(p.Name):
			v.wrong(at+".name", "%q is not 1 to 32 small letters, digits and hyphens", p.Name)
		case seen[p.Name]:
			v.wrong(at+".name", "%s is there twice", p.Name)
		}
		seen[p.Name] = true
		if p.Type == "oauth2" {
			v.oauth2Provider(p, at)
		} else {
			v.oidcProvider(p, at)
		}
		if p.ClientID == "" {
			v.wrong(at, "client_id is missing: the provider gives one when this server is registered there")
		}
		if p.ClientSecretFile == "" {
			v.wrong(at, "client_secret_file is missing: a file with what the provider gave beside the client_id")
		}
		if strings.TrimSpace(p.Allow) == "" {
			v.wrong(at, `allow is missing: it says who of this provider's users may log in, for example '"staff" in claims.groups'; 'true' is everybody it knows`)
		} else if strings.TrimSpace(p.Allow) == "true" {
			v.warn(at+".allow", "everybody whom the provider knows may log in; at a public one that is everybody")
		}
		v.loginScopes(p.DefaultScopes, at+".default_scopes")
		for i := range p.ScopesFor {
			rule := fmt.Sprintf("%s.scopes_for[%d]", at, i)
			if strings.TrimSpace(p.ScopesFor[i].When) == "" {
				v.wrong(rule, "when is missing: a rule such as '\"ops\" in claims.groups'")
			}
			v.loginScopes(p.ScopesFor[i].Scopes, rule+".scopes")
		}
		folded := map[string]bool{}
		for name := range p.TokenClaims {
			if lower := strings.ToLower(name); folded[lower] {
				v.wrong(at+".token_claims."+name, "%s is there twice, in another case: programs read such claims differently", name)
			} else {
				folded[lower] = true
			}
			switch {
			case !claimName.MatchString(name):
				v.wrong(at+".token_claims", "%q is no name for a claim", name)
			case slices.ContainsFunc(registered, func(r string) bool { return strings.EqualFold(r, name) }):
				v.wrong(at+".token_claims."+name, "%s is a registered claim, which our tokens have by themselves", name)
			}
		}
		if d := p.SessionTTL; d != 0 && d < Duration(time.Minute) {
			v.wrong(at+".session_ttl", "is %s; at least 1m, or leave it out", d)
		}
	}
}

func (v *validator) oidcProvider(p *LoginProvider, at string) {
	if p.Issuer == "" {
		v.wrong(at, "issuer is missing: the exact iss of its ID tokens, below which /.well-known/openid-configuration is")
	} else {
		v.providerURL(p.Issuer, at+".issuer")
	}
	for key, value := range map[string]string{"auth_url": p.AuthURL, "token_url": p.TokenURL, "userinfo_url": p.UserinfoURL, "subject": p.Subject} {
		if value != "" {
			v.wrong(at+"."+key, "is for the type oauth2; of oidc it is discovered")
		}
	}
	if len(p.Scopes) == 0 {
		p.Scopes = []string{"openid"}
	}
	if !slices.Contains(p.Scopes, "openid") {
		v.wrong(at+".scopes", "lack openid, without which there is no ID token")
	}
}

func (v *validator) oauth2Provider(p *LoginProvider, at string) {
	for key, value := range map[string]string{"auth_url": p.AuthURL, "token_url": p.TokenURL, "userinfo_url": p.UserinfoURL} {
		if value == "" {
			v.wrong(at, "%s is missing, which oauth2 has no way to discover", key)
		} else {
			v.providerURL(value, at+"."+key)
		}
	}
	if p.Subject == "" {
		v.wrong(at, "subject is missing: the member of userinfo_url's answer that tells users apart and is never given to another, such as id")
	}
	if p.Issuer != "" {
		v.providerURL(p.Issuer, at+".issuer")
	}
}

func (v *validator) providerURL(raw, at string) {
	u, err := url.Parse(raw)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http":
		v.wrong(at, "%q is not a URL such as https://sso.example.com", redactURL(raw))
	case u.User != nil:
		v.wrong(at, "a URL here may not hold a user name or password")
	case u.Fragment != "":
		v.wrong(at, "has a fragment")
	case u.Scheme == "http" && !isLoopback(u.Hostname()):
		v.wrong(at, "must begin with https://: whoever is in between could be anybody")
	}
}

// loginScopes are those that a provider's users get. Nobody rules over this
// program by somebody else's word.
func (v *validator) loginScopes(scopes []string, at string) {
	for i, s := range scopes {
		place := fmt.Sprintf("%s[%d]", at, i)
		switch {
		case !scopeToken.MatchString(s) || len(s) > 128:
			v.wrong(place, "%q is not one scope: visible ASCII without spaces, quotes and backslashes", s)
		case strings.HasPrefix(s, "wsbouncer:"):
			v.wrong(place, "%s is for accounts of this server alone", s)
		}
	}
}
