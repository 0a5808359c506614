package app

import (
	"errors"
	"fmt"

	"github.com/wsbouncer/wsbouncer/internal/config"
	"github.com/wsbouncer/wsbouncer/internal/gateway"
	"github.com/wsbouncer/wsbouncer/internal/message"
	"github.com/wsbouncer/wsbouncer/policy"
)

// rulesOfRoute compiles what a route says about connections and messages; path is
// the key that is at fault.
func rulesOfRoute(r *config.Route) (allow *policy.Program, p *gateway.Permissions, path string, err error) {
	if r.Allow != "" {
		if allow, err = policy.Connections.Compile(string(r.Allow)); err != nil {
			return nil, nil, "allow", err
		}
	}
	if r.Permissions != nil {
		if p, path, err = permissionsOf(r.Permissions); err != nil {
			return nil, nil, "permissions." + path, err
		}
	}
	return allow, p, "", nil
}

// permissionsOf compiles a route's rules; path is the key that is at fault.
func permissionsOf(c *config.Permissions) (p *gateway.Permissions, path string, err error) {
	p = &gateway.Permissions{
		Format: c.Format, Options: message.Options{Action: c.Action, Target: c.Target},
		OnDeny: c.OnDeny, Report: c.Mode == "report",
	}
	if key, err := message.Check(p.Format, p.Options); err != nil {
		return nil, key, err
	}
	if p.Client, path, err = rulesOf(c, c.FromClient); err != nil {
		return nil, "from_client" + path, err
	}
	if c.FromUpstream == nil {
		return p, "", nil
	}
	if p.Upstream, path, err = rulesOf(c, c.FromUpstream); err != nil {
		return nil, "from_upstream" + path, err
	}
	return p, "", nil
}

func rulesOf(c *config.Permissions, list []config.PermissionRule) (*policy.Rules, string, error) {
	s := policy.Ruleset{Filters: message.Filters(c.Format), Allow: c.Default == "allow", OnDeny: c.OnDeny}
	for _, r := range list {
		u := policy.Rule{Actions: r.Action, Scopes: r.Scopes, Allow: string(r.Allow), OnDeny: r.OnDeny}
		for _, t := range r.Target {
			u.Targets = append(u.Targets, string(t))
		}
		if r.Limit != nil {
			u.Limit = policy.Rate{PerSecond: r.Limit.PerSecond, Burst: r.Limit.Burst}
		}
		s.Rules = append(s.Rules, u)
	}
	rules, err := s.Compile()
	var wrong *policy.RuleError
	if errors.As(err, &wrong) {
		return nil, fmt.Sprintf("[%d].%s", wrong.Rule, wrong.Key), wrong.Err
	}
	return rules, "", err
}
