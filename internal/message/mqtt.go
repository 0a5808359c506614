package message

import (
	"encoding/binary"
	"strings"
	"sync/atomic"
	"unicode/utf8"
)

// MQTT control packet types (MQTT 5.0 §2.1.2; 3.1.1 lacks AUTH).
const (
	mqttConnect     = 1
	mqttConnack     = 2
	mqttPublish     = 3
	mqttPuback      = 4
	mqttPubrec      = 5
	mqttPubrel      = 6
	mqttPubcomp     = 7
	mqttSubscribe   = 8
	mqttSuback      = 9
	mqttUnsubscribe = 10
	mqttUnsuback    = 11
	mqttPingreq     = 12
	mqttPingresp    = 13
	mqttDisconnect  = 14
	mqttAuth        = 15
)

const (
	mqttNotAuthorized = 0x87 // MQTT 5.0 §2.4
	// maxAliases and maxAliasBytes bound what is remembered of topic aliases
	// (MQTT 5.0 §3.3.2.3.4) in a direction.
	maxAliases    = 64
	maxAliasBytes = 8 << 10
	maxFilters    = 128 // of one SUBSCRIBE
)

// mqttShared is what both directions know of a connection.
type mqttShared struct {
	version atomic.Uint32 // 4: 3.1.1, 5: 5.0; 0: no CONNECT yet
}

// mqttReader reads MQTT 3.1.1 and 5.0 over WebSocket, where packets may span
// messages or share one (MQTT 3.1.1 §6, 5.0 §6).
type mqttReader struct {
	shared   *mqttShared
	client   bool
	max      int
	held     held
	units    []Unit
	aliases  map[uint16]string
	aliasLen int
}

func newMQTT(o Options) (client, upstream Reader, err error) {
	s := &mqttShared{}
	return &mqttReader{shared: s, client: true, max: o.MaxBytes}, &mqttReader{shared: s, max: o.MaxBytes}, nil
}

func (r *mqttReader) Binary() bool { return true }

func (r *mqttReader) Read(isBinary bool, data []byte) ([]Unit, error) {
	if !isBinary {
		return nil, errText // §6: [MQTT-6.0.0-1]
	}
	b := r.held.with(data)
	r.units = r.units[:0]
	for len(b) > 0 {
		head, body, ok, err := mqttPacket(b, r.max)
		if err != nil {
			return nil, err
		}
		if !ok {
			break
		}
		u, err := r.packet(b[0], body)
		if err != nil {
			return nil, err
		}
		n := head + len(body)
		u.Raw = b[:n:n]
		r.units = append(r.units, u)
		b = b[n:]
	}
	r.held.keep(b)
	return r.units, nil
}

// mqttPacket finds the first packet of b. ok is false while some of it is missing.
func mqttPacket(b []byte, limit int) (head int, body []byte, ok bool, err error) {
	length, n, ok, err := mqttVarint(b[1:])
	if err != nil || !ok {
		return 0, nil, false, err
	}
	head = 1 + n
	if length > limit-head {
		return 0, nil, false, invalid("a packet longer than a message may be")
	}
	if len(b)-head < length {
		return 0, nil, false, nil
	}
	return head, b[head : head+length], true, nil
}

// mqttVarint reads a variable byte integer of at most four bytes, as short as it
// can be (MQTT 5.0 §1.5.5). ok is false while some of it is missing.
func mqttVarint(b []byte) (v, n int, ok bool, err error) {
	for n < len(b) {
		c := b[n]
		v |= int(c&0x7f) << (7 * n)
		n++
		switch {
		case c&0x80 == 0 && c == 0 && n > 1:
			return 0, 0, false, invalid("a length that is not as short as it can be")
		case c&0x80 == 0:
			return v, n, true, nil
		case n == 4:
			return 0, 0, false, invalid("a length of more than four bytes")
		}
	}
	return 0, 0, false, nil
}

// packet reads one packet; first is its first byte.
func (r *mqttReader) packet(first byte, body []byte) (Unit, error) {
	kind, flags := first>>4, first&0x0f
	version := r.shared.version.Load()
	if version == 0 && (!r.client || kind != mqttConnect) {
		return Unit{}, invalid("something before CONNECT")
	}
	p := fields{b: body}
	var u Unit
	switch {
	case kind == mqttPublish:
		u = r.publish(&p, flags, version)
	case r.client && kind == mqttConnect && flags == 0:
		if version != 0 {
			return Unit{}, invalid("a second CONNECT")
		}
		u = r.connect(&p)
	case r.client && kind == mqttSubscribe && flags == 2:
		u = r.subscribe(&p, version)
	case mqttKeepsGoing(kind, flags, r.client, version):
		return Unit{}, nil
	default:
		return Unit{}, invalid("a packet of a kind or with flags that are not due")
	}
	if p.bad != "" {
		return Unit{}, invalid(p.bad)
	}
	return u, nil
}

