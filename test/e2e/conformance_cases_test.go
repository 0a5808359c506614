package e2e_test

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/wsbouncer/wsbouncer/internal/frame"
)

// wire is a frame to be sent, legal or not.
type wire struct {
	first   byte // FIN, reserved bits and opcode as they stand on the wire
	payload string
}

func text(payload string) wire     { return wire{0x81, payload} }
func binaryOf(payload string) wire { return wire{0x82, payload} }
func ping(payload string) wire     { return wire{0x89, payload} }

func closing(code int, reason string) wire {
	return wire{0x88, string([]byte{byte(code >> 8), byte(code)}) + reason}
}

// fragments is a text message in several frames.
func fragments(parts ...string) (frames []wire) {
	for i, p := range parts {
		f := wire{0x00, p}
		if i == 0 {
			f.first |= 0x01
		}
		if i == len(parts)-1 {
			f.first |= 0x80
		}
		frames = append(frames, f)
	}
	return frames
}

func octets(s string) (parts []string) {
	for i := range len(s) {
		parts = append(parts, s[i:i+1])
	}
	return parts
}

// How the frames of an exchange are cut into writes; above 0 so many bytes each.
const (
	atOnce    = 0
	frameWise = -1
)

// An exchange is what one side sends to a peer that answers pings and echoes
// messages, and what it must see.
type exchange struct {
	id   string
	send []wire
	chop int
	// back are the messages, put together, and pongs that come back, in order.
	back []message
	// waitFor of back must come before the frames from later on are sent.
	waitFor, later int
	// code is the close code that ends it. With 1000 and without a close frame in
	// send, the sender closes once everything came back.
	code uint16
	// lenient is Autobahn's NON-STRICT: back may be missing from some point on,
	// because the violation behind it was seen first.
	lenient bool
	// utf8: the text is not UTF-8. rest is what a peer that looks at whole messages
	// only needs to find out.
	utf8 bool
	rest []wire
	// cut is how many bytes of the last frame are never sent.
	cut int
}

func (x exchange) closes() bool {
	for _, f := range x.send {
		if f.first&0x0f == 8 {
			return true
		}
	}
	return false
}

// talksOn reports whether it sends more after its close frame (§5.5.1: it must not).
func (x exchange) talksOn() bool {
	closed := false
	for _, f := range x.send {
		if closed {
			return true
		}
		closed = f.first == 0x88
	}
	return false
}

// kosme is "κόσμε" as the list's authors write it, with an accent of its own.
const kosme = "\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5"

