package config

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
)

// validator collects what is wrong (problems) and what is unsafe (warnings).
type validator struct {
	c        *Config
	problems Problems
	warnings Problems
}

// At is a problem at the place of a key, for those who find one later: a key
// file that does not parse, two routes that overlap.
func (c *Config) At(path, format string, args ...any) Problem {
	p := Problem{Path: path, Message: fmt.Sprintf(format, args...)}
	for at := path; ; { // the nearest key that is written out
		if place, ok := c.pos[at]; ok {
			p.Line, p.Column = place.line, place.column
			p.Source = sourceLine(c.lines, p.Line)
			return p
		}
		i := strings.LastIndexAny(at, ".[")
		if i < 0 {
			return p
		}
		at = at[:i]
	}
}

func (v *validator) wrong(path, format string, args ...any) {
	v.problems = append(v.problems, v.c.At(path, format, args...))
}

func (v *validator) warn(path, format string, args ...any) {
	v.warnings = append(v.warnings, v.c.At(path, format, args...))
}

func (c *Config) validate() (problems, warnings Problems) {
	v := &validator{c: c}
	v.listener()
	v.files()
	v.storage()
	v.origins()
	v.issuer()
	v.clients()
	v.providers()
	v.trust()
	v.events()
	for i := range c.Routes {
		v.route(&c.Routes[i], fmt.Sprintf("routes[%d]", i))
	}
	if len(c.Routes) == 0 {
		v.wrong("routes", "there is no route, so nothing is served: routes: [{path: /chat, upstream: ws://127.0.0.1:9000}]")
	}
	v.limits()
	return v.problems, v.warnings
}

// Loopback reports whether the listener is reached from this machine alone.
func (c *Config) Loopback() bool {
	host, _, err := net.SplitHostPort(c.Listen)
	return err == nil && isLoopback(host)
}

func isLoopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	a, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil && a.Unmap().IsLoopback()
}

func (v *validator) listener() {
	c := v.c
	host, port, err := net.SplitHostPort(c.Listen)
	if n, perr := strconv.ParseUint(port, 10, 16); err != nil || perr != nil {
		v.wrong("listen", "%q is not an address such as 127.0.0.1:8080 or :443", c.Listen)
		return
	} else if n == 0 && c.PublicURL.URL == nil {
		v.wrong("listen", "port 0 takes any free port, so public_url must say what clients use")
	}
	if c.PublicURL.URL == nil {
		scheme := "http"
		if c.TLS != nil {
			scheme = "https"
		}
		if host == "" || net.ParseIP(host).IsUnspecified() {
			v.wrong("public_url", "it is needed when listen is every address: https://the.name.clients.use")
			return
		}
		c.PublicURL.URL = &url.URL{Scheme: scheme, Host: c.Listen}
	}
	u := c.PublicURL.URL
	switch {
	case u.Scheme != "http" && u.Scheme != "https":
		v.wrong("public_url", "begins with https:// (or http:// on loopback), also when clients use wss://")
	case strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "":
		v.wrong("public_url", "is a scheme and a host without a path: cookies and origins hold for a host")
	}
	u.Path, u.Host = "", canonicalHost(u)
	if c.TLS != nil {
		v.tls()
		if u.Scheme != "https" {
			v.wrong("public_url", "begins with https:// when tls is set")
		}
	}
	public := !isLoopback(u.Hostname())
	switch {
	case !c.Loopback() && c.TLS == nil && len(c.TrustedProxies) == 0 && !c.InsecureHTTP:
		v.wrong("listen", "%s is reached from other machines, so it needs tls, or trusted_proxies that end TLS before it", c.Listen)
	case c.Loopback() && public && len(c.TrustedProxies) == 0:
		v.wrong("public_url", "clients of %s reach a loopback listener through a proxy: name it in trusted_proxies (127.0.0.1), or everybody would share one address", c.PublicURL)
	}
	if public && u.Scheme == "http" {
		v.warn("public_url", "plain http: tokens and passwords can be read on the way")
	}
	if c.ProxyProtocol && len(c.TrustedProxies) == 0 {
		v.wrong("proxy_protocol", "is believed of trusted_proxies alone, and there is none")
	}
	for i, p := range c.TrustedProxies {
		if p.Bits() == 0 {
			v.warn(fmt.Sprintf("trusted_proxies[%d]", i), "every address is a trusted proxy, so anybody can claim any address")
		}
	}
	v.authPath()
	if c.Cookies.SameSite == "none" && u.Scheme != "https" {
		v.wrong("cookies.same_site", "none needs https: browsers refuse such a cookie otherwise")
	}
}

