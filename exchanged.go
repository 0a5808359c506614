package wsbouncer

import (
	"sync"

	"github.com/wsbouncer/wsbouncer/token"
)

// exchanged finds the connections whose token was exchanged for another one
// (token.Token.From) by what revocations name of that other one. There are few
// of them, so that they have maps of their own and no links in every Live.
type exchanged struct {
	mu   sync.Mutex
	live map[exchangedFor]map[*Live]bool
}

type exchangedFor struct {
	index int
	name
}

// eachSource calls fn for all that a revocation can name of what t was exchanged for.
func eachSource(t *token.Token, fn func(exchangedFor)) {
	if t == nil {
		return
	}
	for f := t.From; f != nil; f = f.From {
		for index, value := range [...]string{byToken: f.ID, bySession: f.Session, bySubject: f.Subject} {
			if value != "" {
				fn(exchangedFor{index, name{f.Issuer, value}})
			}
		}
	}
}

func (e *exchanged) add(l *Live, t *token.Token) {
	if t.From == nil {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	eachSource(t, func(k exchangedFor) {
		if e.live == nil {
			e.live = map[exchangedFor]map[*Live]bool{}
		}
		if e.live[k] == nil {
			e.live[k] = map[*Live]bool{}
		}
		e.live[k][l] = true
	})
}

func (e *exchanged) remove(l *Live, t *token.Token) {
	if t == nil || t.From == nil {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	eachSource(t, func(k exchangedFor) {
		if delete(e.live[k], l); len(e.live[k]) == 0 {
			delete(e.live, k)
		}
	})
}

// each calls fn, which must be short, for the connections of k.
func (e *exchanged) each(index int, n name, fn func(*Live)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for l := range e.live[exchangedFor{index, n}] {
		fn(l)
	}
}
