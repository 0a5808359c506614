package config

import (
	"errors"
	"fmt"
	"os"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// A Case is a claim about what the rules of a route decide, of a file for
// wsbouncer policy test.
type Case struct {
	Name  string `yaml:"name"`
	Route string `yaml:"route"`
	// Claims are the token's.
	Claims map[string]any    `yaml:"claims"`
	Path   map[string]string `yaml:"path"`
	Query  map[string]string `yaml:"query"`
	IP     string            `yaml:"ip"`
	Origin string            `yaml:"origin"`
	// From is "client" or "upstream". Message is a text message; else Action and
	// Target are asked about; with none of them, the route's allow is.
	From    string `yaml:"from"`
	Message string `yaml:"message"`
	Action  string `yaml:"action"`
	Target  string `yaml:"target"`
	// Want is "allow" or "deny".
	Want string `yaml:"want"`

	Line int `yaml:"-"`
}

// LoadCases reads a list of cases. Unknown keys are errors, with line and column.
func LoadCases(path string) ([]Case, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	file, err := parser.ParseBytes(b, 0)
	if err != nil {
		return nil, fmt.Errorf("%s: %s", path, yaml.FormatError(err, false, false))
	}
	if len(file.Docs) != 1 {
		return nil, fmt.Errorf("%s: one YAML document is needed, with a list of cases", path)
	}
	list, ok := file.Docs[0].Body.(*ast.SequenceNode)
	if !ok {
		return nil, fmt.Errorf("%s: it is not a list of cases: - {route: /chat, claims: {…}, message: '…', want: allow}", path)
	}
	cases := make([]Case, len(list.Values))
	for i, n := range list.Values {
		c := &cases[i]
		c.From = "client"
		c.Line = n.GetToken().Position.Line
		if err := yaml.NodeToValue(n, c, yaml.Strict()); err != nil {
			return nil, fmt.Errorf("%s: %s", path, yaml.FormatError(err, false, false))
		}
		if err := c.check(); err != nil {
			return nil, fmt.Errorf("%s:%d: %w", path, c.Line, err)
		}
	}
	return cases, nil
}

func (c *Case) check() error {
	switch {
	case c.Route == "":
		return errors.New("route is missing: the path of a route, as in the configuration")
	case c.Want != "allow" && c.Want != "deny":
		return fmt.Errorf("want is %q; allow or deny", c.Want)
	case c.From != "client" && c.From != "upstream":
		return fmt.Errorf("from is %q; client or upstream", c.From)
	case c.Message != "" && c.Action != "":
		return errors.New("give message or action: the message says what it does")
	case c.Target != "" && c.Action == "":
		return errors.New("target goes with action")
	}
	return nil
}
