package gateway

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/wsbouncer/wsbouncer"
	"github.com/wsbouncer/wsbouncer/internal/message"
	"github.com/wsbouncer/wsbouncer/internal/reason"
	"github.com/wsbouncer/wsbouncer/internal/relay"
	"github.com/wsbouncer/wsbouncer/policy"
)

// Permissions are what a route's messages may do.
type Permissions struct {
	// Format is one of message.Formats, Options what it needs but MaxBytes.
	Format  string
	Options message.Options
	// Client and Upstream are for what either sends; nil: it may all.
	Client, Upstream *policy.Rules
	// OnDeny is what becomes of a message that is not understood.
	OnDeny string
	// Report tells what would be denied, and denies nothing.
	Report bool
}

// reads reports whether connections read by p can go on by q.
func (p *Permissions) reads(q *Permissions) bool {
	return p == q || p != nil && q != nil && p.Format == q.Format && p.Options == q.Options
}

// allowing asks a route's expression.
type allowing struct {
	g  *Gateway
	rt *route
}

// Authorize implements wsbouncer.Authorizer.
func (a *allowing) Authorize(_ context.Context, p *wsbouncer.Principal, r *http.Request) error {
	c, err := policy.NewCaller(a.g.who(a.rt, p, r))
	ok := false
	if err == nil {
		ok, err = c.Allows(a.rt.Allow, time.Now())
	}
	if err != nil {
		a.g.report.handshake(a.rt, "allow could not be evaluated, and so is false", err)
	}
	if !ok {
		return reason.Forbidden
	}
	return nil
}

// who is p as expressions see it; r carries no credential.
func (g *Gateway) who(rt *route, p *wsbouncer.Principal, r *http.Request) policy.Who {
	w := policy.Who{Path: pathValues(rt.Path, r.URL), Query: map[string]string{}, IP: g.o.Peers.Addr(r).String()}
	values, _ := url.ParseQuery(r.URL.RawQuery)
	for name, v := range values {
		w.Query[name] = v[0]
	}
	return w.Of(p)
}

// pathValues are the values of a ServeMux pattern's wildcards, unescaped.
func pathValues(pattern string, u *url.URL) map[string]string {
	values := map[string]string{}
	rest := strings.TrimPrefix(u.EscapedPath(), "/")
	for step := range strings.SplitSeq(strings.TrimPrefix(pattern, "/"), "/") {
		name, wild := strings.CutPrefix(step, "{")
		name = strings.TrimSuffix(name, "}")
		if !wild || name == "$" {
			_, rest, _ = strings.Cut(rest, "/")
			continue
		}
		value := rest
		if more, all := strings.CutSuffix(name, "..."); all {
			name, rest = more, ""
		} else {
			value, rest, _ = strings.Cut(rest, "/")
		}
		if v, err := url.PathUnescape(value); err == nil {
			values[name] = v
		}
	}
	return values
}

// An inspector decides about the messages of one connection.
type inspector struct {
	g    *Gateway
	path string // of the route
	live *wsbouncer.Live
	who  policy.Who // but for what is the token's
	// read is how the messages are read; a reload that changes that ends the
	// connection.
	read *Permissions
	up   direction
	down direction
}

// direction is one party's messages; the relay gives them one at a time.
type direction struct {
	reader message.Reader
	caller *policy.Caller
	until  time.Time // the caller's token
	meter  policy.Meter
	passes bool // the last unit did
	blind  bool // in report mode: something was not understood
	part   []byte
}

func newInspector(h *handshake, live *wsbouncer.Live) *inspector {
	p := h.rt.Permissions
	o := p.Options
	o.MaxBytes = int(h.limits.MessageBytes)
	i := &inspector{g: h.g, path: h.rt.Path, live: live, read: p, who: h.g.who(h.rt, h.a.Principal, h.a.Request)}
	// Check found no fault in the options, so that there is no error.
	i.up.reader, i.down.reader, _ = message.New(p.Format, o)
	return i
}

// permissions are those of now; nil: the route reads messages in another way.
func (i *inspector) permissions() *Permissions {
	rt := i.g.table.Load().byPath[i.path]
	if rt == nil {
		return i.read // the route is gone, and its connections stay
	}
	if !i.read.reads(rt.Permissions) {
		return nil
	}
	return rt.Permissions
}

