package policy

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"math"

	"cel.dev/cel-go/common/types"
)

// maxExact is the greatest integer that every JSON reader keeps exactly.
const maxExact = 1<<53 - 1

// JSON is a JSON document as an expression sees it: whole numbers are integers,
// others doubles. An integer beyond ±2^53, which programs read differently, is an
// error for an expression that reads it. Whoever calls it has checked that the
// document is strict.
func JSON(document []byte) (any, error) {
	d := json.NewDecoder(bytes.NewReader(document))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, errors.New("policy: not JSON")
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("policy: not one JSON document")
	}
	return exact(v), nil
}

func exact(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for k, e := range v {
			v[k] = exact(e)
		}
	case []any:
		for i, e := range v {
			v[i] = exact(e)
		}
	case json.Number:
		if n, err := v.Int64(); err == nil && n >= -maxExact && n <= maxExact {
			return n
		}
		f, err := v.Float64()
		if err != nil || f == math.Trunc(f) && math.Abs(f) > maxExact {
			return types.NewErr("a number that programs read differently")
		}
		return f
	}
	return v
}