// exchanges are written after the list of the Autobahn testsuite's groups 1 to 7
// and 10, with its numbers. Where that waits for a second to see that nothing
// happens, these do not. It is not the testsuite itself, and shares no code with
// it.
func exchanges() []exchange {
	var all []exchange
	good := func(id string, chop int, back []message, send ...wire) {
		all = append(all, exchange{id: id, send: send, chop: chop, back: back, code: 1000})
	}
	bad := func(id string, code uint16, chop int, back []message, send ...wire) {
		all = append(all, exchange{id: id, send: send, chop: chop, back: back, code: code, lenient: true})
	}
	ends := func(id string, code uint16, back []message, send ...wire) {
		all = append(all, exchange{id: id, send: send, back: back, code: code, lenient: code != 1000})
	}
	comes := func(m ...message) []message { return m }
	said := func(s string) message { return message{frame.Text, true, s} }
	pong := func(s string) message { return message{frame.Pong, true, s} }
	const hello = "Hello, world!"

	// 1: sizes of one frame.
	for i, n := range []int{0, 125, 126, 127, 128, 65535, 65536, 65536} {
		chop := atOnce
		if i == 7 {
			chop = 997
		}
		good("1.1."+strconv.Itoa(i+1), chop, comes(said(strings.Repeat("*", n))), text(strings.Repeat("*", n)))
		b := strings.Repeat("\xfe", n)
		good("1.2."+strconv.Itoa(i+1), chop, comes(message{frame.Binary, true, b}), binaryOf(b))
	}

	// 2: pings and pongs.
	full := strings.Repeat("\xfe", 125)
	good("2.1", atOnce, comes(pong("")), ping(""))
	good("2.2", atOnce, comes(pong(hello)), ping(hello))
	good("2.3", atOnce, comes(pong("\x00\xff\xfe\xfd\xfc\xfb\x00\xff")), ping("\x00\xff\xfe\xfd\xfc\xfb\x00\xff"))
	good("2.4", atOnce, comes(pong(full)), ping(full))
	bad("2.5", 1002, atOnce, nil, ping(full+"\xfe"))
	good("2.6", 1, comes(pong(full)), ping(full))
	good("2.7", atOnce, nil, wire{0x8a, ""})
	good("2.8", atOnce, nil, wire{0x8a, "unsolicited pong payload"})
	good("2.9", atOnce, comes(pong("ping payload")), wire{0x8a, "unsolicited pong payload"}, ping("ping payload"))
	var ten []wire
	var tenBack []message
	for i := range 10 {
		ten, tenBack = append(ten, ping(fmt.Sprint("payload-", i))), append(tenBack, pong(fmt.Sprint("payload-", i)))
	}
	good("2.10", atOnce, tenBack, ten...)
	good("2.11", 1, tenBack, ten...)

	// 3: reserved bits.
	bad("3.1", 1002, atOnce, nil, wire{0x91, hello})
	for i, chop := range []int{atOnce, frameWise, 1} {
		rsv := byte(i+2) << 4
		bad("3."+strconv.Itoa(i+2), 1002, chop, comes(said(hello)), text(hello), wire{0x81 | rsv, hello}, ping(""))
	}
	bad("3.5", 1002, atOnce, nil, wire{0xd2, full})
	bad("3.6", 1002, atOnce, nil, wire{0xe9, hello})
	bad("3.7", 1002, atOnce, nil, wire{0xf8, ""})

	// 4: reserved opcodes.
	for i, group := range []byte{3, 11} {
		id := func(n int) string { return fmt.Sprintf("4.%d.%d", i+1, n) }
		bad(id(1), 1002, atOnce, nil, wire{0x80 | group, ""})
		bad(id(2), 1002, atOnce, nil, wire{0x80 | group + 1, "reserved opcode payload"})
		bad(id(3), 1002, atOnce, comes(said(hello)), text(hello), wire{0x80 | group + 2, ""}, ping(""))
		bad(id(4), 1002, atOnce, comes(said(hello)), text(hello), wire{0x80 | group + 3, hello}, ping(""))
		bad(id(5), 1002, 1, comes(said(hello)), text(hello), wire{0x80 | group + 4, hello}, ping(""))
	}

	// 5: fragments.
	bad("5.1", 1002, atOnce, nil, wire{0x09, "fragment1"}, wire{0x80, "fragment2"})
	bad("5.2", 1002, atOnce, nil, wire{0x0a, "fragment1"}, wire{0x80, "fragment2"})
	two := fragments("fragment1", "fragment2")
	pinged := []wire{two[0], ping("ping payload"), two[1]}
	for i, chop := range []int{atOnce, frameWise, 1} {
		good("5."+strconv.Itoa(3+i), chop, comes(said("fragment1fragment2")), two...)
		good("5."+strconv.Itoa(6+i), chop, comes(pong("ping payload"), said("fragment1fragment2")), pinged...)
		bad("5."+strconv.Itoa(9+i), 1002, chop, nil, wire{0x80, "non-continuation payload"}, text(hello))
		bad("5."+strconv.Itoa(12+i), 1002, chop, nil, wire{0x00, "non-continuation payload"}, text(hello))
	}
	bad("5.15", 1002, atOnce, comes(said("fragment1fragment2")), two[0], two[1], wire{0x00, "fragment3"}, text("fragment4"))
	bad("5.16", 1002, atOnce, nil, wire{0x00, "fragment1"}, wire{0x01, "fragment2"}, wire{0x80, "fragment3"},
		wire{0x00, "fragment1"}, wire{0x01, "fragment2"}, wire{0x80, "fragment3"})
	bad("5.17", 1002, atOnce, nil, wire{0x80, "fragment1"}, wire{0x01, "fragment2"}, wire{0x80, "fragment3"},
		wire{0x80, "fragment1"}, wire{0x01, "fragment2"}, wire{0x80, "fragment3"})
	bad("5.18", 1002, atOnce, nil, wire{0x01, "fragment1"}, text("fragment2"))
	five := fragments("fragment1", "fragment2", "fragment3", "fragment4", "fragment5")
	for i, chop := range []int{atOnce, frameWise} {
		good("5."+strconv.Itoa(19+i), chop, comes(pong("pongme 1!"), pong("pongme 2!"), said("fragment1fragment2fragment3fragment4fragment5")),
			five[0], five[1], ping("pongme 1!"), five[2], five[3], ping("pongme 2!"), five[4])
		last := &all[len(all)-1]
		last.waitFor, last.later = 1, 3 // the first ping is answered before the message ends
	}

	// 6: UTF-8.
	good("6.1.1", atOnce, comes(said("")), text(""))
	good("6.1.2", atOnce, comes(said("")), fragments("", "", "")...)
	good("6.1.3", atOnce, comes(said("middle frame payload")), fragments("", "middle frame payload", "")...)
	const mixed = "Hello-µ@ßöäüàá-UTF-8!!"
	good("6.2.1", atOnce, comes(said(mixed)), text(mixed))
	good("6.2.2", atOnce, comes(said(mixed)), fragments("Hello-µ@ßöä", "üàá-UTF-8!!")...)
	good("6.2.3", atOnce, comes(said(mixed)), fragments(octets(mixed)...)...)
	good("6.2.4", atOnce, comes(said(kosme)), fragments(octets(kosme)...)...)
	const edited = "edited"
	spoiled := func(id string, chop int, send, rest []wire) {
		all = append(all, exchange{id: id, send: send, rest: rest, chop: chop, code: 1007, utf8: true})
	}
	surrogate := kosme + "\xed\xa0\x80" + edited
	spoiled("6.3.1", atOnce, []wire{text(surrogate)}, nil)
	spoiled("6.3.2", atOnce, fragments(octets(surrogate)...), nil)
	// Found at the byte that makes it wrong: what would follow is never sent.
	beyond := fragments(kosme, "\xf4\x90\x80\x80", edited)
	spoiled("6.4.1", frameWise, beyond[:2], beyond[2:])
	beyond = fragments(kosme+"\xf4", "\x90", "\x80\x80"+edited)
	spoiled("6.4.2", frameWise, beyond[:2], beyond[2:])
	// The same inside one frame: the header says 21 bytes, and some are never sent.
	for i, sent := range []string{kosme + "\xf4\x90\x80\x80", kosme + "\xf4\x90"} {
		whole := kosme + "\xf4\x90\x80\x80" + edited
		all = append(all, exchange{id: fmt.Sprint("6.4.", 3+i), send: []wire{text(whole)}, chop: 1, code: 1007, utf8: true, cut: len(whole) - len(sent)})
	}
	for i, group := range utf8Groups() {
		for j, s := range group.sequences {
			id := fmt.Sprintf("6.%d.%d", i+5, j+1)
			if group.valid(j) {
				good(id, atOnce, comes(said(s)), text(s))
			} else {
				spoiled(id, atOnce, []wire{text(s)}, nil)
			}
		}
	}

	// 7: closing.
	ends("7.1.1", 1000, comes(said(hello)), text(hello), closing(1000, ""))
	from := len(all)
	ends("7.1.2", 1000, nil, closing(1000, ""), closing(1000, ""))
	ends("7.1.3", 1000, nil, closing(1000, ""), ping(""))
	ends("7.1.4", 1000, nil, closing(1000, ""), text(hello))
	ends("7.1.5", 1000, nil, wire{0x01, "fragment1"}, closing(1000, ""), wire{0x80, "fragment2"})
	for _, x := range all[from:] {
		x.id, x.chop = x.id+" in writes of their own", frameWise
		all = append(all, x)
	}
	big := strings.Repeat("*", 256<<10)
	ends("7.1.6", 1000, comes(said(big), said(hello)), text(big), text(hello), closing(1000, ""), ping(""))
	ends("7.3.1", 1000, nil, wire{0x88, ""})
	ends("7.3.2", 1002, nil, wire{0x88, "a"})
	ends("7.3.3", 1000, nil, closing(1000, ""))
	ends("7.3.4", 1000, nil, closing(1000, "Hello World!"))
	ends("7.3.5", 1000, nil, closing(1000, strings.Repeat("*", 123)))
	ends("7.3.6", 1002, nil, closing(1000, strings.Repeat("*", 124)))
	ends("7.5.1", 1007, nil, closing(1000, surrogate))
	for i, code := range []int{1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999} {
		ends("7.7."+strconv.Itoa(i+1), 1000, nil, closing(code, ""))
	}
	for i, code := range []int{0, 999, 1004, 1005, 1006, 1016, 1100, 2000, 2999} {
		ends("7.9."+strconv.Itoa(i+1), 1002, nil, closing(code, ""))
	}
	ends("7.13.1", 1002, nil, closing(5000, "")) // Autobahn asks for nothing in particular
	ends("7.13.2", 1002, nil, closing(65535, ""))

	// 10.1.1: 65536 bytes in fragments of 1300.
	long := strings.Repeat("*", 65536)
	var parts []string
	for at := 0; at < len(long); at += 1300 {
		parts = append(parts, long[at:min(at+1300, len(long))])
	}
	good("10.1.1", atOnce, comes(said(long)), fragments(parts...)...)
	return all
}

