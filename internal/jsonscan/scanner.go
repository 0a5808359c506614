package jsonscan

import (
	"math"
	"strconv"
	"sync"
	"unicode/utf8"
)

// scanner walks one document once, from left to right.
type scanner struct {
	b    []byte
	pos  int
	o    Options
	keys keySet

	// Find's question and answer.
	find  bool
	want  string
	found []byte

	look lookup
	each func(element []byte) error // of the outermost array
}

// Scanners are pooled for the tables of keySet.
var scanners = sync.Pool{New: func() any { return &scanner{keys: newKeySet()} }}

func newScanner(b []byte, o Options) *scanner {
	s := scanners.Get().(*scanner)
	s.b, s.pos, s.o = b, 0, o.withDefaults()
	return s
}

func (s *scanner) free() {
	s.b, s.find, s.want, s.found, s.look, s.each = nil, false, "", nil, lookup{}, nil
	if s.keys.reset() {
		scanners.Put(s)
	}
}

func (s *scanner) fail(err error) error { return &Error{Offset: s.pos, Err: err} }

// document reads one value with white space around it. A callback or a search
// wants it to be an object.
func (s *scanner) document(fn func(key, value []byte) error) error {
	if len(s.b) > s.o.MaxBytes {
		s.pos = s.o.MaxBytes
		return s.fail(ErrSize)
	}
	s.space()
	var err error
	if fn != nil || s.find {
		if s.pos == len(s.b) || s.b[s.pos] != '{' {
			return s.fail(ErrSyntax)
		}
		err = s.object(1, fn)
	} else {
		err = s.value(1)
	}
	if err != nil {
		return err
	}
	if s.space(); s.pos != len(s.b) {
		return s.fail(ErrSyntax)
	}
	return nil
}

func (s *scanner) space() {
	for s.pos < len(s.b) {
		switch s.b[s.pos] {
		case ' ', '\t', '\n', '\r':
			s.pos++
		default:
			return
		}
	}
}

// value reads the value that begins here; depth is that of an array or object.
func (s *scanner) value(depth int) error {
	if s.pos == len(s.b) {
		return s.fail(ErrSyntax)
	}
	switch c := s.b[s.pos]; c {
	case '{':
		return s.object(depth, nil)
	case '[':
		return s.array(depth)
	case '"':
		_, _, _, err := s.str()
		return err
	case 't':
		return s.literal("true")
	case 'f':
		return s.literal("false")
	case 'n':
		return s.literal("null")
	default:
		return s.number()
	}
}

func (s *scanner) literal(want string) error {
	if len(s.b)-s.pos < len(want) || string(s.b[s.pos:s.pos+len(want)]) != want {
		return s.fail(ErrSyntax)
	}
	s.pos += len(want)
	return nil
}

func (s *scanner) array(depth int) error {
	if depth > s.o.MaxDepth {
		return s.fail(ErrDepth)
	}
	s.pos++
	s.space()
	if s.pos < len(s.b) && s.b[s.pos] == ']' {
		s.pos++
		return nil
	}
	above := s.look.below
	for index := 0; ; index++ {
		s.space()
		if above != 0 {
			s.look.element(above, depth, index)
		}
		from := s.pos
		if err := s.value(depth + 1); err != nil {
			return err
		}
		if above != 0 {
			s.look.took(depth, s.b[from:s.pos:s.pos])
			s.look.below = above
		}
		if s.each != nil && depth == 1 {
			if err := s.each(s.b[from:s.pos:s.pos]); err != nil {
				return err
			}
		}
		s.space()
		if s.pos == len(s.b) {
			return s.fail(ErrSyntax)
		}
		switch s.b[s.pos] {
		case ',':
			s.pos++
		case ']':
			s.pos++
			return nil
		default:
			return s.fail(ErrSyntax)
		}
	}
}

// object reads an object; fn, or Find's question, is for the members of the
// outermost.
func (s *scanner) object(depth int, fn func(key, value []byte) error) error {
	if depth > s.o.MaxDepth {
		return s.fail(ErrDepth)
	}
	s.pos++
	s.space()
	if s.pos < len(s.b) && s.b[s.pos] == '}' {
		s.pos++
		return nil
	}
	base := s.keys.open()
	above := s.look.below
	for members := 1; ; members++ {
		s.space()
		if s.pos == len(s.b) || s.b[s.pos] != '"' {
			return s.fail(ErrSyntax)
		}
		if members > s.o.MaxMembers {
			return s.fail(ErrSize)
		}
		at := s.pos
		start, end, escaped, err := s.str()
		if err != nil {
			return err
		}
		key, fresh := s.keys.add(s.b[start:end], escaped, s.o.FoldKeys)
		if !fresh {
			return &Error{Offset: at, Err: ErrDuplicate}
		}
		s.space()
		if s.pos == len(s.b) || s.b[s.pos] != ':' {
			return s.fail(ErrSyntax)
		}
		s.pos++
		s.space()
		from := s.pos
		if above != 0 {
			s.look.member(above, depth, key)
		}
		if err := s.value(depth + 1); err != nil {
			return err
		}
		if above != 0 {
			s.look.took(depth, s.b[from:s.pos:s.pos])
			s.look.below = above
		}
		if depth == 1 {
			value := s.b[from:s.pos:s.pos]
			if fn != nil {
				if err := fn(key, value); err != nil {
					return err
				}
			} else if s.find && string(key) == s.want {
				s.found = value
			}
		}
		s.space()
		if s.pos == len(s.b) {
			return s.fail(ErrSyntax)
		}
		switch s.b[s.pos] {
		case ',':
			s.pos++
		case '}':
			s.pos++
			s.keys.close(base)
			return nil
		default:
			return s.fail(ErrSyntax)
		}
	}
}

