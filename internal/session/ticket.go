package session

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/wsbouncer/wsbouncer/internal/audit"
	"github.com/wsbouncer/wsbouncer/internal/reason"
	"github.com/wsbouncer/wsbouncer/token"
)

// Bounds of tickets. A subject that asks for more loses its oldest; a server
// that has more outstanding gives out no more for a moment.
const (
	ticketLife        = 30 * time.Second
	ticketsPerSubject = 64
	maxTickets        = 100_000
	maxPath           = 2048
	// maxRemembered is how many used tickets are remembered, to tell a
	// replayed one from a guess.
	maxRemembered = 4096
)

// ErrTicketPath says that a ticket is asked for what is no path.
var ErrTicketPath = errors.New("path is the WebSocket's path as it stands in its URL, for example /chat/lobby, without query or fragment")

// usedTicket is whose a redeemed ticket was.
type usedTicket struct{ issuer, subject, session, connection string }

// sealedToken is a token.Token as a ticket keeps it. Claims stay the bytes that
// were signed.
type sealedToken struct {
	token.Token
	Claims []byte
}

// Ticket makes a ticket that stands for t, which the caller verified just now,
// in one handshake for exactly path (as escaped in the URL) from exactly origin
// (empty: without an Origin). It fails with ErrTicketPath, or with a *Refusal
// when the session is over or too many are outstanding.
func (s *Service) Ticket(ctx context.Context, t *token.Token, path, origin string) (TicketGrant, error) {
	if !strings.HasPrefix(path, "/") || len(path) > maxPath || strings.ContainsAny(path, "?# \x00\r\n") {
		return TicketGrant{}, ErrTicketPath
	}
	if len(origin) > maxOrigin {
		return TicketGrant{}, reason.OriginDenied
	}
	encoded, err := json.Marshal(sealedToken{Token: *t, Claims: t.Claims})
	if err != nil {
		return TicketGrant{}, fmt.Errorf("encode the token: %w", err)
	}
	now := s.now()
	expires := now.Add(ticketLife)
	if d := t.Deadline(); d.Before(expires) {
		expires = d.Truncate(time.Millisecond)
	}
	if !expires.After(now) {
		return TicketGrant{}, reason.TokenExpired401
	}
	if ok, err := s.tickets.room(ctx, s.o.Store, now); err != nil {
		return TicketGrant{}, err
	} else if !ok {
		return TicketGrant{}, reason.Overloaded503
	}
	raw, hash := newTicket()
	row := Ticket{
		Hash: hash, Issuer: t.Issuer, Subject: t.Subject, Session: t.Session, Connection: newID(),
		Path: path, Origin: strings.ToLower(origin), Token: encoded, Expires: expires,
	}
	err = s.o.Store.Tx(ctx, func(ctx context.Context) error {
		// A session that ends now takes its tickets with it: whichever of the
		// two comes second sees the other.
		if t.Own && t.Session != "" {
			if r, err := s.o.Store.Session(ctx, t.Session); isAbsent(err) || err == nil && r.Subject != t.Subject {
				return reason.TokenRevoked401
			} else if err != nil {
				return err
			}
		}
		return s.o.Store.InsertTicket(ctx, row, ticketsPerSubject)
	})
	if err != nil {
		return TicketGrant{}, fmt.Errorf("make a ticket: %w", err)
	}
	return TicketGrant{Ticket: raw, Connection: row.Connection, ExpiresAt: expires, ExpiresIn: int(expires.Sub(now) / time.Second)}, nil
}

// Redeem implements wsbouncer.Redeemer. A ticket is gone once it was shown, also
// when path or origin are not the ones it was made for.
func (s *Service) Redeem(ctx context.Context, ticket, path, origin string) (t *token.Token, cid string, err error) {
	hash, ok := parseTicket(ticket)
	if !ok {
		return nil, "", reason.TicketInvalid
	}
	row, err := s.o.Store.TakeTicket(ctx, hash)
	if isAbsent(err) {
		return nil, "", s.replayed(ctx, hash, origin)
	}
	if err != nil {
		return nil, "", fmt.Errorf("redeem a ticket: %w", err)
	}
	s.redeemed.Put(hash, usedTicket{row.Issuer, row.Subject, row.Session, row.Connection})
	if !s.now().Before(row.Expires) || path != row.Path || strings.ToLower(origin) != row.Origin {
		return nil, "", reason.TicketInvalid
	}
	var st sealedToken
	if err := json.Unmarshal(row.Token, &st); err != nil {
		return nil, "", fmt.Errorf("decode a ticket's token: %w", err)
	}
	st.Token.Claims = st.Claims
	return &st.Token, row.Connection, nil
}

// replayed tells of a ticket that comes again after its use here: a URL leaked.
// It is told once for each ticket.
func (s *Service) replayed(ctx context.Context, hash Hash, origin string) error {
	u, ok := s.redeemed.Get(hash)
	if !ok {
		return reason.TicketInvalid
	}
	s.redeemed.Delete(hash)
	err := s.o.Audit.Write(ctx, audit.Event{
		Time: s.now(), Type: audit.TicketReplayed, Issuer: u.issuer, Subject: u.subject, Session: u.session,
		Connection: u.connection, Origin: origin,
	})
	if err != nil {
		return fmt.Errorf("audit: %w", err)
	}
	return reason.TicketInvalid
}

// outstanding bounds the tickets there are. It counts those made since the
// last look into the store, and looks again when that could be too many, at
// most once a second.
type outstanding struct {
	mu      sync.Mutex
	atMost  int
	counted time.Time
}

func (o *outstanding) room(ctx context.Context, st Store, now time.Time) (bool, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.counted.IsZero() || o.atMost >= maxTickets && now.Sub(o.counted).Abs() >= time.Second {
		n, err := st.CountTickets(ctx, now)
		if err != nil {
			return false, fmt.Errorf("count tickets: %w", err)
		}
		o.atMost, o.counted = n, now
	}
	if o.atMost >= maxTickets {
		return false, nil
	}
	o.atMost++
	return true, nil
}
