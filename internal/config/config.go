package config

import (
	"net/netip"
	"net/url"
)

// Config is a whole configuration. The yaml tag is the key; a later tag names
// the feature that a key stands for and this version lacks.
type Config struct {
	Listen         string   `yaml:"listen"`
	PublicURL      URL      `yaml:"public_url"`
	Hosts          []string `yaml:"hosts"`
	TLS            *TLS     `yaml:"tls,omitempty"`
	TrustedProxies []Prefix `yaml:"trusted_proxies"`
	ProxyProtocol  bool     `yaml:"proxy_protocol"`
	AuthPath       string   `yaml:"auth_path"`
	Data           string   `yaml:"data"`
	Database       string   `yaml:"database"`
	Bus            string   `yaml:"bus"`
	Cluster        any      `yaml:"cluster,omitempty" later:"more than one node"`
	Admin          *Admin   `yaml:"admin,omitempty"`
	Origins        []string `yaml:"origins"`
	Cookies        Cookies  `yaml:"cookies"`
	DPoP           DPoP     `yaml:"dpop"`
	Drain          Duration `yaml:"drain"`
	Relay          string   `yaml:"relay" oneof:"auto goroutine epoll"`
	Issuer         *Issuer  `yaml:"issuer,omitempty"`
	Login          Login    `yaml:"login"`
	Clients        []Client `yaml:"clients"`
	Trust          []Trust  `yaml:"trust"`
	Events         Events   `yaml:"events"`
	Routes         []Route  `yaml:"routes"`
	Limits         Limits   `yaml:"limits"`
	// File is where the configuration was read from, empty for none. Relative
	// paths in it have been made to start there.
	File string `yaml:"-"`
	// InsecureHTTP lets a listener that other machines reach do without TLS.
	// No key sets it: wsbouncer dev does, when it is told to.
	InsecureHTTP bool `yaml:"-"`

	pos   positions
	lines []string
}

// TLS is the certificate of the public listener.
type TLS struct {
	Cert       string `yaml:"cert,omitempty" path:"file"`
	Key        string `yaml:"key,omitempty" path:"file"`
	MinVersion string `yaml:"min_version" oneof:"1.2 1.3"`
	ACME       *ACME  `yaml:"acme,omitempty"`
	ClientCA   string `yaml:"client_ca,omitempty" path:"file"`
}

// ACME is where certificates come from by themselves.
type ACME struct {
	Domains     []string `yaml:"domains"`
	Email       string   `yaml:"email,omitempty"`
	AcceptTerms bool     `yaml:"accept_terms"`
	Directory   URL      `yaml:"directory"`
	CA          string   `yaml:"ca,omitempty" path:"file"`
	HTTPPort    int      `yaml:"http_port"`
}

// Admin is the admin interface. The socket in the data folder is always there.
type Admin struct {
	Listen string `yaml:"listen" later:"the admin listener and page (the admin socket in the data folder is always there)"`
}

// Cookies configures the browser's cookies.
type Cookies struct {
	SameSite string `yaml:"same_site" oneof:"strict lax none"`
}

// DPoP is how proofs of possession (RFC 9449) are taken.
type DPoP struct {
	Nonce string `yaml:"nonce" oneof:"off required"`
}

// Issuer is our own issuer of tokens.
type Issuer struct {
	Name               string   `yaml:"name"`
	Audience           string   `yaml:"audience"`
	Algorithm          string   `yaml:"algorithm" oneof:"EdDSA ES256 RS256"`
	AccessTTL          Duration `yaml:"access_ttl"`
	RefreshTTL         Duration `yaml:"refresh_ttl"`
	RefreshIdle        Duration `yaml:"refresh_idle"`
	RefreshGrace       Duration `yaml:"refresh_grace"`
	SessionsPerSubject int      `yaml:"sessions_per_subject"`
	KeyRotation        Duration `yaml:"key_rotation"`
}

// Login is how people log in.
type Login struct {
	Password  Password        `yaml:"password"`
	Providers []LoginProvider `yaml:"providers"`
}

