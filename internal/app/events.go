package app

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/wsbouncer/wsbouncer/internal/config"
	"github.com/wsbouncer/wsbouncer/internal/login"
	"github.com/wsbouncer/wsbouncer/internal/secevent"
	"github.com/wsbouncer/wsbouncer/token"
)

// logoutAlgorithms are those of providers' logout tokens: one for each kind of key.
var logoutAlgorithms = []string{"RS256", "ES256", "EdDSA"}

// planEvents makes p's sources of logout tokens and of security events: the login
// providers, the trusted issuers that say so, and the transmitters.
func (p *plan) planEvents(c *config.Config, known config.Problems, wrong func(path string, err error)) {
	var defaults config.Trust
	defaults.Keys = config.NewTrust().Keys
	for _, t := range p.trusted {
		i := slices.IndexFunc(c.Trust, func(o config.Trust) bool { return o.Issuer == t.Name })
		if i < 0 || c.Trust[i].Logout == nil || t.Keys == nil {
			continue
		}
		p.logout = append(p.logout, secevent.Source{Issuer: t, Audience: c.Trust[i].Logout.Audience, SubjectsOf: t.Name, Trusted: true})
	}
	for i := range p.providers {
		l := &p.providers[i]
		if l.Type != login.OIDC {
			continue
		}
		keys, err := p.remotes.addFor(l.Issuer, logoutAlgorithms, &defaults.Keys, l.Roots)
		if err != nil {
			wrong(fmt.Sprintf("login.providers[%d].issuer", i), err)
			continue
		}
		p.logout = append(p.logout, secevent.Source{
			Issuer:   token.Issuer{Name: l.Issuer, Algorithms: logoutAlgorithms, Keys: keys, Leeway: config.NewTrust().Leeway.D()},
			Audience: l.ClientID, SubjectsOf: l.Issuer, Trusted: p.trusts(l.Issuer),
		})
	}
	for i := range c.Events.Transmitters {
		t := &c.Events.Transmitters[i]
		at := fmt.Sprintf("events.transmitters[%d]", i)
		if known.Touch(at) {
			continue
		}
		keys, path, err := p.trustKeys(&config.Trust{Issuer: t.Issuer, Algorithms: t.Algorithms, Keys: t.Keys})
		if err != nil {
			wrong(at+".keys."+path, err)
			continue
		}
		s := secevent.Source{
			Issuer:   token.Issuer{Name: t.Issuer, Algorithms: t.Algorithms, Keys: keys, Leeway: t.Leeway.D()},
			Audience: t.Audience, SubjectsOf: c.SubjectsOf(t),
		}
		s.Trusted = p.trusts(s.SubjectsOf)
		if t.AuthorizationFile != "" {
			b, err := os.ReadFile(t.AuthorizationFile)
			if s.Authorization = string(trimLine(b)); err == nil && len(s.Authorization) < 16 {
				err = errors.New("holds fewer than 16 characters: it is to be guessed by nobody")
			}
			if err != nil {
				wrong(at+".authorization_file", err)
				continue
			}
		}
		p.transmitters = append(p.transmitters, s)
	}
}

func (p *plan) trusts(issuer string) bool {
	return slices.ContainsFunc(p.trusted, func(i token.Issuer) bool { return i.Name == issuer })
}
