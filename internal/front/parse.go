package front

import (
	"net/http"
	"net/textproto"
	"net/url"
	"strings"
)

// endOfHead ends a request's head (RFC 9112 §2.1).
const endOfHead = "\r\n\r\n"

// parse reads a whole head, without endOfHead, as net/http would; nil: it is for
// net/http to judge.
func parse(head string) *http.Request {
	line, rest, _ := strings.Cut(head, "\r\n")
	target, ok := strings.CutPrefix(line, "GET ")
	if !ok {
		return nil
	}
	target, ok = strings.CutSuffix(target, " HTTP/1.1")
	if !ok || !isTarget(target) {
		return nil
	}
	u, err := url.ParseRequestURI(target)
	if err != nil {
		return nil
	}
	r := &http.Request{
		Method: http.MethodGet, URL: u, RequestURI: target, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Body: http.NoBody,
	}
	if r.Header = parseFields(rest); r.Header == nil {
		return nil
	}
	host := r.Header["Host"]
	if len(host) != 1 || !isHost(host[0]) {
		return nil
	}
	r.Host = host[0]
	delete(r.Header, "Host")
	if !isHandshake(r.Header) {
		return nil
	}
	return r
}

// isTarget reports whether s is an origin-form of visible ASCII.
func isTarget(s string) bool {
	if s == "" || s[0] != '/' || strings.HasPrefix(s, "//") {
		return false
	}
	for i := range len(s) {
		if s[i] <= ' ' || s[i] >= 0x7f {
			return false
		}
	}
	return true
}

// parseFields reads header fields; nil: not all are plain.
func parseFields(s string) http.Header {
	n := strings.Count(s, "\r\n") + 1
	h := make(http.Header, n)
	values := make([]string, n)
	for more := s != ""; more; {
		var line string
		line, s, more = strings.Cut(s, "\r\n")
		name, value, ok := strings.Cut(line, ":")
		if !ok || !isName(name) || !isValue(value) {
			return nil
		}
		name = textproto.CanonicalMIMEHeaderKey(name)
		value = strings.Trim(value, " ")
		if old := h[name]; old != nil {
			h[name] = append(old, value)
			continue
		}
		values[0] = value
		h[name], values = values[:1:1], values[1:]
	}
	return h
}

// isName is RFC 9110 §5.1, letters, digits and hyphens only.
func isName(s string) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-':
		default:
			return false
		}
	}
	return s != ""
}

// isValue is RFC 9110 §5.5 without tabs and obs-text.
func isValue(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] >= 0x7f {
			return false
		}
	}
	return true
}

// isHost is a host's usual letters, with a port or without.
func isHost(s string) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '.', c == ':', c == '[', c == ']', c == '_':
		default:
			return false
		}
	}
	return s != ""
}

// others are fields that change what a request's end, or its connection's, is.
var others = [...]string{"Content-Length", "Transfer-Encoding", "Trailer", "Expect", "Te", "Http2-Settings"}

// isHandshake reports whether the fields are those of a handshake (RFC 6455
// §4.1) without a body. What is wrong with one in its details is found later.
func isHandshake(h http.Header) bool {
	for _, name := range others {
		if _, has := h[name]; has {
			return false
		}
	}
	if h["Pragma"] != nil && h["Cache-Control"] == nil {
		return false // net/http takes the one for the other
	}
	upgrade, connection := h["Upgrade"], h["Connection"]
	return len(upgrade) == 1 && strings.EqualFold(upgrade[0], "websocket") &&
		len(connection) == 1 && isUpgrade(connection[0])
}

// isUpgrade reports whether list is upgrade, and keep-alive at most.
func isUpgrade(list string) (has bool) {
	for v := range strings.SplitSeq(list, ",") {
		switch v = strings.Trim(v, " "); {
		case strings.EqualFold(v, "upgrade"):
			has = true
		case !strings.EqualFold(v, "keep-alive"):
			return false
		}
	}
	return has
}
