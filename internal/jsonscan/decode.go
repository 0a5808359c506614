package jsonscan

import (
	"bytes"
	"encoding"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"sync"
)

// Decode checks a whole document and puts it into v as encoding/json does, but
// stricter: a member that v's struct does not have is ErrUnknown, and so is one
// that differs in case from the struct's name, which encoding/json would take.
// What v cannot hold is ErrType. v is not to be used after an error.
func Decode(b []byte, o Options, v any) error {
	if err := Valid(b, o); err != nil {
		return err
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber() // the names are looked at only, numbers are not converted
	if err := checkNames(d, reflect.TypeOf(v)); err != nil {
		return &Error{Offset: int(d.InputOffset()), Err: err}
	}
	d = json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		var wrong *json.UnmarshalTypeError
		if errors.As(err, &wrong) {
			return &Error{Offset: int(wrong.Offset), Err: ErrType}
		}
		return &Error{Offset: int(d.InputOffset()), Err: ErrType}
	}
	return nil
}

var (
	jsonUnmarshaler = reflect.TypeFor[json.Unmarshaler]()
	textUnmarshaler = reflect.TypeFor[encoding.TextUnmarshaler]()
)

// checkNames reads the next value of d and compares the members' names with
// those of t. A nil t, and whatever decodes itself, takes anything.
func checkNames(d *json.Decoder, t reflect.Type) error {
	for t != nil && t.Kind() == reflect.Pointer {
		if decodesItself(t) {
			t = nil
			break
		}
		t = t.Elem()
	}
	if t != nil && decodesItself(reflect.PointerTo(t)) {
		t = nil
	}
	token, err := d.Token()
	if err != nil {
		return ErrSyntax
	}
	switch token {
	case json.Delim('['):
		var elem reflect.Type
		if t != nil && (t.Kind() == reflect.Slice || t.Kind() == reflect.Array) {
			elem = t.Elem()
		}
		for d.More() {
			if err := checkNames(d, elem); err != nil {
				return err
			}
		}
	case json.Delim('{'):
		var names map[string]reflect.Type
		var elem reflect.Type
		if t != nil {
			switch t.Kind() {
			case reflect.Struct:
				names = namesOf(t)
			case reflect.Map:
				elem = t.Elem()
			}
		}
		for d.More() {
			token, err := d.Token()
			if err != nil {
				return ErrSyntax
			}
			if names != nil {
				var known bool
				if elem, known = names[token.(string)]; !known {
					return ErrUnknown
				}
			}
			if err := checkNames(d, elem); err != nil {
				return err
			}
		}
	default:
		return nil
	}
	_, err = d.Token() // the closing bracket
	return err
}

func decodesItself(t reflect.Type) bool {
	return t.Implements(jsonUnmarshaler) || t.Implements(textUnmarshaler)
}

var nameCache sync.Map // reflect.Type → map[string]reflect.Type

// namesOf is the members a struct has, as encoding/json sees it.
func namesOf(t reflect.Type) map[string]reflect.Type {
	if m, ok := nameCache.Load(t); ok {
		return m.(map[string]reflect.Type)
	}
	names := map[string]reflect.Type{}
	for _, f := range reflect.VisibleFields(t) {
		tag := f.Tag.Get("json")
		name, _, _ := strings.Cut(tag, ",")
		switch {
		case tag == "-", !f.IsExported() && !f.Anonymous:
			continue
		case f.Anonymous && name == "" && isStruct(f.Type):
			continue // its fields are visible themselves
		case name == "":
			name = f.Name
		}
		names[name] = f.Type
	}
	m, _ := nameCache.LoadOrStore(t, names)
	return m.(map[string]reflect.Type)
}

func isStruct(t reflect.Type) bool {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return t.Kind() == reflect.Struct
}
