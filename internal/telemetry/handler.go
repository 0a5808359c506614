package telemetry

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"unicode/utf8"
)

// maxNesting bounds how deep a value is looked into; below it is replaced.
const maxNesting = 8

// NewHandler redacts every record before inner sees it: the message, the keys
// and the values, in groups, maps and structures too. Whatever stands under a
// key that names a credential is replaced, unless it is a number, a truth value
// or a time.
func NewHandler(inner slog.Handler) slog.Handler { return &redactor{inner: inner} }

type redactor struct {
	inner  slog.Handler
	secret bool // within a group whose name is a credential's
}

func (h *redactor) Enabled(ctx context.Context, l slog.Level) bool { return h.inner.Enabled(ctx, l) }

func (h *redactor) Handle(ctx context.Context, r slog.Record) error {
	clean := slog.NewRecord(r.Time.UTC(), r.Level, Redact(r.Message), r.PC)
	r.Attrs(func(a slog.Attr) bool {
		clean.AddAttrs(h.attr(a))
		return true
	})
	return h.inner.Handle(ctx, clean)
}

func (h *redactor) WithAttrs(as []slog.Attr) slog.Handler {
	clean := make([]slog.Attr, len(as))
	for i, a := range as {
		clean[i] = h.attr(a)
	}
	return &redactor{inner: h.inner.WithAttrs(clean), secret: h.secret}
}

func (h *redactor) WithGroup(name string) slog.Handler {
	return &redactor{inner: h.inner.WithGroup(Redact(name)), secret: h.secret || secretKey(name)}
}

func (h *redactor) attr(a slog.Attr) slog.Attr {
	return slog.Attr{Key: Redact(a.Key), Value: value(a.Value, h.secret || secretKey(a.Key), 0)}
}

func value(v slog.Value, secret bool, depth int) slog.Value {
	v = v.Resolve()
	switch v.Kind() {
	case slog.KindBool, slog.KindDuration, slog.KindFloat64, slog.KindInt64, slog.KindTime, slog.KindUint64:
		return v
	case slog.KindString:
		if secret {
			return slog.StringValue(Redacted)
		}
		return slog.StringValue(Redact(v.String()))
	case slog.KindGroup:
		if depth >= maxNesting {
			return slog.StringValue(Redacted)
		}
		as := v.Group()
		clean := make([]slog.Attr, len(as))
		for i, a := range as {
			clean[i] = slog.Attr{Key: Redact(a.Key), Value: value(a.Value, secret || secretKey(a.Key), depth+1)}
		}
		return slog.GroupValue(clean...)
	}
	if secret {
		return slog.StringValue(Redacted)
	}
	switch x := v.Any().(type) {
	case nil:
		return v
	case error:
		return slog.StringValue(Redact(text(x.Error)))
	case fmt.Stringer:
		return slog.StringValue(Redact(text(x.String)))
	case []byte:
		if !utf8.Valid(x) {
			return slog.StringValue(fmt.Sprintf("[%d bytes]", len(x)))
		}
		return slog.StringValue(Redact(string(x)))
	default:
		// As the JSON handler would show it, so that the keys are known.
		b, err := json.Marshal(x)
		if err != nil {
			return slog.StringValue(Redact(fmt.Sprintf("%+v", x)))
		}
		var plain any
		d := json.NewDecoder(bytes.NewReader(b))
		d.UseNumber()
		if err := d.Decode(&plain); err != nil {
			return slog.StringValue(Redact(string(b)))
		}
		return slog.AnyValue(jsonValue(plain, false, depth))
	}
}

// text calls a value's own method; a nil pointer that has one must not take the
// program down for a log line.
func text(f func() string) (s string) {
	defer func() {
		if v := recover(); v != nil {
			s = "<nil or broken value>"
		}
	}()
	return f()
}

// jsonValue redacts what encoding/json decoded.
func jsonValue(v any, secret bool, depth int) any {
	switch x := v.(type) {
	case string:
		if secret {
			return Redacted
		}
		return Redact(x)
	case []any:
		if depth >= maxNesting {
			return Redacted
		}
		for i := range x {
			x[i] = jsonValue(x[i], secret, depth+1)
		}
	case map[string]any:
		if depth >= maxNesting {
			return Redacted
		}
		clean := make(map[string]any, len(x))
		for _, k := range keys(x) {
			clean[Redact(k)] = jsonValue(x[k], secret || secretKey(k), depth+1)
		}
		return clean
	}
	return v
}

// keys are in order, so that of keys that become equal the same one stays.
func keys(m map[string]any) []string {
	ks := make([]string, 0, len(m))
	for k := range m {
		ks = append(ks, k)
	}
	slices.Sort(ks)
	return ks
}
