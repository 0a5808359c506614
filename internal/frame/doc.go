// Package frame is RFC 6455 section 5 as this program needs it: a scanner that
// walks over frame headers without copying or unmasking payload, the writers
// of close, ping, pong and small text frames, the rules for close codes, and a
// reader of small whole messages.
//
// The scanner does no I/O and keeps no bytes: the relay and the library's
// wrapper of a hijacked connection give it what they read and pass on what it
// allows. Whether a violation ends a connection, and how, is theirs to decide;
// what counts as one is decided here only.
package frame
