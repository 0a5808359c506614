// Package front reads the opening handshakes of a plain TCP listener straight
// from the relay's event loops, and hands everything else to net/http.
//
// It has one rule: what it takes itself net/http would have taken, and would
// have read the same; what is odd in any way, incomplete or no WebSocket
// handshake is net/http's, unread. So it refuses nothing, and there is no second
// opinion of what a request is.
package front
