package jsonscan

import (
	"errors"
	"fmt"
)

// Bounds that hold where Options leaves them zero.
const (
	DefaultMaxDepth   = 64
	DefaultMaxBytes   = 1 << 20
	DefaultMaxMembers = 1024
)

// Options are the bounds of a document. The zero value holds the defaults.
type Options struct {
	MaxDepth   int // arrays and objects within one another
	MaxBytes   int // of the whole document
	MaxMembers int // of each object
	// FoldKeys refuses keys of one object that are equal under case folding,
	// because encoding/json and others match names that way.
	FoldKeys bool
}

func (o Options) withDefaults() Options {
	if o.MaxDepth <= 0 {
		o.MaxDepth = DefaultMaxDepth
	}
	if o.MaxBytes <= 0 {
		o.MaxBytes = DefaultMaxBytes
	}
	if o.MaxMembers <= 0 {
		o.MaxMembers = DefaultMaxMembers
	}
	return o
}

// What is wrong with a document, wrapped by *Error.
var (
	ErrSyntax    = errors.New("not JSON")
	ErrDuplicate = errors.New("duplicate key")
	ErrDepth     = errors.New("nested too deeply")
	ErrSize      = errors.New("too large")
	ErrUTF8      = errors.New("invalid UTF-8 or lone surrogate")
	// ErrUnknown: Decode met a member its target does not have.
	ErrUnknown = errors.New("unknown member")
	// ErrType: Decode met a value its target cannot hold.
	ErrType = errors.New("value of the wrong type")
)

// An Error says what is wrong, and at which byte. It repeats nothing of the
// document.
type Error struct {
	Offset int
	Err    error
}

func (e *Error) Error() string { return fmt.Sprintf("JSON, byte %d: %v", e.Offset, e.Err) }

// Unwrap gives one of the errors above.
func (e *Error) Unwrap() error { return e.Err }

// Valid checks a whole document.
func Valid(b []byte, o Options) error {
	s := newScanner(b, o)
	defer s.free()
	return s.document(nil)
}

// Object checks a whole document that must be an object, and calls fn for every
// member of it in their order: the key unescaped, the value as raw JSON; both
// hold during the call only. fn runs while the rest is still unread: nobody may
// act on what it saw before Object returned nil. An error of fn ends the scan
// and is returned as it is.
func Object(b []byte, o Options, fn func(key, value []byte) error) error {
	s := newScanner(b, o)
	defer s.free()
	return s.document(fn)
}

// Array checks a whole document that must be an array, and calls fn for every
// element of it in their order, as Object does.
func Array(b []byte, o Options, fn func(element []byte) error) error {
	s := newScanner(b, o)
	defer s.free()
	s.each = fn
	s.space()
	if s.pos == len(b) || b[s.pos] != '[' {
		return s.fail(ErrSyntax)
	}
	s.pos = 0
	return s.document(nil)
}

// Find checks a whole document that must be an object, and gives the raw value
// of its member name, within b. On an error it finds nothing.
func Find(b []byte, o Options, name string) (value []byte, found bool, err error) {
	s := newScanner(b, o)
	defer s.free()
	s.want, s.find = name, true
	if err := s.document(nil); err != nil {
		return nil, false, err
	}
	return s.found, s.found != nil, nil
}

// String unquotes one raw JSON string, such as a value that Object gave.
func String(raw []byte) (string, error) {
	s := newScanner(raw, Options{MaxBytes: len(raw)})
	defer s.free()
	if len(raw) == 0 || raw[0] != '"' {
		return "", &Error{Offset: 0, Err: ErrSyntax}
	}
	start, end, escaped, err := s.str()
	if err != nil {
		return "", err
	}
	if s.pos != len(raw) {
		return "", s.fail(ErrSyntax)
	}
	if !escaped {
		return string(raw[start:end]), nil
	}
	return string(unescape(nil, raw[start:end])), nil
}
