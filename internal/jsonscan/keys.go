package jsonscan

import (
	"bytes"
	"hash/maphash"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// keySet holds the keys of the objects that are open, to find duplicates in
// time that does not grow with their number. Keys lie on a stack, objects above
// one another; a key is found through a hash bucket whose keys are linked, the
// latest first. Closing an object takes its keys off in reverse order, so each
// is then the first of its bucket.
type keySet struct {
	seed    maphash.Seed // hashes cannot be chosen from outside
	buckets []int        // index into stack + 1; 0: empty
	stack   []key
	level   uint64
	scratch []byte // keys as they are compared, where that is not as they came
}

type key struct {
	hash   uint64
	name   []byte
	below  int    // the next in the bucket, as in buckets
	level  uint64 // which of the open objects
	bucket uint64
}

const (
	buckets = 1 << 10
	// keepKeys and keepScratch are what an unused scanner holds on to.
	keepKeys    = 1 << 10
	keepScratch = 1 << 14
)

func newKeySet() keySet {
	return keySet{seed: maphash.MakeSeed(), buckets: make([]int, buckets)}
}

// open begins an object; the result is for close.
func (k *keySet) open() (base int) {
	k.level++
	return len(k.stack)
}

func (k *keySet) close(base int) {
	k.pop(base)
	k.level--
}

func (k *keySet) pop(base int) {
	for i := len(k.stack) - 1; i >= base; i-- {
		k.buckets[k.stack[i].bucket] = k.stack[i].below
		k.stack[i].name = nil
	}
	k.stack = k.stack[:base]
}

// reset empties the set after any outcome and reports whether it is small
// enough to be kept.
func (k *keySet) reset() bool {
	k.pop(0)
	k.level, k.scratch = 0, k.scratch[:0]
	return cap(k.stack) <= keepKeys && cap(k.scratch) <= keepScratch
}

// add puts a key, the inside of a JSON string, into the object opened last. It
// returns the key unescaped, and false when the object has it already.
func (k *keySet) add(raw []byte, escaped, fold bool) (name []byte, fresh bool) {
	name = raw
	if escaped {
		from := len(k.scratch)
		k.scratch = unescape(k.scratch, raw)
		name = k.scratch[from:]
	}
	compared := name
	if fold && !folded(name) {
		from := len(k.scratch)
		k.scratch = foldKey(k.scratch, name)
		compared = k.scratch[from:]
	}
	hash := maphash.Bytes(k.seed, compared)
	bucket := (hash + k.level*0x9E3779B97F4A7C15) >> 32 & (buckets - 1)
	for i := k.buckets[bucket]; i != 0; i = k.stack[i-1].below {
		other := &k.stack[i-1]
		if other.hash == hash && other.level == k.level && bytes.Equal(other.name, compared) {
			return name, false
		}
	}
	k.stack = append(k.stack, key{hash: hash, name: compared, below: k.buckets[bucket], level: k.level, bucket: bucket})
	k.buckets[bucket] = len(k.stack)
	return name, true
}

// unescape appends the text of a checked string's inside to dst.
func unescape(dst, raw []byte) []byte {
	for {
		i := bytes.IndexByte(raw, '\\')
		if i < 0 {
			return append(dst, raw...)
		}
		dst = append(dst, raw[:i]...)
		c := raw[i+1]
		raw = raw[i+2:]
		switch c {
		case 'b':
			dst = append(dst, '\b')
		case 'f':
			dst = append(dst, '\f')
		case 'n':
			dst = append(dst, '\n')
		case 'r':
			dst = append(dst, '\r')
		case 't':
			dst = append(dst, '\t')
		case 'u':
			r, _ := hex4(raw)
			raw = raw[4:]
			if utf16.IsSurrogate(r) {
				low, _ := hex4(raw[2:])
				r, raw = utf16.DecodeRune(r, low), raw[6:]
			}
			dst = utf8.AppendRune(dst, r)
		default: // the character itself: " \ /
			dst = append(dst, c)
		}
	}
}

// folded reports whether foldKey would change nothing.
func folded(name []byte) bool {
	for _, c := range name {
		if c >= utf8.RuneSelf || 'A' <= c && c <= 'Z' {
			return false
		}
	}
	return true
}

// foldKey appends one spelling for all that are equal under simple case folding,
// which is how encoding/json compares names: K and the Kelvin sign become k.
func foldKey(dst, name []byte) []byte {
	for len(name) > 0 {
		r, n := utf8.DecodeRune(name)
		name = name[n:]
		dst = utf8.AppendRune(dst, foldRune(r))
	}
	return dst
}

// foldRune is the smallest rune of r's orbit, in lower case when that is ASCII.
func foldRune(r rune) rune {
	least := r
	for next := unicode.SimpleFold(r); next != r; next = unicode.SimpleFold(next) {
		least = min(least, next)
	}
	if 'A' <= least && least <= 'Z' {
		least += 'a' - 'A'
	}
	return least
}
