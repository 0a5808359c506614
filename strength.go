package wsbouncer

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/wsbouncer/wsbouncer/internal/reason"
	"github.com/wsbouncer/wsbouncer/token"
)

// strength is how well and how recently a login must have been proved.
type strength struct {
	amr, acr []string
	maxAge   time.Duration
}

func (s *strength) none() bool { return len(s.amr) == 0 && len(s.acr) == 0 && s.maxAge == 0 }

// authTimeEarly is how far ahead auth_time may be where the issuer has less leeway.
const authTimeEarly = 5 * time.Second

// CheckStrength reports whether t's login is as strong and as recent as d
// demands: nil, or a *Refusal (insufficient_user_authentication). Admit,
// Extend and Refresh ask it themselves; it is for whoever wants to know before.
func (d *Demand) CheckStrength(t *token.Token) error {
	s := d.strength()
	if ref := s.check(t.Claims, t.Leeway, time.Now()); ref != nil {
		return ref
	}
	return nil
}

func (d *Demand) strength() strength {
	return strength{amr: d.RequireAMR, acr: d.RequireACR, maxAge: d.MaxAuthAge}
}

// check judges amr, acr and auth_time as they are in a verified token. What is
// absent or of another type than the standards give it proves nothing.
func (s *strength) check(c token.Claims, leeway time.Duration, now time.Time) *Refusal {
	if s.none() {
		return nil
	}
	why := ""
	if missing := s.missingAMR(c); len(missing) > 0 {
		why = "The login lacks " + strings.Join(missing, ", ") + " (amr). Log in again with that factor."
	}
	if len(s.acr) > 0 && why == "" {
		var acr *string // a pointer, because null would become ""
		if _, err := c.Lookup("acr", &acr); err != nil || acr == nil || !slices.Contains(s.acr, *acr) {
			why = "The login did not reach " + strings.Join(s.acr, " or ") + " (acr). Log in again in a stronger way."
		}
	}
	if s.maxAge > 0 && why == "" && !s.recent(c, leeway, now) {
		why = fmt.Sprintf("The login is older than %s. Log in again.", s.maxAge)
	}
	if why == "" {
		return nil
	}
	return reason.InsufficientUserAuthentication.Because(why).Wants(strings.Join(s.acr, " "), s.maxAge)
}

func (s *strength) missingAMR(c token.Claims) (missing []string) {
	if len(s.amr) == 0 {
		return nil
	}
	var list []*string
	if _, err := c.Lookup("amr", &list); err != nil || slices.Contains(list, nil) {
		list = nil
	}
	for _, need := range s.amr {
		if !slices.ContainsFunc(list, func(have *string) bool { return *have == need }) {
			missing = append(missing, need)
		}
	}
	return missing
}

// recent: auth_time is a number of seconds, neither too old nor in the future.
func (s *strength) recent(c token.Claims, leeway time.Duration, now time.Time) bool {
	var at *float64
	if _, err := c.Lookup("auth_time", &at); err != nil || at == nil {
		return false
	}
	age := float64(now.UnixNano())/float64(time.Second) - *at
	early := max(leeway, authTimeEarly).Seconds()
	return !math.IsNaN(age) && age <= s.maxAge.Seconds() && age >= -early
}
