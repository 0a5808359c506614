package telemetry

import (
	"io"
	"log/slog"
	"os"
)

// Options say how to log.
type Options struct {
	// Level is the least that is written; nil: slog.LevelInfo.
	Level slog.Leveler
	// Text writes key=value lines for people instead of JSON.
	Text bool
}

// NewLogger writes one line per record to w, redacted, with times in UTC.
func NewLogger(w io.Writer, o Options) *slog.Logger {
	ho := &slog.HandlerOptions{Level: o.Level}
	if o.Text {
		return slog.New(NewHandler(slog.NewTextHandler(w, ho)))
	}
	return slog.New(NewHandler(slog.NewJSONHandler(w, ho)))
}

// IsTerminal reports whether w is a terminal, where text serves better.
func IsTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	if err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return false
	}
	// The other character device that stderr often is.
	null, err := os.Stat(os.DevNull)
	return err != nil || !os.SameFile(info, null)
}
