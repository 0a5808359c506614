package wsbouncer_test

import (
	"bufio"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/wsbouncer/wsbouncer"
)

// Whatever request net/http lets through, Admit either refuses with one of the
// refusals or admits the one token there is; and where it admits, nothing of
// the credential is left.
func FuzzAdmit(f *testing.F) {
	b, w := bouncer(f, nil)
	raw := w.token()
	for _, h := range []http.Header{
		auth(raw), {"Sec-Websocket-Protocol": {"chat, bearer, " + raw}}, {"Cookie": {"a=b; __Host-wsbouncer=" + raw}, "Origin": {appOrigin}},
		{}, {"Authorization": {"Bearer", "Basic x"}}, {"X-Forwarded-For": {"1.2.3.4"}},
	} {
		for _, target := range []string{"/chat", "/chat?token=" + raw + "&a=1", "/chat?%74icket=a&ticket=b", "//x/../y;z", "http://evil/ws#x"} {
			f.Add([]byte(head(target, h)))
		}
	}
	f.Add([]byte("POST /x HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nContent-Length: 3\r\n\r\nabc"))
	f.Add([]byte(head("/chat?token="+raw, http.Header{"Cookie": {"0wsbouncer" + raw}}))) // no cookie: it has no name
	f.Add([]byte("CONNECT up:80 HTTP/1.1\r\nHost: up:80\r\n\r\n"))
	all := wsbouncer.Demand{TokenFrom: []string{"header", "subprotocol", "query", "cookie"}}
	f.Fuzz(func(t *testing.T, request []byte) {
		r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(string(request))))
		if err != nil {
			return
		}
		r.RemoteAddr = "203.0.113.1:1"
		a, err := b.Admit(r, all)
		if err != nil {
			var ref *wsbouncer.Refusal
			if !errors.As(err, &ref) || ref.Status < 400 || a != nil {
				t.Fatalf("%v with %v", err, a)
			}
			return
		}
		if a.Principal == nil || a.Principal.Subject != "alice" {
			t.Fatalf("admitted %+v", a.Principal)
		}
		if r.Method != http.MethodGet || r.ContentLength != 0 || strings.ContainsAny(r.RequestURI, ";#\\") {
			t.Fatalf("admitted %s %s", r.Method, r.RequestURI)
		}
		var dump strings.Builder
		for _, k := range []string{"Authorization", "Sec-Websocket-Protocol"} {
			dump.WriteString(strings.Join(a.Request.Header[k], "\n"))
		}
		for _, line := range a.Request.Header["Cookie"] {
			for pair := range strings.SplitSeq(line, ";") { // the application's own may say what they like
				if name, _, named := strings.Cut(pair, "="); named && strings.Contains(strings.ToLower(name), "wsbouncer") {
					dump.WriteString(pair)
				}
			}
		}
		q := a.Request.URL.Query()
		if strings.Contains(dump.String(), raw) || q.Has("token") || q.Has("access_token") || q.Has("ticket") ||
			strings.Contains(a.Request.RequestURI, raw) && !strings.Contains(r.URL.Path, raw) && !otherParameter(r, raw) {
			t.Fatalf("left: %s %s %v", a.Request.RequestURI, dump.String(), q)
		}
	})
}

// otherParameter: the token's text as a parameter of the application's own is
// none of ours.
func otherParameter(r *http.Request, raw string) bool {
	for part := range strings.SplitSeq(r.URL.RawQuery, "&") {
		name, _, _ := strings.Cut(part, "=")
		if strings.Contains(part, raw) && name != "token" && name != "access_token" && name != "ticket" {
			return true
		}
	}
	return false
}
