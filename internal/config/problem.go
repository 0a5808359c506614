package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// A Problem is one thing wrong with a configuration, or one warning about it.
// Line and Column count from one and are zero where no place can be named.
type Problem struct {
	Line    int    `json:"line,omitempty"`
	Column  int    `json:"column,omitempty"`
	Path    string `json:"path,omitempty"`
	Message string `json:"message"`
	// Source is the line of the file, as it stands there.
	Source string `json:"source,omitempty"`
}

// String is the problem in one line: 12:5: routes[0].path: …
func (p Problem) String() string {
	var b strings.Builder
	if p.Line > 0 {
		fmt.Fprintf(&b, "%d:%d: ", p.Line, p.Column)
	}
	if p.Path != "" {
		b.WriteString(p.Path + ": ")
	}
	b.WriteString(p.Message)
	return b.String()
}

// Render is the problem for a terminal: the line above, the source line, and a
// mark under the column.
func (p Problem) Render(file string) string {
	var b strings.Builder
	if file != "" {
		b.WriteString(file + ":")
	}
	b.WriteString(p.String() + "\n")
	if p.Source != "" {
		fmt.Fprintf(&b, "%6d | %s\n", p.Line, p.Source)
		indent := strings.Map(func(r rune) rune {
			if r == '\t' {
				return '\t'
			}
			return ' '
		}, firstRunes(p.Source, p.Column-1))
		fmt.Fprintf(&b, "       | %s^\n", indent)
	}
	return b.String()
}

func firstRunes(s string, n int) string {
	r := []rune(s)
	return string(r[:max(0, min(n, len(r)))])
}

// Problems are the problems of a configuration, in the order of the file. As
// an error they are one line each.
type Problems []Problem

func (ps Problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

// Sort puts them in the order of the file.
func (ps Problems) Sort() {
	slices.SortStableFunc(ps, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
}

// Touch reports whether one of them is about the key at path, or one below it.
func (ps Problems) Touch(path string) bool {
	return slices.ContainsFunc(ps, func(p Problem) bool {
		rest, ok := strings.CutPrefix(p.Path, path)
		return ok && (rest == "" || rest[0] == '.' || rest[0] == '[')
	})
}
