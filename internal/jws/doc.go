// Package jws is the signature layer of access tokens: one strict reading of a
// compact JWS (RFC 7515 §7.1) and the check of its signature with one key and
// the one algorithm of that key.
//
// It owns the text form (length, alphabet, canonical base64url, one header
// with known meaning) and the call of the standard library's cryptography. What
// the payload says, which issuer and which key: package token, its only
// caller. It stands apart so that the published vectors, whose payloads are no
// tokens, can be run against exactly this code from a module of their own.
package jws
