package httpx

import "net/http"

// LastOfConnection makes an answer the last of its connection where somebody
// else may see the request's end in another place than net/http does: after a
// Transfer-Encoding, beside which a Content-Length may have stood (RFC 9112
// §6.1; net/http ignores it and does not tell), and in HTTP/1.0, where net/http
// ignores the coding. What follows such a request may be somebody's body.
func LastOfConnection(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if len(r.TransferEncoding) > 0 || !r.ProtoAtLeast(1, 1) {
			w.Header().Set("Connection", "close")
		}
		next.ServeHTTP(w, r)
	})
}
