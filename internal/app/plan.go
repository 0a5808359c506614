package app

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"time"

	"github.com/wsbouncer/wsbouncer"
	"github.com/wsbouncer/wsbouncer/internal/account"
	"github.com/wsbouncer/wsbouncer/internal/authapi"
	"github.com/wsbouncer/wsbouncer/internal/config"
	"github.com/wsbouncer/wsbouncer/internal/gateway"
	"github.com/wsbouncer/wsbouncer/internal/httpx"
	"github.com/wsbouncer/wsbouncer/internal/limit"
	"github.com/wsbouncer/wsbouncer/internal/login"
	"github.com/wsbouncer/wsbouncer/internal/secevent"
	"github.com/wsbouncer/wsbouncer/token"
)

// plan is a configuration translated into what the packages take: everything
// that can fail without opening the data folder. It is what Check tries and
// what a reload swaps in.
type plan struct {
	trusted []token.Issuer
	clients []authapi.Client
	remotes remotes
	asked   *asked // nil: nobody is asked about tokens
	// logout and transmitters are who is believed when they say that something ended.
	logout, transmitters []secevent.Source
	// providers are where people log in besides here.
	providers []login.Provider
	routes    []gateway.Route
	cert      *certificate
	// acmeRoots are whose the ACME directory's certificate must be; nil: the system's.
	acmeRoots *x509.CertPool
	limits    wsbouncer.Limits
	// blocklist holds passwords that are refused besides the ones shipped.
	blocklist *account.Blocklist
}

// Load reads a configuration file. The error is config.Problems with everything
// that can be found wrong without starting, also what only construction finds:
// keys that do not parse, routes that overlap, a certificate that does not fit
// its key.
func Load(path string) (*config.Config, config.Problems, error) {
	c, problems, warnings, err := config.Examine(path)
	if err != nil {
		return nil, nil, err
	}
	if c != nil {
		_, more := newPlan(c, problems)
		problems = append(problems, more...)
		problems.Sort()
	}
	if len(problems) > 0 {
		return nil, warnings, problems
	}
	return c, warnings, nil
}

// newPlan leaves out what known problems are about.
func newPlan(c *config.Config, known config.Problems) (*plan, config.Problems) {
	p := &plan{limits: limitsOf(&c.Limits)}
	var problems config.Problems
	wrong := func(path string, err error) { problems = append(problems, c.At(path, "%v", err)) }
	checkNames(c, known, wrong)
	if name := c.Login.Password.Blocklist; name != "" && c.Issuer != nil && !known.Touch("login.password.blocklist") {
		var err error
		if p.blocklist, err = readBlocklist(name); err != nil {
			wrong("login.password.blocklist", err)
		}
	}
	for i := range c.Clients {
		if known.Touch(fmt.Sprintf("clients[%d]", i)) {
			continue
		}
		client, key, err := clientOf(&c.Clients[i])
		if err != nil {
			wrong(fmt.Sprintf("clients[%d].%s", i, key), err)
			continue
		}
		p.clients = append(p.clients, client)
	}
	for i := range c.Login.Providers {
		at := fmt.Sprintf("login.providers[%d]", i)
		if known.Touch(at) {
			continue
		}
		provider, key, err := providerOf(&c.Login.Providers[i])
		if err != nil {
			wrong(at+"."+key, err)
			continue
		}
		p.providers = append(p.providers, provider)
	}
	for i, t := range c.Trust {
		if known.Touch(fmt.Sprintf("trust[%d]", i)) {
			continue
		}
		keys, path, err := p.trustKeys(&t)
		var asked *token.Introspection
		if t.Keys.Introspection != nil {
			path = "introspection"
			asked, err = p.introspection(c, &t)
		}
		if err != nil {
			wrong(fmt.Sprintf("trust[%d].keys.%s", i, path), err)
			continue
		}
		p.trusted = append(p.trusted, token.Issuer{
			Name: t.Issuer, Audience: t.Audience, Algorithms: t.Algorithms, Keys: keys, Introspection: asked, AnyType: t.Type == "any",
			ScopeClaim: t.ScopeClaim, Leeway: t.Leeway.D(), MaxLifetime: t.MaxLifetime.D(),
		})
	}
	p.planEvents(c, known, wrong)
	var numbers []int // of p.routes in the configuration
	for i := range c.Routes {
		if at := fmt.Sprintf("routes[%d]", i); known.Touch(at) {
			if !known.Touch(at+".allow") && !known.Touch(at+".permissions") { // nor does anything else hang on them
				if _, _, path, err := rulesOfRoute(&c.Routes[i]); err != nil {
					wrong(at+"."+path, err)
				}
			}
			continue
		}
		r, path, err := routeOf(c, &c.Routes[i])
		if err != nil {
			wrong(fmt.Sprintf("routes[%d].%s", i, path), err)
			continue
		}
		p.routes, numbers = append(p.routes, r), append(numbers, i)
	}
	if i, key, err := gateway.CheckRoutes(p.routes); err != nil {
		wrong(fmt.Sprintf("routes[%d].%s", numbers[i], key), err)
	}
	if c.TLS != nil && !known.Touch("tls") {
		var err error
		if p.cert, err = loadCertificate(c.TLS); err != nil {
			wrong("tls", err)
		}
		if a := c.TLS.ACME; a != nil && a.CA != "" {
			if p.acmeRoots, err = readAuthorities(a.CA); err != nil {
				wrong("tls.acme.ca", err)
			}
		}
	}
	return p, problems
}