// utf8Group is a section of Markus Kuhn's UTF-8 decoder test, or of what Autobahn
// adds to it.
type utf8Group struct {
	sequences []string
	good      string // a letter for each: y or n; a single one is for all
}

func (g utf8Group) valid(i int) bool { return g.good[min(i, len(g.good)-1)] == 'y' }

// utf8Groups are 6.5 to 6.23.
func utf8Groups() []utf8Group {
	var prefixes, lonely, nonCharacters []string
	const good = "nynnynynyny"
	for i := range len(kosme) {
		prefixes = append(prefixes, kosme[:i+1])
	}
	for _, r := range [][2]int{{0xc0, 0xdf}, {0xe0, 0xef}, {0xf0, 0xf7}, {0xf8, 0xfb}, {0xfc, 0xfd}} {
		var s []byte
		for b := r[0]; b < r[1]; b++ {
			s = append(s, byte(b), ' ')
		}
		lonely = append(lonely, string(s))
	}
	var continuations []byte
	for b := 0x80; b < 0xbf; b++ {
		continuations = append(continuations, byte(b))
	}
	nonCharacters = []string{"\uFFFE", "\uFFFF"}
	for plane := rune(1); plane <= 16; plane++ {
		nonCharacters = append(nonCharacters, string(plane<<16|0xfffe), string(plane<<16|0xffff))
	}
	cut := []string{"\xc0", "\xe0\x80", "\xf0\x80\x80", "\xf8\x80\x80\x80", "\xfc\x80\x80\x80\x80", "\xdf", "\xef\xbf", "\xf7\xbf\xbf", "\xfb\xbf\xbf\xbf", "\xfd\xbf\xbf\xbf\xbf"}
	return []utf8Group{
		{[]string{"hello$world", "hello\u00a2world", "hello\u20acworld", "hello\U00024b62world", kosme}, "y"},
		{prefixes, good},
		{[]string{"\x00", "\u0080", "\u0800", "\U00010000"}, "y"},
		{[]string{"\xf8\x88\x80\x80\x80", "\xfc\x84\x80\x80\x80\x80"}, "n"},
		{[]string{"\x7f", "\u07ff", "\uffff", "\U0010ffff"}, "y"},
		{[]string{"\xf7\xbf\xbf\xbf", "\xfb\xbf\xbf\xbf\xbf", "\xfd\xbf\xbf\xbf\xbf\xbf"}, "n"},
		{[]string{"\ud7ff", "\ue000", "\ufffd", "\U0010ffff", "\xf4\x90\x80\x80"}, "yyyyn"},
		{[]string{"\x80", "\xbf", "\x80\xbf", "\x80\xbf\x80", "\x80\xbf\x80\xbf", "\x80\xbf\x80\xbf\x80", "\x80\xbf\x80\xbf\x80\xbf", string(continuations)}, "n"},
		{lonely, "n"},
		{cut, "n"},
		{[]string{strings.Join(cut, "")}, "n"},
		{[]string{"\xfe", "\xff", "\xfe\xfe\xff\xff"}, "n"},
		{[]string{"\xc0\xaf", "\xe0\x80\xaf", "\xf0\x80\x80\xaf", "\xf8\x80\x80\x80\xaf", "\xfc\x80\x80\x80\x80\xaf"}, "n"},
		{[]string{"\xc1\xbf", "\xe0\x9f\xbf", "\xf0\x8f\xbf\xbf", "\xf8\x87\xbf\xbf\xbf", "\xfc\x83\xbf\xbf\xbf\xbf"}, "n"},
		{[]string{"\xc0\x80", "\xe0\x80\x80", "\xf0\x80\x80\x80", "\xf8\x80\x80\x80\x80", "\xfc\x80\x80\x80\x80\x80"}, "n"},
		{[]string{"\xed\xa0\x80", "\xed\xad\xbf", "\xed\xae\x80", "\xed\xaf\xbf", "\xed\xb0\x80", "\xed\xbe\x80", "\xed\xbf\xbf"}, "n"},
		{[]string{
			"\xed\xa0\x80\xed\xb0\x80", "\xed\xa0\x80\xed\xbf\xbf", "\xed\xad\xbf\xed\xb0\x80", "\xed\xad\xbf\xed\xbf\xbf",
			"\xed\xae\x80\xed\xb0\x80", "\xed\xae\x80\xed\xbf\xbf", "\xed\xaf\xbf\xed\xb0\x80", "\xed\xaf\xbf\xed\xbf\xbf",
		}, "n"},
		{nonCharacters, "y"},
		{[]string{"\ufff9", "\ufffa", "\ufffb", "\ufffc", "\ufffd", "\ufffe", "\uffff"}, "y"},
	}
}
