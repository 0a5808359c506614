package policy

import (
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/wsbouncer/wsbouncer"
)

// Permit makes the judge of one connection: give Rules to a Demand as its
// Permissions, and Principal.Allow asks them. Limits of rules count what the
// connection does. Expressions that read msg deny; ip is the address that the
// request came from.
func (r *Rules) Permit(principal func() *wsbouncer.Principal, req *http.Request) (allow func(action, target string) bool) {
	w := Who{Path: map[string]string{}, Query: map[string]string{}, IP: req.RemoteAddr}
	if host, _, err := net.SplitHostPort(req.RemoteAddr); err == nil {
		w.IP = host
	}
	for name, values := range req.URL.Query() {
		w.Query[name] = values[0]
	}
	for step := range strings.SplitSeq(req.Pattern, "/") {
		if name, ok := strings.CutPrefix(step, "{"); ok && strings.HasSuffix(name, "}") {
			name = strings.TrimSuffix(strings.TrimSuffix(name, "}"), "...")
			w.Path[name] = req.PathValue(name)
		}
	}
	j := &judge{rules: r, principal: principal, who: w}
	return j.allow
}

type judge struct {
	rules     *Rules
	principal func() *wsbouncer.Principal
	who       Who // but for what is the token's

	mu     sync.Mutex
	caller *Caller
	until  time.Time // the caller's token
	meter  Meter
}

func (j *judge) allow(action, target string) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	p := j.principal()
	if p == nil {
		return false
	}
	if until := p.ExpiresAt(); j.caller == nil || !until.Equal(j.until) {
		c, err := NewCaller(j.who.Of(p))
		if err != nil {
			return false
		}
		j.caller, j.until = c, until
	}
	return j.rules.Decide(j.caller, Action{Name: action, Target: target}, &j.meter, time.Now()).Allowed
}

// Of is w with what is p's: all but path, query and address.
func (w Who) Of(p *wsbouncer.Principal) Who {
	w.Issuer, w.Subject, w.Session, w.Scopes, w.Origin = p.Issuer, p.Subject, p.Session, p.Scopes, p.Origin
	w.Claims = []byte(p.Claims)
	return w
}
