package adminapi

import (
	"encoding/json"
	"time"

	"github.com/wsbouncer/wsbouncer/token"
)

// Page is part of a list. Next, when not empty, is the After of the next part.
type Page[T any] struct {
	Items []T    `json:"items"`
	Next  string `json:"next,omitempty"`
}

// Collect reads a whole list, part by part.
func Collect[T any](fetch func(after string) (Page[T], error)) ([]T, error) {
	all := []T{}
	for after := ""; ; {
		p, err := fetch(after)
		if err != nil {
			return nil, err
		}
		all = append(all, p.Items...)
		if p.Next == "" || p.Next == after {
			return all, nil
		}
		after = p.Next
	}
}

// ConnectionFilter says which connections; empty fields say nothing.
type ConnectionFilter struct {
	Issuer, Subject, Session, Route string
	// After is the Next of the part before; Limit zero is the default of 100.
	After string
	Limit int
}

// Connection is one live connection.
type Connection struct {
	ID string `json:"id"`
	// Waiting: its first message, with the token, has not come yet.
	Waiting  bool     `json:"waiting,omitempty"`
	Issuer   string   `json:"issuer"`
	Subject  string   `json:"subject"`
	Session  string   `json:"session,omitempty"`
	ClientID string   `json:"client_id,omitempty"`
	TokenID  string   `json:"token_id,omitempty"`
	KeyID    string   `json:"key_id,omitempty"`
	Scopes   []string `json:"scopes"`
	Route    string   `json:"route,omitempty"`
	IP       string   `json:"ip"`
	Origin   string   `json:"origin,omitempty"`

	Started   time.Time `json:"started"`
	ExpiresAt time.Time `json:"expires_at"`

	ClientBytes      int64 `json:"client_bytes"`
	UpstreamBytes    int64 `json:"upstream_bytes"`
	ClientMessages   int64 `json:"client_messages"`
	UpstreamMessages int64 `json:"upstream_messages"`
}

// Session is one login.
type Session struct {
	ID          string    `json:"id"`
	Subject     string    `json:"subject"`
	ClientID    string    `json:"client_id,omitempty"`
	Scopes      []string  `json:"scopes"`
	Method      string    `json:"method"`
	IP          string    `json:"ip"`
	UserAgent   string    `json:"user_agent,omitempty"`
	Origin      string    `json:"origin,omitempty"`
	Created     time.Time `json:"created"`
	LastUsed    time.Time `json:"last_used"`
	Expires     time.Time `json:"expires"`
	IdleExpires time.Time `json:"idle_expires"`
}

// Closed is how many live connections a call ended on this node.
type Closed struct {
	Closed int `json:"closed"`
}

// User is an account that logs in by password.
type User struct {
	Name            string    `json:"name"`
	Scopes          []string  `json:"scopes"`
	Disabled        bool      `json:"disabled"`
	Created         time.Time `json:"created"`
	PasswordChanged time.Time `json:"password_changed"`
	// Factors are its second factors, told of one account alone.
	Factors []Factor `json:"factors,omitzero"`
	// RecoveryCodes is how many are left of it.
	RecoveryCodes int `json:"recovery_codes,omitempty"`
}

// Factor is a second factor of an account.
type Factor struct {
	ID      string    `json:"id"`
	Kind    string    `json:"kind"`
	Created time.Time `json:"created"`
	Used    time.Time `json:"used,omitzero"`
}

// AddUserRequest is a new account.
type AddUserRequest struct {
	Name     string   `json:"name"`
	Password string   `json:"password"`
	Scopes   []string `json:"scopes"`
}

// GrantRequest adds and takes away scopes. Sessions that live already get none
// of what is added, and lose what is taken at their next refresh.
type GrantRequest struct {
	Add    []string `json:"add,omitempty"`
	Remove []string `json:"remove,omitempty"`
}

type passwordRequest struct {
	Password string `json:"password"`
}

