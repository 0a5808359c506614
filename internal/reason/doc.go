// Package reason is the one table of every way a handshake is refused and
// every way a live connection ends: its stable name, HTTP status, WebSocket
// close code, and what the client should do about it.
//
// The library, the gateway, the HTTP API and the documentation all speak in
// these values; vectors/closes.json and vectors/refusals.json are this table
// as data, read by the tests here and by those of the browser client.
package reason
