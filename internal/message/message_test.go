package message_test

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/wsbouncer/wsbouncer/internal/message"
)

// readers are those of a format with the options its tests use.
func readers(t testing.TB, format string) (client, upstream message.Reader) {
	t.Helper()
	o := message.Options{MaxBytes: 1 << 16}
	switch format {
	case "json":
		o.Action, o.Target = "/type", "/room"
	case "jsonrpc":
		o.Target = "/params/room"
	}
	if key, err := message.Check(format, o); err != nil {
		t.Fatal(key, err)
	}
	client, upstream, err := message.New(format, o)
	if err != nil {
		t.Fatal(err)
	}
	return client, upstream
}

func isBinary(format string) bool { return format == "mqtt" }

// said is what units ask for: "name target" each, units apart by " | ".
func said(units []message.Unit) string {
	var out []string
	for _, u := range units {
		var as []string
		for _, a := range u.Actions {
			as = append(as, strings.TrimSpace(a.Name+" "+a.Target))
		}
		if u.Follows {
			as = append(as, "(follows)")
		}
		out = append(out, strings.Join(as, ", "))
	}
	return strings.Join(out, " | ")
}

type reading struct {
	text string
	want string // as said; "!" begins what is wrong
	deny string // of the last unit; "" none
}

// check reads each text on a connection of its own.
func check(t *testing.T, format string, upstream bool, cases []reading) {
	t.Helper()
	for _, c := range cases {
		r, up := readers(t, format)
		if upstream {
			r = up
		}
		units, err := r.Read(isBinary(format), []byte(c.text))
		if why, wrong := strings.CutPrefix(c.want, "!"); wrong {
			if err == nil || !strings.Contains(err.Error(), why) {
				t.Errorf("%q: %v %q, want %q", c.text, err, said(units), why)
			}
			continue
		}
		if err != nil || said(units) != c.want {
			t.Errorf("%q: %v %q, want %q", c.text, err, said(units), c.want)
			continue
		}
		whole(t, units, c.text)
		reply, ok := units[len(units)-1].Denial("not_allowed")
		if string(reply) != c.deny || ok != (c.deny != "") {
			t.Errorf("%q denied: %q, want %q", c.text, reply, c.deny)
		}
	}
}

// whole: what goes on is what came.
func whole(t testing.TB, units []message.Unit, text string) {
	t.Helper()
	var all []byte
	for _, u := range units {
		all = append(all, u.Raw...)
	}
	if string(all) != text {
		t.Errorf("%q goes on as %q", text, all)
	}
}

func TestJSON(t *testing.T) {
	const denied = `{"wsbouncer":"denied","code":"not_allowed"}`
	check(t, "json", false, []reading{
		{`{"type":"send","room":"a/b"}`, "send a/b", denied},
		{` {"x":{"type":"inner"},"\u0074ype":"s\u0065nd","room":42}` + "\n", "send 42", denied},
		{`{"type":"send","room":-1}`, "send -1", denied},
		{`{"type":"send"}`, "send", denied},
		{`{}`, "!action", ""},
		{`[]`, "!action", ""},
		{`{"type":null}`, "!action", ""},
		{`{"type":["send"]}`, "!action", ""},
		{`{"type":"send","room":1.5}`, "!target", ""},
		{`{"type":"send","room":null}`, "!target", ""},
		{`{"type":"send","room":{}}`, "!target", ""},
		{`{"type":"read","type":"delete"}`, "!duplicate", ""},
		{`{"type":"read","Type":"delete"}`, "!duplicate", ""},
		{`{"type":"read","\u0054ype":"delete"}`, "!duplicate", ""},
		{`{"type":"read","typ\u0065":"delete"}`, "!duplicate", ""},
		{"\ufeff" + `{"type":"send"}`, "!not JSON", ""},
		{`{"type":"send"}x`, "!not JSON", ""},
		{`{"type":"send","n":NaN}`, "!not JSON", ""},
		{`{"type":"send","n":1e999}`, "!not JSON", ""},
		{`{"type":"\ud800"}`, "!surrogate", ""},
		{"{\"type\":\"\xff\"}", "!UTF-8", ""},
		{`{"type":"send","a":` + strings.Repeat("[", 10_000), "!deeply", ""},
		{`{"type":"send","__proto__":{"type":"delete"}}`, "send", denied},
		{``, "!not JSON", ""},
	})
	r, _ := readers(t, "json")
	if _, err := r.Read(true, []byte(`{"type":"send"}`)); err == nil {
		t.Error("a binary message is taken")
	}
}