// RevokeRequest says what is not valid any more.
type RevokeRequest struct {
	// Kind is token, session, subject, key or before.
	Kind string `json:"kind"`
	// Issuer is whose; empty is our own.
	Issuer string `json:"issuer,omitempty"`
	// Value is the jti or the token itself, the sid, the sub, the kid, or the
	// time (RFC 3339).
	Value string `json:"value"`
	// Reason is for the records.
	Reason string `json:"reason,omitempty"`
}

// RevokeResult is what a revocation did. When it is there, the revocation is
// durable and none of the connections concerned forwards any more.
type RevokeResult struct {
	// ID is the revocation's number.
	ID int64 `json:"id"`
	// Closed is how many live connections it ended.
	Closed int `json:"closed"`
	// Nodes is how many nodes applied it.
	Nodes int `json:"nodes"`
}

// Revocation is one in force.
type Revocation struct {
	ID     int64     `json:"id"`
	Kind   string    `json:"kind"`
	Issuer string    `json:"issuer"`
	Value  string    `json:"value,omitempty"`
	At     time.Time `json:"at"`
	// Expires is when it can be forgotten; absent: never.
	Expires time.Time `json:"expires,omitzero"`
	Close   string    `json:"close"`
	Reason  string    `json:"reason,omitempty"`
	Actor   string    `json:"actor,omitempty"`
}

// Key is one of our signing keys.
type Key = token.KeyInfo

// IssueRequest asks for a token without a session.
type IssueRequest struct {
	Subject string `json:"subject"`
	// Scope is space-separated (RFC 6749 §3.3).
	Scope string `json:"scope,omitempty"`
	// TTL is in seconds; zero is the configured access_ttl.
	TTL int64 `json:"ttl,omitempty"`
}

// IssuedToken is a token that was issued.
type IssuedToken struct {
	AccessToken string    `json:"access_token"`
	TokenType   string    `json:"token_type"`
	ExpiresIn   int       `json:"expires_in"`
	ExpiresAt   time.Time `json:"expires_at"`
	Scope       string    `json:"scope"`
}

// VerifiedToken is what verification said.
type VerifiedToken struct {
	Valid bool `json:"valid"`
	// Code and Detail say why it is not valid.
	Code   string `json:"code,omitempty"`
	Detail string `json:"detail,omitempty"`

	Issuer    string          `json:"issuer,omitempty"`
	Subject   string          `json:"subject,omitempty"`
	Session   string          `json:"session,omitempty"`
	TokenID   string          `json:"token_id,omitempty"`
	KeyID     string          `json:"key_id,omitempty"`
	ClientID  string          `json:"client_id,omitempty"`
	Scopes    []string        `json:"scopes,omitempty"`
	IssuedAt  time.Time       `json:"issued_at,omitzero"`
	ExpiresAt time.Time       `json:"expires_at,omitzero"`
	Claims    json.RawMessage `json:"claims,omitempty"`
}

type tokenRequest struct {
	Token string `json:"token"`
}

// Status is the state of the program. Options.Status gives what only the program
// knows; Go, Connections and Process are filled in here.
type Status struct {
	Version   string    `json:"version"`
	Go        string    `json:"go"`
	Started   time.Time `json:"started"`
	Ready     bool      `json:"ready"`
	Public    string    `json:"public"`
	PublicURL string    `json:"public_url"`
	// Issuer is our own; empty without one.
	Issuer string `json:"issuer,omitempty"`
	// Config is the configuration's file; empty without one.
	Config      string   `json:"config,omitempty"`
	Routes      []string `json:"routes"`
	Connections int      `json:"connections"`
	// Upstreams are those of the routes, each once.
	Upstreams []Upstream `json:"upstreams"`
	// Trust is the trusted issuers that are asked for keys or about tokens.
	Trust []Trust `json:"trust,omitempty"`
	// Denied counts messages that permissions denied since the start.
	Denied []Denied `json:"denied,omitempty"`
	// Exhausted is what was lacking for connections to them since the start.
	Exhausted []Exhausted `json:"exhausted,omitempty"`
	Process
	// Warnings are of insecure settings in force.
	Warnings []string `json:"warnings,omitempty"`
}