// tls looks at where the certificate comes from: files or an ACME authority.
func (v *validator) tls() {
	t := v.c.TLS
	a := t.ACME
	switch {
	case a == nil:
		if t.Cert == "" || t.Key == "" {
			v.wrong("tls", "needs cert and key, both files in PEM, or acme")
		}
		return
	case t.Cert != "" || t.Key != "":
		v.wrong("tls", "takes its certificate from cert and key or from acme, not from both")
	case len(a.Domains) == 0:
		v.wrong("tls.acme", "domains is missing: the names to get certificates for")
	case !slices.ContainsFunc(a.Domains, func(d string) bool { return strings.EqualFold(d, v.c.PublicURL.Hostname()) }):
		v.wrong("tls.acme.domains", "lacks %s, which clients use (public_url)", v.c.PublicURL.Hostname())
	}
	for i, d := range a.Domains {
		if d == "" || strings.ContainsAny(d, "*:/@ \t") {
			v.wrong(fmt.Sprintf("tls.acme.domains[%d]", i), "%q is not a name such as rt.example.com (a wildcard would need changes of the DNS)", d)
		}
	}
	if !a.AcceptTerms {
		v.wrong("tls.acme", "accept_terms: true says that you accept the authority's terms of service; without it no certificate is issued")
	}
	if u := a.Directory.URL; u != nil && u.Scheme != "https" {
		v.wrong("tls.acme.directory", "begins with https://")
	}
	if a.HTTPPort < 0 || a.HTTPPort > 65535 {
		v.wrong("tls.acme.http_port", "is %d; a port, or 0 for none", a.HTTPPort)
	}
	if t.ClientCA != "" && a.HTTPPort == 0 {
		v.wrong("tls.acme", "with client_ca it needs http_port: 80, since the authority that checks a name shows no certificate of its own")
	}
}

// canonicalHost is the host as browsers send it: lower case, no default port.
func canonicalHost(u *url.URL) string {
	host := strings.ToLower(u.Host)
	if u.Scheme == "https" {
		return strings.TrimSuffix(host, ":443")
	}
	return strings.TrimSuffix(host, ":80")
}

func (v *validator) authPath() {
	p := v.c.AuthPath
	if !strings.HasPrefix(p, "/") || len(p) < 2 || strings.HasSuffix(p, "/") || strings.ContainsAny(p, "{}?#%; \\") || strings.Contains(p, "//") {
		v.wrong("auth_path", "%q is not a path such as /auth: it begins with a slash and does not end with one", p)
	}
}

// files checks that what is named can be read, so that one run of check finds it.
func (v *validator) files() {
	eachFile(reflect.ValueOf(v.c).Elem(), "", func(path string, f reflect.Value) {
		if f.String() == "" {
			return
		}
		file, err := os.Open(f.String())
		if err != nil {
			v.wrong(path, "%v", err)
			return
		}
		defer file.Close()
		if info, err := file.Stat(); err != nil || info.IsDir() {
			v.wrong(path, "%s is not a file", f.String())
		}
	})
}

func (v *validator) storage() {
	switch {
	case v.c.Data == "":
		v.wrong("data", "needs a folder for the database, the keys and the admin socket")
	case v.c.Database != "sqlite":
		v.wrong("database", "this version lacks every database but sqlite")
	case v.c.Bus != "local":
		v.wrong("bus", "this version lacks every bus but local: it runs as one node")
	}
}

func (v *validator) origins() {
	if v.c.Origins == nil {
		return
	}
	if len(v.c.Origins) == 0 {
		v.wrong("origins", "an empty list lets no page connect; leave it out for public_url alone")
	}
	for i, o := range v.c.Origins {
		if o != "*" {
			continue
		}
		at := fmt.Sprintf("origins[%d]", i)
		v.warn(at, "pages of every site may connect")
		for _, r := range v.c.Routes {
			if slices.Contains(r.TokenFrom, "cookie") {
				v.wrong(at, `"*" and a route that takes cookies (%s): any site could use the visitor's login`, r.Path)
			}
		}
		if v.c.Issuer != nil && v.c.Cookies.SameSite == "none" {
			v.wrong(at, `"*" and cookies of every site: any site could use the visitor's login`)
		}
	}
}