func TestJSONRPC(t *testing.T) {
	deny := func(ids ...string) string {
		var out []string
		for _, id := range ids {
			out = append(out, `{"jsonrpc":"2.0","id":`+id+`,"error":{"code":-32003,"message":"Not allowed","data":{"code":"not_allowed"}}}`)
		}
		return strings.Join(out, ",")
	}
	call := func(more string) string { return `{"jsonrpc":"2.0",` + more + `}` }
	check(t, "jsonrpc", false, []reading{
		{call(`"id":1,"method":"get","params":{"room":"x"}`), "get x", deny("1")},
		{call(`"id":"a\"b","method":"get","params":["room"]`), "get", deny(`"a\"b"`)},
		{call(`"id":null,"method":"get"`), "get", deny("null")},
		{call(`"method":"notify"`), "notify", ""},
		{call(`"id":1,"result":{}`), "rpc.response", ""},
		{call(`"id":1,"error":{"code":1}`), "rpc.response", ""},
		{"[" + call(`"id":1,"method":"a"`) + "," + call(`"method":"b","params":{"room":"r"}`) + "," + call(`"id":2,"method":"c"`) + "]", "a, b r, c", "[" + deny("1", "2") + "]"},
		{" [" + call(`"method":"a"`) + "] ", "a", ""},
		{`[]`, "!empty", ""},
		{`[1]`, "!2.0", ""},
		{`[` + call(`"method":"a"`), "!not JSON", ""},
		{`{"id":1,"method":"get"}`, "!2.0", ""},
		{`{"jsonrpc":2.0,"id":1,"method":"get"}`, "!2.0", ""},
		{call(`"id":{},"method":"get"`), "!id", ""},
		{call(`"id":true,"method":"get"`), "!id", ""},
		{call(`"id":1,"method":1`), "!method", ""},
		{call(`"id":1,"method":"rpc.response"`), "!reserved", ""},
		{call(`"id":1,"method":"get","result":1`), "!both", ""},
		{call(`"id":1`), "!neither", ""},
		{call(`"result":1`), "!neither", ""},
		{call(`"id":1,"result":1,"error":1`), "!neither", ""},
		{call(`"id":1,"method":"get","params":"x"`), "!params", ""},
		{call(`"id":1,"method":"get","method":"set"`), "!duplicate", ""},
		{call(`"id":1,"method":"get","METHOD":"set"`), "!duplicate", ""},
		{`[` + strings.TrimSuffix(strings.Repeat(call(`"method":"a"`)+",", 129), ",") + `]`, "!more calls", ""},
		{`[` + strings.Repeat(`1,`, 10_000) + `1]`, "!2.0", ""},
		{`[[` + call(`"method":"a"`) + `]]`, "!2.0", ""},
	})
}

