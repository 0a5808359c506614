package message

import (
	"strings"
	"unicode/utf8"
)

// Bounds of a GraphQL document.
const (
	maxTokens    = 10_000
	maxSelection = 32  // selection sets and values within one another
	maxTopFields = 128 // of an operation
)

// graphqlActions are the top-level fields of the operation that a server would
// execute, each with its kind (query, mutation, subscription) as the name:
// fragments are followed, aliases are not (GraphQL September 2025 §2, §6.1).
func graphqlActions(document, operationName string) ([]Action, error) {
	p := gqlParser{s: document}
	d, err := p.document()
	if err != nil {
		return nil, err
	}
	var chosen *gqlOperation
	for i := range d.operations {
		o := &d.operations[i]
		switch {
		case operationName == "" && len(d.operations) > 1, o.name == "" && len(d.operations) > 1:
			return nil, invalid("several operations, and none is named")
		case operationName == "" || o.name == operationName:
			if chosen != nil {
				return nil, invalid("two operations have one name")
			}
			chosen = o
		}
	}
	if chosen == nil {
		return nil, invalid("there is no such operation in the document")
	}
	c := collector{fragments: d.fragments, seen: map[string]bool{}, kind: chosen.kind}
	if err := c.collect(chosen.selection); err != nil {
		return nil, err
	}
	if len(c.out) == 0 {
		return nil, invalid("an operation without fields")
	}
	return c.out, nil
}

type collector struct {
	fragments map[string][]gqlSelection
	seen      map[string]bool
	kind      string
	out       []Action
}

