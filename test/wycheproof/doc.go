// Package wycheproof runs the published JOSE vectors of Project Wycheproof
// against our key sets and our signature layer. It is a module of its own
// because theirs asks for a newer Go than importers of ours must have.
package wycheproof