func TestGraphQL(t *testing.T) {
	const denied = `{"id":"1","type":"error","payload":[{"message":"Not allowed","extensions":{"code":"not_allowed"}}]}`
	subscribe := func(document, more string) string {
		return fmt.Sprintf(`{"id":"1","type":"subscribe","payload":{"query":%q%s}}`, document, more)
	}
	ok := func(document, want string) reading { return reading{subscribe(document, ""), want, denied} }
	bad := func(document, why string) reading { return reading{subscribe(document, ""), "!" + why, ""} }
	const two = "query A { a } mutation B { b }"
	check(t, "graphql-transport-ws", false, []reading{
		{`{"type":"connection_init"}`, "", ""},
		{`{"type":"connection_init","payload":{"x":1}}`, "", ""},
		{`{"type":"ping"}`, "", ""},
		{`{"type":"complete","id":"1"}`, "", ""},
		ok("{ a }", "query a"),
		ok("query { a b(x: 1) { c } }", "query a, query b"),
		ok("mutation M($a: [Int!]! = [1 2] @d, $b: T) @x(y: {z: \"}\"}) { add(a: $a, b: {c: [true null ENUM -1.5e3]}) @skip(if: $b) { id } }", "mutation add"),
		ok("subscription { messageAdded(room: \"x\") { text } }", "subscription messageAdded"),
		ok("{ alias: secret }", "query secret"),
		ok("{ ...F } fragment F on Query { a ...G } fragment G on Query { b ...F }", "query a, query b"),
		ok("{ ... on Query { a } ... { b } ... @include(if: true) { c } }", "query a, query b, query c"),
		ok("# comment {}\n\ufeff, { a # b\n }", "query a"),
		ok(`{ a(s: """ } { "quoted" \""" """, t: "\u0041\u{1F600}\"}") b }`, "query a, query b"),
		ok("{ query mutation fragment: on }", "query query, query mutation, query on"),
		ok("{ __typename __schema { types { name } } }", "query __typename, query __schema"),
		{subscribe(two, `,"operationName":"B"`), "mutation b", denied},
		{subscribe("query A { a }", `,"operationName":"A","variables":{"x":1}`), "query a", denied},
		{subscribe("query A { a }", `,"operationName":null`), "query a", denied},

		bad(two, "none is named"),
		bad("{ a } query B { b }", "none is named"),
		{subscribe(two, `,"operationName":"C"`), "!no such operation", ""},
		{subscribe("{ a }", `,"operationName":"A"`), "!no such operation", ""},
		{subscribe("query A { a } query A { b }", `,"operationName":"A"`), "!one name", ""},
		{subscribe("{ a }", `,"operationName":1`), "!operationName", ""},
		bad("", "no such operation"), bad("{ }", "name is due"), bad("{ a", "is due"), bad("{ a } }", "definition"),
		bad("{ ...F }", "not in the document"), bad("{ ...F } fragment F on T { a } fragment F on T { b }", "one name"),
		bad("fragment F on T { a }", "no such operation"), bad("{ ...F } fragment F on T { ...F }", "without fields"),
		bad("type Query { a: Int }", "definition"), bad("extend type Q { a: Int }", "definition"),
		bad("{ a(x: 01) }", "zeros"), bad("{ a(x: 1a) }", "goes on"), bad("{ a(x: 1.) }", "number"), bad("{ a(x: 1.2.3) }", "goes on"),
		bad("{ a(x: \"b\nc\") }", "line"), bad(`{ a(x: "\x") }`, "escape"), bad(`{ a(x: "\u{110000000}") }`, "escape"), bad(`{ a(x: "b) }`, "end"), bad(`{ a(x: """b"" ) }`, "end"),
		bad("{ a() }", "name is due"), bad("query () { a }", "$ is due"), bad("{ a ? b }", "character"), bad("{ \u00e4 }", "character"),
		bad(strings.Repeat("{a", 40)+strings.Repeat("}", 40), "deeply"), bad("{ a(x: "+strings.Repeat("[", 40)+strings.Repeat("]", 40)+") }", "deeply"),
		bad("{"+strings.Repeat(" a", 200)+" }", "more fields"), bad("{ a("+strings.Repeat("x: 1 ", 4000)+") }", "tokens"),
		{`{"id":"1","type":"subscribe","payload":{"extensions":{"persistedQuery":{"sha256Hash":"x"}}}}`, "!no document", ""},
		{`{"id":"","type":"subscribe","payload":{"query":"{ a }"}}`, "!id", ""},
		{`{"type":"subscribe","payload":{"query":"{ a }"}}`, "!id", ""},
		{`{"id":1,"type":"subscribe","payload":{"query":"{ a }"}}`, "!id", ""},
		{`{"id":"1","type":"subscribe","payload":{"query":"{ a }","query":"{ b }"}}`, "!duplicate", ""},
		{`{"id":"1","type":"subscribe","payload":{"query":"{ a }","Query":"{ b }"}}`, "!duplicate", ""},
		{`{"type":"complete"}`, "!id", ""},
		{`{"id":"1","type":"next","payload":{}}`, "!not due", ""},
		{`{"id":"1","type":"start","payload":{"query":"{ a }"}}`, "!not due", ""},
		{`{"type":1}`, "!type", ""},
	})
	check(t, "graphql-transport-ws", true, []reading{
		{`{"type":"connection_ack"}`, "", ""},
		{`{"id":"1","type":"next","payload":{"data":{"a":1}}}`, "next", ""},
		{`{"id":"1","type":"error","payload":[]}`, "error", ""},
		{`{"id":"1","type":"complete"}`, "", ""},
		{`{"type":"next"}`, "!id", ""},
		{`{"id":"1","type":"subscribe","payload":{"query":"{ a }"}}`, "!not due", ""},
	})
}

