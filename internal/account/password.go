package account

import (
	"fmt"
	"strings"
	"sync"
	"unicode/utf8"

	zxcvbn "github.com/ccojocar/zxcvbn-go"
	"golang.org/x/text/unicode/norm"
)

const (
	defaultMinLength = 15
	// maxPassword bounds a password in bytes, before anything else is done
	// with it: 256 characters at least, of any script.
	maxPassword = 1024
	// zxcvbn takes time that grows with the square and more of the length, so
	// it sees the first and the last so many characters.
	estimated = 48
	// minScore of zxcvbn: 3 is "safely unguessable: moderate protection from
	// offline slow-hash scenario", 10^8 guesses.
	minScore = 3
)

// normalize is what is hashed: NFC, so that the same password typed on another
// system is the same (NIST SP 800-63B-4 §3.1.1.2). Nothing is cut off. ok is
// false where no account can have such a password.
func normalize(password string) (b []byte, ok bool) {
	if password == "" || len(password) > maxPassword || !utf8.ValidString(password) {
		return nil, false
	}
	return norm.NFC.Bytes([]byte(password)), true
}

// rules decide which passwords can be set.
type rules struct {
	min   int
	extra *Blocklist
	words []string

	mu sync.Mutex // one estimate at a time: it is costly, and setting is rare
}

// check says why password cannot be the password of name, or nil.
func (r *rules) check(name, password string) error {
	bad := func(rule, detail string) error { return &RuleError{Rule: rule, Detail: detail} }
	if len(password) > maxPassword {
		return bad("password_too_long", fmt.Sprintf("The password is longer than %d bytes.", maxPassword))
	}
	if !utf8.ValidString(password) {
		return bad("password_encoding", "The password is not valid UTF-8.")
	}
	p := norm.NFC.String(password)
	if utf8.RuneCountInString(p) < r.min {
		return bad("password_too_short", fmt.Sprintf("The password is shorter than %d characters. A few unrelated words make a good one.", r.min))
	}
	if shipped().has(p) || r.extra.has(p) {
		return bad("password_common", "This password is one of the first that are guessed. Choose another.")
	}
	words := contextWords(append([]string{name, "wsbouncer"}, r.words...))
	if restsOn(p, words) {
		return bad("password_context", "This password is little more than the name of the account or of this service. Choose another.")
	}
	if !r.strong(p, words) {
		return bad("password_weak", "This password is easy to guess: it is made of common words, repetitions or patterns. A few unrelated words make a good one.")
	}
	return nil
}

func (r *rules) strong(p string, words []string) bool {
	runes := []rune(p)
	r.mu.Lock()
	defer r.mu.Unlock()
	if zxcvbn.PasswordStrength(string(runes[:min(len(runes), estimated)]), words).Score >= minScore {
		return true
	}
	return len(runes) > estimated && zxcvbn.PasswordStrength(string(runes[len(runes)-estimated:]), words).Score >= minScore
}

// contextWords are the parts of what is known about an account that somebody
// would try, in lower case.
func contextWords(of []string) []string {
	var out []string
	for _, s := range of {
		s = strings.ToLower(s)
		for _, w := range append(strings.FieldsFunc(s, func(c rune) bool { return strings.ContainsRune(".@-_:/+ ", c) }), s) {
			if utf8.RuneCountInString(w) >= 3 {
				out = append(out, w)
			}
		}
	}
	return out
}

// restsOn reports whether p without the words, and without the digits and signs
// people add, is shorter than four characters.
func restsOn(p string, words []string) bool {
	p = strings.ToLower(p)
	had := false
	for _, w := range words {
		if strings.Contains(p, w) {
			had = true
			p = strings.ReplaceAll(p, w, "")
		}
	}
	left := strings.Trim(p, "0123456789!?.,;:-_+*#@$%& ")
	return had && utf8.RuneCountInString(left) < 4
}
