package httpx_test

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/wsbouncer/wsbouncer/internal/httpx"
)

func origins(t testing.TB, list ...string) *httpx.Origins {
	t.Helper()
	o, err := httpx.ParseOrigins(list)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func TestORG01OriginIsComparedExactly(t *testing.T) {
	o := origins(t, "https://app.example.com", "http://127.0.0.1:3000", "http://[::1]:8080", "https://Shop.Example.com:443", "capacitor://localhost")
	for origin, want := range map[string]bool{
		"https://app.example.com":           true,
		"https://APP.example.COM":           true,
		"HTTPS://app.example.com":           true,
		"http://127.0.0.1:3000":             true,
		"http://[::1]:8080":                 true,
		"https://shop.example.com":          true,
		"capacitor://localhost":             true,
		"http://app.example.com":            false,
		"https://app.example.com:444":       false,
		"https://x.app.example.com":         false,
		"https://app.example.com.":          false,
		"https://app.example.com/":          false,
		"https://shop.example.com:444":      false,
		"http://127.0.0.1":                  false,
		"http://127.0.0.1:3001":             false,
		"https://\u212Aapp.example.com":     false,
		"":                                  false,
		"https://":                          false,
		strings.Repeat("https://app", 1000): false,
	} {
		if got := o.Allowed(origin); got != want {
			t.Errorf("Allowed(%.60q) = %v, want %v", origin, got, want)
		}
	}
}

// lookAlikes is some 200 Origins that a person or a sloppy comparison could
// take for allowed (https://app.example.com).
func lookAlikes() []string {
	const host, good = "app.example.com", "https://app.example.com"
	list := []string{
		"null", "NULL", "Null", "", " ", "*", "undefined", "about:blank", "file://", "data:", "blob:" + good, "blob:null",
		"app.example.com", "//app.example.com", ":" + good, "https:app.example.com", "https:/app.example.com", "https:///app.example.com",
		"https//app.example.com", "https:\\\\app.example.com", "https:/\\app.example.com", "https://", "://app.example.com",
		good + ", " + good, good + "," + good, good + " " + good, "https://evil.test, " + good, good + ";" + good, "https://evil.test " + good,
		"https://*.example.com", "https://*", "*://app.example.com", "https://app.example.*", "[" + good + "]", "\"" + good + "\"", "'" + good + "'", "<" + good + ">",
		"https://example.com", "https://www.example.com", "https://com", "https://appexample.com", "https://app-example.com", "https://app.example.co", "https://app.example.comm",
		"https://app.examplecom", "https://appXexample.com", "https://app.exampleXcom", "https://ap.example.com", "https://aapp.example.com", "https://pp.example.com",
		"https://app..example.com", "https://.app.example.com", "https://app.example.com..", "https://app.example.com.:443",
		"https://аpp.example.com" /* Cyrillic а */, "https://app.examplе.com", "https://ａpp.example.com", "https://app。example。com", "https://app．example．com",
		"https://xn--pp-7kc.example.com", "https://app.example.ﬁ", "https://app.ex\u00adample.com", "https://app.example.c\u0131m", "https://\u202eapp.example.com",
		"https://app.example.com\u200b", "https://app.example.com\ufeff", "\ufeff" + good, "https://aPP\u0307.example.com", "https://app.example.com\u0000.evil.test",
		"https://2130706433", "https://0x7f.1", "https://127.1", "https://0177.0.0.1", "https://[::ffff:127.0.0.1]", "https://[app.example.com]", "https://[::1]", "https://[::1",
		"https://app.example.com:", "https://app.example.com:0", "https://app.example.com:00443", "https://app.example.com:+443", "https://app.example.com:-1", "https://app.example.com:65536",
		"https://app.example.com:99999999999999999999", "https://app.example.com:443x", "https://app.example.com:443:443", "https://app.example.com: 443", "https://app.example.com:４４３",
		"https://app.example.com:80", "https://app.example.com:8443", "https://app.example.com:443", "https://app.example.com:4430", "https://app.example.com:0x1bb",
	}
	for _, scheme := range []string{"http", "ws", "wss", "ftp", "file", "https+x", "xhttps", "httpss", "http s", "javascript", "chrome-extension", "moz-extension", "data", "blob", "view-source:https", "https:https", "jar:https"} {
		list = append(list, scheme+"://"+host)
	}
	// Something before the host, as user information or as a name.
	for _, before := range []string{"evil.test@", "user:pass@", "@", ":@", "evil.test:443@", "evil.test%40", "evil.test\\@", "evil.test/@", "evil.test#@", "evil.test?@", "evil.test/", "evil.test\\", "evil.test#", "evil.test?", "evil-", "evil.", "evil_", "www.", "x.", ".", "-", " ", "\t", "%00", "%20", "%2f", "%5c"} {
		list = append(list, "https://"+before+host)
	}
	// Something after it.
	for _, after := range []string{
		".evil.test", "-evil.test", "evil.test", "@evil.test", ":@evil.test", ":443@evil.test", ":pass@evil.test", "&.evil.test", "%.evil.test", "`.evil.test", "!.evil.test", "$.evil.test", "(.evil.test", ").evil.test",
		"*.evil.test", "+.evil.test", ",.evil.test", ";.evil.test", "=.evil.test", "^.evil.test", "{.evil.test", "|.evil.test", "}.evil.test", "~.evil.test", "'.evil.test", "\".evil.test", "_.evil.test", "-.evil.test",
		"\\.evil.test", "\\@evil.test", "\\\\evil.test", "/.evil.test", "//evil.test", "/@evil.test", "#.evil.test", "#@evil.test", "?.evil.test", "?@evil.test", "%00.evil.test", "%00", "\x00", "\x00.evil.test", "%0a", "%0d%0a", "\n", "\r\n",
		"\r\nOrigin: https://evil.test", "\x0b", "\x0c", "\x7f", "\x1f.evil.test", "%2eevil.test", "%2e.evil.test", "%252eevil.test", "%09.evil.test", "%20", " ", "\t", "\u00a0", "%40evil.test", "%23@evil.test", "%2f", "%5c", "%ff.evil.test", "%60.evil.test",
		".", "/", "//", "/.", "/..", "/index.html", "\\", "?", "#", "?x=1", "#x", ";", ",", "|", "\xff", "\xc3\x28", "\xe2\x80\xa8", "%E2%80%A8",
	} {
		list = append(list, good+after)
	}
	return list
}

func TestORG02LookAlikesAreRefused(t *testing.T) {
	list := lookAlikes()
	if len(list) < 190 {
		t.Fatalf("only %d look-alikes", len(list))
	}
	o := origins(t, "https://app.example.com")
	if !o.Allowed("https://app.example.com") {
		t.Fatal("the origin itself is refused, so the list proves nothing")
	}
	for _, s := range list {
		if o.Allowed(s) {
			t.Errorf("Allowed(%q)", s)
		}
	}
}

func TestORG03NullListsAndTwoLines(t *testing.T) {
	any := origins(t, "*")
	for origin, want := range map[string]bool{
		"https://whoever.test": true, "http://127.0.0.1:81": true, "app://x": true,
		"null": false, "": false, "https://a.test, https://b.test": false, "https://a.test/": false, "https://u@a.test": false,
		"https://a.test.": false, " https://a.test": false, "https://a.test:443": false, "*": false,
	} {
		if got := any.Allowed(origin); got != want {
			t.Errorf("* Allowed(%q) = %v, want %v", origin, got, want)
		}
	}
	if !any.Any() || origins(t, "https://a.test").Any() {
		t.Error("Any is wrong")
	}
	if none := origins(t); none.Any() || none.Allowed("https://a.test") || none.Allowed("") {
		t.Error("an empty set allows something")
	}

	if _, present, err := httpx.RequestOrigin(http.Header{}); present || err != nil {
		t.Errorf("no Origin: present %v, err %v", present, err)
	}
	if o, present, err := httpx.RequestOrigin(http.Header{"Origin": {"https://a.test"}}); o != "https://a.test" || !present || err != nil {
		t.Errorf("one Origin: %q %v %v", o, present, err)
	}
	if _, present, err := httpx.RequestOrigin(http.Header{"Origin": {"https://a.test", "https://a.test"}}); !present || !errors.Is(err, httpx.ErrOrigins) {
		t.Errorf("two Origins: present %v, err %v", present, err)
	}
}

func TestParseOriginsNamesTheBadEntry(t *testing.T) {
	for bad, why := range map[string]string{
		"app.example.com":           "want scheme://host",
		"":                          "want scheme://host",
		"null":                      "want scheme://host",
		"https://app.example.com/":  "after the host",
		"https://u@app.example.com": "after the host",
		"https://app.example.com.":  "empty label",
		"https://bücher.example":    "beyond ASCII",
		"https://a b":               `' '`,
		"https://*.example.com":     `'*'`,
		"https://":                  "no host",
		"https://a.test:0":          "port",
		"https://a.test:99999":      "port",
		"https://127.1":             "IPv4",
		"https://[::1":              "bracket",
		"https://[1.2.3.4]":         "IPv6",
		"1https://a.test":           "want scheme://host",
		"https://" + strings.Repeat("a.", 200) + "test":   "253",
		"https://" + strings.Repeat("a", 64) + ".example": "63",
	} {
		_, err := httpx.ParseOrigins([]string{"https://ok.example", bad})
		if err == nil || !strings.Contains(err.Error(), why) || !strings.Contains(err.Error(), "origin ") {
			t.Errorf("%q: error %v, want one about %s", bad, err, why)
		}
	}
	if _, err := httpx.ParseOrigins([]string{"*", "https://a.test"}); err == nil {
		t.Error(`"*" beside another is accepted`)
	}
}

// Whatever any set allows is an origin as browsers write it, and is in the set
// that was made of it.
func FuzzOrigin(f *testing.F) {
	for _, s := range lookAlikes() {
		f.Add(s)
	}
	for _, s := range []string{"https://app.example.com", "http://[::1]:8080", "http://1.2.3.4:5", "HTTPS://A.TEST"} {
		f.Add(s)
	}
	any := origins(f, "*")
	f.Fuzz(func(t *testing.T, s string) {
		if !any.Allowed(s) {
			return
		}
		if strings.ContainsAny(s, " \t\r\n,;@\\?#%*\x00\"'<>|") || strings.Count(s, "/") != 2 || strings.HasSuffix(s, ".") || strings.EqualFold(s, "null") {
			t.Fatalf("Allowed(%q)", s)
		}
		set, err := httpx.ParseOrigins([]string{s})
		if err != nil {
			t.Fatalf("%q is allowed but cannot be listed: %v", s, err)
		}
		if !set.Allowed(s) || set.Allowed(s+"x") || set.Allowed("x"+s) {
			t.Fatalf("the set of %q alone is wrong", s)
		}
	})
}
