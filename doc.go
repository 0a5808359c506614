// Package wsbouncer binds live WebSocket connections to the credential that
// opened them: a connection ends when its token expires, is moved on by a
// newer one, and is closed at once when its token, session, subject or signing
// key is revoked, whatever server is behind it.
//
//	b, err := wsbouncer.New(wsbouncer.Options{Verifier: v, Origins: []string{"https://app.example.com"}})
//	http.Handle("/socket", b.Protect(handler))     // handler upgrades with any WebSocket package
//	p := wsbouncer.FromContext(r.Context())        // who it is; p.Done() closes with the connection
//	b.Revoke(ctx, wsbouncer.Session(sid))          // its live connections end with a close frame
//
// [Bouncer.Protect] is all that most programs need. The gateway is built on the
// parts beneath it, which are exported for programs that relay frames
// themselves: [Bouncer.Admit] decides about a handshake, [Bouncer.Track]
// registers the connection, [Live.Open] makes it live and [Live.Release] tells
// that it is gone.
//
// The package owns admission, the registry of live connections, the set of
// revoked things, deadlines and the wrapper of hijacked connections. It leaves
// keys and tokens to package token, storage to whoever implements [Source] and
// [Redeemer], and messages to the handler.
package wsbouncer
