// Package session owns what a session is: one login of a subject on one
// device, its family of refresh tokens, the access tokens and tickets issued
// from it, and the log of revocations.
//
// Decisions (may this refresh token rotate, be answered again, or does it end
// the family?) are pure functions of a Record and the time; Service puts them
// into transactions of a Store. What a revocation does to live connections is
// the bouncer's: Options.Apply is called after the transaction has committed,
// and a method answers only after Apply returned. Passwords and accounts are
// internal/account's; AccountSource is all that is asked of it. authapi and
// adminapi call Service; the bouncer uses it as its Source and Redeemer.
package session
