// Package httpx is the HTTP ground every listener stands on, decided in one
// place each: who is the client (Peers), is this Origin allowed (Origins, CORS),
// is this Host ours (Hosts), what are our cookies called (Cookies), how is a
// body read (ReadBody), and how is an error told to a stranger (WriteProblem,
// Handler).
//
// It knows nothing of tokens, sessions or routes. The library, the gateway and
// both HTTP APIs call it. It links the standard library only, because programs
// that import the library link it too. Everything here is safe for concurrent
// use once made.
package httpx