func (v *validator) issuer() {
	c := v.c
	if c.Issuer == nil {
		if len(c.Trust) == 0 {
			v.wrong("issuer", "there is neither an issuer nor a trust, so no token could ever be good: issuer: {}")
		}
		return
	}
	i := c.Issuer
	if i.Name == "" {
		i.Name = originOf(c.PublicURL.URL)
	}
	if i.Audience == "" {
		v.wrong("issuer.audience", "may not be empty")
	}
	between := func(key string, d, low, high Duration) {
		if d < low || d > high {
			v.wrong("issuer."+key, "is %s; from %s to %s", d, low, high)
		}
	}
	between("access_ttl", i.AccessTTL, Duration(time.Second), Duration(24*time.Hour))
	between("refresh_ttl", i.RefreshTTL, i.AccessTTL, Duration(10*365*24*time.Hour))
	between("refresh_idle", i.RefreshIdle, Duration(time.Second), i.RefreshTTL)
	between("refresh_grace", i.RefreshGrace, 0, Duration(time.Minute))
	between("key_rotation", i.KeyRotation, Duration(time.Minute), Duration(10*365*24*time.Hour))
	if i.SessionsPerSubject < 1 || i.SessionsPerSubject > 10_000 {
		v.wrong("issuer.sessions_per_subject", "is %d; from 1 to 10000", i.SessionsPerSubject)
	}
	if i.AccessTTL > Duration(time.Hour) {
		v.warn("issuer.access_ttl", "%s is long for an access token: 5m is usual, and connections are refreshed without a break", i.AccessTTL)
	}
	if !c.Login.Password.Enabled && len(c.Login.Providers) == 0 && len(c.Clients) == 0 {
		v.wrong("login.password.enabled", "without it, login.providers and clients nobody could ever log in")
	}
	switch n := c.Login.Password.MinLength; {
	case n < 8 || n > 256:
		v.wrong("login.password.min_length", "is %d; from 8 to 256", n)
	case n < 15:
		v.warn("login.password.min_length", "%d is short where the password is the only factor: NIST SP 800-63B-4 asks for 15", n)
	}
}

var (
	macAlgorithms    = []string{"HS256", "HS384", "HS512"}
	publicAlgorithms = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
)

func (v *validator) trust() {
	seen := map[string]bool{}
	for n := range v.c.Trust {
		t := &v.c.Trust[n]
		at := fmt.Sprintf("trust[%d]", n)
		switch {
		case t.Issuer == "":
			v.wrong(at, "issuer is missing: the exact iss of its tokens")
		case seen[t.Issuer]:
			v.wrong(at+".issuer", "%s is trusted twice", t.Issuer)
		case v.c.Issuer != nil && t.Issuer == v.c.Issuer.Name:
			v.wrong(at+".issuer", "%s is our own issuer's name", t.Issuer)
		}
		seen[t.Issuer] = true
		if t.Audience == "" {
			v.wrong(at, "audience is missing: the aud its tokens must name, so that tokens for others are refused")
		}
		v.trustKeys(t, at)
		v.fetching(&t.Keys, at+".keys.")
		if t.Leeway > Duration(time.Minute) {
			v.wrong(at+".leeway", "is %s; at most 60s", t.Leeway)
		}
		if t.MaxLifetime < Duration(time.Second) || t.MaxLifetime > Duration(720*time.Hour) {
			v.wrong(at+".max_lifetime", "is %s; from 1s to 720h", t.MaxLifetime)
		}
		if t.Logout != nil && t.Logout.Audience == "" {
			v.wrong(at+".logout", "audience is missing: our client_id there, which its logout tokens name")
		}
		if t.Logout != nil && t.Keys.Introspection != nil {
			v.wrong(at+".logout", "needs keys: a logout token is signed, and introspection says nothing of it")
		}
		if t.ScopeClaim == "" {
			v.wrong(at+".scope_claim", "may not be empty")
		}
		if t.Type == "any" {
			v.warn(at+".type", "tokens without the type at+jwt are taken, so another kind of this issuer's tokens may pass for an access token")
		}
	}
}

func (v *validator) trustKeys(t *Trust, at string) {
	if t.Keys.Introspection != nil {
		v.introspection(t, at)
		return
	}
	if len(t.Algorithms) == 0 {
		v.wrong(at, "algorithms is missing: the ones this issuer signs with, for example [RS256]")
	}
	mac := false
	for i, a := range t.Algorithms {
		switch {
		case slices.Contains(macAlgorithms, a):
			mac = true
		case !slices.Contains(publicAlgorithms, a):
			v.wrong(fmt.Sprintf("%s.algorithms[%d]", at, i), "%q is not one of %s", a, strings.Join(append(publicAlgorithms, macAlgorithms...), ", "))
		}
	}
	set := 0
	for _, s := range []string{t.Keys.File, t.Keys.PEM, t.Keys.SecretFile, t.Keys.URL} {
		if s != "" {
			set++
		}
	}
	if t.Keys.Discovery {
		set++
	}
	secret := t.Keys.SecretFile != ""
	public := slices.ContainsFunc(t.Algorithms, func(a string) bool { return slices.Contains(publicAlgorithms, a) })
	switch {
	case set != 1:
		v.wrong(at+".keys", "needs exactly one of discovery: true, url, file (a JWKS), pem, secret_file, introspection")
	case mac && !secret:
		v.wrong(at+".algorithms", "HS algorithms need a secret_file, never a public key")
	case secret && (public || len(t.Algorithms) > 1):
		v.wrong(at+".algorithms", "with a secret_file it is exactly one of HS256, HS384, HS512: a secret is for one algorithm")
	}
}

