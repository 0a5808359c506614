package policy

import (
	"fmt"
	"strings"
)

// A Pattern is what targets a rule is about: levels apart by "/", of which + or *
// is any one level, # or ** at the end any number of them (none, too), and *
// within a level any characters of it. ${name} stands for a value of who acts,
// which never counts as anything but text: where it is missing, empty, or holds
// a "/", "+", "#" or "*", the pattern matches nothing.
type Pattern struct {
	text   string
	levels []level
	rest   bool // any number of levels may follow
}

type level struct {
	any   bool    // any one level
	parts []piece // else these, one after the other
}

// piece is text, the name of a value, or any characters.
type piece struct {
	text, name string
	any        bool
}

// ParsePattern reads a pattern.
func ParsePattern(text string) (*Pattern, error) {
	p := &Pattern{text: text}
	if text == "" {
		return nil, fmt.Errorf("an empty pattern matches nothing: leave it out, or write #")
	}
	levels, err := splitLevels(text)
	if err != nil {
		return nil, err
	}
	for i, l := range levels {
		switch {
		case (l == "#" || l == "**") && i == len(levels)-1:
			p.rest = true
			continue
		case strings.Contains(l, "#") || strings.Contains(l, "**"):
			return nil, fmt.Errorf("pattern %q: # and ** stand alone, at the end", text)
		case l == "+" || l == "*":
			p.levels = append(p.levels, level{any: true})
			continue
		}
		parts, err := parseLevel(l)
		if err != nil {
			return nil, fmt.Errorf("pattern %q: %w", text, err)
		}
		p.levels = append(p.levels, level{parts: parts})
	}
	return p, nil
}

// splitLevels splits at every "/" that is not within ${}.
func splitLevels(text string) (out []string, err error) {
	from, inside := 0, false
	for i := 0; i < len(text); i++ {
		switch {
		case strings.HasPrefix(text[i:], "${"):
			inside = true
		case text[i] == '}':
			inside = false
		case text[i] == '/' && !inside:
			out = append(out, text[from:i])
			from = i + 1
		}
	}
	if inside {
		return nil, fmt.Errorf("pattern %q: ${ without }", text)
	}
	return append(out, text[from:]), nil
}

func parseLevel(l string) (parts []piece, err error) {
	for l != "" {
		i := strings.IndexAny(l, "*+$")
		if i < 0 {
			return append(parts, piece{text: l}), nil
		}
		if i > 0 {
			parts = append(parts, piece{text: l[:i]})
			l = l[i:]
		}
		switch {
		case l[0] == '+':
			return nil, fmt.Errorf("+ stands for a whole level; within one write *")
		case l[0] == '*':
			parts = append(parts, piece{any: true})
			l = l[1:]
		case strings.HasPrefix(l, "${"):
			end := strings.IndexByte(l, '}')
			name := l[2:end]
			if !isName(name) {
				return nil, fmt.Errorf("%q is no name such as claims.tenant", name)
			}
			parts = append(parts, piece{name: name})
			l = l[end+1:]
		default:
			parts = append(parts, piece{text: "$"})
			l = l[1:]
		}
	}
	return parts, nil
}

func isName(s string) bool {
	for i, step := range strings.Split(s, ".") {
		if step == "" {
			return false
		}
		for k, c := range []byte(step) {
			letter := c == '_' || c|0x20 >= 'a' && c|0x20 <= 'z'
			if !letter && (i == 0 || c != '-' && (c < '0' || c > '9')) && (k == 0 || c < '0' || c > '9') {
				return false
			}
		}
	}
	return true
}

// Names are the values that the pattern needs.
func (p *Pattern) Names() (out []string) {
	for _, l := range p.levels {
		for _, part := range l.parts {
			if part.name != "" {
				out = append(out, part.name)
			}
		}
	}
	return out
}

func (p *Pattern) String() string { return p.text }

// Match reports whether p is about target. With filters, target may be an MQTT
// topic filter, and p must cover every topic of it. As with MQTT brokers, a
// target that begins with "$" needs a pattern that says so.
func (p *Pattern) Match(target string, filters bool, value func(name string) string) bool {
	if filters && strings.HasPrefix(target, "$") && (len(p.levels) == 0 || p.levels[0].any || !p.beginsWithText()) {
		return false
	}
	for i := range p.levels {
		l, rest, more := strings.Cut(target, "/")
		if !p.levels[i].match(l, filters, value) {
			return false
		}
		if !more {
			// "a/#" is about "a" too.
			return i == len(p.levels)-1 || i == len(p.levels) && p.rest
		}
		target = rest
		if i == len(p.levels)-1 {
			return p.rest
		}
	}
	return p.rest
}

func (p *Pattern) beginsWithText() bool {
	first := p.levels[0].parts
	return len(first) > 0 && strings.HasPrefix(first[0].text, "$")
}

func (l *level) match(s string, filters bool, value func(string) string) bool {
	wild := filters && (s == "+" || s == "#")
	switch {
	case l.any:
		return !filters || s != "#"
	case wild:
		return false
	}
	return matchParts(l.parts, s, value)
}

// matchParts matches text and values in their order; between them, where there
// is a star, anything. It goes back to the last star only, so it is linear times
// the number of pieces.
func matchParts(parts []piece, s string, value func(string) string) bool {
	star, starAt := -1, 0
	i := 0
	pos := 0
	for {
		if i == len(parts) {
			if pos == len(s) {
				return true
			}
		} else if parts[i].any {
			star, starAt = i, pos
			i++
			continue
		} else {
			text, ok := parts[i].literal(value)
			if !ok {
				return false
			}
			if strings.HasPrefix(s[pos:], text) {
				pos += len(text)
				i++
				continue
			}
		}
		if star < 0 || starAt >= len(s) {
			return false
		}
		starAt++
		pos, i = starAt, star+1
	}
}

func (p *piece) literal(value func(string) string) (text string, ok bool) {
	if p.name == "" {
		return p.text, true
	}
	v := value(p.name)
	return v, v != "" && !strings.ContainsAny(v, "/+#*")
}
