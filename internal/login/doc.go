// Package login is login at other providers: OpenID Connect Core 1.0 and
// OAuth 2.0, by authorization code with PKCE.
//
// It owns what happens between here and a provider: where the browser is sent,
// what its callback must hold, what a provider's answers must say before they are
// believed, which of its users may come in and with which scopes; and the
// identities, our own opaque subjects for them. It knows no sessions, no cookies
// and no pages: internal/authapi has those, and internal/app builds it.
//
// Nothing a provider does or fails to do reaches another's logins: each has its
// own client, bounds and cache, asked for the first time when somebody logs in.
package login
