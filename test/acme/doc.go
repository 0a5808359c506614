// Package acme lets the real binary get and renew its certificate from Pebble, the
// ACME authority that Let's Encrypt tests clients with. It is a module of its own, so
// that Pebble is nothing that importers or the program depend on.
package acme
