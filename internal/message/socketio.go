package message

import (
	"slices"
	"strconv"
	"strings"

	"github.com/wsbouncer/wsbouncer/internal/jsonscan"
)

// maxAttachments bounds the binary parts of an event.
const maxAttachments = 16

// reservedEvents are what no application may emit (Socket.IO documentation,
// "Emit cheatsheet").
var reservedEvents = []string{"connect", "connect_error", "disconnect", "disconnecting", "newListener", "removeListener"}

// socketioReader reads the Socket.IO protocol 5 over Engine.IO 4
// (https://socket.io/docs/v4/socket-io-protocol/, …/engine-io-protocol/).
type socketioReader struct {
	o      jsonscan.Options
	client bool
	unit   [1]Unit
	// attachments of the last event are still to come.
	attachments int
}

func newSocketIO(o Options) (client, upstream Reader, err error) {
	return &socketioReader{o: jsonOptions(o), client: true}, &socketioReader{o: jsonOptions(o)}, nil
}

func (r *socketioReader) Binary() bool { return false }

func (r *socketioReader) Read(binary bool, data []byte) ([]Unit, error) {
	r.unit[0] = Unit{Raw: data}
	u := &r.unit[0]
	if binary {
		if r.attachments == 0 {
			return nil, errBinary
		}
		r.attachments--
		u.Follows = true
		return r.unit[:], nil
	}
	if len(data) == 0 {
		return nil, invalid("an empty message")
	}
	kind, rest := data[0], data[1:]
	switch {
	case kind == '4':
		if r.attachments > 0 {
			return nil, invalid("a packet where binary attachments are due")
		}
		if err := r.packet(u, rest); err != nil {
			return nil, err
		}
	case kind == '0' && !r.client: // open
	case kind == '1' || kind == '5' || kind == '6': // close, upgrade, noop
		if len(rest) > 0 {
			return nil, invalid("an Engine.IO packet with something behind it")
		}
	case kind == '2' || kind == '3': // ping, pong
		if len(rest) > 0 && string(rest) != "probe" {
			return nil, invalid("an Engine.IO packet with something behind it")
		}
	default:
		return nil, invalid("an Engine.IO packet that is not due")
	}
	return r.unit[:], nil
}

// packet reads a Socket.IO packet.
func (r *socketioReader) packet(u *Unit, b []byte) error {
	p, err := parseSocketIO(b)
	if err != nil {
		return err
	}
	switch p.kind {
	case '0': // CONNECT
		if err := r.payload(p.data, '{'); err != nil {
			return err
		}
		if r.client {
			u.Actions = []Action{{Name: "connect", Target: p.namespace}}
			u.denial = func(code string) []byte {
				return []byte("44" + p.prefix() + `{"message":"Not allowed","data":{"code":"` + code + `"}}`)
			}
		}
	case '1': // DISCONNECT
		if len(p.data) > 0 {
			return invalid("a packet with something behind it")
		}
	case '2', '5': // EVENT, BINARY_EVENT
		name, err := r.event(p.data)
		if err != nil {
			return err
		}
		u.JSON = p.data
		u.Actions = []Action{{Name: name, Target: p.namespace}}
		u.denial = func(code string) []byte {
			said := `{"error":{"code":"` + code + `","message":"Not allowed"}}`
			if p.id != "" {
				return []byte("43" + p.prefix() + p.id + "[" + said + "]")
			}
			return []byte("42" + p.prefix() + `["error",` + said + "]")
		}
	case '3', '6': // ACK, BINARY_ACK
		if p.id == "" {
			return invalid("an acknowledgement of nothing")
		}
		if err := r.payload(p.data, '['); err != nil {
			return err
		}
	case '4': // CONNECT_ERROR
		if r.client {
			return invalid("a packet that is not due")
		}
		if err := jsonscan.Valid(p.data, r.o); err != nil {
			return notJSON(err)
		}
	}
	if (p.kind == '5' || p.kind == '6') != p.hasAttachments {
		return invalid("a packet whose attachments are not of its kind")
	}
	r.attachments = p.attachments
	return nil
}

// payload is optional JSON of one kind.
func (r *socketioReader) payload(b []byte, first byte) error {
	if len(b) == 0 {
		return nil
	}
	if b[0] != first {
		return invalid("a payload of the wrong type")
	}
	if err := jsonscan.Valid(b, r.o); err != nil {
		return notJSON(err)
	}
	return nil
}

// event is the name of an event: the first element of its array.
func (r *socketioReader) event(b []byte) (name string, err error) {
	if len(b) == 0 || b[0] != '[' {
		return "", invalid("an event that is no array")
	}
	var first []byte
	err = jsonscan.Array(b, r.o, func(element []byte) error {
		if first == nil {
			first = element
		}
		return nil
	})
	if err != nil {
		return "", notJSON(err)
	}
	if name, err = text(first); err != nil {
		return "", invalid("an event whose name is no string")
	}
	if slices.Contains(reservedEvents, name) {
		return "", invalid("an event with a reserved name")
	}
	return name, nil
}

type socketioPacket struct {
	kind           byte
	hasAttachments bool
	attachments    int
	namespace, id  string
	data           []byte
}

// prefix is the namespace as packets carry it.
func (p *socketioPacket) prefix() string {
	if p.namespace == "/" {
		return ""
	}
	return p.namespace + ","
}

// parseSocketIO reads <type>[<attachments>-][<namespace>,][<id>][JSON].
func parseSocketIO(b []byte) (p socketioPacket, err error) {
	if len(b) == 0 || b[0] < '0' || b[0] > '6' {
		return p, invalid("a packet of a kind that is not known")
	}
	p.kind, p.namespace = b[0], "/"
	s := string(b[1:])
	if p.kind == '5' || p.kind == '6' {
		digits, rest, found := strings.Cut(s, "-")
		n, err := strconv.Atoi(digits)
		if !found || err != nil || n < 0 || strconv.Itoa(n) != digits || n > maxAttachments {
			return p, invalid("a packet whose number of attachments is missing, or too large")
		}
		p.hasAttachments, p.attachments, s = true, n, rest
	}
	if strings.HasPrefix(s, "/") {
		namespace, rest, found := strings.Cut(s, ",")
		if !found { // "0/admin" without a payload
			namespace, rest = s, ""
		}
		if strings.ContainsAny(namespace, "\"[{?# \r\n\t") {
			return p, invalid("a namespace that is none") // the client's library cuts a query off; servers do not agree
		}
		p.namespace, s = namespace, rest
	}
	n := 0
	for n < len(s) && s[n] >= '0' && s[n] <= '9' {
		n++
	}
	if n > 15 || n > 1 && s[0] == '0' {
		return p, invalid("a packet whose id is no number")
	}
	p.id, p.data = s[:n], b[len(b)-len(s)+n:]
	return p, nil
}