// inspect is relay.Config.Inspect.
func (i *inspector) inspect(_ *relay.Conn, from relay.Party, binary bool, text []byte) relay.Verdict {
	p := i.permissions()
	if p == nil {
		return relay.Verdict{End: reason.Restarting}
	}
	d, rules := &i.up, p.Client
	if from == relay.Upstream {
		d, rules = &i.down, p.Upstream
	}
	if rules == nil && from == relay.Upstream || d.blind {
		return relay.Verdict{Whole: true}
	}
	units, err := d.reader.Read(binary, text)
	if err != nil {
		return i.invalid(p, d, from, err)
	}
	caller, err := i.caller(d)
	if err != nil {
		return relay.Verdict{End: reason.NotAllowed}
	}
	v := relay.Verdict{BinaryReply: d.reader.Binary()}
	d.part = d.part[:0]
	whole := true
	now := time.Now()
	for n := range units {
		u := &units[n]
		onDeny := ""
		if !u.Follows {
			onDeny = i.denied(p, rules, d, caller, u, from, len(text), now)
			d.passes = onDeny == "" || p.Report
		}
		if d.passes {
			d.part = append(d.part, u.Raw...)
			continue
		}
		whole = false
		switch onDeny {
		case policy.Close:
			return relay.Verdict{End: reason.NotAllowed}
		case policy.Reply:
			reply, _ := u.Denial(reason.NotAllowed.Text)
			v.Reply = append(v.Reply, reply...)
		}
	}
	// What was held back of earlier messages goes on with this one.
	if v.Whole = whole && len(units) > 0 && len(d.part) == len(text) && (len(text) == 0 || &units[0].Raw[0] == &text[0]); !v.Whole {
		v.Part = d.part
	}
	if cap(d.part) > keepPart {
		d.part = nil
	}
	return v
}

// keepPart is what a connection holds on to of the room for a part.
const keepPart = 4 << 10

// denied is what to do about a unit that is denied; "": it is not.
func (i *inspector) denied(p *Permissions, rules *policy.Rules, d *direction, c *policy.Caller, u *message.Unit, from relay.Party, size int, now time.Time) string {
	if rules == nil {
		return ""
	}
	for _, a := range u.Actions {
		v := rules.Decide(c, policy.Action{Name: a.Name, Target: a.Target, Message: u.JSON, Size: size}, &d.meter, now)
		if !v.Allowed {
			i.g.denied(i, from, v, p.Report)
			return v.OnDeny
		}
	}
	return ""
}

// invalid is what becomes of a message that is not understood.
func (i *inspector) invalid(p *Permissions, d *direction, from relay.Party, err error) relay.Verdict {
	var why *message.Error
	if !errors.As(err, &why) {
		why = &message.Error{Detail: "it cannot be read"}
	}
	i.g.denied(i, from, policy.Decision{Rule: -1, OnDeny: p.OnDeny, Why: "not a message of the format: " + why.Detail}, p.Report)
	reply, ok := message.Invalid(p.Format)
	switch {
	case p.Report:
		d.blind = !ok
		return relay.Verdict{Whole: true}
	case p.OnDeny == policy.Close || !ok:
		return relay.Verdict{End: reason.NotAllowed}
	case p.OnDeny == policy.Drop || from == relay.Upstream:
		return relay.Verdict{}
	}
	return relay.Verdict{Reply: reply}
}

// A Denial counts messages that were denied.
type Denial struct {
	Route string
	// From is client or upstream.
	From string
	// Rule is the one that denied, counted from 0; -1: no rule was about the
	// message, or it was none of the format.
	Rule int
	// Reported: they would have been denied, but for mode: report.
	Reported bool
	Times    int64
}

// denials counts them since the start; the rules there are bound it.
type denials struct {
	mu    sync.Mutex
	times map[Denial]int64
}

func (g *Gateway) denied(i *inspector, from relay.Party, d policy.Decision, report bool) {
	g.report.denied(i.path, i.live.ID(), from.String(), d, report)
	g.denials.mu.Lock()
	defer g.denials.mu.Unlock()
	if g.denials.times == nil {
		g.denials.times = map[Denial]int64{}
	}
	g.denials.times[Denial{Route: i.path, From: from.String(), Rule: d.Rule, Reported: report}]++
}

// Denials lists the messages that were denied since the start.
func (g *Gateway) Denials() []Denial {
	g.denials.mu.Lock()
	defer g.denials.mu.Unlock()
	out := make([]Denial, 0, len(g.denials.times))
	for d, n := range g.denials.times {
		d.Times = n
		out = append(out, d)
	}
	slices.SortFunc(out, func(a, b Denial) int {
		return cmp.Or(strings.Compare(a.Route, b.Route), strings.Compare(a.From, b.From), cmp.Compare(a.Rule, b.Rule))
	})
	return out
}

// caller is who acts, by the token of now. A refresh moves the deadline after
// the token, so that a caller of an old token is never kept for a new deadline.
func (i *inspector) caller(d *direction) (*policy.Caller, error) {
	until := i.live.ExpiresAt()
	if d.caller != nil && d.until.Equal(until) {
		return d.caller, nil
	}
	p := i.live.Principal()
	if p == nil {
		return nil, errors.New("nobody is there")
	}
	c, err := policy.NewCaller(i.who.Of(p))
	if err != nil {
		return nil, err
	}
	d.caller, d.until = c, until
	return c, nil
}

// endUnread ends the connections of routes whose messages are read in another way
// from now on, or were not read at all: they would escape the rules.
func (g *Gateway) endUnread(old, t *table) {
	if old == nil {
		return
	}
	changed := map[any]bool{}
	for path, was := range old.byPath {
		if is := t.byPath[path]; is != nil && !was.Permissions.reads(is.Permissions) {
			changed[path] = true
		}
	}
	if len(changed) == 0 {
		return
	}
	for l := range g.o.Bouncer.Live() {
		if changed[l.Route()] {
			l.End(reason.Restarting)
		}
	}
}