// checkNames looks at the names of pages and hosts.
func checkNames(c *config.Config, known config.Problems, wrong func(path string, err error)) {
	if !known.Touch("origins") {
		bad := false
		for i, o := range c.Origins {
			if _, err := httpx.ParseOrigins([]string{o}); err != nil {
				bad = true
				wrong(fmt.Sprintf("origins[%d]", i), err)
			}
		}
		if _, err := httpx.ParseOrigins(c.Origins); err != nil && !bad {
			wrong("origins", err)
		}
	}
	for i, h := range c.Hosts {
		if _, err := httpx.ParseHosts([]string{h}); err != nil {
			wrong(fmt.Sprintf("hosts[%d]", i), err)
		}
	}
	if u := c.PublicURL.URL; u != nil && !known.Touch("public_url") {
		if _, err := httpx.ParseHosts([]string{u.Host}); err != nil {
			wrong("public_url", err)
		}
	}
}

func readBlocklist(name string) (*account.Blocklist, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return account.ReadBlocklist(f)
}

func (p *plan) trustKeys(t *config.Trust) (keys token.KeySet, path string, err error) {
	read := func(name string, parse func([]byte, []string) (token.KeySet, error)) (token.KeySet, error) {
		b, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		return parse(b, t.Algorithms)
	}
	switch {
	case t.Keys.Introspection != nil:
		return nil, "", nil
	case t.Keys.Discovery:
		keys, err = p.remotes.add(t)
		return keys, "discovery", err
	case t.Keys.URL != "":
		keys, err = p.remotes.add(t)
		return keys, "url", err
	case t.Keys.File != "":
		keys, err = read(t.Keys.File, token.JWKS)
		return keys, "file", err
	case t.Keys.PEM != "":
		keys, err = read(t.Keys.PEM, token.PEM)
		return keys, "pem", err
	}
	keys, err = read(t.Keys.SecretFile, func(b []byte, algs []string) (token.KeySet, error) {
		return token.Secret(trimLine(b), algs) // editors and echo end a file with a line break
	})
	return keys, "secret_file", err
}

// trimLine is b without one line break at its end.
func trimLine(b []byte) []byte {
	return bytes.TrimSuffix(bytes.TrimSuffix(b, []byte("\n")), []byte("\r"))
}

