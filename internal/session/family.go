package session

import (
	"time"
)

// A verdict is what becomes of a use of a refresh token.
type verdict int

const (
	// refused: the session is over, or the answer was repeated already. Nothing changes.
	refused verdict = iota
	// rotates: it is the current token.
	rotates
	// repeats: it is the direct predecessor within the grace, asked for again
	// by a client that lost the answer or by its second tab.
	repeats
	// reused: it was used before and somebody has a copy. The session ends.
	reused
)

// judge decides about a token of r's family (contract section 4). The direct
// predecessor is answered again once, within grace and until its successor has
// been used; in that time further repetitions, such as fifty tabs at once, get
// nothing and change nothing. Any other token of the family that is not the
// current one has been used (RFC 9700 §4.14.2).
func judge(r Record, presented Hash, now time.Time, grace time.Duration) verdict {
	switch {
	case !r.alive(now):
		return refused
	case presented == r.Current:
		return rotates
	case presented == r.Previous && r.Previous != Hash{} && now.Sub(r.Rotated).Abs() < grace:
		if r.Repeated || len(r.Replay) == 0 {
			return refused
		}
		return repeats
	}
	return reused
}

// alive reports whether the session can be used at now.
func (r Record) alive(now time.Time) bool { return now.Before(r.Expires) && now.Before(r.IdleUntil) }

func (r Record) session() Session {
	return Session{
		ID: r.ID, Subject: r.Subject, ClientID: r.ClientID, Scopes: r.Scopes, Method: r.Method, Proof: r.Proof, External: r.External,
		IP: r.IP, UserAgent: r.UserAgent, Origin: r.Origin, Created: r.Created, LastUsed: r.Used,
		Expires: r.Expires, IdleExpires: r.IdleUntil,
	}
}
