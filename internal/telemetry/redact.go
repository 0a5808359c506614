package telemetry

import (
	"regexp"
	"strings"
	"unicode/utf8"
)

// Redacted stands for what was taken out.
const Redacted = "[redacted]"

// maxText bounds one text of a line, in bytes: strangers choose the length of
// subjects, paths and user agents.
const maxText = 8 << 10

// The shapes of credentials. Better a harmless word too many than a token. Each
// is looked for only in texts that have one of its marks (in lower case), because
// most texts have none and matching costs microseconds.
var shapes = []struct {
	marks []string
	re    *regexp.Regexp
	with  string
}{
	// JSON members and HTTP header lines quoted within a text.
	{[]string{`"`}, regexp.MustCompile(`(?i)("[a-z0-9_.-]*(?:token|ticket|secret|password|passphrase|authorization|cookie|assertion)"\s*:\s*)"(?:[^"\\]|\\.)*"?`), `${1}"` + Redacted + `"`},
	{[]string{"authorization", "cookie", "protocol"}, regexp.MustCompile(`(?i)\b((?:proxy-)?authorization|(?:set-)?cookie|sec-websocket-protocol)(:\s*)[^\r\n]+`), "${1}${2}" + Redacted},
	// Parameters of URLs and forms, percent-encoded (in return_to=…) or not.
	{[]string{"=", "%"}, regexp.MustCompile(`(?i)((?:^|[^a-z0-9_.-]|%(?:25)*(?:3f|26|3b|20))[a-z0-9_.-]*(?:token|ticket|secret|password|passwd|passphrase|assertion|authorization|cookie|api_?key)(?:=|%(?:25)*3d))[^&\s"'<>;)\]}]+`), "${1}" + Redacted},
	{[]string{"=", "%"}, regexp.MustCompile(`(?i)((?:[?&]|%(?:25)*(?:3f|26))(?:code|state|nonce|code_verifier)(?:=|%(?:25)*3d))[^&\s"'<>;)\]}]+`), "${1}" + Redacted},
	// Our own cookies.
	{[]string{"wsbouncer"}, regexp.MustCompile(`(?i)((?:__host-|__secure-)?wsbouncer[a-z-]*=)[^;,\s"]+`), "${1}" + Redacted},
	// Authorization values, also as a subprotocol list: bearer, TOKEN.
	{[]string{"bearer", "basic", "dpop"}, regexp.MustCompile(`(?i)\b((?:bearer|basic|dpop)[\s,:=.]+)[a-z0-9._~+/=-]{8,}`), "${1}" + Redacted},
	// User information in URLs: connection strings.
	{[]string{"://"}, regexp.MustCompile(`(://)[^/\s@:?#]*:[^/\s@]*@`), "${1}" + Redacted + "@"},
	// JWTs: base64url of {" or of { and white space, a dot, another segment.
	{[]string{"ey", "ew"}, regexp.MustCompile(`(?:ey[A-DI-L]|ew[k-r0-3])[A-Za-z0-9_-]{5,}(?:\.|%2[eE])[A-Za-z0-9_-]{2,}(?:(?:\.|%2[eE])[A-Za-z0-9_-]*)*`), Redacted},
	// The same, base64 once more.
	{[]string{"zxlk"}, regexp.MustCompile(`ZXlK[A-Za-z0-9+/_=-]{16,}`), Redacted},
}

// Redact takes credentials out of a text, cuts it to a length that fits a line,
// and replaces characters a terminal obeys and log formats leave alone: DEL, the
// C1 controls and the bidirectional overrides. (The formats escape the others.)
func Redact(s string) string {
	if len(s) > maxText {
		cut := maxText
		for cut > 0 && !utf8.RuneStart(s[cut]) {
			cut--
		}
		s = s[:cut] + "…"
	}
	lower := strings.ToLower(s)
	for _, shape := range shapes {
		for _, mark := range shape.marks {
			if strings.Contains(lower, mark) {
				s = shape.re.ReplaceAllString(s, shape.with)
				break
			}
		}
	}
	if strings.IndexFunc(s, obeyed) >= 0 {
		s = strings.Map(func(r rune) rune {
			if obeyed(r) {
				return utf8.RuneError
			}
			return r
		}, s)
	}
	return s
}

func obeyed(r rune) bool {
	switch {
	case 0x7F <= r && r <= 0x9F,
		r == 0x061C, r == 0x200E, r == 0x200F,
		0x202A <= r && r <= 0x202E, 0x2066 <= r && r <= 0x2069:
		return true
	}
	return false
}

// secretWords name credentials wherever they stand in a key.
var secretWords = []string{
	"token", "ticket", "cookie", "password", "passwd", "passphrase", "secret", "authorization", "credential", "assertion", "privatekey", "apikey", "secwebsocketprotocol",
}

// harmlessKeys only sound like credentials.
var harmlessKeys = map[string]bool{
	"tokenid": true, "tokentype": true, "tokenfrom": true, "tokenttl": true, "querytokenttl": true, "tokenbytes": true, "secretfile": true,
}

// secretKey reports whether what stands under a key is a credential.
func secretKey(key string) bool {
	k := strings.Map(func(r rune) rune {
		switch {
		case 'A' <= r && r <= 'Z':
			return r + 'a' - 'A'
		case r == '_' || r == '-' || r == '.' || r == ' ':
			return -1
		}
		return r
	}, key)
	if harmlessKeys[k] {
		return false
	}
	for _, w := range secretWords {
		if strings.Contains(k, w) {
			return true
		}
	}
	return false
}
