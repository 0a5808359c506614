package account

import (
	"strings"
	"unicode/utf8"

	"golang.org/x/text/secure/precis"
)

// maxName bounds a name in bytes; it is also what keys of throttles and rows
// can hold.
const maxName = 255

// notAccounts are what the subjects of machine clients, and of other issuers'
// tokens that were exchanged, begin with: see internal/session.
var notAccounts = []string{"client:", "foreign:"}

// Canonical is the one form of a name: RFC 8265's UsernameCaseMapped profile
// (width and case mapped, NFC, no spaces, no controls, one direction). Two names
// that people would call the same have the same canonical form, and it is the
// account's subject. The error is a *RuleError.
func Canonical(name string) (string, error) {
	bad := func(why string) (string, error) {
		return "", &RuleError{Rule: "name_invalid", Detail: "That name cannot be used: " + why + "."}
	}
	switch {
	case name == "":
		return bad("it is empty")
	case len(name) > maxName:
		return bad("it is longer than 255 bytes")
	case !utf8.ValidString(name):
		return bad("it is not valid UTF-8")
	case strings.HasPrefix(name, "-"):
		return bad("it begins with a hyphen")
	}
	// RFC 8264 §7: a profile is applied until its output is stable.
	for range 4 {
		c, err := precis.UsernameCaseMapped.String(name)
		if err != nil {
			return bad("use letters, digits and punctuation, without spaces")
		}
		if c == name {
			if len(c) > maxName {
				return bad("it is longer than 255 bytes")
			}
			// After the mapping, which makes of others what looks like these.
			for _, prefix := range notAccounts {
				if strings.HasPrefix(c, prefix) {
					return bad("names that begin with " + prefix + " are not for accounts")
				}
			}
			return c, nil
		}
		name = c
	}
	return bad("it has no stable form")
}
