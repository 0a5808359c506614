package login

import (
	"net/url"
	"strings"

	"github.com/wsbouncer/wsbouncer/internal/httpx"
)

// maxReturnTo bounds return_to in bytes: it travels in the state parameter.
const maxReturnTo = 1024

// returnTo is where a login ends: raw, which is a path below base or a page of an
// allowed origin, or, empty, the first of those. It is always a whole URL, so
// that no reader of it can take a path for a host.
func returnTo(raw, base, first string, origins *httpx.Origins) (string, bool) {
	if raw == "" {
		return first + "/", true
	}
	if len(raw) > maxReturnTo || strings.ContainsFunc(raw, func(r rune) bool {
		// What browsers strip or turn into something else (WHATWG URL), and what
		// no URL holds as it is.
		return r <= ' ' || r >= 0x7f || strings.ContainsRune("\\\"<>^`{|}", r)
	}) {
		return "", false
	}
	target := raw
	if strings.HasPrefix(raw, "/") {
		if strings.HasPrefix(raw, "//") {
			return "", false
		}
		target = base + raw
	} else {
		scheme, rest, ok := strings.Cut(raw, "://")
		if !ok || (scheme != "https" && scheme != "http") {
			return "", false
		}
		host := rest
		if end := strings.IndexAny(rest, "/?#"); end >= 0 {
			host = rest[:end]
		}
		if origins.Any() || !origins.Allowed(scheme+"://"+host) {
			return "", false
		}
	}
	u, err := url.Parse(target)
	if err != nil || u.User != nil || u.Opaque != "" {
		return "", false
	}
	return target, true
}
