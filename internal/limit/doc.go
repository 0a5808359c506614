// Package limit holds the decisions and the bounded tables behind every limit:
// Rate decides whether one more may pass (GCRA, the leaky bucket as a meter:
// eight bytes of state, no timer); Keyed does so for many keys at once; Count
// counts what is live; Cache is a small least-recently-used map; IPKey says
// which addresses count as one client.
//
// What the limits are, and what happens to whoever meets one, is the callers'
// business: the root's handshake and connection limits, the relay's message
// rates, the login throttles. Time comes in as an argument. The tables are
// safe for concurrent use and bounded by what their constructors are told.
package limit
