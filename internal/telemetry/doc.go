// Package telemetry is how the program speaks to its operator: structured log
// lines on stderr, JSON for machines and text on a terminal.
//
// Every line goes through one handler that takes out credentials, by the name
// they stand under and by their shape, inside URLs too, and whatever could move
// a terminal's cursor or begin a line of its own. It is the last net, not the
// first: nobody logs a credential knowingly. Limited bounds what strangers can
// make the program write.
//
// It knows no product types: app turns the library's events into lines. Safe for
// concurrent use.
package telemetry
