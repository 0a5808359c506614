package config

import (
	"fmt"
	"slices"
	"time"
)

// Events is who is believed when they say that something has ended.
type Events struct {
	Transmitters []Transmitter `yaml:"transmitters"`
}

// Transmitter sends Security Event Tokens.
type Transmitter struct {
	Issuer     string    `yaml:"issuer"`
	Audience   string    `yaml:"audience"`
	Algorithms []string  `yaml:"algorithms"`
	Keys       TrustKeys `yaml:"keys"`
	// SubjectsOf is the issuer, or the login provider's name, whose subjects it
	// speaks of; empty: its own.
	SubjectsOf        string   `yaml:"subjects_of,omitempty"`
	AuthorizationFile string   `yaml:"authorization_file,omitempty" path:"file"`
	Leeway            Duration `yaml:"leeway"`
}

// TrustLogout takes a trusted issuer's logout tokens.
type TrustLogout struct {
	// Audience is our client_id there.
	Audience string `yaml:"audience"`
}

func (t *Transmitter) setDefaults() {
	var d Trust
	d.setDefaults()
	*t = Transmitter{Algorithms: []string{"RS256"}, Keys: d.Keys, Leeway: d.Leeway}
}

func (v *validator) events() {
	type who struct{ issuer, audience string }
	seen := map[who]bool{}
	for n := range v.c.Events.Transmitters {
		t := &v.c.Events.Transmitters[n]
		at := fmt.Sprintf("events.transmitters[%d]", n)
		switch {
		case t.Issuer == "":
			v.wrong(at, "issuer is missing: the exact iss of its tokens")
		case seen[who{t.Issuer, t.Audience}]:
			v.wrong(at+".issuer", "%s is there twice for this audience", t.Issuer)
		}
		seen[who{t.Issuer, t.Audience}] = true
		if t.Audience == "" {
			v.wrong(at, "audience is missing: the aud its tokens must name, so that tokens for others are refused")
		}
		if slices.ContainsFunc(t.Algorithms, func(a string) bool { return slices.Contains(macAlgorithms, a) }) || t.Keys.SecretFile != "" || t.Keys.Introspection != nil {
			v.wrong(at+".keys", "are public keys: discovery: true, url, file (a JWKS) or pem")
		} else {
			v.trustKeys(&Trust{Issuer: t.Issuer, Algorithms: t.Algorithms, Keys: t.Keys}, at)
			v.fetching(&t.Keys, at+".keys.")
		}
		if t.Leeway > Duration(time.Minute) {
			v.wrong(at+".leeway", "is %s; at most 60s", t.Leeway)
		}
		v.subjectsOf(t, at)
	}
}

// subjectsOf: what nobody's logins or tokens rest on could never have an effect.
func (v *validator) subjectsOf(t *Transmitter, at string) {
	of := v.c.SubjectsOf(t)
	if i := v.c.Issuer; i != nil && of == i.Name {
		v.wrong(at, "our own issuer's subjects are nobody else's to speak of")
		return
	}
	for i := range v.c.Trust {
		if v.c.Trust[i].Issuer == of {
			return
		}
	}
	for i := range v.c.Login.Providers {
		if v.c.Login.Providers[i].Namespace() == of {
			return
		}
	}
	if t.Issuer != "" {
		v.wrong(at, "%s is neither under trust nor a login provider, so that nothing here is of its subjects: name whose they are in subjects_of", of)
	}
}

// SubjectsOf is the issuer whose subjects a transmitter speaks of.
func (c *Config) SubjectsOf(t *Transmitter) string {
	if t.SubjectsOf == "" {
		return t.Issuer
	}
	for i := range c.Login.Providers {
		if p := &c.Login.Providers[i]; p.Name == t.SubjectsOf {
			return p.Namespace()
		}
	}
	return t.SubjectsOf
}

// Namespace is the issuer that a provider's users are known by here.
func (p *LoginProvider) Namespace() string {
	if p.Issuer != "" {
		return p.Issuer
	}
	return p.UserinfoURL
}
