package wsbouncer

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
)

// What is left of a query is, parsed, the same without our parameters, in the
// same order and spelling.
func FuzzStripQuery(f *testing.F) {
	for _, q := range []string{"", "a=1", "token=x", "a=1&token=x&b=2", "%74oken=1&&=&a", "ticket", "access_token=%zz&x=%zz", "token=a&token=b"} {
		f.Add(q)
	}
	f.Fuzz(func(t *testing.T, query string) {
		var c carried
		c.readQuery(query)
		before, after := strings.Split(query, "&"), strings.Split(c.query, "&")
		var kept []string
		found := 0
		for _, part := range before {
			name, _, _ := strings.Cut(part, "=")
			plain, err := url.QueryUnescape(name)
			if err == nil && slices.Contains([]string{"ticket", "token", "access_token"}, plain) {
				found++
				continue
			}
			kept = append(kept, part)
		}
		if kept == nil {
			kept = []string{""}
		}
		if !slices.Equal(kept, after) {
			t.Fatalf("%q became %q", query, c.query)
		}
		if n := c.at(inTicket).n + c.at(inQuery).n; n != found {
			t.Fatalf("%q: %d of %d found", query, n, found)
		}
	})
}

// No cookie of ours is left, by net/http's reading, and no other is lost.
func FuzzStripCookies(f *testing.F) {
	for _, line := range []string{"", "a=1", "__Host-wsbouncer=x", "a=1; __Host-wsbouncer=x;b=2", ";;=; wsbouncer", `q="a;b"; __secure-WSBOUNCER-refresh=1`, "wsbouncerx=1"} {
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, line string) {
		if strings.ContainsAny(line, "\r\n\x00") {
			return // no header line has them
		}
		var c carried
		c.readCookies([]string{line}, "__Host-wsbouncer")
		read := func(lines []string) (ours, others []string) {
			for _, ck := range (&http.Request{Header: http.Header{"Cookie": lines}}).Cookies() {
				if bare := strings.ToLower(bareCookie(ck.Name)); bare == "wsbouncer" || strings.HasPrefix(bare, "wsbouncer-") {
					ours = append(ours, ck.Name)
				} else {
					others = append(others, ck.Name+"="+ck.Value)
				}
			}
			return ours, others
		}
		_, want := read([]string{line})
		ours, others := read(c.cookies)
		if len(ours) > 0 || !slices.Equal(others, want) {
			t.Fatalf("%q became %q: ours %v, others %v, want %v", line, c.cookies, ours, others, want)
		}
	})
}

// The token never stands among what is left, and every other entry does.
func FuzzStripProtocols(f *testing.F) {
	for _, line := range []string{"", "chat", "bearer, eyJ.x.y", "bearer,eyJ,chat", "a, bearer", "bearer, bearer, x", ",,", "a b", "bearer,,x"} {
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, line string) {
		var c carried
		c.readProtocols([]string{line})
		n := 0
		for entry := range strings.SplitSeq(line, ",") {
			if strings.Trim(entry, " \t") != "" {
				n++
			}
		}
		creds := c.at(inSubprotocol).n
		if c.badList == "" && len(c.protocols)+2*creds < n || len(c.protocols) > n {
			t.Fatalf("%q: %d entries became %v and %d credentials", line, n, c.protocols, creds)
		}
		for _, p := range c.protocols {
			if !isToken(p) || p == "bearer" {
				t.Fatalf("%q: left %q", line, p)
			}
		}
	})
}
