package main

import (
	"encoding/json"
	"fmt"

	"github.com/wsbouncer/wsbouncer/internal/app"
	"github.com/wsbouncer/wsbouncer/internal/config"
)

type policyCmd struct {
	Test policyTestCmd `cmd:"" help:"Decide a table of cases by the rules of a configuration."`
}

type policyTestCmd struct {
	configFlag
	Cases string `arg:"" help:"YAML: a list of {name, route, claims, path, message or action and target, want: allow|deny}."`
	JSON  bool   `help:"Print JSON."`
}

// Run decides every case, and fails when one is decided otherwise than it wants.
func (c *policyTestCmd) Run(s *streams) error {
	cfg, err := c.load(s)
	if err != nil {
		return err
	}
	cases, err := config.LoadCases(c.Cases)
	if err != nil {
		return err
	}
	outcomes, err := app.TestPolicy(cfg, cases)
	if err != nil {
		return fmt.Errorf("%s: %w", c.Cases, err)
	}
	type row struct {
		Name    string `json:"name"`
		Line    int    `json:"line"`
		Want    string `json:"want"`
		Allowed bool   `json:"allowed"`
		Why     string `json:"why"`
		OK      bool   `json:"ok"`
	}
	rows, wrong := []row{}, 0
	for _, o := range outcomes {
		r := row{o.Name, o.Line, o.Want, o.Allowed, o.Why, o.Right()}
		rows = append(rows, r)
		if !r.OK {
			wrong++
		}
		if c.JSON || r.OK {
			continue
		}
		verdict := "denied"
		if r.Allowed {
			verdict = "allowed"
		}
		fmt.Fprintf(s.out, "%s:%d: %s: %s (%s), want %s\n", c.Cases, r.Line, r.Name, verdict, r.Why, r.Want)
	}
	if c.JSON {
		if err := json.NewEncoder(s.out).Encode(rows); err != nil {
			return err
		}
	} else {
		fmt.Fprintf(s.out, "%d cases, %d wrong\n", len(rows), wrong)
	}
	if wrong > 0 {
		return errQuiet
	}
	return nil
}
