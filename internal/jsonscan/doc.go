// Package jsonscan reads JSON strictly and once. A check of other bytes than the
// next program reads is a bypass, so whatever two parsers could understand
// differently is refused here: duplicate keys (after unescaping, and under case
// folding when asked), invalid UTF-8, lone surrogates, a byte order mark,
// trailing data, numbers no double can hold; and depth, size and the members of
// an object are bounded before anything is built.
//
// Token payloads, request bodies, in-band control messages and (later) inspected
// messages go through it. It decides what is JSON; what the members mean is the
// callers' business. Valid, Object and Find allocate nothing on the way of
// ordinary documents; everything is safe for concurrent use.
package jsonscan
