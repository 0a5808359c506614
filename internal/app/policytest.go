package app

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/wsbouncer/wsbouncer/internal/config"
	"github.com/wsbouncer/wsbouncer/internal/gateway"
	"github.com/wsbouncer/wsbouncer/internal/message"
	"github.com/wsbouncer/wsbouncer/policy"
)

// An Outcome is what the rules decided about a case.
type Outcome struct {
	config.Case
	Allowed bool
	// Why says what decided.
	Why string
}

// Right reports whether the case's claim holds.
func (o *Outcome) Right() bool { return o.Allowed == (o.Want == "allow") }

// TestPolicy decides cases by the routes of a configuration, which Load found no
// fault in. Limits of rules are not looked at.
func TestPolicy(c *config.Config, cases []config.Case) ([]Outcome, error) {
	p, problems := newPlan(c, nil)
	if len(problems) > 0 {
		return nil, problems
	}
	routes := map[string]*gateway.Route{}
	for i := range p.routes {
		routes[p.routes[i].Path] = &p.routes[i]
	}
	var out []Outcome
	for _, c := range cases {
		rt := routes[c.Route]
		if rt == nil {
			return nil, fmt.Errorf("line %d: there is no route %s", c.Line, c.Route)
		}
		allowed, why, err := decideCase(rt, c)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", c.Line, err)
		}
		out = append(out, Outcome{c, allowed, why})
	}
	return out, nil
}

func decideCase(rt *gateway.Route, c config.Case) (allowed bool, why string, err error) {
	caller, err := callerOf(c)
	if err != nil {
		return false, "", err
	}
	now := time.Now()
	if c.Message == "" && c.Action == "" {
		return decideRoute(rt, caller, now)
	}
	p := rt.Permissions
	if p == nil {
		return true, "the route has no permissions", nil
	}
	rules := p.Client
	if c.From == "upstream" {
		rules = p.Upstream
	}
	if rules == nil {
		return true, "there are no rules for the upstream", nil
	}
	if c.Action != "" {
		return outcomeOf(rules.Decide(caller, policy.Action{Name: c.Action, Target: c.Target}, nil, now))
	}
	o := p.Options
	o.MaxBytes = len(c.Message)
	client, upstream, err := message.New(p.Format, o)
	if err != nil {
		return false, "", err
	}
	reader := client
	if c.From == "upstream" {
		reader = upstream
	}
	units, err := reader.Read(reader.Binary(), []byte(c.Message))
	if err != nil {
		return false, "not a message of the format: " + err.Error(), nil //nolint:nilerr // that is the decision
	}
	for _, u := range units {
		for _, a := range u.Actions {
			d := rules.Decide(caller, policy.Action{Name: a.Name, Target: a.Target, Message: u.JSON, Size: len(c.Message)}, nil, now)
			if !d.Allowed {
				return outcomeOf(d)
			}
		}
	}
	return true, "every action is allowed", nil
}

func decideRoute(rt *gateway.Route, caller *policy.Caller, now time.Time) (allowed bool, why string, err error) {
	for _, s := range rt.Demand.Scopes {
		if !strings.Contains(" "+strings.Join(caller.Scopes, " ")+" ", " "+s+" ") {
			return false, "the scope " + s + " is missing", nil
		}
	}
	if rt.Allow == nil {
		return true, "the route has no allow", nil
	}
	allowed, err = caller.Allows(rt.Allow, now)
	switch {
	case err != nil:
		return false, "allow: " + err.Error(), nil //nolint:nilerr // that is the decision
	case !allowed:
		return false, "allow is false", nil
	}
	return true, "allow is true", nil
}

func outcomeOf(d policy.Decision) (bool, string, error) {
	by := "no rule is about it"
	if d.Rule >= 0 {
		by = fmt.Sprintf("rule %d", d.Rule)
	}
	if d.Why != "" && d.Rule >= 0 {
		by += ": " + d.Why
	}
	return d.Allowed, by, nil
}

func callerOf(c config.Case) (*policy.Caller, error) {
	claims, err := json.Marshal(c.Claims)
	if c.Claims == nil {
		claims = []byte("{}")
	}
	if err != nil {
		return nil, fmt.Errorf("claims: %w", err)
	}
	text := func(name string) string {
		s, _ := c.Claims[name].(string)
		return s
	}
	return policy.NewCaller(policy.Who{
		Issuer: text("iss"), Subject: text("sub"), Session: text("sid"), Scopes: strings.Fields(text("scope")), Claims: claims,
		Path: c.Path, Query: c.Query, IP: c.IP, Origin: c.Origin,
	})
}
