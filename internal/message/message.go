// Package message reads what the messages of common protocols do: which
// actions, and on what. It decides nothing, and keeps nothing beyond what it
// says.
//
// Every reader is strict: what it does not understand is an error, never an
// action it guesses. What is forwarded is byte for byte what was read, so that
// a server which reads the same bytes by the same standard does the same.
package message

import (
	"errors"
	"fmt"
)

// An Action is one thing that a message asks for, or brings.
type Action struct {
	// Name is what is done, in the format's own terms: a method, an event, publish.
	Name string
	// Target is what it is done to: a room, a topic, a field. It may be empty.
	Target string
}

// A Unit is what is let through or held back as a whole: a message, or one of
// several packets in one.
type Unit struct {
	// Raw is the unit's bytes.
	Raw []byte
	// Actions are all that it asks for; it may go on if each may. None: it only
	// keeps the protocol going.
	Actions []Action
	// Follows: it is part of the unit before it, and shares its fate.
	Follows bool
	// JSON is the unit as a JSON document, where it is or holds one.
	JSON []byte

	denial denial
}

// denial makes the sender's own protocol say that something was refused; nil
// where it cannot.
type denial func(code string) []byte

// Denial is what tells the sender of u, in its own protocol, that u was refused
// with code, which needs no escaping; binary says in which kind of message. ok
// is false where the protocol has no word for it, or nobody waits for one.
func (u *Unit) Denial(code string) (reply []byte, ok bool) {
	if u.denial == nil {
		return nil, false
	}
	reply = u.denial(code)
	return reply, len(reply) > 0
}

// A Reader reads one direction of one connection. It is not safe for concurrent
// use.
type Reader interface {
	// Read takes one whole message. The units are valid until the next call,
	// and nobody changes data before. Together, and in their order, they are all
	// of data, but for what is held back until a unit is whole. An error means
	// that nothing of the message may go on, and that the reader does not know
	// any more where it stands.
	Read(binary bool, data []byte) ([]Unit, error)
	// Binary reports whether units and denials are binary messages.
	Binary() bool
}

// Options are what readers of a format need.
type Options struct {
	// Action and Target are JSON pointers, for the formats that have no words
	// of their own for it. Target may be absent.
	Action, Target string
	// MaxBytes bounds what is held back; it is that of a message.
	MaxBytes int
}

// A format makes the two readers of a connection.
type format struct {
	make func(Options) (client, upstream Reader, err error)
	// invalid is what answers a message that is not understood; "": nothing can,
	// and after it nobody knows where in the protocol the connection stands.
	invalid string
	// action: Options.Action is needed; target: Options.Target may be there.
	action, target bool
}

var formats = map[string]format{
	"json": {make: newJSON, action: true, target: true, invalid: `{"wsbouncer":"denied","code":"invalid_message"}`},
	"jsonrpc": {make: newJSONRPC, target: true,
		invalid: `{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"Invalid Request","data":{"code":"invalid_message"}}}`},
	"graphql-transport-ws": {make: newGraphQL},
	"mqtt":                 {make: newMQTT},
	"stomp":                {make: newSTOMP},
	"socketio":             {make: newSocketIO},
}

// Formats are the names of all formats, in the order of the documentation.
var Formats = []string{"json", "jsonrpc", "graphql-transport-ws", "mqtt", "stomp", "socketio"}

// Check tells what is wrong with a format and its options before there is a
// connection: key is which of "format", "action" and "target".
func Check(name string, o Options) (key string, err error) {
	f, ok := formats[name]
	switch {
	case !ok:
		return "format", fmt.Errorf("%q is none of %v", name, Formats)
	case f.action && o.Action == "":
		return "action", errors.New("it is needed: a JSON pointer to what a message does, such as /type")
	case !f.action && o.Action != "":
		return "action", fmt.Errorf("%s knows its actions by itself", name)
	case !f.target && o.Target != "":
		return "target", fmt.Errorf("%s knows its targets by itself", name)
	}
	if o.Action != "" {
		if _, err := pointers(o.Action); err != nil {
			return "action", err
		}
	}
	if o.Target != "" {
		if _, err := pointers(o.Target); err != nil {
			return "target", err
		}
	}
	return "", nil
}

// Invalid is what tells the sender of a message that it is not understood. ok is
// false where the connection cannot go on after it.
func Invalid(name string) (reply []byte, ok bool) {
	f := formats[name]
	return []byte(f.invalid), f.invalid != ""
}

// Filters reports whether targets of the format may be MQTT topic filters.
func Filters(name string) bool { return name == "mqtt" }

// New is the readers of a connection: of what the client sends and of what the
// upstream does. The two may be used at the same time. The options are those
// that Check found no fault in.
func New(name string, o Options) (client, upstream Reader, err error) {
	f, ok := formats[name]
	if !ok {
		return nil, nil, fmt.Errorf("%q is no format", name)
	}
	return f.make(o)
}

// An Error says why a message is not understood; it repeats nothing of it.
type Error struct{ Detail string }

func (e *Error) Error() string { return e.Detail }

func invalid(detail string) error { return &Error{Detail: detail} }

// held is the beginning of a unit whose rest has not come yet.
type held struct{ b []byte }

// with is all that waits to be read, data being the last of it.
func (h *held) with(data []byte) []byte {
	if len(h.b) == 0 {
		return data
	}
	h.b = append(h.b, data...)
	return h.b
}

// keep keeps the end of what with gave. It copies only where something of that
// has gone on, so that a unit in a thousand pieces is not copied a thousand times.
func (h *held) keep(rest []byte) {
	switch {
	case len(rest) == 0:
		h.b = nil
	case len(h.b) != len(rest):
		h.b = append([]byte(nil), rest...)
	}
}