// Denied counts messages that a route's permissions denied.
type Denied struct {
	Route string `json:"route"`
	// From is client or upstream.
	From string `json:"from"`
	// Rule is the one that denied, counted from 0; -1: no rule was about the
	// message, or it was none of the format.
	Rule int `json:"rule"`
	// Reported: they would have been denied, but for mode: report.
	Reported bool  `json:"reported,omitempty"`
	Times    int64 `json:"times"`
}

// Upstream is a server behind routes.
type Upstream struct {
	URL string `json:"url"`
	// Connections are live ones, and those being opened.
	Connections int64 `json:"connections"`
	// State is ok, avoided (bad answers to handshakes), out (its health check
	// fails) or unreachable. All but ok come last.
	State string `json:"state"`
	// Until is when one that is avoided or unreachable is tried again whatever
	// others there are.
	Until *time.Time `json:"until,omitempty"`
	// LastFailure is the kind of the last failure of a handshake or a health check,
	// such as refused, timeout or status 503; FailedAt is when that was.
	LastFailure string     `json:"last_failure,omitempty"`
	FailedAt    *time.Time `json:"failed_at,omitempty"`
}

// Trust is a trusted issuer that is asked for keys or about tokens.
type Trust struct {
	Issuer string `json:"issuer"`
	// From is the address of the key set, discovery, or introspection: then what
	// is counted below are questions about tokens, and Keys are the good ones.
	From string `json:"from"`
	// State is ok, failing (the last fetch failed; the keys from before count),
	// stale (they are too old to count) or not_ready (there were none yet). In
	// the last two its tokens are refused.
	State string `json:"state"`
	// Keys are those that count just now.
	Keys    int        `json:"keys"`
	Fetched *time.Time `json:"fetched,omitempty"`
	// Error is why the last fetch failed.
	Error string `json:"error,omitempty"`
	// Fetches and Failures are counted since the start, or since the issuer's
	// keys were configured otherwise.
	Fetches  uint64 `json:"fetches"`
	Failures uint64 `json:"failures"`
}

// Exhausted is something that the machine ran out of when the program was to
// connect to an upstream.
type Exhausted struct {
	// Name is source_ports, descriptors or system_descriptors.
	Name string `json:"name"`
	// Times is how often since the start.
	Times  int64  `json:"times"`
	Advice string `json:"advice"`
}

// Process is what the program holds at this moment. When no client is connected
// it is what it was after the start; what does not come back is leaked.
type Process struct {
	Goroutines int `json:"goroutines"`
	// HeapBytes is what the program uses, garbage not yet collected included;
	// SystemBytes is all that it has from the system.
	HeapBytes   uint64 `json:"heap_bytes"`
	SystemBytes uint64 `json:"system_bytes"`
	// Descriptors are open files and sockets, of at most DescriptorLimit; a
	// connection through the gateway needs two. Zero: not known here.
	Descriptors     int    `json:"descriptors"`
	DescriptorLimit uint64 `json:"descriptor_limit"`
}

// Stats are numbers of this moment.
type Stats struct {
	Connections int            `json:"connections"`
	Waiting     int            `json:"waiting"`
	Subjects    int            `json:"subjects"`
	ByRoute     map[string]int `json:"by_route"`
	Process
}

// AuditEvent is one thing that happened.
type AuditEvent struct {
	ID         int64             `json:"id"`
	Time       time.Time         `json:"time"`
	Type       string            `json:"type"`
	Issuer     string            `json:"issuer,omitempty"`
	Subject    string            `json:"subject,omitempty"`
	Session    string            `json:"session,omitempty"`
	Connection string            `json:"connection,omitempty"`
	IP         string            `json:"ip,omitempty"`
	Origin     string            `json:"origin,omitempty"`
	UserAgent  string            `json:"user_agent,omitempty"`
	Actor      string            `json:"actor,omitempty"`
	Detail     map[string]string `json:"detail,omitempty"`
}