func (c *collector) collect(in []gqlSelection) error {
	for _, s := range in {
		var err error
		switch {
		case s.field != "":
			if len(c.out) == maxTopFields {
				return invalid("more fields in an operation than are allowed")
			}
			c.out = append(c.out, Action{Name: c.kind, Target: s.field})
		case s.spread != "":
			f, known := c.fragments[s.spread]
			if !known {
				return invalid("a fragment that is not in the document")
			}
			if !c.seen[s.spread] { // what a fragment adds, it adds once
				c.seen[s.spread] = true
				err = c.collect(f)
			}
		default:
			err = c.collect(s.inline)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

type gqlDocument struct {
	operations []gqlOperation
	fragments  map[string][]gqlSelection
}

type gqlOperation struct {
	kind, name string
	selection  []gqlSelection
}

// A gqlSelection is a field, a fragment's name, or what is inline.
type gqlSelection struct {
	field, spread string
	inline        []gqlSelection
}

// gqlParser reads an executable document. After an error every token is the end.
type gqlParser struct {
	s      string
	pos    int
	tokens int
	err    error

	kind gqlToken // of the current token
	word string   // its text, of names and punctuators
}

type gqlToken uint8

const (
	gqlEnd gqlToken = iota
	gqlPunctuator
	gqlName
	gqlNumber
	gqlString
)

func (p *gqlParser) fail(why string) {
	if p.err == nil {
		p.err = invalid("GraphQL: " + why)
	}
	p.kind, p.word = gqlEnd, ""
}

func (p *gqlParser) document() (d gqlDocument, err error) {
	d.fragments = map[string][]gqlSelection{}
	p.next()
	for p.err == nil && p.kind != gqlEnd {
		switch {
		case p.is("{"):
			d.operations = append(d.operations, gqlOperation{kind: "query", selection: p.selectionSet(1)})
		case p.kind == gqlName && (p.word == "query" || p.word == "mutation" || p.word == "subscription"):
			d.operations = append(d.operations, p.operation())
		case p.kind == gqlName && p.word == "fragment":
			name, in := p.fragment()
			if _, twice := d.fragments[name]; twice {
				p.fail("two fragments have one name")
			}
			d.fragments[name] = in
		default:
			p.fail("a definition that is no operation and no fragment")
		}
	}
	return d, p.err
}

func (p *gqlParser) operation() (o gqlOperation) {
	o.kind = p.word
	p.next()
	if p.kind == gqlName {
		o.name = p.word
		p.next()
	}
	if p.is("(") {
		p.variables()
	}
	p.directives()
	o.selection = p.selectionSet(1)
	return o
}

func (p *gqlParser) fragment() (name string, in []gqlSelection) {
	p.next()
	if name = p.name(); name == "on" {
		p.fail("a fragment of the name on")
	}
	if p.name() != "on" {
		p.fail("a fragment that does not say on what")
	}
	p.name()
	p.directives()
	return name, p.selectionSet(1)
}

// selectionSet reads a selection set; only what is not below a field is kept.
func (p *gqlParser) selectionSet(depth int) (out []gqlSelection) {
	if depth > maxSelection {
		p.fail("selection sets that are nested too deeply")
	}
	p.punctuator("{")
	for p.err == nil {
		if s, ok := p.selection(depth); ok {
			out = append(out, s)
		}
		if p.is("}") {
			break
		}
	}
	p.punctuator("}")
	return out
}

func (p *gqlParser) selection(depth int) (s gqlSelection, ok bool) {
	if p.is("...") {
		p.next()
		if p.kind == gqlName && p.word != "on" {
			s.spread = p.name()
			p.directives()
			return s, p.err == nil
		}
		if p.kind == gqlName {
			p.next()
			p.name()
		}
		p.directives()
		s.inline = p.selectionSet(depth + 1)
		return s, p.err == nil
	}
	s.field = p.name()
	if p.is(":") { // that was an alias
		p.next()
		s.field = p.name()
	}
	if p.is("(") {
		p.arguments()
	}
	p.directives()
	if p.is("{") {
		p.selectionSet(depth + 1)
	}
	return s, p.err == nil
}

func (p *gqlParser) variables() {
	p.punctuator("(")
	for p.err == nil {
		p.punctuator("$")
		p.name()
		p.punctuator(":")
		p.typeReference(1)
		if p.is("=") {
			p.next()
			p.value(1)
		}
		p.directives()
		if p.is(")") {
			break
		}
	}
	p.punctuator(")")
}

func (p *gqlParser) typeReference(depth int) {
	if depth > maxSelection {
		p.fail("a type that is nested too deeply")
	}
	if p.is("[") {
		p.next()
		p.typeReference(depth + 1)
		p.punctuator("]")
	} else {
		p.name()
	}
	if p.is("!") {
		p.next()
	}
}

func (p *gqlParser) directives() {
	for p.is("@") {
		p.next()
		p.name()
		if p.is("(") {
			p.arguments()
		}
	}
}

func (p *gqlParser) arguments() {
	p.punctuator("(")
	for p.err == nil {
		p.name()
		p.punctuator(":")
		p.value(1)
		if p.is(")") {
			break
		}
	}
	p.punctuator(")")
}

func (p *gqlParser) value(depth int) {
	switch {
	case depth > maxSelection:
		p.fail("a value that is nested too deeply")
	case p.kind == gqlName, p.kind == gqlNumber, p.kind == gqlString:
		p.next()
	case p.is("$"):
		p.next()
		p.name()
	case p.is("["):
		p.next()
		for p.err == nil && !p.is("]") {
			p.value(depth + 1)
		}
		p.punctuator("]")
	case p.is("{"):
		p.next()
		for p.err == nil && !p.is("}") {
			p.name()
			p.punctuator(":")
			p.value(depth + 1)
		}
		p.punctuator("}")
	default:
		p.fail("a value that is none")
	}
}

func (p *gqlParser) is(punctuator string) bool {
	return p.kind == gqlPunctuator && p.word == punctuator
}

func (p *gqlParser) punctuator(want string) {
	if !p.is(want) {
		p.fail("something else where " + want + " is due")
		return
	}
	p.next()
}

func (p *gqlParser) name() string {
	if p.kind != gqlName {
		p.fail("something else where a name is due")
		return ""
	}
	name := p.word
	p.next()
	return name
}

// next reads a token (§2.1).
func (p *gqlParser) next() {
	p.ignored()
	if p.err != nil || p.pos == len(p.s) {
		p.kind, p.word = gqlEnd, ""
		return
	}
	if p.tokens++; p.tokens > maxTokens {
		p.fail("more tokens than are allowed")
		return
	}
	from := p.pos
	switch c := p.s[p.pos]; {
	case strings.IndexByte("!$&()[]{}:=@|", c) >= 0:
		p.pos++
		p.kind = gqlPunctuator
	case strings.HasPrefix(p.s[p.pos:], "..."):
		p.pos += 3
		p.kind = gqlPunctuator
	case nameStart(c):
		for p.pos < len(p.s) && (nameStart(p.s[p.pos]) || isDigit(p.s[p.pos])) {
			p.pos++
		}
		p.kind = gqlName
	case c == '-' || isDigit(c):
		p.number()
	case c == '"':
		p.str()
	default:
		p.fail("a character that no token begins with")
	}
	if p.err == nil {
		p.word = p.s[from:p.pos]
	}
}

// ignored skips white space, commas, comments and byte order marks (§2.1.7).
func (p *gqlParser) ignored() {
	for p.pos < len(p.s) {
		switch c := p.s[p.pos]; {
		case c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == ',':
			p.pos++
		case c == '#':
			for p.pos < len(p.s) && p.s[p.pos] != '\n' && p.s[p.pos] != '\r' {
				p.pos++
			}
		case strings.HasPrefix(p.s[p.pos:], "\ufeff"):
			p.pos += len("\ufeff")
		default:
			return
		}
	}
}

func nameStart(c byte) bool { return c == '_' || c|0x20 >= 'a' && c|0x20 <= 'z' }
func isDigit(c byte) bool   { return c >= '0' && c <= '9' }

// number is an Int or a Float (§2.9.1): nothing that goes on as a name may follow.
func (p *gqlParser) number() {
	digits := func() {
		from := p.pos
		for p.pos < len(p.s) && isDigit(p.s[p.pos]) {
			p.pos++
		}
		if p.pos == from {
			p.fail("a number that is none")
		}
	}
	at := func(set string) bool { return p.pos < len(p.s) && strings.IndexByte(set, p.s[p.pos]) >= 0 }
	if at("-") {
		p.pos++
	}
	if at("0") {
		p.pos++
		if at("0123456789") {
			p.fail("a number with leading zeros")
		}
	} else {
		digits()
	}
	if at(".") {
		p.pos++
		digits()
	}
	if at("eE") {
		p.pos++
		if at("+-") {
			p.pos++
		}
		digits()
	}
	if p.pos < len(p.s) && (p.s[p.pos] == '.' || nameStart(p.s[p.pos])) {
		p.fail("a number that goes on")
	}
	if p.err == nil {
		p.kind = gqlNumber
	}
}

// str is a string or a block string (§2.9.4); where it ends is all that matters.
func (p *gqlParser) str() {
	if strings.HasPrefix(p.s[p.pos:], `"""`) {
		p.pos += 3
		for p.pos < len(p.s) {
			rest := p.s[p.pos:]
			switch {
			case strings.HasPrefix(rest, `\"""`):
				p.pos += 4
			case strings.HasPrefix(rest, `"""`):
				p.pos += 3
				p.kind = gqlString
				return
			default:
				p.pos++
			}
		}
		p.fail("a block string that does not end")
		return
	}
	p.pos++
	for p.pos < len(p.s) {
		switch c := p.s[p.pos]; {
		case c == '"':
			p.pos++
			p.kind = gqlString
			return
		case c == '\n' || c == '\r':
			p.fail("a string that goes over the end of its line")
			return
		case c == '\\':
			n := gqlEscape(p.s[p.pos+1:])
			if n == 0 {
				p.fail("a string with an escape that is not defined")
				return
			}
			p.pos += 1 + n
		case c < utf8.RuneSelf:
			p.pos++
		default:
			_, n := utf8.DecodeRuneInString(p.s[p.pos:])
			p.pos += n
		}
	}
	p.fail("a string that does not end")
}

// gqlEscape is how long an escape is behind its backslash; 0: it is none.
func gqlEscape(s string) int {
	if s == "" {
		return 0
	}
	switch s[0] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return 1
	case 'u':
	default:
		return 0
	}
	if strings.HasPrefix(s, "u{") {
		end := strings.IndexByte(s, '}')
		if end < 3 || end > 8 || !isHex(s[2:end]) {
			return 0
		}
		return end + 1
	}
	if len(s) < 5 || !isHex(s[1:5]) {
		return 0
	}
	return 5
}

func isHex(s string) bool {
	for i := range len(s) {
		if c := s[i]; !isDigit(c) && (c|0x20 < 'a' || c|0x20 > 'f') {
			return false
		}
	}
	return true
}
