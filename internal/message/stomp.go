package message

import (
	"bytes"
	"strconv"
	"strings"
	"unicode/utf8"
)

const (
	maxStompHeaders = 64
	maxStompHead    = 8 << 10 // command and headers, in bytes
)

// stompClient and stompServer are the commands of STOMP 1.2 (1.1 and 1.0 have no
// others), and whether they have a destination: true means that they are
// actions.
var (
	stompClient = map[string]bool{
		"CONNECT": true, "STOMP": true, "SEND": true, "SUBSCRIBE": true, "UNSUBSCRIBE": false, "ACK": false, "NACK": false,
		"BEGIN": false, "COMMIT": false, "ABORT": false, "DISCONNECT": false,
	}
	stompServer = map[string]bool{"CONNECTED": false, "MESSAGE": true, "RECEIPT": false, "ERROR": false}
)

// stompReader reads STOMP (https://stomp.github.io/stomp-specification-1.2.html)
// over WebSocket, where frames may span messages or share one.
type stompReader struct {
	commands map[string]bool
	max      int
	held     held
	units    []Unit
}

func newSTOMP(o Options) (client, upstream Reader, err error) {
	return &stompReader{commands: stompClient, max: o.MaxBytes}, &stompReader{commands: stompServer, max: o.MaxBytes}, nil
}

func (r *stompReader) Binary() bool { return false }

// Read takes text alone: clients send binary bodies so only when they are told to.
func (r *stompReader) Read(binary bool, data []byte) ([]Unit, error) {
	if binary {
		return nil, errBinary
	}
	b := r.held.with(data)
	r.units = r.units[:0]
	for len(b) > 0 {
		n, u, err := r.frame(b)
		if err != nil {
			return nil, err
		}
		if n == 0 {
			if len(b) > r.max {
				return nil, invalid("a frame longer than a message may be")
			}
			break
		}
		u.Raw = b[:n:n]
		r.units = append(r.units, u)
		b = b[n:]
	}
	r.held.keep(b)
	return r.units, nil
}

// frame reads the first frame, or the line ends (heart-beats) before it; 0 bytes
// while some of it is missing.
func (r *stompReader) frame(b []byte) (int, Unit, error) {
	if n := lineEnds(b); n > 0 {
		return n, Unit{}, nil
	}
	head, headers, err := stompHead(b)
	if err != nil || head == 0 {
		return 0, Unit{}, err
	}
	command := headers[0].name
	acts, known := r.commands[command]
	if !known {
		return 0, Unit{}, invalid("a command that is not due")
	}
	get := func(name string) (value string, found bool, err error) {
		for _, h := range headers[1:] {
			if h.name != name {
				continue
			}
			if found { // the first counts, for those who follow the standard
				return "", false, invalid("a header that matters, twice: " + name)
			}
			value, found = h.value, true
		}
		return value, found, nil
	}
	n, err := stompBody(b, head, get)
	if err != nil || n == 0 {
		return 0, Unit{}, err
	}
	if !acts {
		return n, Unit{}, nil
	}
	a := Action{Name: strings.ToLower(command)}
	if command == "CONNECT" || command == "STOMP" {
		a = Action{Name: "connect"}
	} else {
		var found bool
		if a.Target, found, err = get("destination"); err != nil || !found || a.Target == "" {
			return 0, Unit{}, invalid("a frame whose destination is missing or not to be understood")
		}
	}
	receipt, _, err := get("receipt")
	if err != nil {
		return 0, Unit{}, err
	}
	u := Unit{Actions: []Action{a}}
	if command != "MESSAGE" {
		u.denial = func(code string) []byte { return stompError(code, receipt) }
	}
	return n, u, nil
}

func lineEnds(b []byte) int {
	n := 0
	for n < len(b) {
		switch {
		case b[n] == '\n':
			n++
		case b[n] == '\r' && n+1 < len(b) && b[n+1] == '\n':
			n += 2
		default:
			return n
		}
	}
	return n
}

type stompHeader struct{ name, value string }

// stompHead reads command and headers; the command is the first's name. 0 bytes
// while some of it is missing.
func stompHead(b []byte) (n int, headers []stompHeader, err error) {
	for {
		end := bytes.IndexByte(b[n:min(len(b), maxStompHead)], '\n')
		if end < 0 {
			if len(b) >= maxStompHead {
				return 0, nil, invalid("a frame whose headers do not end")
			}
			return 0, nil, nil
		}
		line := bytes.TrimSuffix(b[n:n+end], []byte("\r"))
		n += end + 1
		switch {
		case len(headers) == 0:
			headers = append(headers, stompHeader{name: string(line)})
		case len(line) == 0:
			return n, headers, nil
		case len(headers) > maxStompHeaders:
			return 0, nil, invalid("more headers than are allowed")
		default:
			h, err := stompHeaderLine(line, headers[0].name)
			if err != nil {
				return 0, nil, err
			}
			headers = append(headers, h)
		}
	}
}

func stompHeaderLine(line []byte, command string) (h stompHeader, err error) {
	name, value, found := strings.Cut(string(line), ":")
	if !found || name == "" || !utf8.Valid(line) || strings.ContainsAny(string(line), "\x00\r") {
		return h, invalid("a header that is none")
	}
	// Values of CONNECT and CONNECTED are as they are, so that 1.0 may be spoken.
	if command == "CONNECT" || command == "CONNECTED" {
		return stompHeader{name, value}, nil
	}
	if h.name, err = stompUnescape(name); err == nil {
		h.value, err = stompUnescape(value)
	}
	return h, err
}

func stompUnescape(s string) (string, error) {
	if !strings.Contains(s, `\`) {
		return s, nil
	}
	var out strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' {
			out.WriteByte(s[i])
			continue
		}
		if i++; i == len(s) {
			return "", invalid("a header with an escape that is not defined")
		}
		switch s[i] {
		case 'r':
			out.WriteByte('\r')
		case 'n':
			out.WriteByte('\n')
		case 'c':
			out.WriteByte(':')
		case '\\':
			out.WriteByte('\\')
		default:
			return "", invalid("a header with an escape that is not defined")
		}
	}
	return out.String(), nil
}

// stompBody is where the frame ends whose body begins at head; 0 while some of it
// is missing.
func stompBody(b []byte, head int, get func(string) (string, bool, error)) (int, error) {
	length, found, err := get("content-length")
	if err != nil {
		return 0, err
	}
	if !found {
		i := bytes.IndexByte(b[head:], 0)
		if i < 0 {
			return 0, nil
		}
		return head + i + 1, nil
	}
	size, err := strconv.ParseUint(length, 10, 31)
	if err != nil || length[0] == '+' {
		return 0, invalid("a content-length that is no number")
	}
	n := head + int(size) + 1
	switch {
	case len(b) < n:
		return 0, nil
	case b[n-1] != 0:
		return 0, invalid("a body that does not end where content-length says")
	}
	return n, nil
}

func stompError(code, receipt string) []byte {
	b := []byte("ERROR\nmessage:Not allowed\ncode:" + code + "\n")
	if receipt != "" {
		escaped := strings.NewReplacer(`\`, `\\`, "\r", `\r`, "\n", `\n`, ":", `\c`).Replace(receipt)
		b = append(b, "receipt-id:"+escaped+"\n"...)
	}
	return append(b, "content-type:text/plain\ncontent-length:11\n\nNot allowed\x00"...)
}
