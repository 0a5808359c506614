// Package storetest is the conformance suite of databases: what the interfaces
// of internal/session, internal/account and internal/audit promise, as tests.
// Each database's own tests call Run.
package storetest
