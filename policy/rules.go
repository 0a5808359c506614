package policy

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"

	"github.com/wsbouncer/wsbouncer/internal/limit"
)

// What becomes of an action that is denied.
const (
	Reply = "reply" // it goes no further, and its sender is told
	Drop  = "drop"  // it goes no further
	Close = "close" // the connection ends
)

// A Rule is about the actions that it names, and says when they are allowed: all
// that it demands must hold.
type Rule struct {
	// Actions are names, in which * stands for any characters but "/"; none: any.
	Actions []string
	// Targets are Patterns; none: any target, or none.
	Targets []string
	// Scopes are needed, all of them.
	Scopes []string
	// Allow is an expression of Messages; "": true.
	Allow string
	// Limit is how often a connection may do it; zero: as often as it likes.
	Limit Rate
	// OnDeny is Reply, Drop or Close; "": as Ruleset.OnDeny.
	OnDeny string
}

// A Rate is a number of times per second, and how many at once.
type Rate struct {
	PerSecond float64
	Burst     int
}

// A Ruleset is rules in their order: the first that is about an action decides.
type Ruleset struct {
	Rules []Rule
	// Filters: targets may be MQTT topic filters, of which a pattern must cover all.
	Filters bool
	// Allow is whether actions that no rule is about are allowed.
	Allow bool
	// OnDeny is Reply (the default), Drop or Close.
	OnDeny string
}

// Rules are a compiled Ruleset. They are safe for concurrent use.
type Rules struct {
	rules   []rule
	filters bool
	allow   bool
	onDeny  string
	meters  int // rules that have a limit
}

type rule struct {
	actions []string
	targets []*Pattern
	scopes  []string
	allow   *Program // nil: true
	limit   limit.Rate
	meter   int // of the limited rules
	onDeny  string
}

// A RuleError says what is wrong with which rule.
type RuleError struct {
	Rule int
	// Key is the field, as the configuration names it: action, target, allow,
	// limit, on_deny.
	Key string
	Err error
}

func (e *RuleError) Error() string { return fmt.Sprintf("rule %d: %s: %v", e.Rule, e.Key, e.Err) }

func (e *RuleError) Unwrap() error { return e.Err }

// Compile checks and compiles s. The error is a *RuleError where a rule is wrong.
func (s Ruleset) Compile() (*Rules, error) {
	r := &Rules{filters: s.Filters, allow: s.Allow, onDeny: s.OnDeny}
	if r.onDeny == "" {
		r.onDeny = Reply
	}
	if !knownDenial(r.onDeny) {
		return nil, fmt.Errorf("on_deny: %q is none of reply, drop, close", s.OnDeny)
	}
	for i := range s.Rules {
		c, key, err := s.Rules[i].compile(r)
		if err != nil {
			return nil, &RuleError{Rule: i, Key: key, Err: err}
		}
		r.rules = append(r.rules, c)
	}
	return r, nil
}

func knownDenial(s string) bool { return s == Reply || s == Drop || s == Close }

func (u *Rule) compile(r *Rules) (c rule, key string, err error) {
	c = rule{actions: u.Actions, scopes: u.Scopes, onDeny: u.OnDeny, meter: -1}
	if c.onDeny == "" {
		c.onDeny = r.onDeny
	}
	if !knownDenial(c.onDeny) {
		return c, "on_deny", fmt.Errorf("%q is none of reply, drop, close", u.OnDeny)
	}
	for _, a := range u.Actions {
		if _, err := path.Match(a, ""); err != nil || a == "" {
			return c, "action", fmt.Errorf("%q is no name of an action, nor a pattern with *", a)
		}
	}
	for _, t := range u.Targets {
		p, err := ParsePattern(t)
		if err != nil {
			return c, "target", err
		}
		for _, n := range p.Names() {
			if !knownName(n) {
				return c, "target", fmt.Errorf("${%s} is none of subject, session, issuer, claims.NAME and path.NAME", n)
			}
		}
		c.targets = append(c.targets, p)
	}
	if u.Allow != "" {
		if c.allow, err = Messages.Compile(u.Allow); err != nil {
			return c, "allow", err
		}
	}
	switch l := u.Limit; {
	case l == (Rate{}):
	case l.PerSecond <= 0 || l.Burst < 0 || math.IsInf(l.PerSecond, 0) || math.IsNaN(l.PerSecond):
		return c, "limit", errors.New("a rate is a number of times per second above 0")
	default:
		c.limit = limit.Rate{PerSecond: l.PerSecond, Burst: l.Burst}
		if l.Burst == 0 {
			c.limit.Burst = int(math.Ceil(math.Min(l.PerSecond, math.MaxInt32)))
		}
		c.meter = r.meters
		r.meters++
	}
	return c, "", nil
}

func knownName(n string) bool {
	first, rest, more := strings.Cut(n, ".")
	switch first {
	case Subject, Session, Issuer:
		return !more
	case Claims:
		return more
	case Path:
		return more && !strings.Contains(rest, ".")
	}
	return false
}

// Who is whoever acts.
type Who struct {
	Issuer, Subject, Session string
	Scopes                   []string
	// Claims is the payload of the token: one strict JSON object.
	Claims json.RawMessage
	// Path and Query are of the handshake, without credentials.
	Path, Query map[string]string
	IP, Origin  string
}

// A Caller is Who, ready for many decisions. It is safe for concurrent use.
type Caller struct {
	Who
	claims map[string]any
	values map[string]ref.Val
}

