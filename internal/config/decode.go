package config

import (
	"fmt"
	"maps"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// pos is a place in the file; line and column count from one.
type pos struct{ line, column int }

// positions says where each key or entry stood, by its path: routes[0].path.
type positions map[string]pos

// maxFileBytes bounds a configuration file.
const maxFileBytes = 1 << 20

// decoder reads a YAML tree into a Config. It is our own, and not the
// library's, because every problem is to be reported at once, with its place,
// and a value may be wrong in ways only its own type knows.
type decoder struct {
	lines    []string
	problems Problems
	pos      positions
}

// scalar is a value that reads itself from a string.
type scalar interface{ parse(string) error }

// defaulted is a block that starts from defaults of its own when it is present.
type defaulted interface{ setDefaults() }

// decode reads src over the defaults in c. It reports false when src is no
// YAML at all, so that what follows from its absence is not reported too.
func decode(src []byte, c *Config) (Problems, bool) {
	d := &decoder{lines: strings.Split(string(src), "\n"), pos: positions{}}
	c.pos, c.lines = d.pos, d.lines
	if len(src) > maxFileBytes {
		return Problems{{Message: fmt.Sprintf("the file is larger than %d bytes", maxFileBytes)}}, false
	}
	file, err := parser.ParseBytes(src, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		return Problems{d.syntax(err)}, false
	}
	if len(file.Docs) > 1 {
		d.report(file.Docs[1].GetToken(), "", "a second document: one configuration is one document")
	}
	if len(file.Docs) > 0 && file.Docs[0].Body != nil {
		if _, comment := file.Docs[0].Body.(*ast.CommentGroupNode); !comment {
			d.value(file.Docs[0].Body, reflect.ValueOf(c).Elem(), "")
		}
	}
	return d.problems, true
}

var syntaxPlace = regexp.MustCompile(`^\[(\d+):(\d+)\] ([^\n]*)`)

// syntax turns the parser's error, which begins with [line:column], into a problem.
func (d *decoder) syntax(err error) Problem {
	m := syntaxPlace.FindStringSubmatch(err.Error())
	if m == nil {
		first, _, _ := strings.Cut(err.Error(), "\n")
		return Problem{Message: "not YAML: " + first}
	}
	line, _ := strconv.Atoi(m[1])
	column, _ := strconv.Atoi(m[2])
	return Problem{Line: line, Column: column, Source: d.source(line), Message: "not YAML: " + m[3]}
}

func (d *decoder) source(line int) string { return sourceLine(d.lines, line) }

var urlPassword = regexp.MustCompile(`(://[^/\s@:]*:)([^/\s@]+)@`)

// sourceLine is a line as it stands in the file, but for passwords in URLs:
// what is reported at a start ends up in logs.
func sourceLine(lines []string, line int) string {
	if line < 1 || line > len(lines) {
		return ""
	}
	s := strings.TrimRight(lines[line-1], "\r")
	return urlPassword.ReplaceAllStringFunc(s, func(found string) string {
		m := urlPassword.FindStringSubmatch(found)
		return m[1] + strings.Repeat("*", utf8.RuneCountInString(m[2])) + "@" // columns stay
	})
}

func (d *decoder) report(t *token.Token, path, format string, args ...any) {
	p := Problem{Path: path, Message: fmt.Sprintf(format, args...)}
	if t != nil && t.Position != nil {
		p.Line, p.Column = t.Position.Line, t.Position.Column
		p.Source = d.source(p.Line)
	}
	d.problems = append(d.problems, p)
}

func (d *decoder) mark(t *token.Token, path string) {
	if t != nil && t.Position != nil {
		d.pos[path] = pos{t.Position.Line, t.Position.Column}
	}
}

func (d *decoder) value(n ast.Node, v reflect.Value, path string) {
	if v.Kind() == reflect.Pointer {
		if _, null := n.(*ast.NullNode); null {
			return
		}
		if v.IsNil() {
			v.Set(reflect.New(v.Type().Elem()))
			if df, ok := v.Interface().(defaulted); ok {
				df.setDefaults()
			}
		}
		v = v.Elem()
	}
	switch n.(type) {
	case *ast.AnchorNode, *ast.AliasNode, *ast.TagNode, *ast.MergeKeyNode:
		d.report(n.GetToken(), path, "anchors, aliases, merges and tags are not used here: write the value out")
		return
	}
	if r, ok := v.Addr().Interface().(*Rate); ok {
		if _, mapping := n.(ast.MapNode); mapping {
			d.rate(n, r, path)
			return
		}
	}
	if s, ok := v.Addr().Interface().(scalar); ok {
		if text, ok := d.text(n, path); ok {
			if err := s.parse(text); err != nil {
				d.report(n.GetToken(), path, "%v", err)
			}
		}
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		d.mapping(n, v, path)
	case reflect.Slice:
		d.sequence(n, v, path)
	case reflect.Map:
		d.dictionary(n, v, path)
	case reflect.String:
		read := d.text
		if _, verbatim := v.Interface().(Verbatim); verbatim {
			read = d.written
		}
		if text, ok := read(n, path); ok {
			v.SetString(text)
		}
	case reflect.Bool:
		if b, ok := n.(*ast.BoolNode); ok {
			v.SetBool(b.Value)
		} else {
			d.report(n.GetToken(), path, "must be true or false")
		}
	case reflect.Int:
		text, ok := d.text(n, path)
		if !ok {
			return
		}
		i, err := strconv.Atoi(text)
		if err != nil {
			d.report(n.GetToken(), path, "must be a whole number")
			return
		}
		v.SetInt(int64(i))
	}
}

// rate reads {rate: 20/s, burst: 60}.
func (d *decoder) rate(n ast.Node, r *Rate, path string) {
	var long struct {
		Rate  Rate `yaml:"rate"`
		Burst Size `yaml:"burst"`
	}
	before := len(d.problems)
	d.mapping(n, reflect.ValueOf(&long).Elem(), path)
	if len(d.problems) > before {
		return
	}
	if long.Rate.PerSecond == 0 {
		d.report(n.GetToken(), path, "rate is missing: {rate: 20/s, burst: 60}")
		return
	}
	*r = long.Rate
	if long.Burst > 0 {
		r.Burst = int(min(long.Burst, 1<<31-1))
	}
}

func (d *decoder) mapping(n ast.Node, v reflect.Value, path string) {
	m, ok := n.(ast.MapNode)
	if !ok {
		if _, null := n.(*ast.NullNode); !null {
			d.report(n.GetToken(), path, "must be a block of keys")
		}
		return
	}
	fields := fieldsOf(v.Type())
	seen := map[string]int{}
	for it := m.MapRange(); it.Next(); {
		keyNode := it.Key()
		key := keyNode.String()
		if s, ok := keyNode.(*ast.StringNode); ok {
			key = s.Value
		}
		tok := keyNode.GetToken()
		at := join(path, key)
		if line, dup := seen[key]; dup {
			d.report(tok, at, "%s is set twice; the first is on line %d", key, line)
			continue
		}
		seen[key] = tok.Position.Line
		f, ok := fields[key]
		if !ok {
			d.report(tok, at, "unknown key %s%s", key, suggest(key, fields))
			continue
		}
		d.mark(tok, at)
		if later := f.Tag.Get("later"); later != "" {
			if !isOff(it.Value()) {
				d.report(tok, at, "%s is not in this version: it lacks %s", key, later)
			}
			continue
		}
		d.value(it.Value(), v.FieldByIndex(f.Index), at)
		if allowed := f.Tag.Get("oneof"); allowed != "" {
			if got := v.FieldByIndex(f.Index).String(); !slices.Contains(strings.Fields(allowed), got) {
				d.report(it.Value().GetToken(), at, "%s is %q; it is one of: %s", key, got, strings.Join(strings.Fields(allowed), ", "))
			}
		}
	}
}

// dictionary reads a block whose keys the operator chooses, of one value each.
func (d *decoder) dictionary(n ast.Node, v reflect.Value, path string) {
	m, ok := n.(ast.MapNode)
	if !ok {
		if _, null := n.(*ast.NullNode); !null {
			d.report(n.GetToken(), path, "must be a block of keys")
		}
		return
	}
	out := reflect.MakeMap(v.Type())
	for it := m.MapRange(); it.Next(); {
		key := it.Key().String()
		if s, ok := it.Key().(*ast.StringNode); ok {
			key = s.Value
		}
		at := join(path, key)
		if out.MapIndex(reflect.ValueOf(key)).IsValid() {
			d.report(it.Key().GetToken(), at, "%s is set twice", key)
			continue
		}
		d.mark(it.Key().GetToken(), at)
		if text, ok := d.text(it.Value(), at); ok {
			out.SetMapIndex(reflect.ValueOf(key), reflect.ValueOf(text))
		}
	}
	v.Set(out)
}

// isOff reports a value that asks for nothing, so that a file which spells out
// that it does not want a feature works before that feature exists.
func isOff(n ast.Node) bool {
	switch n := n.(type) {
	case *ast.BoolNode:
		return !n.Value
	case *ast.NullNode:
		return true
	case *ast.SequenceNode:
		return len(n.Values) == 0
	}
	return false
}

func (d *decoder) sequence(n ast.Node, v reflect.Value, path string) {
	s, ok := n.(*ast.SequenceNode)
	if !ok {
		if _, list := v.Interface().(interface{ oneOrMore() }); list { // one where a list may stand
			v.Set(reflect.MakeSlice(v.Type(), 1, 1))
			d.value(n, v.Index(0), path)
			return
		}
		if _, null := n.(*ast.NullNode); !null {
			d.report(n.GetToken(), path, "must be a list")
		}
		return
	}
	out := reflect.MakeSlice(v.Type(), len(s.Values), len(s.Values))
	for i, item := range s.Values {
		at := fmt.Sprintf("%s[%d]", path, i)
		d.mark(item.GetToken(), at)
		if df, ok := out.Index(i).Addr().Interface().(defaulted); ok {
			df.setDefaults()
		}
		d.value(item, out.Index(i), at)
	}
	v.Set(out)
}

var envRef = regexp.MustCompile(`\$\{([A-Za-z_][A-Za-z0-9_]*)\}`)

// written is a scalar as it is written.
func (d *decoder) written(n ast.Node, path string) (string, bool) {
	switch n := n.(type) {
	case *ast.StringNode:
		return n.Value, true
	case *ast.LiteralNode:
		return n.Value.Value, true
	case *ast.IntegerNode, *ast.FloatNode:
		return n.GetToken().Value, true
	case *ast.NullNode:
		d.report(n.GetToken(), path, "has no value")
	default:
		d.report(n.GetToken(), path, "must be one value, not %s", strings.ToLower(n.Type().String()))
	}
	return "", false
}

// text is a scalar as written, with ${ENV} expanded.
func (d *decoder) text(n ast.Node, path string) (string, bool) {
	s, ok := d.written(n, path)
	if !ok {
		return "", false
	}
	s = envRef.ReplaceAllStringFunc(s, func(ref string) string {
		name := ref[2 : len(ref)-1]
		value, set := os.LookupEnv(name)
		if !set {
			d.report(n.GetToken(), path, "the environment variable %s is not set", name)
			ok = false
		}
		return value
	})
	return s, ok
}

func fieldsOf(t reflect.Type) map[string]reflect.StructField {
	out := map[string]reflect.StructField{}
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		if f.IsExported() && name != "" && name != "-" {
			out[name] = f
		}
	}
	return out
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// suggest names the known key nearest to a misspelt one.
func suggest(key string, fields map[string]reflect.StructField) string {
	best, dist := "", 3
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		if n := editDistance(key, name); n < dist {
			best, dist = name, n
		}
	}
	if best == "" {
		return ""
	}
	return "; did you mean " + best + "?"
}

func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			next := min(row[j], row[j+1]) + 1
			if a[i] == b[j] {
				next = min(next, diagonal)
			} else {
				next = min(next, diagonal+1)
			}
			diagonal, row[j+1] = row[j+1], next
		}
	}
	return row[len(b)]
}
