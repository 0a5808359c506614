// Package store is the place of the databases: sqlite, and storetest, the
// conformance suite that every database passes. The interfaces are declared
// where they are used, in internal/session, internal/account and
// internal/audit; a database implements all three, so that one transaction
// can cover all of them.
package store