func routeOf(c *config.Config, r *config.Route) (out gateway.Route, path string, err error) {
	limits := routeLimits(&c.Limits, r.Limits)
	out = gateway.Route{
		Path:          r.Path,
		Protocols:     r.Protocols,
		InBandRefresh: r.InBandRefresh,
		Assertion:     r.Assertion,
		Compression:   r.Compression == "pass",
		UTF8Check:     r.UTF8 == "check",

		ConnectTimeout: r.ConnectTimeout.D(),
		Demand: wsbouncer.Demand{
			TokenFrom: r.TokenFrom, Scopes: r.Scopes, RequireAMR: r.RequireAMR, RequireACR: r.RequireACR, MaxAuthAge: r.MaxAuthAge.D(),
			RejectByClose: r.Reject == "close",
			ExtendSession: r.Extend == "session", Limits: &limits, Route: r.Path,
		},
	}
	for _, u := range r.Upstream {
		out.Upstreams = append(out.Upstreams, u.URL)
	}
	if h := r.HealthCheck; h != nil {
		out.HealthCheck = &gateway.HealthCheck{Path: h.Path, Interval: h.Interval.D(), Timeout: h.Timeout.D(), UnhealthyThreshold: h.UnhealthyThreshold, HealthyThreshold: h.HealthyThreshold}
	}
	if out.Allow, out.Permissions, path, err = rulesOfRoute(r); err != nil {
		return out, path, err
	}
	if r.UpstreamTLS != nil {
		if out.UpstreamTLS, path, err = upstreamTLS(r.UpstreamTLS); err != nil {
			return out, "upstream_tls." + path, err
		}
	}
	return out, "", nil
}

func upstreamTLS(u *config.UpstreamTLS) (*tls.Config, string, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if u.CA != "" {
		pem, err := os.ReadFile(u.CA)
		if err != nil {
			return nil, "ca", err
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, "ca", fmt.Errorf("%s holds no certificate in PEM", u.CA)
		}
	}
	if u.Cert != "" {
		pair, err := tls.LoadX509KeyPair(u.Cert, u.Key)
		if err != nil {
			return nil, "cert", err
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, "", nil
}

func limitsOf(l *config.Limits) wsbouncer.Limits {
	return wsbouncer.Limits{
		Connections:           l.Connections,
		ConnectionsPerIP:      l.ConnectionsPerIP,
		ConnectionsPerSubject: l.ConnectionsPerSubject,
		Unauthenticated:       l.Unauthenticated,
		HandshakesPerIP:       limit.Rate(l.HandshakesPerIP),
		HandshakeTimeout:      l.HandshakeTimeout.D(),
		TokenBytes:            int(l.TokenBytes),
		QueryTokenTTL:         l.QueryTokenTTL.D(),
		MessageBytes:          int64(l.MessageBytes),
		MessageRate:           limit.Rate(l.MessageRate),
		ByteRate:              limit.Rate(l.ByteRate),
		IdleTimeout:           l.IdleTimeout.D(),
		WriteTimeout:          l.WriteTimeout.D(),
		Lifetime:              l.Lifetime.D(),
	}
}

// routeLimits is the global limits with what a route overrides.
func routeLimits(global *config.Limits, o *config.RouteLimits) wsbouncer.Limits {
	l := limitsOf(global)
	if o == nil {
		return l
	}
	if o.ConnectionsPerSubject != nil {
		l.ConnectionsPerSubject = *o.ConnectionsPerSubject
	}
	if o.MessageBytes != nil {
		l.MessageBytes = int64(*o.MessageBytes)
	}
	if o.MessageRate != nil {
		l.MessageRate = limit.Rate(*o.MessageRate)
	}
	if o.ByteRate != nil {
		l.ByteRate = limit.Rate(*o.ByteRate)
	}
	for _, d := range []struct {
		from *config.Duration
		to   *time.Duration
	}{{o.QueryTokenTTL, &l.QueryTokenTTL}, {o.IdleTimeout, &l.IdleTimeout}, {o.WriteTimeout, &l.WriteTimeout}, {o.Lifetime, &l.Lifetime}} {
		if d.from != nil {
			*d.to = d.from.D()
		}
	}
	return l
}
