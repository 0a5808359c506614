package policy

import (
	"bytes"
	"encoding/json"
	"reflect"

	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"

	"github.com/wsbouncer/wsbouncer/internal/jsonscan"
)

// jsonValue is a strict JSON document as an expression sees it (as JSON says).
// Of an object only the members that are asked for are decoded: a rule names a
// few, and a message may have many.
func jsonValue(raw []byte) ref.Val {
	raw = bytes.TrimLeft(raw, " \t\r\n")
	if len(raw) == 0 {
		return errNotJSON
	}
	switch raw[0] {
	case '{':
		return &object{raw: raw}
	case '"':
		s, err := jsonscan.String(bytes.TrimRight(raw, " \t\r\n"))
		if err != nil {
			return errNotJSON
		}
		return types.String(s)
	}
	v, err := JSON(raw)
	if err != nil {
		return errNotJSON
	}
	return types.DefaultTypeAdapter.NativeToValue(v)
}

var errNotJSON = types.NewErr("it is not JSON")

// object is a JSON object that is decoded as far as it is needed. It is not safe
// for concurrent use.
type object struct {
	raw  []byte
	full traits.Mapper
}

// lookups are of documents that were checked already, by whoever has the bounds.
var lookups = jsonscan.Options{MaxDepth: 1 << 10, MaxBytes: 1 << 30, MaxMembers: 1 << 20}

// Find implements traits.Mapper.
func (o *object) Find(key ref.Val) (ref.Val, bool) {
	name, ok := key.(types.String)
	if !ok {
		return nil, false
	}
	raw, found, err := jsonscan.Find(o.raw, lookups, string(name))
	switch {
	case err != nil:
		return errNotJSON, true
	case !found:
		return nil, false
	}
	return jsonValue(raw), true
}

// Get implements traits.Indexer.
func (o *object) Get(key ref.Val) ref.Val {
	if v, found := o.Find(key); found {
		return v
	}
	return types.ValOrErr(key, "no such key: %v", key)
}

// Contains implements traits.Container.
func (o *object) Contains(key ref.Val) ref.Val {
	_, found := o.Find(key)
	return types.Bool(found)
}

// all is the whole object.
func (o *object) all() traits.Mapper {
	if o.full == nil {
		v, err := JSON(o.raw)
		m, ok := v.(map[string]any)
		if err != nil || !ok {
			m = map[string]any{}
		}
		o.full = types.DefaultTypeAdapter.NativeToValue(m).(traits.Mapper)
	}
	return o.full
}

// Size implements traits.Sizer.
func (o *object) Size() ref.Val { return o.all().Size() }

// Iterator implements traits.Iterable.
func (o *object) Iterator() traits.Iterator { return o.all().Iterator() }

// Equal implements ref.Val.
func (o *object) Equal(other ref.Val) ref.Val {
	if p, ok := other.(*object); ok {
		other = p.all()
	}
	return o.all().Equal(other)
}

// ConvertToNative implements ref.Val.
func (o *object) ConvertToNative(t reflect.Type) (any, error) { return o.all().ConvertToNative(t) }

// ConvertToType implements ref.Val.
func (o *object) ConvertToType(t ref.Type) ref.Val { return o.all().ConvertToType(t) }

// Type implements ref.Val.
func (*object) Type() ref.Type { return types.MapType }

// Value implements ref.Val.
func (o *object) Value() any { return o.all().Value() }

var _ traits.Mapper = (*object)(nil)

func messageValue(raw json.RawMessage) ref.Val {
	if raw == nil {
		return types.NewErr("there is no message that is JSON")
	}
	return jsonValue(raw)
}
