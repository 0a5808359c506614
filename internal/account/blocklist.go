package account

import (
	"bufio"
	"crypto/sha256"
	"fmt"
	"io"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/ccojocar/zxcvbn-go/frequency"
	"golang.org/x/text/unicode/norm"
)

// maxBlocklist bounds an operator's list, in entries; each takes some 40 bytes
// of memory.
const maxBlocklist = 2_000_000

// A Blocklist is a set of passwords that nobody can set. Entries are compared
// without regard to case. A nil Blocklist is empty.
type Blocklist struct{ sums map[[16]byte]struct{} }

func (b *Blocklist) add(p string) {
	b.sums[blockSum(p)] = struct{}{}
}

// has looks p up as it is, and without the digits and signs people put behind a
// word to satisfy a rule.
func (b *Blocklist) has(p string) bool {
	if b == nil {
		return false
	}
	for _, v := range []string{p, strings.TrimRight(p, "0123456789!?.,;:-_+*#@$%& "), repeated(p)} {
		if v == "" {
			continue
		}
		if _, ok := b.sums[blockSum(v)]; ok {
			return true
		}
	}
	return false
}

func blockSum(p string) [16]byte {
	s := sha256.Sum256([]byte(strings.ToLower(norm.NFC.String(p))))
	return [16]byte(s[:16])
}

// repeated is the unit that p repeats at least twice, or "".
func repeated(p string) string {
	for n := 1; n <= len(p)/2; n++ {
		if len(p)%n == 0 && strings.Repeat(p[:n], len(p)/n) == p {
			return p[:n]
		}
	}
	return ""
}

// ReadBlocklist reads a list with one password a line, UTF-8, at most two
// million of them. Empty lines and lines longer than any password are skipped.
func ReadBlocklist(r io.Reader) (*Blocklist, error) {
	b := &Blocklist{sums: map[[16]byte]struct{}{}}
	sc := bufio.NewScanner(r)
	sc.Buffer(make([]byte, 0, 64<<10), 1<<20)
	for line := 1; sc.Scan(); line++ {
		p := strings.TrimSuffix(sc.Text(), "\r")
		if p == "" || len(p) > maxPassword {
			continue
		}
		if !utf8.ValidString(p) {
			return nil, fmt.Errorf("blocklist: line %d is not UTF-8", line)
		}
		if b.add(p); len(b.sums) > maxBlocklist {
			return nil, fmt.Errorf("blocklist: more than %d passwords", maxBlocklist)
		}
	}
	if err := sc.Err(); err != nil {
		return nil, fmt.Errorf("blocklist: %w", err)
	}
	return b, nil
}

// shipped is the list that is always there: the common passwords that
// zxcvbn-go (MIT licence) carries and that are linked in with it anyway.
var shipped = sync.OnceValue(func() *Blocklist {
	b := &Blocklist{sums: map[[16]byte]struct{}{}}
	for _, p := range frequency.Lists["Passwords"].List {
		b.add(p)
	}
	return b
})
