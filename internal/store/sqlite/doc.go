// Package sqlite keeps accounts, sessions, tickets, the revocations log and
// audit events in one SQLite file. It implements session.Store, account.Store
// and audit.Sink; internal/app opens it.
//
// There is one writer connection, so write transactions come one after the
// other, and a few readers beside it (WAL). Every commit is synced to the disk
// before it is acknowledged (synchronous=FULL). A transaction travels in the
// context: methods called with it join. Statements are prepared once.
package sqlite