func TestSTOMP(t *testing.T) {
	const denied = "ERROR\nmessage:Not allowed\ncode:not_allowed\ncontent-type:text/plain\ncontent-length:11\n\nNot allowed\x00"
	receipt := strings.Replace(denied, "content-type", "receipt-id:r\\c1\ncontent-type", 1)
	check(t, "stomp", false, []reading{
		{"CONNECT\naccept-version:1.2\nhost:x\nlogin:a:b\\\n\n\x00", "connect", denied},
		{"STOMP\naccept-version:1.2\n\n\x00", "connect", denied},
		{"SEND\ndestination:/queue/a\\cb\n\nhello\x00", "send /queue/a:b", denied},
		{"SEND\r\ndestination:/q\r\nreceipt:r\\c1\r\n\r\nhello\x00", "send /q", receipt},
		{"SEND\ndestination:/q\ncontent-length:5\n\na\x00b\x00c\x00", "send /q", denied},
		{"SUBSCRIBE\nid:0\ndestination:/topic/x\n\n\x00\n", "subscribe /topic/x | ", ""},
		{"\n", "", ""},
		{"\r\n\nUNSUBSCRIBE\nid:0\n\n\x00", " | ", ""},
		{"SEND\ndestination:/a\n\n\x00SEND\ndestination:/b\n\n\x00", "send /a | send /b", denied},
		{"SEND\nx:1\ndestination:/a\nx:2\n\n\x00", "send /a", denied},

		{"SEND\ndestination:/a\ndestination:/b\n\n\x00", "!destination", ""},
		{"SEND\ndestination:/a\ndestinatio\\n:/b\n\n\x00", "send /a", denied},
		{"SEND\n\nx\x00", "!destination", ""},
		{"SEND\ndestination:\n\nx\x00", "!destination", ""},
		{"SEND\ndestination:/a\\t\n\nx\x00", "!escape", ""},
		{"SEND\ndestination:/a\ncontent-length:3\n\nabcd\x00", "!content-length", ""},
		{"SEND\ndestination:/a\ncontent-length:-1\n\nabcd\x00", "!content-length", ""},
		{"SEND\ndestination:/a\ncontent-length:1\ncontent-length:2\n\na\x00", "!twice", ""},
		{"SEND\nnothing\n\n\x00", "!header", ""},
		{"send\ndestination:/a\n\n\x00", "!command", ""},
		{" SEND\ndestination:/a\n\n\x00", "!command", ""},
		{"MESSAGE\ndestination:/a\n\n\x00", "!command", ""},
		{strings.Repeat("x", 9000), "!do not end", ""},
		{"SEND\n" + strings.Repeat("a:b\n", 100) + "\n\x00", "!more headers", ""},
		{"SEND\ndestination:/\xff\n\n\x00", "!header", ""},
	})
	check(t, "stomp", true, []reading{
		{"CONNECTED\nversion:1.2\n\n\x00", "", ""},
		{"MESSAGE\nsubscription:0\nmessage-id:1\ndestination:/topic/x\n\nhi\x00", "message /topic/x", ""},
		{"ERROR\nmessage:no\n\n\x00", "", ""},
		{"SEND\ndestination:/a\n\n\x00", "!command", ""},
	})
}

