package jsonscan

import (
	"errors"
	"fmt"
	"math/bits"
	"slices"
	"strconv"
	"strings"
)

// maxPointers is how many can be looked up at once.
const maxPointers = 64

// Pointers are JSON pointers (RFC 6901) that are looked up together. They are
// safe for concurrent use.
type Pointers struct {
	list  [][]string
	all   uint64 // that lead into the document
	whole uint64 // that are the document
}

// ParsePointers reads JSON pointers: "/type", "/0/a~1b", or "" for the document.
func ParsePointers(texts ...string) (*Pointers, error) {
	if len(texts) > maxPointers {
		return nil, fmt.Errorf("more than %d JSON pointers", maxPointers)
	}
	p := &Pointers{list: make([][]string, len(texts))}
	for i, t := range texts {
		if t == "" {
			p.whole |= 1 << i
			continue
		}
		steps, err := parsePointer(t)
		if err != nil {
			return nil, err
		}
		p.list[i] = steps
		p.all |= 1 << i
	}
	return p, nil
}

func parsePointer(t string) ([]string, error) {
	rest, ok := strings.CutPrefix(t, "/")
	if !ok {
		return nil, fmt.Errorf("%q is no JSON pointer: one begins with /", t)
	}
	steps := strings.Split(rest, "/")
	for i, s := range steps {
		for k := 0; k < len(s); k++ {
			if s[k] == '~' && (k+1 == len(s) || s[k+1] != '0' && s[k+1] != '1') {
				return nil, fmt.Errorf("%q is no JSON pointer: ~ is written ~0, and / inside a name ~1", t)
			}
		}
		steps[i] = strings.ReplaceAll(strings.ReplaceAll(s, "~1", "/"), "~0", "~")
	}
	return steps, nil
}

// Len is how many there are.
func (p *Pointers) Len() int { return len(p.list) }

// Lookup checks a whole document, of any kind, and puts into values what the
// pointers lead to: raw JSON within b, nil where there is nothing. values has
// the length of p. On an error it finds nothing.
func (p *Pointers) Lookup(b []byte, o Options, values [][]byte) error {
	if len(values) != len(p.list) {
		return errors.New("jsonscan: as many values as pointers are needed")
	}
	clear(values)
	s := newScanner(b, o)
	defer s.free()
	s.look = lookup{list: p.list, values: values, below: p.all}
	if err := s.document(nil); err != nil {
		clear(values)
		return err
	}
	for w := p.whole; w != 0; w &= w - 1 {
		values[bits.TrailingZeros64(w)] = slices.Clip(b)
	}
	return nil
}

// lookup is where a scanner stands among pointers: below are those that the
// value which is being read lies on.
type lookup struct {
	list   [][]string
	values [][]byte
	below  uint64
}

// member narrows the pointers of an object down to those that go on by key.
func (l *lookup) member(above uint64, depth int, key []byte) {
	l.below = 0
	for m := above; m != 0; m &= m - 1 {
		i := bits.TrailingZeros64(m)
		if steps := l.list[i]; len(steps) >= depth && steps[depth-1] == string(key) {
			l.below |= 1 << i
		}
	}
}

// element is member for an array.
func (l *lookup) element(above uint64, depth, index int) {
	l.below = 0
	for m := above; m != 0; m &= m - 1 {
		i := bits.TrailingZeros64(m)
		if steps := l.list[i]; len(steps) >= depth && isIndex(steps[depth-1], index) {
			l.below |= 1 << i
		}
	}
}

// isIndex compares as RFC 6901 §4 writes indices: without leading zeros.
func isIndex(step string, index int) bool {
	if index < 10 {
		return len(step) == 1 && step[0] == byte('0'+index)
	}
	if len(step) < 2 || step[0] == '0' {
		return false
	}
	n, err := strconv.Atoi(step)
	return err == nil && n == index && step[0] != '+'
}

// took notes a value for the pointers that end at it.
func (l *lookup) took(depth int, value []byte) {
	for m := l.below; m != 0; m &= m - 1 {
		if i := bits.TrailingZeros64(m); len(l.list[i]) == depth {
			l.values[i] = value
		}
	}
}
