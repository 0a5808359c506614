package demo

import (
	"encoding/json"
	"slices"
	"time"
)

// enter puts m in the room, tells it what is there and the others that it
// came. It reports false when there is no space.
func (c *Chat) enter(name string, m *member) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.rooms[name]
	if r == nil {
		if len(c.rooms) >= maxRooms {
			return false
		}
		r = &room{members: map[*member]struct{}{}}
		c.rooms[name] = r
	}
	if len(r.members) >= maxMembers {
		return false
	}
	r.send(event{Type: "joined", Who: m.who.Subject, People: r.people(m)})
	r.members[m] = struct{}{}
	m.send(event{Type: "welcome", Room: name, You: &m.who, People: r.people(nil), History: r.history})
	return true
}

// leave takes m out and tells the others how its connection ended.
func (c *Chat) leave(name string, m *member, code int, reason string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.rooms[name]
	delete(r.members, m)
	if len(r.members) == 0 {
		delete(c.rooms, name)
		return
	}
	r.send(event{Type: "left", Who: m.who.Subject, People: r.people(nil), Code: code, Reason: reason})
}

// say passes a line to everybody in the room, m too.
func (c *Chat) say(name string, m *member, text string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := line{ID: c.ids.Add(1), From: m.who.Subject, Text: text, At: time.Now().UnixMilli()}
	r := c.rooms[name]
	if len(r.history) == maxHistory {
		r.history = slices.Delete(r.history, 0, 1)
	}
	r.history = append(r.history, l)
	r.send(event{Type: "line", Line: &l})
}

// tell answers m alone.
func (c *Chat) tell(_ string, m *member, e event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	m.send(e)
}

// people lists who is in the room, each subject once, with one more when given.
func (r *room) people(more *member) []string {
	var names []string
	if more != nil {
		names = append(names, more.who.Subject)
	}
	for m := range r.members {
		names = append(names, m.who.Subject)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func (r *room) send(e event) {
	b, _ := json.Marshal(e) // strings and numbers: cannot fail
	for m := range r.members {
		m.queue(b)
	}
}

func (m *member) send(e event) {
	b, _ := json.Marshal(e)
	m.queue(b)
}

// queue never blocks: who does not read is dropped, nobody else waits for it.
func (m *member) queue(b []byte) {
	select {
	case m.out <- b:
	default:
		m.drop()
	}
}
