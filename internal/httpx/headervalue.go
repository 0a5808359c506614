package httpx

import "strings"

// HeaderValue percent-encodes what is not visible ASCII, and the percent sign and
// comma, so that any claim can stand in a header and be read back exactly.
func HeaderValue(s string) string {
	clean := true
	for i := range len(s) {
		if !visible(s[i]) {
			clean = false
			break
		}
	}
	if clean {
		return s
	}
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; visible(c) {
			b.WriteByte(c)
		} else {
			b.WriteByte('%')
			b.WriteByte(hex[c>>4])
			b.WriteByte(hex[c&15])
		}
	}
	return b.String()
}

func visible(c byte) bool { return c > ' ' && c < 0x7f && c != '%' && c != ',' }

// HeaderList is a list of those, separated by spaces.
func HeaderList(list []string) string {
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = HeaderValue(s)
	}
	return strings.Join(out, " ")
}
