// Package demo is what `wsbouncer dev` puts in front of a newcomer: a small
// chat and the page that uses it.
//
// The chat (Chat, Serve) is an ordinary WebSocket server that knows nothing of
// tokens, sessions or logins. It listens on loopback behind the gateway and
// believes the identity headers the gateway sets. The page (Page) is static,
// built on the TypeScript client of this repository, and shows what happens to
// a connection whose credential is refreshed, expires or is revoked.
//
// It owns the chat's little protocol and the page's files. It decides nothing
// about who may connect: that is the gateway's. Only internal/app uses it.
package demo