// Password is login by name and password.
type Password struct {
	Enabled   bool   `yaml:"enabled"`
	Signup    bool   `yaml:"signup" later:"sign-up by strangers"`
	MinLength int    `yaml:"min_length"`
	Blocklist string `yaml:"blocklist,omitempty" path:"file"`
}

// Trust is an issuer whose access tokens are accepted.
type Trust struct {
	Issuer      string    `yaml:"issuer"`
	Audience    string    `yaml:"audience"`
	Algorithms  []string  `yaml:"algorithms"`
	Keys        TrustKeys `yaml:"keys"`
	Type        string    `yaml:"type" oneof:"at+jwt any"`
	ScopeClaim  string    `yaml:"scope_claim"`
	Leeway      Duration  `yaml:"leeway"`
	MaxLifetime Duration  `yaml:"max_lifetime"`
	// Logout takes its logout tokens; nil: they are refused.
	Logout *TrustLogout `yaml:"logout,omitempty"`
}

// TrustKeys says where an issuer's keys are. Exactly one place is set.
type TrustKeys struct {
	File       string `yaml:"file,omitempty" path:"file"`
	PEM        string `yaml:"pem,omitempty" path:"file"`
	SecretFile string `yaml:"secret_file,omitempty" path:"file"`
	Discovery  bool   `yaml:"discovery,omitempty"`
	URL        string `yaml:"url,omitempty"`
	// Introspection is who is asked about tokens, which may be opaque, instead.
	Introspection *Introspection `yaml:"introspection,omitempty"`
	// The rest is for keys that are fetched.
	Refresh    Duration `yaml:"refresh"`
	RefetchMin Duration `yaml:"refetch_min"`
	MaxStale   Duration `yaml:"max_stale"`
}

// Introspection is an endpoint of RFC 7662.
type Introspection struct {
	URL              string   `yaml:"url"`
	ClientID         string   `yaml:"client_id"`
	ClientSecretFile string   `yaml:"client_secret_file" path:"file"`
	Cache            Duration `yaml:"cache"`
	MaxStale         Duration `yaml:"max_stale"`
}

// Route is a path and the upstream behind it.
type Route struct {
	Path          string       `yaml:"path"`
	Upstream      URLs         `yaml:"upstream"`
	TokenFrom     []string     `yaml:"token_from"`
	Protocols     []string     `yaml:"protocols,omitempty"`
	Scopes        []string     `yaml:"scopes"`
	RequireAMR    []string     `yaml:"require_amr"`
	RequireACR    []string     `yaml:"require_acr"`
	MaxAuthAge    Duration     `yaml:"max_auth_age"`
	Allow         Verbatim     `yaml:"allow,omitempty"`
	Reject        string       `yaml:"reject" oneof:"http close"`
	Extend        string       `yaml:"extend" oneof:"named session"`
	InBandRefresh bool         `yaml:"in_band_refresh"`
	Assertion     bool         `yaml:"assertion"`
	Compression   string       `yaml:"compression" oneof:"off pass"`
	UTF8          string       `yaml:"utf8" oneof:"pass check"`
	Permissions   *Permissions `yaml:"permissions,omitempty"`
	UpstreamTLS   *UpstreamTLS `yaml:"upstream_tls,omitempty"`
	// ConnectTimeout is within the handshake's time-out, whatever it says.
	ConnectTimeout Duration     `yaml:"connect_timeout"`
	HealthCheck    *HealthCheck `yaml:"health_check,omitempty"`
	Limits         *RouteLimits `yaml:"limits,omitempty"`
}

// Permissions are what messages may do.
type Permissions struct {
	Format       string           `yaml:"format" oneof:"json jsonrpc graphql-transport-ws mqtt stomp socketio"`
	Action       string           `yaml:"action,omitempty"`
	Target       string           `yaml:"target,omitempty"`
	Mode         string           `yaml:"mode" oneof:"enforce report"`
	FromClient   []PermissionRule `yaml:"from_client"`
	FromUpstream []PermissionRule `yaml:"from_upstream,omitempty"`
	Default      string           `yaml:"default" oneof:"deny allow"`
	OnDeny       string           `yaml:"on_deny" oneof:"reply drop close"`
}