// mqttKeepsGoing reports whether a packet asks for nothing but the protocol's
// own progress, and is legal here.
func mqttKeepsGoing(kind, flags byte, client bool, version uint32) bool {
	switch kind {
	case mqttPubrel:
		return flags == 2
	case mqttUnsubscribe:
		return client && flags == 2
	case mqttPuback, mqttPubrec, mqttPubcomp:
		return flags == 0
	case mqttPingreq:
		return client && flags == 0
	case mqttConnack, mqttSuback, mqttUnsuback, mqttPingresp:
		return !client && flags == 0
	case mqttDisconnect:
		return (client || version == 5) && flags == 0
	case mqttAuth:
		return version == 5 && flags == 0
	}
	return false
}

func (r *mqttReader) connect(p *fields) (u Unit) {
	if p.text() != "MQTT" {
		p.fail("it is neither MQTT 3.1.1 nor 5.0")
	}
	version, flags := uint32(p.byte()), p.byte()
	if version != 4 && version != 5 {
		p.fail("it is neither MQTT 3.1.1 nor 5.0")
	}
	will, qos := flags&0x04 != 0, flags>>3&3
	if flags&0x01 != 0 || qos == 3 || !will && flags&0x38 != 0 || version == 4 && flags&0xc0 == 0x40 {
		p.fail("CONNECT has flags that are not legal")
	}
	p.skip(2) // keep alive
	if version == 5 {
		p.properties(nil)
	}
	u.Actions = append(u.Actions, Action{Name: "connect", Target: p.text()})
	if will {
		if version == 5 {
			p.properties(nil)
		}
		topic := p.text()
		p.topicName(topic)
		p.data()
		// A will is a message that the broker publishes for its client.
		u.Actions = append(u.Actions, Action{Name: "publish", Target: topic})
	}
	if flags&0x80 != 0 {
		p.text()
	}
	if flags&0x40 != 0 {
		p.data()
	}
	p.end()
	if p.bad == "" {
		r.shared.version.Store(version)
	}
	u.denial = func(string) []byte {
		if version == 5 {
			return []byte{mqttConnack << 4, 3, 0, mqttNotAuthorized, 0}
		}
		return []byte{mqttConnack << 4, 2, 0, 5}
	}
	return u
}

func (r *mqttReader) publish(p *fields, flags byte, version uint32) (u Unit) {
	qos := flags >> 1 & 3
	if qos == 3 || qos == 0 && flags&8 != 0 {
		p.fail("PUBLISH has flags that are not legal")
	}
	topic := p.text()
	var id []byte
	if qos > 0 {
		id = p.identifier()
	}
	var alias uint16
	if version == 5 {
		p.properties(func(property byte, value []byte) {
			if property == 0x23 {
				if alias != 0 {
					p.fail("a topic alias twice")
				}
				if alias = binary.BigEndian.Uint16(value); alias == 0 {
					p.fail("the topic alias 0")
				}
			}
		})
	}
	if alias != 0 && p.bad == "" {
		topic = r.aliased(p, alias, topic)
	}
	p.topicName(topic)
	u.Actions = []Action{{Name: "publish", Target: topic}}
	if qos == 0 {
		return u // nobody waits for an answer
	}
	kind := byte(mqttPuback)
	if qos == 2 {
		kind = mqttPubrec
	}
	u.denial = func(string) []byte {
		if version == 5 {
			return []byte{kind << 4, 3, id[0], id[1], mqttNotAuthorized}
		}
		return []byte{kind << 4, 2, id[0], id[1]} // 3.1.1 knows no refusal
	}
	return u
}

// aliased is the topic of an alias, which a topic beside it sets.
func (r *mqttReader) aliased(p *fields, alias uint16, topic string) string {
	old, known := r.aliases[alias]
	if topic == "" {
		if !known {
			p.fail("a topic alias that stands for nothing")
		}
		return old
	}
	size := r.aliasLen - len(old) + len(topic)
	if !known && len(r.aliases) >= maxAliases || size > maxAliasBytes {
		p.fail("more topic aliases than are remembered")
		return topic
	}
	if r.aliases == nil {
		r.aliases = map[uint16]string{}
	}
	r.aliases[alias], r.aliasLen = topic, size
	return topic
}

func (r *mqttReader) subscribe(p *fields, version uint32) (u Unit) {
	id := p.identifier()
	if version == 5 {
		p.properties(nil)
	}
	reserved := byte(0xfc)
	if version == 5 {
		reserved = 0xc0
	}
	for p.bad == "" && len(p.b) > 0 {
		if len(u.Actions) == maxFilters {
			p.fail("more topic filters in SUBSCRIBE than are allowed")
		}
		filter := p.text()
		if o := p.byte(); o&3 == 3 || o&reserved != 0 || o>>4&3 == 3 {
			p.fail("SUBSCRIBE has options that are not legal")
		}
		p.filter(filter)
		u.Actions = append(u.Actions, Action{Name: "subscribe", Target: unshared(filter)})
	}
	if len(u.Actions) == 0 {
		p.fail("SUBSCRIBE without a topic filter")
	}
	n := len(u.Actions)
	u.denial = func(string) []byte {
		b := []byte{mqttSuback << 4}
		code := byte(0x80)
		if version == 5 {
			code = mqttNotAuthorized
			b = binary.AppendUvarint(b, uint64(3+n))
			b = append(b, id[0], id[1], 0)
		} else {
			b = binary.AppendUvarint(b, uint64(2+n))
			b = append(b, id[0], id[1])
		}
		for range n {
			b = append(b, code)
		}
		return b
	}
	return u
}

