// Package secevent reads what other parties say has ended: logout tokens (OpenID
// Connect Back-Channel Logout 1.0) and Security Event Tokens (RFC 8417) of the
// event types of CAEP and RISC, pushed as in RFC 8935. It decides whether to
// believe them and whom they speak of; what ends is the session package's.
//
// A party speaks for its own subjects alone: whose they are stands in the
// configuration, and no token can name others.
package secevent
