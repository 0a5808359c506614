// Package app is the composition root: it turns a configuration into a running
// program and ends it in order. It constructs and connects; it decides nothing
// that a package below could decide.
//
// Serve runs the gateway, Dev runs it with a demo chat, Offline opens the data
// folder for the commands that work without a server, and Check finds what
// only construction can find wrong with a configuration.
package app
