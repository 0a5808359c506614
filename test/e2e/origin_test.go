package e2e_test

import (
	"fmt"
	"strings"
	"testing"
)

// lookalikes are Origins that a careless comparison takes for that of host.
func lookalikes(host string) []string {
	parts := strings.SplitN(host, ".", 2) // app, example.com
	list := []string{
		"null", "NULL", "*", "https://", "https", "https:", "://" + host, host, "//" + host, "/", ".", "undefined", "https://null",
		"file://", "file:///" + host, "data:text/html,https://" + host, "about:blank", "blob:https://" + host + "/x", "javascript:https://" + host,
		"https:" + host, "https:/" + host, "https:///" + host, "https:\\\\" + host, "https://\\" + host, "https:// " + host,
		"https://" + host + ", https://evil.test", "https://evil.test, https://" + host, "https://" + host + " https://evil.test",
		"https://evil.test https://" + host, "https://" + host + ";https://evil.test", "https://" + host + ",", ",https://" + host,
		"https://" + parts[1], "https://" + parts[0], "https://*." + parts[1], "https://x." + host, "https://" + parts[0] + parts[1],
		"https://" + parts[0] + "-" + parts[1], "https://" + parts[0] + "x" + parts[1], "https://" + parts[0] + "%2e" + parts[1],
		"https://" + strings.ReplaceAll(host, ".", "。"), "https://" + strings.ReplaceAll(host, ".", "．"), "https://" + strings.ReplaceAll(host, "e", "е"),
		"https://" + strings.ReplaceAll(host, "a", "ａ"), "https://" + strings.ReplaceAll(host, "a", "a\u00ad"), "https://" + strings.ReplaceAll(host, "m", "ḿ"),
		"https://xn--" + host, "https://" + strings.Replace(host, "app", "%61pp", 1), "https://" + strings.Replace(host, "x", "%78", 1),
		"https://" + host + ":", "https://" + host + ":0", "https://" + host + ":444", "https://" + host + ":443", "https://" + host + ":80", "https://" + host + ":0443",
		"https://" + host + ":443:443", "https://" + host + ":+443", "https://" + host + ":65536", "https://" + host + ":443evil.test", "https://" + host + ":x",
		"https://" + host + "/", "https://" + host + "//", "https://" + host + "/x", "https://" + host + "?", "https://" + host + "?x", "https://" + host + "#", "https://" + host + "#x",
		"https://evil.test/" + host, "https://evil.test?" + host, "https://evil.test#" + host, "https://evil.test#https://" + host, "https://evil.test/https://" + host,
	}
	for _, scheme := range []string{"http", "ws", "wss", "ftp", "httpss", "shttps", "xhttps", "https-", "chrome-extension", "app"} {
		list = append(list, scheme+"://"+host)
	}
	// Whatever may stand between the wanted and the wicked.
	for _, sep := range []string{"", ".", "-", "_", "@", ":@", ":x@", ":443@", "/", "\\", "\\@", "#", "#@", "?", "?@", "%00", "%20", "%09", "%0a", "%0d%0a", "%2f", "%5c", "%40", "%23", "%252f", "&", "=", "'", "\"", "`", "|", "~", "!", "$", "(", ")", "*", "+", ",", ";", "<", ">", "[", "]", "{", "}", "^", "..", "..;/", "\t", " "} {
		list = append(list, "https://"+host+sep+"evil.test", "https://evil.test"+sep+host)
	}
	// At the end, where trimming is done.
	for _, end := range []string{".", "..", "%00", "%20", "%0a", "\\", "%2e", "\u00a0", "\u200b", "\u3002", "\x7f", "\x80", "\xff"} {
		list = append(list, "https://"+host+end)
	}
	return list
}