// PermissionRule is about some actions. The first that is about one decides.
type PermissionRule struct {
	Action Names     `yaml:"action,omitempty"`
	Target Verbatims `yaml:"target,omitempty"`
	Scopes []string  `yaml:"scopes,omitempty"`
	Allow  Verbatim  `yaml:"allow,omitempty"`
	Limit  *Rate     `yaml:"limit,omitempty"`
	OnDeny string    `yaml:"on_deny,omitempty"`
}

// UpstreamTLS is how a wss upstream is verified, and who we are to it.
type UpstreamTLS struct {
	CA   string `yaml:"ca,omitempty" path:"file"`
	Cert string `yaml:"cert,omitempty" path:"file"`
	Key  string `yaml:"key,omitempty" path:"file"`
}

// HealthCheck is a plain GET that says whether an upstream is well.
type HealthCheck struct {
	Path               string   `yaml:"path"`
	Interval           Duration `yaml:"interval"`
	Timeout            Duration `yaml:"timeout"`
	UnhealthyThreshold int      `yaml:"unhealthy_threshold"`
	HealthyThreshold   int      `yaml:"healthy_threshold"`
}

// Limits bounds what strangers and clients can use.
type Limits struct {
	Connections           int        `yaml:"connections"`
	ConnectionsPerIP      int        `yaml:"connections_per_ip"`
	ConnectionsPerSubject int        `yaml:"connections_per_subject"`
	Unauthenticated       int        `yaml:"unauthenticated"`
	HandshakesPerIP       Rate       `yaml:"handshakes_per_ip"`
	Logins                LoginRates `yaml:"logins"`
	HandshakeTimeout      Duration   `yaml:"handshake_timeout"`
	HeaderBytes           Size       `yaml:"header_bytes"`
	TokenBytes            Size       `yaml:"token_bytes"`
	QueryTokenTTL         Duration   `yaml:"query_token_ttl"`
	MessageBytes          Size       `yaml:"message_bytes"`
	MessageRate           Rate       `yaml:"message_rate"`
	ByteRate              Rate       `yaml:"byte_rate"`
	IdleTimeout           Duration   `yaml:"idle_timeout"`
	WriteTimeout          Duration   `yaml:"write_timeout"`
	Lifetime              Duration   `yaml:"lifetime"`
}

// RouteLimits overrides what can differ from route to route. What is absent
// is as in Limits.
type RouteLimits struct {
	ConnectionsPerSubject *int      `yaml:"connections_per_subject,omitempty"`
	QueryTokenTTL         *Duration `yaml:"query_token_ttl,omitempty"`
	MessageBytes          *Size     `yaml:"message_bytes,omitempty"`
	MessageRate           *Rate     `yaml:"message_rate,omitempty"`
	ByteRate              *Rate     `yaml:"byte_rate,omitempty"`
	IdleTimeout           *Duration `yaml:"idle_timeout,omitempty"`
	WriteTimeout          *Duration `yaml:"write_timeout,omitempty"`
	Lifetime              *Duration `yaml:"lifetime,omitempty"`
}

// LoginRates bounds failed logins.
type LoginRates struct {
	PerIP      Rate `yaml:"per_ip"`
	PerAccount Rate `yaml:"per_account"`
}

// OriginList is who may connect from a page: origins, else public_url alone.
func (c *Config) OriginList() []string {
	if c.Origins != nil {
		return c.Origins
	}
	return []string{originOf(c.PublicURL.URL)}
}

// HostList is the Host names answered: public_url's, and hosts.
func (c *Config) HostList() []string {
	return append([]string{c.PublicURL.URL.Host}, c.Hosts...)
}

// ProxyPrefixes are the trusted proxies.
func (c *Config) ProxyPrefixes() []netip.Prefix {
	out := make([]netip.Prefix, len(c.TrustedProxies))
	for i, p := range c.TrustedProxies {
		out[i] = p.Prefix
	}
	return out
}

// Secure reports whether clients reach us by TLS, whatever the listener does.
func (c *Config) Secure() bool { return c.PublicURL.URL != nil && c.PublicURL.URL.Scheme == "https" }

func originOf(u *url.URL) string {
	if u == nil {
		return ""
	}
	return u.Scheme + "://" + u.Host
}
