package sqlite

import (
	"fmt"
	"strings"
	"time"

	"github.com/wsbouncer/wsbouncer/internal/session"
)

// ms is a time as it is stored; the zero time is 0.
func ms(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

func timeOf(v int64) time.Time {
	if v == 0 {
		return time.Time{}
	}
	return time.UnixMilli(v).UTC()
}

// stamps, words and sums read columns into their Go values.
type stamp struct{ t *time.Time }

func (d stamp) Scan(src any) error {
	switch v := src.(type) {
	case int64:
		*d.t = timeOf(v)
	case nil:
		*d.t = time.Time{}
	default:
		return fmt.Errorf("a time is %T", src)
	}
	return nil
}

type words struct{ list *[]string }

func (d words) Scan(src any) error {
	s, ok := src.(string)
	if !ok {
		return fmt.Errorf("a list is %T", src)
	}
	*d.list = strings.Fields(s)
	return nil
}

type sum struct{ h *session.Hash }

func (d sum) Scan(src any) error {
	b, ok := src.([]byte)
	if !ok || len(b) != len(d.h) {
		return fmt.Errorf("a hash is %T of %d bytes", src, len(b))
	}
	*d.h = session.Hash(b)
	return nil
}

func joined(list []string) string { return strings.Join(list, " ") }
