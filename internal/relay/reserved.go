package relay

import (
	"bytes"

	"github.com/wsbouncer/wsbouncer/internal/jsonscan"
)

// member is the name that makes a message the gateway's.
const member = "wsbouncer"

var byteOrderMark = []byte("\xef\xbb\xbf")

// Reserved reports whether text is a JSON object with a top-level member
// "wsbouncer", wherever it stands and however its name is escaped.
//
// It asks for less than JSON does: a name given twice, a trailing comma, what
// follows the member, do not matter. So a refresh message that is not quite
// JSON, with its token, does not reach the upstream either; refusing it is the
// handler's.
func Reserved(text []byte) bool {
	if !bytes.Contains(text, []byte(member)) && !bytes.Contains(text, []byte(`\u`)) {
		return false
	}
	i := blank(text, len(text)-len(bytes.TrimPrefix(text, byteOrderMark)))
	if i == len(text) || text[i] != '{' {
		return false
	}
	depth := 0
	for ; i < len(text); i++ {
		switch text[i] {
		case '{', '[':
			depth++
		case '}', ']':
			if depth--; depth <= 0 {
				return false
			}
		case '"':
			start := i
			if i = closing(text, i); i == len(text) {
				return false
			}
			if depth != 1 || !isMember(text[start:i+1]) {
				continue
			}
			if next := blank(text, i+1); next < len(text) && text[next] == ':' {
				return true
			}
		}
	}
	return false
}

// blank is the first position from i on that is not JSON's white space.
func blank(text []byte, i int) int {
	for i < len(text) && (text[i] == ' ' || text[i] == '\t' || text[i] == '\r' || text[i] == '\n') {
		i++
	}
	return i
}

// closing is where the string that begins at i ends, len(text) when it does not.
func closing(text []byte, i int) int {
	for i++; i < len(text); i++ {
		switch text[i] {
		case '"':
			return i
		case '\\':
			i++
		}
	}
	return len(text)
}

// isMember reports whether the JSON string raw, quotes included, is the name.
func isMember(raw []byte) bool {
	if string(raw[1:len(raw)-1]) == member {
		return true
	}
	// Escaped at its longest, every letter takes six bytes.
	if len(raw) > 2+6*len(member) || bytes.IndexByte(raw, '\\') < 0 {
		return false
	}
	name, err := jsonscan.String(raw)
	return err == nil && name == member
}
