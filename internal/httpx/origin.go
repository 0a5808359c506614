package httpx

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
)

// maxOrigin bounds an Origin header: a scheme, a name of 253 bytes and a port.
const maxOrigin = 300

// Origins is a set of allowed web origins (RFC 6454).
type Origins struct {
	any bool
	set map[string]struct{}
}

// ParseOrigins makes a set of entries like https://app.example.com or
// http://127.0.0.1:3000, exactly scheme://host[:port]: folded to lower case, the
// scheme's default port dropped. "*" allows every well-formed Origin and must
// stand alone. An empty list allows none. The error names the bad entry.
func ParseOrigins(list []string) (*Origins, error) {
	o := &Origins{set: make(map[string]struct{}, len(list))}
	for _, entry := range list {
		if entry == "*" {
			if len(list) > 1 {
				return nil, errors.New(`origin "*": allows every origin, so it must stand alone; remove it or the others`)
			}
			o.any = true
			continue
		}
		origin, err := parseOrigin(entry)
		if err != nil {
			return nil, fmt.Errorf("origin %q: %w", entry, err)
		}
		o.set[origin] = struct{}{}
	}
	return o, nil
}

// Any reports whether every Origin is allowed.
func (o *Origins) Any() bool { return o.any }

// Allowed reports whether the value of an Origin header is in the set: equal,
// byte for byte, after folding ASCII letters. "null", lists, user information, a
// path, a trailing slash or dot, spaces and default ports written out are no
// origins as RFC 6454 §6.2 serialises them, and never allowed, "*" or not.
func (o *Origins) Allowed(header string) bool {
	if len(header) > maxOrigin {
		return false
	}
	if o.any {
		folded := lowerASCII(header)
		origin, err := parseOrigin(folded)
		return err == nil && origin == folded
	}
	_, ok := o.set[lowerASCII(header)]
	return ok
}

// ErrOrigins says that a request had more than one Origin line.
var ErrOrigins = &Problem{
	Status: http.StatusBadRequest, Code: "bad_handshake",
	Detail: "More than one Origin header was sent.",
}

// RequestOrigin is the request's Origin header as it came, and whether there
// was one. Two lines are an error, ErrOrigins: which of them a later hop
// believes is anybody's guess.
func RequestOrigin(h http.Header) (origin string, present bool, err error) {
	switch lines := h["Origin"]; len(lines) {
	case 0:
		return "", false, nil
	case 1:
		return lines[0], true, nil
	default:
		return "", true, ErrOrigins
	}
}

// parseOrigin checks and normalises scheme://host[:port].
func parseOrigin(s string) (string, error) {
	s = lowerASCII(s)
	scheme, rest, ok := strings.Cut(s, "://")
	if !ok || !validScheme(scheme) {
		return "", errors.New("want scheme://host[:port], like https://app.example.com")
	}
	if i := strings.IndexAny(rest, "/?#@\\"); i >= 0 {
		return "", fmt.Errorf("has %q after the host; want only scheme://host[:port]", rest[i])
	}
	host, port, err := splitHostPort(rest)
	if err != nil {
		return "", err
	}
	if port == defaultPort(scheme) {
		port = ""
	}
	if port != "" {
		port = ":" + port
	}
	return scheme + "://" + host + port, nil
}

// splitHostPort checks and normalises host[:port]: a lower-case name, an IPv4
// address, or an IPv6 address in brackets; a port of 1 to 65535, or "".
func splitHostPort(s string) (host, port string, err error) {
	host = s
	if strings.HasPrefix(s, "[") {
		end := strings.IndexByte(s, ']')
		if end < 0 {
			return "", "", errors.New("has an IPv6 address without its closing bracket")
		}
		a, err := netip.ParseAddr(s[1:end])
		if err != nil || !a.Is6() || a.Zone() != "" {
			return "", "", errors.New("has brackets around what is no IPv6 address")
		}
		host, port = "["+a.String()+"]", s[end+1:]
	} else {
		if i := strings.IndexByte(s, ':'); i >= 0 {
			host, port = s[:i], s[i:]
		}
		if err := checkName(host); err != nil {
			return "", "", err
		}
	}
	if port == "" {
		return host, "", nil
	}
	digits := port[1:]
	n, err := strconv.ParseUint(digits, 10, 16)
	if port[0] != ':' || err != nil || n == 0 || strconv.FormatUint(n, 10) != digits {
		return "", "", errors.New("has a port that is no number from 1 to 65535")
	}
	return host, digits, nil
}

// checkName accepts DNS names and IPv4 addresses; the underscore too, which
// RFC 952 forbids and people use.
func checkName(name string) error {
	switch {
	case name == "":
		return errors.New("has no host")
	case len(name) > 253:
		return errors.New("has a host longer than 253 bytes")
	case strings.Trim(name, "0123456789.") == "":
		// Browsers turn 127.1 or 0177.0.0.1 into the dotted form.
		if a, err := netip.ParseAddr(name); err != nil || a.String() != name {
			return errors.New("has a host that is no IPv4 address")
		}
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" {
			return errors.New("has a host with an empty label (two dots, or one at an end)")
		}
		if len(label) > 63 {
			return errors.New("has a host with a label longer than 63 bytes")
		}
		for i := range len(label) {
			switch c := label[i]; {
			case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '-', c == '_':
			case c >= 0x80:
				return errors.New("has letters beyond ASCII in the host; write it as browsers send it (xn--…)")
			default:
				return fmt.Errorf("has %q in the host", c)
			}
		}
	}
	return nil
}

// validScheme: RFC 3986 §3.1, in lower case. Not only http and https: packaged
// apps send app://… or capacitor://localhost.
func validScheme(s string) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z':
		case i > 0 && ('0' <= c && c <= '9' || c == '+' || c == '-' || c == '.'):
		default:
			return false
		}
	}
	return s != "" && len(s) <= 32
}

func defaultPort(scheme string) string {
	switch scheme {
	case "http", "ws":
		return "80"
	case "https", "wss":
		return "443"
	}
	return ""
}

// lowerASCII folds A–Z and nothing else: strings.ToLower turns U+212A, the
// Kelvin sign, into the letter k.
func lowerASCII(s string) string {
	for i := range len(s) {
		if c := s[i]; 'A' <= c && c <= 'Z' {
			b := []byte(s)
			for ; i < len(b); i++ {
				if c := b[i]; 'A' <= c && c <= 'Z' {
					b[i] = c + 'a' - 'A'
				}
			}
			return string(b)
		}
	}
	return s
}