// introspection looks at an issuer that is asked about its tokens.
func (v *validator) introspection(t *Trust, at string) {
	k, i := &t.Keys, t.Keys.Introspection
	if k.Discovery || k.URL != "" || k.File != "" || k.PEM != "" || k.SecretFile != "" {
		v.wrong(at+".keys", "needs exactly one of discovery: true, url, file (a JWKS), pem, secret_file, introspection")
	}
	if len(t.Algorithms) > 0 {
		v.wrong(at+".algorithms", "is for keys; with introspection the issuer itself says which tokens are good")
	}
	at += ".keys.introspection"
	for _, m := range [][2]string{{"url", i.URL}, {"client_id", i.ClientID}, {"client_secret_file", i.ClientSecretFile}} {
		if m[1] == "" {
			v.wrong(at, "%s is missing", m[0])
		}
	}
	if i.Cache < Duration(time.Second) || i.Cache > Duration(10*time.Minute) {
		v.wrong(at+".cache", "is %s; from 1s to 10m", i.Cache)
	}
	if i.MaxStale < i.Cache || i.MaxStale > Duration(24*time.Hour) {
		v.wrong(at+".max_stale", "is %s; from cache (%s) to 24h", i.MaxStale, i.Cache)
	}
	for n := range v.c.Trust {
		if other := &v.c.Trust[n]; other == t {
			return
		} else if other.Keys.Introspection != nil {
			v.wrong(at, "one issuer at most can be asked about tokens: an opaque one does not say whose it is (trust[%d] is another)", n)
			return
		}
	}
}

// fetching looks at how often keys are fetched. Where they are is looked at when
// the fetcher is made.
func (v *validator) fetching(k *TrustKeys, at string) {
	if !k.Discovery && k.URL == "" {
		return
	}
	between := func(key string, d, low, high Duration) {
		if d < low || d > high {
			v.wrong(at+key, "is %s; from %s to %s", d, low, high)
		}
	}
	between("refetch_min", k.RefetchMin, Duration(time.Second), Duration(time.Hour))
	between("refresh", k.Refresh, k.RefetchMin, Duration(24*time.Hour))
	between("max_stale", k.MaxStale, k.Refresh, Duration(30*24*time.Hour))
}

var carriers = []string{"ticket", "header", "subprotocol", "query", "cookie", "first_message"}

const minMessageBytes = 1 << 10

func (v *validator) limits() {
	l := &v.c.Limits
	atLeast := func(key string, got, low int64, show string) {
		if got < low {
			v.wrong("limits."+key, "is %d; at least %s", got, show)
		}
	}
	atLeast("connections", int64(l.Connections), 1, "1")
	atLeast("connections_per_ip", int64(l.ConnectionsPerIP), 1, "1")
	atLeast("connections_per_subject", int64(l.ConnectionsPerSubject), 1, "1")
	atLeast("unauthenticated", int64(l.Unauthenticated), 1, "1")
	atLeast("header_bytes", int64(l.HeaderBytes), 4<<10, "4KiB")
	atLeast("token_bytes", int64(l.TokenBytes), 1<<10, "1KiB")
	atLeast("message_bytes", int64(l.MessageBytes), minMessageBytes, "1KiB")
	for _, d := range []struct {
		key string
		is  Duration
	}{
		{"handshake_timeout", l.HandshakeTimeout}, {"idle_timeout", l.IdleTimeout},
		{"write_timeout", l.WriteTimeout}, {"lifetime", l.Lifetime}, {"query_token_ttl", l.QueryTokenTTL},
	} {
		v.aSecond("limits."+d.key, d.is)
	}
	if l.TokenBytes > l.HeaderBytes {
		v.wrong("limits.token_bytes", "is above header_bytes (%s), in which a token travels", l.HeaderBytes)
	}
	if l.QueryTokenTTL > Duration(15*time.Minute) {
		v.warn("limits.query_token_ttl", "%s: tokens in URLs end up in logs and histories, so they should be short-lived", l.QueryTokenTTL)
	}
}
