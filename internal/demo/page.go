package demo

import (
	"embed"
	"encoding/json"
	"net/http"
	"regexp"
	"time"
)

//go:embed assets
var assets embed.FS

// A User is somebody the page offers to log in as.
type User struct {
	Name     string `json:"name"`
	Password string `json:"password"`
	// Link opens the page as this user. Give every user another host name
	// (127.0.0.1, localhost): cookies are kept by host, so that both fit one
	// browser profile. Its fragment is the user's name, e.g. "#ann".
	Link string `json:"link"`
	// Revoke is the command line that revokes this user, ready to paste.
	Revoke string `json:"revoke"`
}

// Options are what the page is told. All of it is shown to whoever opens the
// page: it is for demo users on a loopback address.
type Options struct {
	Users []User
	// AuthPath is the prefix of the HTTP API, "/auth" when empty.
	AuthPath string
	// Console makes the page a plain WebSocket console at this path instead
	// of the chat: for `dev --upstream`, whose messages the page cannot know.
	Console string
	// AccessTTL is shown as the life of a token.
	AccessTTL time.Duration
}

// Page serves GET / and its files under GET /demo/; everything else is 404.
// It sets its own security headers: no inline script or style, no other host.
func Page(o Options) http.Handler {
	if o.AuthPath == "" {
		o.AuthPath = "/auth"
	}
	if o.Users == nil {
		o.Users = []User{}
	}
	config, _ := json.Marshal(struct { // strings: cannot fail
		Users    []User `json:"users"`
		AuthPath string `json:"auth_path"`
		Console  string `json:"console"`
		TTL      int    `json:"access_ttl"` // seconds
	}{o.Users, o.AuthPath, o.Console, int(o.AccessTTL / time.Second)})

	mux := http.NewServeMux()
	mux.Handle("GET /{$}", file("index.html", "text/html; charset=utf-8"))
	mux.Handle("GET /demo/style.css", file("style.css", "text/css; charset=utf-8"))
	mux.Handle("GET /demo/app.js", file("app.js", "text/javascript; charset=utf-8"))
	mux.Handle("GET /demo/wsbouncer.js", file("wsbouncer.js", "text/javascript; charset=utf-8"))
	mux.Handle("GET /demo/icon.svg", file("icon.svg", "image/svg+xml"))
	mux.HandleFunc("GET /demo/config.json", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(config)
	})
	return secure(mux)
}

func file(name, contentType string) http.Handler {
	body, err := assets.ReadFile("assets/" + name)
	if err != nil {
		panic("demo: " + err.Error()) // the file is compiled in: a build without it is broken
	}
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", contentType)
		_, _ = w.Write(body)
	})
}

// hostname is a Host header that can stand in a Content-Security-Policy.
var hostname = regexp.MustCompile(`^[A-Za-z0-9.\-]{1,253}(:[0-9]{1,5})?$|^\[[0-9A-Fa-f:.]{2,45}\](:[0-9]{1,5})?$`)

func secure(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		connect := "'self'"
		if hostname.MatchString(r.Host) {
			connect += " ws://" + r.Host + " wss://" + r.Host // not every browser counts these as 'self'
		}
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src "+connect+
			"; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cache-Control", "no-store")
		next.ServeHTTP(w, r)
	})
}
