package message

import (
	"errors"

	"github.com/wsbouncer/wsbouncer/internal/jsonscan"
)

// maxDepth bounds arrays and objects within one another.
const maxDepth = 64

func jsonOptions(o Options) jsonscan.Options {
	return jsonscan.Options{MaxDepth: maxDepth, MaxBytes: o.MaxBytes, FoldKeys: true}
}

func pointers(texts ...string) (*jsonscan.Pointers, error) { return jsonscan.ParsePointers(texts...) }

// jsonReader reads JSON whose action and target stand at configured places.
type jsonReader struct {
	o         jsonscan.Options
	at        *jsonscan.Pointers
	hasTarget bool
	values    [2][]byte
	unit      [1]Unit
	action    [1]Action
}

func newJSON(o Options) (client, upstream Reader, err error) {
	if client, err = newJSONReader(o); err == nil {
		upstream, err = newJSONReader(o)
	}
	return client, upstream, err
}

func newJSONReader(o Options) (*jsonReader, error) {
	r := &jsonReader{o: jsonOptions(o), hasTarget: o.Target != ""}
	texts := []string{o.Action}
	if r.hasTarget {
		texts = append(texts, o.Target)
	}
	var err error
	r.at, err = pointers(texts...)
	return r, err
}

func (r *jsonReader) Binary() bool { return false }

func (r *jsonReader) Read(binary bool, data []byte) ([]Unit, error) {
	if binary {
		return nil, errBinary
	}
	values := r.values[:r.at.Len()]
	if err := r.at.Lookup(data, r.o, values); err != nil {
		return nil, notJSON(err)
	}
	name, err := text(values[0])
	if err != nil {
		return nil, invalid("the action is not a string")
	}
	r.action[0] = Action{Name: name}
	if r.hasTarget && values[1] != nil {
		if r.action[0].Target, err = scalar(values[1]); err != nil {
			return nil, invalid("the target is neither a string nor a whole number")
		}
	}
	r.unit[0] = Unit{Raw: data, Actions: r.action[:], JSON: data, denial: denyJSON}
	return r.unit[:], nil
}

// denyJSON is for a protocol that nobody here knows: the client's author reads
// the documentation.
func denyJSON(code string) []byte {
	return []byte(`{"wsbouncer":"denied","code":"` + code + `"}`)
}

var (
	errBinary = invalid("a binary message where text is due")
	errText   = invalid("a text message where binary is due")
	errString = errors.New("not a string")
)

func notJSON(err error) error {
	var e *jsonscan.Error
	if errors.As(err, &e) {
		return &Error{Detail: e.Error()}
	}
	return err
}

// text is a JSON string's value.
func text(raw []byte) (string, error) {
	if len(raw) == 0 || raw[0] != '"' {
		return "", errString
	}
	return jsonscan.String(raw)
}

// scalar is the value of a string, or a whole number as it is written.
func scalar(raw []byte) (string, error) {
	if s, err := text(raw); err == nil {
		return s, nil
	}
	for i, c := range raw {
		if (c < '0' || c > '9') && (c != '-' || i != 0 || len(raw) == 1) {
			return "", errString
		}
	}
	return string(raw), nil
}
