package httpx

import "net/http"

// corsMaxAge is how long browsers may remember a preflight, in seconds.
const corsMaxAge = "600"

// CORS lets pages of the allowed origins call next from scripts, with cookies.
// The Origin is echoed only when it is in the set; a set that allows all ("*")
// is told as "*" and without credentials, as the Fetch standard demands. Vary:
// Origin is always set, so that no cache gives one origin another's answer.
// Preflights end here: 204, or 403 origin_denied. Other requests of foreign
// origins go on unadorned: the browser hides the answer, and what changes state
// checks the Origin itself.
func CORS(o *Origins, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Add("Vary", "Origin")
		origin, present, err := RequestOrigin(r.Header)
		allowed := err == nil && present && o.Allowed(origin)
		if allowed {
			if o.Any() {
				h.Set("Access-Control-Allow-Origin", "*")
			} else {
				h.Set("Access-Control-Allow-Origin", origin)
				h.Set("Access-Control-Allow-Credentials", "true")
			}
			h.Set("Access-Control-Expose-Headers", "DPoP-Nonce, Retry-After, WWW-Authenticate")
		}
		if r.Method != http.MethodOptions || r.Header.Get("Access-Control-Request-Method") == "" {
			next.ServeHTTP(w, r)
			return
		}
		h.Add("Vary", "Access-Control-Request-Method")
		h.Add("Vary", "Access-Control-Request-Headers")
		if !allowed {
			WriteProblem(w, originDenied)
			return
		}
		h.Set("Access-Control-Allow-Methods", "GET, POST, DELETE")
		h.Set("Access-Control-Allow-Headers", "Authorization, Content-Type, DPoP")
		h.Set("Access-Control-Max-Age", corsMaxAge)
		w.WriteHeader(http.StatusNoContent)
	})
}

var originDenied = &Problem{
	Status: http.StatusForbidden, Code: "origin_denied",
	Detail: "Pages of this Origin may not call this server. The operator lists allowed ones under origins.",
}
