// Package token verifies and issues access tokens: JSON Web Tokens (RFC 7519)
// as compact, signed JWS (RFC 7515), of the kind RFC 9068 describes.
//
// A [Verifier] trusts a fixed list of issuers. It refuses whatever is not
// exactly one well-formed signed token of one of them, decides an unknown
// issuer before any signature work, never performs I/O, and never follows an
// address or a key that a token brings along. Time is judged on every call;
// only the signature work for a token seen before is saved, in a bounded cache.
//
// Key sets come from a JWKS document, a PEM public key or a shared secret
// ([JWKS], [PEM], [Secret]), or are fetched by a [Remote] beside verification.
// A [Ring] is the key set of one's own issuer: it makes, rotates and revokes the
// signing keys and signs with them.
//
// Revocation is not decided here: a verified token says what it is (issuer,
// subject, session, id, key), and the caller asks its revocation set every
// time. Nor is permission: see [Token.HasScopes] for the simplest form.
//
// A minimal use:
//
//	keys, err := token.JWKS(document, []string{"RS256"})
//	v, err := token.NewVerifier(token.Options{Issuers: []token.Issuer{{
//		Name: "https://issuer.example", Audience: "chat",
//		Algorithms: []string{"RS256"}, Keys: keys,
//	}}})
//	t, err := v.Verify(ctx, raw)
package token