func TestORG(t *testing.T) {
	t.Parallel()
	up, iss := newUpstream(t, nil), newIssuer(t, "https://idp.example")
	s := start(t, up, trustYAML(iss.name)+generous()+`
origins: [https://app.example.com, "http://127.0.0.1:3000", "https://[::1]:8443"]
routes:
  - {path: /chat, upstream: "ws://UPSTREAM"}
  - {path: /cookie, upstream: "ws://UPSTREAM", token_from: [cookie, header, ticket]}
  - {path: /first, upstream: "ws://UPSTREAM", token_from: [first_message, header]}
  - {path: /close, upstream: "ws://UPSTREAM", reject: close}
`, iss.trusted)
	const ours = "Origin: https://app.example.com"
	auth := bearer(iss.token())
	good := func() *client { return s.connect("/chat", auth) }

	t.Run("ORG01Exact", func(t *testing.T) {
		s := s.within(t)
		for _, o := range []string{"https://app.example.com", "https://APP.example.COM", "HTTPS://app.example.com", "http://127.0.0.1:3000", "https://[::1]:8443"} {
			s.connect("/chat", auth, "Origin: "+o).alive().conn.Close()
			// ORG-07: the upstream may want to know, too.
			if got := up.last().req.Header["Origin"]; len(got) != 1 || got[0] != o {
				t.Errorf("Origin %s reached the upstream as %q", o, got)
			}
		}
		up.unseen(t, good, func() {
			for _, o := range []string{
				"http://app.example.com", "https://app.example.com:444", "https://app.example.com:443", "https://x.app.example.com", "https://app.example.com.",
				"https://app.example.com/", "http://127.0.0.1", "http://127.0.0.1:3001", "https://127.0.0.1:3000", "http://localhost:3000", "http://127.1:3000",
				"http://2130706433:3000", "https://[::1]", "https://[0:0:0:0:0:0:0:1]:8443", s.url, "",
			} {
				s.refused(403, "origin_denied", "/chat", auth, "Origin: "+o)
			}
		})
	})

	t.Run("ORG02Lookalikes", func(t *testing.T) {
		s := s.within(t)
		list := lookalikes("app.example.com")
		if len(list) < 190 {
			t.Fatalf("only %d", len(list))
		}
		up.unseen(t, good, func() {
			for i, o := range list {
				// With a good token, with none, and where a refusal could be a 101.
				target := []string{"/chat", "/first", "/close"}[i%3]
				c, a := s.handshake(target, auth, "Origin: "+o)
				c.conn.Close()
				statuses(t, fmt.Sprintf("%s %q", target, o), a.status, 400, 403)
			}
		})
	})

	t.Run("ORG03NullSeveralMissing", func(t *testing.T) {
		s := s.within(t)
		token := iss.token()
		cookie := "Cookie: wsbouncer=" + token
		s.connect("/chat", auth).conn.Close() // no Origin, and no cookie: no browser
		s.connect("/cookie", cookie, ours).alive().conn.Close()
		if strings.Contains(up.last().head, token) {
			t.Errorf("the cookie reached the upstream:\n%s", up.last().head)
		}
		up.unseen(t, good, func() {
			for _, lines := range [][]string{
				{"Origin: null"}, {ours, ours}, {ours, "Origin: https://evil.test"}, {"Origin: https://evil.test", ours},
				{"Origin: https://app.example.com, https://app.example.com"}, {"Origin: https://app.example.com https://app.example.com"},
				{"Origin:"}, {"origin: https://evil.test", ours},
			} {
				for _, target := range []string{"/chat", "/close", "/cookie"} {
					s.refused(403, "origin_denied", target, append(lines, auth)...)
				}
				s.refused(403, "origin_denied", "/cookie", append(lines, cookie)...)
				s.refused(403, "origin_denied", "/first", lines...)
			}
			s.refused(403, "origin_denied", "/cookie", cookie)
			s.refused(403, "origin_denied", "/cookie", cookie, "Referer: https://app.example.com/", "X-Origin: https://app.example.com", "Sec-WebSocket-Origin: https://app.example.com")
		})
	})

	t.Run("ORG06NothingOfTheRequestIsBelieved", func(t *testing.T) {
		s := s.within(t)
		evil := "Origin: https://evil.test"
		up.unseen(t, good, func() {
			for _, line := range []string{"X-Forwarded-Host: evil.test", "Forwarded: host=evil.test;proto=https", "X-Host: evil.test", "X-Original-Host: evil.test", "X-Forwarded-Server: evil.test", "X-Forwarded-For: evil.test"} {
				s.refused(403, "origin_denied", "/chat", auth, evil, line)
			}
			s.refused(421, "unknown_host", "/chat", auth, evil, "Host: evil.test")
			s.refused(421, "unknown_host", "/chat", auth, ours, "Host: evil.test")
			s.refused(421, "unknown_host", "/chat", auth, ours, "Host: app.example.com")
			s.refused(421, "unknown_host", "/chat", auth, evil, "Host: evil.test:"+s.addr[strings.LastIndex(s.addr, ":")+1:])
			for _, target := range []string{"//evil.test/chat", "https://evil.test/chat", "http://" + s.addr + "/chat"} {
				c, a := s.handshake(target, auth, evil)
				c.conn.Close()
				statuses(t, target, a.status, 400, 403, 404, 421)
			}
		})
	})

	t.Run("ORG07NeverDropped", func(t *testing.T) {
		s := s.within(t)
		s.connect("/chat", auth, ours, "Connection: Upgrade, Origin").alive().conn.Close()
		if got := up.last().req.Header.Get("Origin"); got != "https://app.example.com" {
			t.Errorf("a client that calls Origin a matter of one hop hid it: the upstream has %q", got)
		}
	})
}

// A configuration that would let any site use its visitors' logins does not start.
func TestORG04StarAndCookies(t *testing.T) {
	t.Parallel()
	up := newUpstream(t, nil)
	s := &server{t: t, dir: t.TempDir(), addr: freeAddr(t)}
	for yaml, message := range map[string]string{
		`issuer: {}
origins: ["*"]
routes: [{path: /chat, upstream: "ws://UPSTREAM", token_from: [header, cookie]}]
`: "cookies",
		`issuer: {}
origins: ["*", "https://app.example.com"]
routes: [{path: /chat, upstream: "ws://UPSTREAM"}]
`: "alone",
		`issuer: {}
origins: []
routes: [{path: /chat, upstream: "ws://UPSTREAM"}]
`: "origins",
		`issuer: {}
origins: ["https://app.example.com/"]
routes: [{path: /chat, upstream: "ws://UPSTREAM"}]
`: "https://app.example.com/",
	} {
		s.writeConfig(strings.ReplaceAll(yaml, "UPSTREAM", up.addr))
		out, code := s.command("", "serve", "--config", s.dir+"/wsbouncer.yaml")
		if code == 0 || strings.Contains(out, `"ready"`) || !strings.Contains(out, message) || strings.Contains(out, "panic") {
			t.Errorf("exit code %d for\n%s\n%s", code, yaml, out)
		}
	}
}