// unshared is the topic filter of a shared subscription, or the filter itself
// (MQTT 5.0 §4.8.2; brokers take it in 3.1.1 too).
func unshared(filter string) string {
	if rest, ok := strings.CutPrefix(filter, "$share/"); ok {
		if _, topic, ok := strings.Cut(rest, "/"); ok {
			return topic
		}
	}
	return filter
}

// fields reads the fields of a packet, until one is bad.
type fields struct {
	b   []byte
	bad string
}

func (p *fields) fail(why string) {
	if p.bad == "" {
		p.bad = why
	}
	p.b = nil
}

func (p *fields) take(n int) []byte {
	if n > len(p.b) {
		p.fail("a packet that ends too early")
		return make([]byte, min(n, 4)) // nobody uses it: the packet is refused
	}
	b := p.b[:n]
	p.b = p.b[n:]
	return b
}

func (p *fields) skip(n int) { p.take(n) }
func (p *fields) byte() byte { return p.take(1)[0] }
func (p *fields) data() []byte {
	n := int(binary.BigEndian.Uint16(p.take(2)))
	if p.bad != "" {
		return nil
	}
	if n > len(p.b) {
		p.fail("a packet that ends too early")
		return nil
	}
	return p.take(n)
}

// text is a UTF-8 encoded string (§1.5.4): no NUL, no surrogates.
func (p *fields) text() string {
	b := p.data()
	if !utf8.Valid(b) || strings.IndexByte(string(b), 0) >= 0 {
		p.fail("a string that is not UTF-8, or has a NUL")
		return ""
	}
	return string(b)
}

func (p *fields) identifier() []byte {
	id := p.take(2)
	if id[0] == 0 && id[1] == 0 {
		p.fail("the packet identifier 0")
	}
	return id
}

func (p *fields) end() {
	if len(p.b) > 0 {
		p.fail("a packet that goes on after its end")
	}
}

// topicName refuses what is no topic name (§4.7): those have no wildcards.
func (p *fields) topicName(t string) {
	if t == "" || strings.ContainsAny(t, "+#") {
		p.fail("a topic name that is empty or has a wildcard")
	}
}

// filter refuses what is no topic filter (§4.7.1).
func (p *fields) filter(f string) {
	if rest, ok := strings.CutPrefix(f, "$share/"); ok {
		group, topic, ok := strings.Cut(rest, "/")
		if !ok || group == "" || strings.ContainsAny(group, "+#") || topic == "" {
			p.fail("a shared subscription that is none")
		}
		f = topic
	}
	levels := strings.Split(f, "/")
	for i, l := range levels {
		if strings.ContainsAny(l, "+#") && len(l) > 1 || l == "#" && i < len(levels)-1 {
			p.fail("a topic filter with a wildcard in the wrong place")
		}
	}
	if f == "" {
		p.fail("an empty topic filter")
	}
}

// mqttProperties are the lengths of the properties' values (MQTT 5.0 §2.2.2.2);
// below zero: of other kinds.
var mqttProperties = map[byte]int{
	0x01: 1, 0x02: 4, 0x03: propText, 0x08: propText, 0x09: propText, 0x0b: propVarint, 0x11: 4, 0x12: propText, 0x13: 2,
	0x15: propText, 0x16: propText, 0x17: 1, 0x18: 4, 0x19: 1, 0x1a: propText, 0x1c: propText, 0x1f: propText, 0x21: 2, 0x22: 2,
	0x23: 2, 0x24: 1, 0x25: 1, 0x26: propPair, 0x27: 4, 0x28: 1, 0x29: 1, 0x2a: 1,
}

const (
	propText   = -1 // a string, or binary data
	propPair   = -2
	propVarint = -3
)

// properties reads a property list and gives each to fn.
func (p *fields) properties(fn func(id byte, value []byte)) {
	length := p.varint()
	if length > len(p.b) {
		p.fail("properties longer than their packet")
		return
	}
	in := fields{b: p.take(length)}
	for in.bad == "" && len(in.b) > 0 {
		id := in.byte() // every identifier so far has one byte
		size, known := mqttProperties[id]
		if !known {
			in.fail("a property that is not known")
			break
		}
		var value []byte
		switch size {
		case propPair:
			in.data()
			in.data()
		case propText:
			value = in.data()
		case propVarint:
			in.varint()
		default:
			value = in.take(size)
		}
		if fn != nil && in.bad == "" {
			fn(id, value)
		}
	}
	if in.bad != "" {
		p.fail(in.bad)
	}
}

func (p *fields) varint() int {
	v, n, ok, err := mqttVarint(p.b)
	if err != nil || !ok {
		p.fail("a length that is not one")
		return 0
	}
	p.b = p.b[n:]
	return v
}
