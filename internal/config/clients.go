package config

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Client is a machine client of our own issuer.
type Client struct {
	ID         string   `yaml:"id"`
	SecretFile string   `yaml:"secret_file,omitempty" path:"file"`
	JWKSFile   string   `yaml:"jwks_file,omitempty" path:"file"`
	Scopes     []string `yaml:"scopes"`
	// Connections defaults to limits.connections_per_subject, TokenTTL to
	// issuer.access_ttl.
	Connections int      `yaml:"connections"`
	TokenTTL    Duration `yaml:"token_ttl"`
	Grants      []string `yaml:"grants"`
	Introspect  bool     `yaml:"introspect"`
}

func (c *Client) setDefaults() { *c = Client{Grants: []string{"client_credentials"}} }

var (
	clientID     = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)
	scopeToken   = regexp.MustCompile(`^[\x21\x23-\x5b\x5d-\x7e]+$`)
	clientGrants = []string{"client_credentials", "token_exchange"}
)

// ownClient is the id of our own login's client, which is public.
const ownClient = "wsbouncer"

func (v *validator) clients() {
	c := v.c
	if len(c.Clients) > 0 && c.Issuer == nil {
		v.wrong("clients", "need an issuer, which gives them their tokens: issuer: {}")
	}
	seen := map[string]bool{}
	for n := range c.Clients {
		client := &c.Clients[n]
		at := fmt.Sprintf("clients[%d]", n)
		switch {
		case client.ID == "":
			v.wrong(at, "id is missing: the client_id")
		case !clientID.MatchString(client.ID):
			v.wrong(at+".id", "%q is not 1 to 64 letters, digits, dots, hyphens and underscores, the first a letter or digit", client.ID)
		case strings.EqualFold(client.ID, ownClient):
			v.wrong(at+".id", "%s is the client that people log in with; choose another", ownClient)
		case seen[client.ID]:
			v.wrong(at+".id", "%s is there twice", client.ID)
		}
		seen[client.ID] = true
		if (client.SecretFile == "") == (client.JWKSFile == "") {
			v.wrong(at, "needs exactly one of secret_file and jwks_file (public keys, for private_key_jwt)")
		}
		v.clientRights(client, at)
	}
}

func (v *validator) clientRights(client *Client, at string) {
	for i, s := range client.Scopes {
		place := fmt.Sprintf("%s.scopes[%d]", at, i)
		switch {
		case !scopeToken.MatchString(s):
			v.wrong(place, "%q is not one scope: visible ASCII without spaces, quotes and backslashes", s)
		case strings.HasPrefix(s, "wsbouncer:"):
			v.wrong(place, "%s is for accounts alone", s)
		case slices.Index(client.Scopes, s) < i:
			v.wrong(place, "%s is listed twice", s)
		}
	}
	for i, g := range client.Grants {
		place := fmt.Sprintf("%s.grants[%d]", at, i)
		switch {
		case !slices.Contains(clientGrants, g):
			v.wrong(place, "%q is not one of %s", g, strings.Join(clientGrants, ", "))
		case slices.Index(client.Grants, g) < i:
			v.wrong(place, "%s is listed twice", g)
		}
	}
	if len(client.Grants) == 0 && !client.Introspect {
		v.warn(at, "%s may do nothing: it has neither grants nor introspect", client.ID)
	}
	if client.Connections == 0 {
		client.Connections = v.c.Limits.ConnectionsPerSubject
	}
	if client.Connections < 0 {
		v.wrong(at+".connections", "is %d; at least 1", client.Connections)
	}
	if client.TokenTTL == 0 && v.c.Issuer != nil {
		client.TokenTTL = v.c.Issuer.AccessTTL
	}
	switch d := client.TokenTTL; {
	case v.c.Issuer != nil && (d < Duration(time.Second) || d > Duration(24*time.Hour)):
		v.wrong(at+".token_ttl", "is %s; from 1s to 24h", d)
	case d > Duration(time.Hour):
		v.warn(at+".token_ttl", "%s is long for an access token: a client can ask for a new one at any time", d)
	}
}
