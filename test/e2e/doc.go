// Package e2e tests the product from outside: the real binary as a child
// process, real sockets, a recording upstream behind it. Tests are named by the
// row of the security requirements they keep (TestHS04…), and know nothing of
// the inside: what they use of this module is the frame codec, to say illegal
// things on purpose.
package e2e
