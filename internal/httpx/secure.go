package httpx

import "net/http"

// hsts is a year, the least that browsers' preload lists take; subdomains are
// the operator's own business.
const hsts = "max-age=31536000"

// Secure sets the headers every answer should have, before next runs, so that a
// handler can replace one (a page its Content-Security-Policy, a public document
// its Cache-Control) but none can forget one. With https, which is what the
// public URL says, browsers are told to stay with it.
func Secure(next http.Handler, https bool) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Content-Security-Policy", "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
		h.Set("X-Frame-Options", "DENY")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cache-Control", "no-store")
		if https {
			h.Set("Strict-Transport-Security", hsts)
		}
		next.ServeHTTP(w, r)
	})
}
