package config

import (
	"net/url"
	"time"
)

// Every default, once.

// New is a configuration of defaults alone. It lacks what has none: routes,
// an issuer.
func New() *Config {
	return &Config{
		Listen:   "127.0.0.1:8080",
		AuthPath: "/auth",
		Data:     "./wsbouncer-data",
		Database: "sqlite",
		Bus:      "local",
		Cookies:  Cookies{SameSite: "strict"},
		DPoP:     DPoP{Nonce: "off"},
		Drain:    Duration(10 * time.Second),
		Relay:    "auto",
		Login:    Login{Password: Password{Enabled: true, MinLength: 15}},
		Limits:   defaultLimits(),
	}
}

// NewTrust is an entry of trust of defaults alone.
func NewTrust() Trust {
	var t Trust
	t.setDefaults()
	return t
}

// NewRoute is a route of defaults alone. It lacks a path and an upstream.
func NewRoute() Route {
	var r Route
	r.setDefaults()
	return r
}

func defaultLimits() Limits {
	return Limits{
		Connections:           100_000,
		ConnectionsPerIP:      256,
		ConnectionsPerSubject: 32,
		Unauthenticated:       1000,
		HandshakesPerIP:       Rate{PerSecond: 20, Burst: 60},
		Logins: LoginRates{
			PerIP:      Rate{PerSecond: 10.0 / 60, Burst: 10},
			PerAccount: Rate{PerSecond: 5.0 / 60, Burst: 5},
		},
		HandshakeTimeout: Duration(10 * time.Second),
		HeaderBytes:      16 << 10,
		TokenBytes:       8 << 10,
		QueryTokenTTL:    Duration(15 * time.Minute),
		MessageBytes:     1 << 20,
		MessageRate:      Rate{PerSecond: 200, Burst: 400},
		ByteRate:         Rate{PerSecond: 4 << 20, Burst: 8 << 20},
		IdleTimeout:      Duration(5 * time.Minute),
		WriteTimeout:     Duration(30 * time.Second),
		Lifetime:         Duration(24 * time.Hour),
	}
}

// setDefaults lets a block that is present start from its defaults before it
// is decoded.
func (i *Issuer) setDefaults() {
	*i = Issuer{
		Audience:           "wsbouncer",
		Algorithm:          "EdDSA",
		AccessTTL:          Duration(5 * time.Minute),
		RefreshTTL:         Duration(720 * time.Hour),
		RefreshIdle:        Duration(168 * time.Hour),
		RefreshGrace:       Duration(10 * time.Second),
		SessionsPerSubject: 20,
		KeyRotation:        Duration(720 * time.Hour),
	}
}

func (a *ACME) setDefaults() {
	*a = ACME{Directory: URL{&url.URL{Scheme: "https", Host: "acme-v02.api.letsencrypt.org", Path: "/directory"}}}
}

func (t *TLS) setDefaults() { *t = TLS{MinVersion: "1.2"} }

func (t *Trust) setDefaults() {
	*t = Trust{
		Keys: TrustKeys{
			Refresh:    Duration(10 * time.Minute),
			RefetchMin: Duration(10 * time.Second),
			MaxStale:   Duration(24 * time.Hour),
		},
		Type:        "at+jwt",
		ScopeClaim:  "scope",
		Leeway:      Duration(10 * time.Second),
		MaxLifetime: Duration(24 * time.Hour),
	}
}

func (i *Introspection) setDefaults() {
	*i = Introspection{Cache: Duration(30 * time.Second), MaxStale: Duration(5 * time.Minute)}
}

func (r *Route) setDefaults() {
	*r = Route{
		TokenFrom:   []string{"ticket", "header", "subprotocol", "query"},
		Reject:      "http",
		Extend:      "named",
		Compression: "off",
		UTF8:        "pass",

		ConnectTimeout: Duration(5 * time.Second),
	}
}

func (p *Permissions) setDefaults() {
	*p = Permissions{Mode: "enforce", Default: "deny", OnDeny: "reply"}
}

func (h *HealthCheck) setDefaults() {
	*h = HealthCheck{
		Interval:           Duration(10 * time.Second),
		Timeout:            Duration(2 * time.Second),
		UnhealthyThreshold: 2,
		HealthyThreshold:   1,
	}
}