func TestSocketIO(t *testing.T) {
	const said = `{"error":{"code":"not_allowed","message":"Not allowed"}}`
	check(t, "socketio", false, []reading{
		{"40", "connect /", `44{"message":"Not allowed","data":{"code":"not_allowed"}}`},
		{`40{"token":"x"}`, "connect /", `44{"message":"Not allowed","data":{"code":"not_allowed"}}`},
		{`40/admin,{"token":"x"}`, "connect /admin", `44/admin,{"message":"Not allowed","data":{"code":"not_allowed"}}`},
		{`42["chat",{"a":1}]`, "chat /", `42["error",` + said + `]`},
		{`4212["chat"]`, "chat /", "4312[" + said + "]"},
		{`42/admin,7["drop"]`, "drop /admin", "43/admin,7[" + said + "]"},
		{`43/admin,7[1]`, "", ""},
		{`41`, "", ""},
		{`41/admin,`, "", ""},
		{"2probe", "", ""}, {"3", "", ""}, {"5", "", ""},
		{`451-["up",{"_placeholder":true,"num":0}]`, "up /", `42["error",` + said + `]`},
		{`450-["up"]`, "up /", `42["error",` + said + `]`},

		{`42`, "!array", ""}, {`42{}`, "!array", ""}, {`42[]`, "!name", ""}, {`42[1]`, "!name", ""}, {`42["connect"]`, "!reserved", ""},
		{`42["disconnecting"]`, "!reserved", ""}, {`42["a"`, "!not JSON", ""}, {`42["a",{"x":1,"x":2}]`, "!duplicate", ""}, {`42["a"]["b"]`, "!not JSON", ""},
		{`42/a?b=c,["a"]`, "!namespace", ""}, {`42/a["b"],["a"]`, "!namespace", ""}, {`4200["a"]`, "!no number", ""}, {`42 ["a"]`, "!array", ""},
		{`421-["a"]`, "!array", ""}, {`45["a"]`, "!attachments", ""}, {`4599-["a"]`, "!attachments", ""}, {`4501-["a"]`, "!attachments", ""},
		{`43[1]`, "!nothing", ""}, {`44{"message":"x"}`, "!not due", ""}, {`47`, "!not known", ""}, {`4`, "!not known", ""},
		{`0{"sid":"x"}`, "!not due", ""}, {`2x`, "!behind", ""}, {`1x`, "!behind", ""}, {`bAAAA`, "!not due", ""}, {``, "!empty", ""}, {`41{}`, "!behind", ""},
	})
	check(t, "socketio", true, []reading{
		{`0{"sid":"x","upgrades":[]}`, "", ""}, {`40{"sid":"x"}`, "", ""}, {`44{"message":"x"}`, "", ""}, {`42["chat","x"]`, "chat /", `42["error",` + said + `]`},
	})

	r, _ := readers(t, "socketio")
	if _, err := r.Read(true, []byte("x")); err == nil {
		t.Error("binary data that no event announced")
	}
	r, _ = readers(t, "socketio")
	for i, c := range []struct {
		binary     bool
		text, want string
	}{{false, `452-["up",{"_placeholder":true,"num":0}]`, "up /"}, {false, "3", ""}, {true, "1", "(follows)"}, {true, "2", "(follows)"}, {false, `42["x"]`, "x /"}} {
		units, err := r.Read(c.binary, []byte(c.text))
		if err != nil || !slices.Equal([]string{saidOne(units)}, []string{c.want}) {
			t.Errorf("%d: %v %q, want %q", i, err, saidOne(units), c.want)
		}
	}
	r, _ = readers(t, "socketio")
	_, _ = r.Read(false, []byte(`451-["up"]`))
	if _, err := r.Read(false, []byte(`42["x"]`)); err == nil {
		t.Error("a packet instead of an attachment")
	}
}

func saidOne(units []message.Unit) string { return said(units) }

func TestCheck(t *testing.T) {
	for _, c := range []struct {
		format string
		o      message.Options
		key    string
	}{
		{"xml", message.Options{}, "format"}, {"json", message.Options{}, "action"}, {"json", message.Options{Action: "type"}, "action"},
		{"json", message.Options{Action: "/type", Target: "x"}, "target"}, {"mqtt", message.Options{Action: "/x"}, "action"},
		{"mqtt", message.Options{Target: "/x"}, "target"}, {"jsonrpc", message.Options{Target: "/params/a~2"}, "target"},
	} {
		if key, err := message.Check(c.format, c.o); key != c.key || err == nil {
			t.Errorf("%+v: %q %v", c, key, err)
		}
	}
}

// What is fragmented goes on whole, whatever the pieces.
func TestPiecesOfStreams(t *testing.T) {
	streams := map[string][]byte{
		"mqtt":  slices.Concat(connect5, publish5("tenants/42/x", 1, nil), publish5("a", 0, nil), []byte{0xc0, 0}),
		"stomp": []byte("CONNECT\nhost:x\n\n\x00\n\nSEND\ndestination:/a\ncontent-length:3\n\n\x00b\x00\x00SUBSCRIBE\nid:1\ndestination:/b\n\n\x00\r\n"),
	}
	for format, all := range streams {
		r, _ := readers(t, format)
		units, err := r.Read(isBinary(format), all)
		if err != nil {
			t.Fatal(format, err)
		}
		want := said(units)
		for size := 1; size < len(all); size++ {
			r, _ := readers(t, format)
			var got []string
			var out []byte
			for piece := range slices.Chunk(all, size) {
				units, err := r.Read(isBinary(format), bytes.Clone(piece))
				if err != nil {
					t.Fatalf("%s in pieces of %d: %v", format, size, err)
				}
				for _, u := range units {
					out = append(out, u.Raw...)
					if len(u.Actions) > 0 {
						got = append(got, said([]message.Unit{u}))
					}
				}
			}
			if !bytes.Equal(out, all) || strings.Join(got, " | ") != strings.Trim(strings.ReplaceAll(strings.ReplaceAll(want, " |  | ", " | "), "|  |", "|"), " |") {
				t.Fatalf("%s in pieces of %d: %q, want %q", format, size, got, want)
			}
		}
	}
}