// NewCaller prepares w.
func NewCaller(w Who) (*Caller, error) {
	c := &Caller{Who: w, values: make(map[string]ref.Val, 9)}
	v, err := JSON(w.Claims)
	if err != nil {
		return nil, err
	}
	var ok bool
	if c.claims, ok = v.(map[string]any); !ok {
		return nil, errors.New("policy: the claims are no JSON object")
	}
	if w.Path == nil {
		w.Path = map[string]string{}
	}
	if w.Query == nil {
		w.Query = map[string]string{}
	}
	if w.Scopes == nil {
		w.Scopes = []string{}
	}
	for name, v := range map[string]any{
		Claims: c.claims, Scopes: w.Scopes, Issuer: w.Issuer, Subject: w.Subject, Session: w.Session,
		Path: w.Path, Query: w.Query, IP: w.IP, Origin: w.Origin,
	} {
		c.values[name] = types.DefaultTypeAdapter.NativeToValue(v)
	}
	return c, nil
}

// Allows evaluates an expression of Connections.
func (c *Caller) Allows(p *Program, now time.Time) (bool, error) {
	return p.allow(&activation{c: c, now: now})
}

// value is what ${name} stands for; "": nothing.
func (c *Caller) value(name string) string {
	switch first, rest, _ := strings.Cut(name, "."); first {
	case Subject:
		return c.Subject
	case Session:
		return c.Session
	case Issuer:
		return c.Issuer
	case Path:
		return c.Path[rest]
	case Claims:
		var v any = c.claims
		for step := range strings.SplitSeq(rest, ".") {
			m, _ := v.(map[string]any)
			v = m[step]
		}
		switch v := v.(type) {
		case string:
			return v
		case int64:
			return strconv.FormatInt(v, 10)
		}
	}
	return ""
}

// An Action is what somebody wants to do.
type Action struct {
	Name, Target string
	// Message is the message it is part of, where that is one strict JSON
	// document; Size is the message's length in bytes.
	Message json.RawMessage
	Size    int
}

// A Decision is what becomes of an action.
type Decision struct {
	Allowed bool
	// Rule is the one that decided, counted from 0; -1: none is about the action.
	Rule int
	// OnDeny is what to do when it is denied.
	OnDeny string
	// Why, of a denial, is for the operator; it repeats nothing of the action.
	Why string
}

// A Meter counts what one connection does under the limits of rules. The zero
// Meter has counted nothing. It is not safe for concurrent use.
type Meter struct{ states []int64 }

// Decide decides about an action of c. m is the connection's; nil: limits are not
// looked at. An error of an expression is a denial.
func (r *Rules) Decide(c *Caller, a Action, m *Meter, now time.Time) Decision {
	for i := range r.rules {
		u := &r.rules[i]
		if !u.about(c, a, r.filters) {
			continue
		}
		why := u.denies(c, a, now)
		if why == "" && u.meter >= 0 && m != nil && !m.take(r, u, now) {
			why = "above the rule's limit"
		}
		return Decision{Allowed: why == "", Rule: i, OnDeny: u.onDeny, Why: why}
	}
	if r.allow {
		return Decision{Allowed: true, Rule: -1}
	}
	return Decision{Rule: -1, OnDeny: r.onDeny, Why: "no rule is about it"}
}

// about reports whether u decides about a.
func (u *rule) about(c *Caller, a Action, filters bool) bool {
	named := len(u.actions) == 0 || slices.ContainsFunc(u.actions, func(pattern string) bool {
		ok, _ := path.Match(pattern, a.Name)
		return ok
	})
	return named && (len(u.targets) == 0 || slices.ContainsFunc(u.targets, func(p *Pattern) bool {
		return p.Match(a.Target, filters, c.value)
	}))
}

// denies is why u denies a; "": it does not.
func (u *rule) denies(c *Caller, a Action, now time.Time) string {
	for _, s := range u.scopes {
		if !slices.Contains(c.Scopes, s) {
			return "the scope " + s + " is missing"
		}
	}
	if u.allow == nil {
		return ""
	}
	ok, err := u.allow.allow(&activation{c: c, now: now, a: &a})
	switch {
	case err != nil:
		return err.Error()
	case !ok:
		return "allow is false"
	}
	return ""
}

func (m *Meter) take(r *Rules, u *rule, now time.Time) bool {
	if len(m.states) != r.meters {
		m.states = make([]int64, r.meters)
	}
	next, ok, _ := u.limit.Decide(m.states[u.meter], now, 1)
	m.states[u.meter] = next
	return ok
}

// activation is the variables of one evaluation.
type activation struct {
	c   *Caller
	now time.Time
	a   *Action // nil: of a connection
	msg ref.Val
}

// Parent implements cel.Activation.
func (*activation) Parent() cel.Activation { return nil }

// ResolveName implements cel.Activation.
func (v *activation) ResolveName(name string) (any, bool) {
	if known, ok := v.c.values[name]; ok {
		return known, true
	}
	if name == Now {
		return types.Timestamp{Time: v.now}, true
	}
	if v.a == nil {
		return nil, false
	}
	switch name {
	case Act:
		return types.String(v.a.Name), true
	case Target:
		return types.String(v.a.Target), true
	case Size:
		return types.Int(v.a.Size), true
	case Message:
		if v.msg == nil {
			v.msg = messageValue(v.a.Message)
		}
		return v.msg, true
	}
	return nil, false
}
