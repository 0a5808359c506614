package config

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

func (v *validator) route(r *Route, at string) {
	reserved := []string{v.c.AuthPath, "/.well-known", "/healthz", "/readyz"}
	switch {
	case r.Path == "":
		v.wrong(at, "path is missing: for example /chat/{room}")
	case !strings.HasPrefix(r.Path, "/"):
		v.wrong(at+".path", "%q does not begin with a slash", r.Path)
	default:
		for _, p := range reserved {
			if r.Path == p || strings.HasPrefix(r.Path, p+"/") {
				v.wrong(at+".path", "%s belongs to this program; choose another path", p)
			}
		}
	}
	if len(r.Upstream) == 0 {
		v.wrong(at, "upstream is missing: for example ws://127.0.0.1:9000")
	}
	for i, u := range r.Upstream {
		if u.URL != nil {
			v.upstream(u, fmt.Sprintf("%s.upstream[%d]", at, i))
		}
	}
	if len(r.TokenFrom) == 0 {
		v.wrong(at+".token_from", "may not be empty: every route takes a credential from somewhere")
	}
	for i, s := range r.TokenFrom {
		place := fmt.Sprintf("%s.token_from[%d]", at, i)
		if !slices.Contains(carriers, s) {
			v.wrong(place, "%q is not one of %s", s, strings.Join(carriers, ", "))
		}
		if slices.Index(r.TokenFrom, s) < i {
			v.wrong(place, "%s is listed twice", s)
		}
	}
	v.strength(r, at)
	if len(r.Protocols) > 0 && !slices.Contains(r.TokenFrom, "first_message") {
		v.wrong(at+".protocols", "is for routes with first_message; elsewhere the upstream chooses")
	}
	if r.InBandRefresh && r.Compression == "pass" {
		v.wrong(at+".compression", "pass cannot go with in_band_refresh, which reads messages")
	}
	if slices.Contains(r.TokenFrom, "first_message") && r.Compression == "pass" {
		v.wrong(at+".compression", "pass cannot go with first_message, whose token no upstream may read")
	}
	if r.UTF8 == "check" && r.Compression == "pass" {
		v.wrong(at+".compression", "pass cannot go with utf8: check, which reads messages")
	}
	if r.Permissions != nil {
		v.permissions(r, at)
	}
	if r.Extend == "session" {
		v.warn(at+".extend", "a refresh keeps every connection of its session, also one that a thief opened")
	}
	if t := r.UpstreamTLS; t != nil && (t.Cert == "") != (t.Key == "") {
		v.wrong(at+".upstream_tls", "cert and key go together")
	}
	if d := r.ConnectTimeout; d < Duration(100*time.Millisecond) || d > Duration(time.Minute) {
		v.wrong(at+".connect_timeout", "is %s; from 100ms to 1m", d)
	}
	if r.HealthCheck != nil {
		v.healthCheck(r.HealthCheck, at+".health_check")
	}
	if r.Limits != nil {
		v.routeLimits(r.Limits, at+".limits.")
	}
}

// strength checks what a route demands of a login. The values go into a challenge's quotes.
func (v *validator) strength(r *Route, at string) {
	for key, values := range map[string][]string{"require_amr": r.RequireAMR, "require_acr": r.RequireACR} {
		for i, value := range values {
			if value == "" || strings.ContainsFunc(value, func(c rune) bool { return c <= ' ' || c > '~' || c == '"' || c == '\\' }) {
				v.wrong(fmt.Sprintf("%s.%s[%d]", at, key, i), "%q: a name in printable ASCII without spaces, quotes and backslashes is needed", value)
			}
		}
	}
	if d := r.MaxAuthAge; d != 0 && (d < Duration(time.Second) || d%Duration(time.Second) != 0 || d > Duration(720*time.Hour)) {
		v.wrong(at+".max_auth_age", "is %s; whole seconds from 1s to 720h, or 0s for any age", d)
	}
}

func (v *validator) permissions(r *Route, at string) {
	p := r.Permissions
	if r.Compression == "pass" {
		v.wrong(at+".compression", "pass cannot go with permissions, which read messages")
	}
	if len(p.FromClient) == 0 && p.Default == "deny" {
		v.warn(at+".permissions", "no rule allows anything, so that clients can send nothing")
	}
	if p.Mode == "report" {
		v.warn(at+".permissions.mode", "report denies nothing: it tells in the log what would be denied")
	}
}

func (v *validator) healthCheck(h *HealthCheck, at string) {
	switch {
	case h.Path == "":
		v.wrong(at, "path is missing: for example /healthz")
	case !plainTarget(h.Path):
		v.wrong(at+".path", "%q is not a path such as /healthz: it begins with a slash and holds visible ASCII alone", h.Path)
	}
	if h.Interval < Duration(time.Second) || h.Interval > Duration(time.Hour) {
		v.wrong(at+".interval", "is %s; from 1s to 1h", h.Interval)
	}
	if h.Timeout < Duration(100*time.Millisecond) || h.Timeout > h.Interval {
		v.wrong(at+".timeout", "is %s; from 100ms to the interval, %s", h.Timeout, h.Interval)
	}
	if n := h.UnhealthyThreshold; n < 1 || n > 100 {
		v.wrong(at+".unhealthy_threshold", "is %d; from 1 to 100", n)
	}
	if n := h.HealthyThreshold; n < 1 || n > 100 {
		v.wrong(at+".healthy_threshold", "is %d; from 1 to 100", n)
	}
}

// plainTarget reports whether s can stand in a request line as it is.
func plainTarget(s string) bool {
	return strings.HasPrefix(s, "/") && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' || r == '#' })
}

func (v *validator) routeLimits(l *RouteLimits, at string) {
	if n := l.ConnectionsPerSubject; n != nil && *n < 1 {
		v.wrong(at+"connections_per_subject", "is %d; at least 1", *n)
	}
	if n := l.MessageBytes; n != nil && *n < minMessageBytes {
		v.wrong(at+"message_bytes", "is %s; at least %s", *n, Size(minMessageBytes))
	}
	for _, d := range []struct {
		key string
		is  *Duration
	}{
		{"query_token_ttl", l.QueryTokenTTL}, {"idle_timeout", l.IdleTimeout},
		{"write_timeout", l.WriteTimeout}, {"lifetime", l.Lifetime},
	} {
		if d.is != nil {
			v.aSecond(at+d.key, *d.is)
		}
	}
}

// aSecond demands at least a second of a limit: less is of no use, and none at
// all would be taken for the default.
func (v *validator) aSecond(path string, d Duration) {
	if d < Duration(time.Second) {
		v.wrong(path, "is %s; at least 1s", d)
	}
}

func (v *validator) upstream(u URL, at string) {
	switch {
	case u.Scheme != "ws" && u.Scheme != "wss":
		v.wrong(at, "%s begins with neither ws:// nor wss://", u)
	case u.Fragment != "" || u.RawQuery != "":
		v.wrong(at, "%s has a query or fragment; the request's own query is passed on", u)
	case u.Scheme == "ws" && !isLoopback(u.Hostname()):
		v.warn(at, "%s is plain text to another machine: use wss, or be sure of the network between", u)
	}
}