// plain marks the bytes a string may hold as they are, ASCII only.
var plain = func() (t [256]bool) {
	for c := 0x20; c < utf8.RuneSelf; c++ {
		t[c] = c != '"' && c != '\\'
	}
	return t
}()

// str reads the string that begins here and says where its inside is and
// whether it has escapes.
func (s *scanner) str() (start, end int, escaped bool, err error) {
	s.pos++
	start = s.pos
	b, i := s.b, s.pos
	for {
		for i < len(b) && plain[b[i]] {
			i++
		}
		s.pos = i
		if i == len(b) {
			return 0, 0, false, s.fail(ErrSyntax)
		}
		switch c := b[i]; {
		case c == '"':
			s.pos = i + 1
			return start, i, escaped, nil
		case c == '\\':
			escaped = true
			n, err := escape(b[i:])
			if err != nil {
				return 0, 0, false, s.fail(err)
			}
			i += n
		case c < utf8.RuneSelf: // a control character
			return 0, 0, false, s.fail(ErrSyntax)
		default:
			r, n := utf8.DecodeRune(b[i:])
			if r == utf8.RuneError && n <= 1 {
				return 0, 0, false, s.fail(ErrUTF8)
			}
			i += n
		}
	}
}

// escape says how long the escape sequence at the start of b is. A surrogate
// needs its other half (RFC 8259 §8.2 calls the outcome of a lone one
// unpredictable).
func escape(b []byte) (n int, err error) {
	if len(b) < 2 {
		return 0, ErrSyntax
	}
	switch b[1] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return 2, nil
	case 'u':
	default:
		return 0, ErrSyntax
	}
	r, ok := hex4(b[2:])
	switch {
	case !ok:
		return 0, ErrSyntax
	case r < 0xD800 || r > 0xDFFF:
		return 6, nil
	case r > 0xDBFF || len(b) < 12 || b[6] != '\\' || b[7] != 'u':
		return 0, ErrUTF8
	}
	if low, ok := hex4(b[8:]); !ok || low < 0xDC00 || low > 0xDFFF {
		return 0, ErrUTF8
	}
	return 12, nil
}

func hex4(b []byte) (r rune, ok bool) {
	if len(b) < 4 {
		return 0, false
	}
	for _, c := range b[:4] {
		switch {
		case '0' <= c && c <= '9':
			c -= '0'
		case 'a' <= c && c <= 'f':
			c -= 'a' - 10
		case 'A' <= c && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, false
		}
		r = r<<4 | rune(c)
	}
	return r, true
}

// digits reads at least one.
func (s *scanner) digits() bool {
	from := s.pos
	for s.pos < len(s.b) && '0' <= s.b[s.pos] && s.b[s.pos] <= '9' {
		s.pos++
	}
	return s.pos > from
}

func (s *scanner) at(set string) bool {
	if s.pos == len(s.b) {
		return false
	}
	for i := range len(set) {
		if s.b[s.pos] == set[i] {
			return true
		}
	}
	return false
}

// safeDigits is a length below which a number without an exponent cannot exceed
// a double.
const safeDigits = 300

// number reads RFC 8259 §6. One beyond the doubles is refused: some parsers
// make an infinity of it, others an error.
func (s *scanner) number() error {
	from := s.pos
	if s.at("-") {
		s.pos++
	}
	if s.at("0") {
		s.pos++
	} else if !s.digits() {
		return s.fail(ErrSyntax)
	}
	if s.at(".") {
		s.pos++
		if !s.digits() {
			return s.fail(ErrSyntax)
		}
	}
	exponent := s.at("eE")
	if exponent {
		s.pos++
		if s.at("+-") {
			s.pos++
		}
		if !s.digits() {
			return s.fail(ErrSyntax)
		}
	}
	if exponent || s.pos-from > safeDigits {
		if f, err := strconv.ParseFloat(string(s.b[from:s.pos]), 64); err != nil || math.IsInf(f, 0) {
			s.pos = from
			return s.fail(ErrSyntax)
		}
	}
	return nil
}
