// Package audit names the security events that are kept: what happened, to
// whom, from where, by whom. It owns the types and the bounds of their fields;
// internal/store writes the rows, in the same transaction as what they tell
// wherever there is one, and bounds how many are kept.
//
// Events never hold a credential: no password, token, ticket or cookie, and no
// name typed into a login form that is not an account's (people type passwords
// there).
package audit
