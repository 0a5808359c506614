// Package bouncertest helps programs that use the library to test themselves:
// an issuer that mints tokens ([Issuer]) and a WebSocket over an in-memory
// connection to a handler ([Dial]), down to the frames, with no port and no
// other package.
//
//	is := bouncertest.NewIssuer(t)
//	b, err := wsbouncer.New(wsbouncer.Options{Verifier: is.Verifier(), Origins: []string{"https://app.example.com"}})
//	c := bouncertest.Dial(t, b.Protect(handler), "/socket", http.Header{"Authorization": {"Bearer " + is.Token("alice")}})
//	c.Send("hello")
//	b.Revoke(ctx, wsbouncer.Subject("alice"))
//	code, text := c.Closed() // 3000 subject_revoked
//
// It works inside testing/synctest, so that expiry can be tested in no time.
package bouncertest
