// Package deptest holds the tests that keep the layout: who may import whom,
// what a program that imports the library links, and how many names the
// library exports. Each rule states its reason, so that whoever breaks one
// knows what it was for. It has no code of its own.
package deptest
