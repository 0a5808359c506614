package httpx

import (
	"net/http"
	"net/url"
	"strings"
)

// OddTarget reports whether r's target has a form that two servers could take
// for different paths, the one that decides here and the one that serves behind
// it: an encoded slash, backslash or NUL, a semicolon, an empty or dot segment, a
// fragment, or a full URL.
func OddTarget(r *http.Request) bool {
	path, _, _ := strings.Cut(RequestTarget(r), "?")
	if r.URL.Fragment != "" || strings.ContainsAny(RequestTarget(r), "#;") || containsFold(RequestTarget(r), "%00") {
		return true
	}
	if !strings.HasPrefix(path, "/") { // absolute-form and asterisk-form
		return true
	}
	// A program may have cut a prefix off the URL it passes on, not off the target.
	return OddPath(path) || OddPath(r.URL.EscapedPath())
}

// RequestTarget is the request target as the client sent it.
func RequestTarget(r *http.Request) string {
	if r.RequestURI != "" {
		return r.RequestURI
	}
	return r.URL.RequestURI() // a request made by a program, not read from a connection
}

// OddPath is OddTarget for an escaped path.
func OddPath(path string) bool {
	if strings.Contains(path, "//") || strings.ContainsAny(path, `\;#`) ||
		containsFold(path, "%2f") || containsFold(path, "%5c") || containsFold(path, "%00") {
		return true
	}
	if !strings.Contains(path, ".") && !containsFold(path, "%2e") {
		return false
	}
	for segment := range strings.SplitSeq(path, "/") {
		if plain, err := url.PathUnescape(segment); err != nil || plain == "." || plain == ".." {
			return true
		}
	}
	return false
}

// containsFold is strings.Contains for an ASCII needle in lower case.
func containsFold(s, needle string) bool {
	for i := 0; i+len(needle) <= len(s); i++ {
		if strings.EqualFold(s[i:i+len(needle)], needle) {
			return true
		}
	}
	return false
}
