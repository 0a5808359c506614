package e2e_test

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/wsbouncer/wsbouncer/internal/frame"
)

// permitted is a gateway whose one route has these permissions; its upstream
// sends everything back.
func permitted(t *testing.T, permissions string) (*server, *issuer, *upstream) {
	t.Helper()
	up := newUpstream(t, echo)
	s, iss := gate(t, up, "  - path: /chat/{room}\n    upstream: \"ws://UPSTREAM\"\n    permissions:\n"+indented(permissions, "      "))
	return s, iss, up
}

func indented(text, by string) string {
	var b strings.Builder
	for line := range strings.Lines(strings.TrimPrefix(text, "\n")) {
		b.WriteString(by + line)
	}
	if !strings.HasSuffix(b.String(), "\n") {
		b.WriteString("\n")
	}
	return b.String()
}

const chatPermissions = `
format: json
action: /type
target: /room
from_client:
  - {action: [send, edit], scopes: ["chat:write"], allow: 'msg.room == path.room'}
  - {action: typing}
  - {action: join, target: 'teams/${claims.team}/#'}
  - {action: burst, limit: {rate: 1/m, burst: 2}}
  - {action: leave, allow: 'false', on_deny: close}
  - {action: whisper, allow: 'claims.none', on_deny: drop}
`

const deniedJSON = `{"wsbouncer":"denied","code":"not_allowed"}`

func TestAZ01JSONMessages(t *testing.T) {
	t.Parallel()
	s, iss, up := permitted(t, chatPermissions)
	writer := iss.token(claims{"scope": "chat chat:write", "team": "a"})
	c := s.connect("/chat/lobby", bearer(writer))
	for _, m := range []struct {
		text    string
		allowed bool
	}{
		{`{"type":"send","room":"lobby","body":"hi"}`, true},
		{`{"type":"send","room":"other","body":"hi"}`, false},
		{` {"room":"lobby", "type":"\u0073end"} `, true},
		{`{"type":"delete","room":"lobby"}`, false},
		{`{"type":"typing"}`, true},
		{`{"type":"join","room":"teams/a/x"}`, true},
		{`{"type":"join","room":"teams/b/x"}`, false},
		{`{"type":"join"}`, false},
		{`{"type":"burst"}`, true}, {`{"type":"burst"}`, true}, {`{"type":"burst"}`, false},
	} {
		c.text(m.text)
		if m.allowed {
			c.receives(m.text)
		} else {
			c.receives(deniedJSON)
		}
	}
	c.text(`{"type":"whisper"}`).text(`{"type":"typing","n":1}`).receives(`{"type":"typing","n":1}`)
	reader := s.connect("/chat/lobby", bearer(iss.token(claims{"scope": "chat"})))
	reader.text(`{"type":"send","room":"lobby"}`).receives(deniedJSON)
	reader.text(`{"type":"leave"}`).closes(3003, "not_allowed")
	c.text(`{"type":"typing"}`).receives(`{"type":"typing"}`)
	for _, m := range up.of(c).dataOf() {
		if strings.Contains(m, "delete") || strings.Contains(m, "other") || strings.Contains(m, "whisper") || strings.Contains(m, "teams/b") {
			t.Errorf("the upstream received %s", m)
		}
	}
	s.waitLog("a message is denied", `"from":"client"`, `"route":"/chat/{room}"`)
	if out := s.cli("status"); !strings.Contains(out, "denied       /chat/{room} from the client, by rule 0, 2 times") || !strings.Contains(out, "by no rule, 3 times") {
		t.Errorf("status:\n%s", out)
	}
}

func TestAZ02AZ04DenyByDefault(t *testing.T) {
	t.Parallel()
	s, iss, up := permitted(t, strings.Replace(chatPermissions, "{action: typing}", `{action: typing, allow: '1 / int(msg.n) > 0'}`, 1))
	token := bearer(iss.token(claims{"scope": "chat chat:write"}))
	const invalid = `{"wsbouncer":"denied","code":"invalid_message"}`
	for text, answer := range map[string]string{
		`{}`: invalid, `[]`: invalid, `not json`: invalid, ``: invalid, `{"type":null}`: invalid, `{"type":["typing"]}`: invalid, `{"type":1}`: invalid,
		`{"type":"typing"}`: deniedJSON, `{"type":"typing","n":0}`: deniedJSON, `{"type":"typing","n":"x"}`: deniedJSON, `{"type":"typing","n":{}}`: deniedJSON, `{"type":"typing","n":9007199254740993}`: deniedJSON,
		`{"type":"send","type":"typing","n":1}`: invalid, `{"type":"typing","Type":"send","n":1}`: invalid, `{"typ\u0065":"typing","type":"typing","n":1}`: invalid,
		"\ufeff" + `{"type":"typing","n":1}`: invalid, `{"type":"typing","n":1}{}`: invalid, `{"type":"typing","n":NaN}`: invalid, `{"type":"typing","n":1e999}`: invalid,
		`{"type":"typing","n":1,"x":` + strings.Repeat("[", 10_000) + strings.Repeat("]", 10_000) + `}`: invalid, `{"type":"typing","n":"\ud800"}`: invalid,
		`{"type":"Typing","n":1}`: deniedJSON, `{"type":"typing ","n":1}`: deniedJSON, `{"__proto__":{"type":"typing"},"n":1}`: invalid,
	} {
		c := s.connect("/chat/lobby", token)
		c.text(text).receives(answer)
		const good = `{"type":"typing","n":1}`
		c.text(good).receives(good) // the session goes on
		if got := up.of(c).dataOf(); !slices.Equal(got, []string{good}) {
			t.Errorf("%.60q: the upstream received %q", text, got)
		}
		c.conn.Close()
	}
	// What is not UTF-8 is not even looked at.
	s.connect("/chat/lobby", token).text("{\"type\":\"typing\xff\"}").closes(1007, "invalid_payload")
	// Binary messages are no JSON.
	s.connect("/chat/lobby", token).frame(frame.Binary, true, `{"type":"typing","n":1}`).receives(invalid)
}

func TestAZ03FragmentsAndFloodsDoNotBypass(t *testing.T) {
	t.Parallel()
	s, iss, up := permitted(t, chatPermissions)
	c := s.connect("/chat/lobby", bearer(iss.token()), "Sec-WebSocket-Extensions: permessage-deflate")
	const bad, good = `{"type":"delete","room":"lobby"}`, `{"type":"typing"}`
	one := func(text string) {
		for i := range len(text) {
			op := frame.Continuation
			if i == 0 {
				op = frame.Text
			}
			c.frame(op, i == len(text)-1, text[i:i+1])
			if i%5 == 0 {
				c.frame(frame.Ping, true, "")
			}
		}
	}
	one(bad)
	one(good)
	var answers []string
	for len(answers) < 2 {
		m, err := c.next()
		if err != nil {
			t.Fatal(err)
		}
		if !m.op.IsControl() && (m.payload != "" || m.fin) {
			answers = append(answers, m.payload)
		}
		if len(answers) == 1 && answers[0] != deniedJSON {
			t.Fatalf("answered %q", answers[0])
		}
	}
	whole := func(c *upConn) string { return strings.Join(c.dataOf(), "") }
	eventually(t, "the good one at the upstream", func() bool { return whole(up.of(c)) == good })

	many := s.connect("/chat/lobby", bearer(iss.token()))
	batch := ""
	for range 20 {
		batch += string(appendFrame(nil, message{op: frame.Text, fin: true, payload: bad}, true)) + string(appendFrame(nil, message{op: frame.Text, fin: true, payload: good}, true))
	}
	many.send(batch)
	denied, passed := 0, 0
	for denied+passed < 40 {
		m, err := many.next()
		if err != nil {
			t.Fatal(err)
		}
		if m.payload == deniedJSON {
			denied++
		} else {
			passed++
		}
	}
	if denied != 20 || passed != 20 || whole(up.of(many)) != strings.Repeat(good, 20) {
		t.Errorf("%d denied, %d passed", denied, passed)
	}
}

func TestAZ06RulesChangeUnderLiveConnections(t *testing.T) {
	t.Parallel()
	up := newUpstream(t, echo)
	iss := newIssuer(t, "https://idp.example")
	yaml := func(permissions string) string {
		if permissions != "" {
			permissions = "    permissions:\n" + indented(permissions, "      ")
		}
		return strings.ReplaceAll(trustYAML(iss.name)+"routes:\n  - path: /chat/{room}\n    upstream: \"ws://UPSTREAM\"\n"+permissions+generous(), "UPSTREAM", up.addr)
	}
	s := start(t, up, yaml(chatPermissions), iss.trusted)
	c := s.connect("/chat/lobby", bearer(iss.token()))
	const typing = `{"type":"typing"}`
	c.text(typing).receives(typing)
	s.writeConfig(yaml(strings.Replace(chatPermissions, "  - {action: typing}\n", "", 1)))
	s.hangup("reloaded")
	c.text(typing).receives(deniedJSON)
	s.writeConfig(yaml(strings.Replace(chatPermissions, "format: json", "mode: report\nformat: json", 1)))
	s.hangup("reloaded")
	c.text(`{"type":"delete"}`).receives(`{"type":"delete"}`)
	s.waitLog("a message would be denied")
	// Read in another way, or not at all, they would escape the rules.
	s.writeConfig(yaml(""))
	s.hangup("reloaded")
	c.closes(1012, "restarting")
	free := s.connect("/chat/lobby", bearer(iss.token())).text("anything").receives("anything")
	s.writeConfig(yaml(chatPermissions))
	s.hangup("reloaded")
	free.closes(1012, "restarting")
}

// The claims of a refreshed token are those that count.
func TestOAU09MessagesFollowTheToken(t *testing.T) {
	t.Parallel()
	s, iss, _ := permitted(t, chatPermissions)
	c := s.connect("/chat/lobby", bearer(iss.token(claims{"scope": "chat chat:write", "exp": time.Now().Unix() + 30, "sid": "s1"})))
	const send = `{"type":"send","room":"lobby"}`
	c.text(send).receives(send)
	newer := iss.token(claims{"scope": "chat", "exp": time.Now().Unix() + 60, "sid": "s1"})
	if a := s.call("POST", "/auth/extend", map[string]any{"connections": []string{c.id}}, bearer(newer)); a.status != 200 || len(a.json["extended"].([]any)) != 1 {
		t.Fatal(a.status, a.body)
	}
	c.text(send).receives(deniedJSON)
}

func TestAZ08MessagesOfTheUpstream(t *testing.T) {
	t.Parallel()
	up := newUpstream(t, func(c *upConn) {
		c.accept()
		for _, m := range []string{`{"type":"news","for":"all"}`, `{"type":"salary","for":"boss"}`, `{"type":"news","for":"boss"}`, `not json`, `{"type":"end"}`} {
			_, _ = c.Write(frame.Append(nil, frame.Text, []byte(m), false))
		}
		c.listen()
	})
	s, iss := gate(t, up, `
  - path: /feed
    upstream: "ws://UPSTREAM"
    permissions:
      format: json
      action: /type
      on_deny: drop
      from_upstream:
        - {action: salary, scopes: [boss]}
        - {action: news, allow: 'msg["for"] == "all" || "boss" in scopes'}
        - {action: end}
`)
	s.connect("/feed", bearer(iss.token())).receives(`{"type":"news","for":"all"}`).receives(`{"type":"end"}`)
	s.connect("/feed", bearer(iss.token(claims{"scope": "boss"}))).
		receives(`{"type":"news","for":"all"}`).receives(`{"type":"salary","for":"boss"}`).receives(`{"type":"news","for":"boss"}`).receives(`{"type":"end"}`)
}

func TestAZ07JSONRPC(t *testing.T) {
	t.Parallel()
	s, iss, up := permitted(t, `
format: jsonrpc
target: /params/room
from_client:
  - {action: ['rooms/*', ping], target: 't/${claims.tenant}/#'}
  - {action: ping}
  - {action: rpc.response}
`)
	c := s.connect("/chat/x", bearer(iss.token(claims{"tenant": 42})))
	call := func(id, method, room string) string {
		return fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"method":%q,"params":{"room":%q}}`, id, method, room)
	}
	denied := func(id string) string {
		return `{"jsonrpc":"2.0","id":` + id + `,"error":{"code":-32003,"message":"Not allowed","data":{"code":"not_allowed"}}}`
	}
	for _, m := range [][2]string{
		{call("1", "rooms/get", "t/42/a"), ""}, {call(`"x"`, "rooms/get", "t/43/a"), denied(`"x"`)}, {call("2", "ping", ""), ""},
		{"[" + call("3", "ping", "") + "," + call("4", "rooms/get", "t/42/b") + "]", ""},
		{"[" + call("5", "ping", "") + "," + call("6", "rooms/get", "t/1/b") + "]", "[" + denied("5") + "," + denied("6") + "]"},
		{`{"jsonrpc":"2.0","id":9,"result":true}`, ""},
		{`{"jsonrpc":"1.0","id":9,"method":"ping"}`, `{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"Invalid Request","data":{"code":"invalid_message"}}}`},
	} {
		want := m[1]
		if want == "" {
			want = m[0]
		}
		c.text(m[0]).receives(want)
	}
	if got := strings.Join(up.of(c).dataOf(), "\n"); strings.Contains(got, "t/43") || strings.Contains(got, "t/1/") {
		t.Errorf("the upstream received %s", got)
	}
}

// A route's own expression, at the handshake and at a refresh.
func TestAZ02AllowOfARoute(t *testing.T) {
	t.Parallel()
	up := newUpstream(t, echo)
	s, iss := gate(t, up, `
  - path: /chat/{room}/{rest...}
    upstream: "ws://UPSTREAM"
    allow: 'path.room in claims.rooms && (!("v" in query) || query.v == "1") && ip == "127.0.0.1" && path.rest != "no/way"'
  - path: /error
    upstream: "ws://UPSTREAM"
    allow: 'claims.none == 1 / 0'
`)
	token := iss.token(claims{"rooms": []string{"a", "b c"}, "sid": "s1", "exp": time.Now().Unix() + 30})
	c := s.connect("/chat/a/x", bearer(token)).alive()
	s.connect("/chat/b%20c/x?v=1", bearer(token)).alive()
	for _, target := range []string{"/chat/c/x", "/chat/a%20/x", "/chat/a/x?v=2", "/chat/a/no/way", "/error"} {
		s.refused(403, "not_allowed", target, bearer(token))
	}
	s.refused(403, "not_allowed", "/chat/a/x", bearer(iss.token()))
	if n := up.count(); n != 2 {
		t.Errorf("%d connections reached the upstream", n)
	}
	newer := iss.token(claims{"rooms": []string{"b"}, "sid": "s1", "exp": time.Now().Unix() + 60})
	s.call("POST", "/auth/extend", map[string]any{"connections": []string{c.id}}, bearer(newer))
	c.closes(3003, "not_allowed")
}

// The examples of the documentation run, each with something that is allowed and
// something that is not.
func TestAZ07Examples(t *testing.T) {
	t.Parallel()
	const graphql, socketio = `{"id":"1","type":"subscribe","payload":{"query":%q}}`, `{"error":{"code":"not_allowed","message":"Not allowed"}}`
	mqttText := func(s string) string { return fmt.Sprintf("\x00%c%s", len(s), s) }
	publish := func(topic string) string { return fmt.Sprintf("\x32%c%s\x00\x07x", len(topic)+5, mqttText(topic)) }
	connect := "\x10\x11" + mqttText("MQTT") + "\x04\x02\x00\x3c" + mqttText("alice")
	connect = strings.Replace(connect, mqttText("alice"), mqttText("alice-7"), 1)
	connect = "\x10" + string(rune(len(connect)-2)) + connect[2:]
	for format, c := range map[string]struct {
		path   string
		claims claims
		op     frame.Opcode
		said   [][2]string // and the answer; "": it comes back
	}{
		"json": {"/chat/lobby", claims{"scope": "chat:write"}, frame.Text, [][2]string{
			{`{"type":"send","room":"lobby"}`, ""}, {`{"type":"send","room":"x"}`, deniedJSON}, {`{"type":"typing"}`, ""},
		}},
		"jsonrpc": {"/rpc", claims{"account": 42}, frame.Text, [][2]string{
			{`{"jsonrpc":"2.0","id":1,"method":"accounts.get","params":{"account":42}}`, ""},
			{`{"jsonrpc":"2.0","id":1,"method":"accounts.get","params":{"account":43}}`, `{"jsonrpc":"2.0","id":1,"error":{"code":-32003,"message":"Not allowed","data":{"code":"not_allowed"}}}`},
		}},
		"graphql-transport-ws": {"/graphql", nil, frame.Text, [][2]string{
			{fmt.Sprintf(graphql, "{ me { name } }"), ""},
			{fmt.Sprintf(graphql, "mutation { sendMessage { id } }"), `{"id":"1","type":"error","payload":[{"message":"Not allowed","extensions":{"code":"not_allowed"}}]}`},
		}},
		"mqtt": {"/mqtt", claims{"tenant": 42}, frame.Binary, [][2]string{
			{connect, ""}, {publish("tenants/42/a"), ""}, {publish("tenants/43/a"), "\x40\x02\x00\x07"},
		}},
		"stomp": {"/stomp", claims{"team": "red", "scope": "chat:write"}, frame.Text, [][2]string{
			{"SEND\ndestination:/topic/red.x\n\nhi\x00", ""}, {"SEND\ndestination:/topic/blue.x\n\nhi\x00", "ERROR\nmessage:Not allowed\ncode:not_allowed\ncontent-type:text/plain\ncontent-length:11\n\nNot allowed\x00"},
		}},
		"socketio": {"/socket.io/", nil, frame.Text, [][2]string{
			{`42/chat,["say","hello"]`, ""}, {`42/chat,1["kick","bob"]`, `43/chat,1[` + socketio + `]`}, {`40/admin,`, `44/admin,{"message":"Not allowed","data":{"code":"not_allowed"}}`},
		}},
	} {
		t.Run(format, func(t *testing.T) {
			example, err := os.ReadFile("../../examples/permissions/" + format + ".yaml")
			if err != nil {
				t.Fatal(err)
			}
			doc, err := os.ReadFile("../../docs/permissions.md")
			if err != nil {
				t.Fatal(err)
			}
			if _, route, _ := strings.Cut(string(example), "routes:"); !strings.Contains(string(doc), route) {
				t.Error("the documentation shows something else")
			}
			up, iss := newUpstream(t, echo), newIssuer(t, "https://idp.example")
			s := start(t, up, strings.ReplaceAll(string(example), "127.0.0.1:9000", up.addr), iss.trusted)
			client := s.connect(c.path, bearer(iss.token(c.claims)))
			for _, m := range c.said {
				want := m[1]
				if want == "" {
					want = m[0]
				}
				client.frame(c.op, true, m[0])
				if got, err := client.next(); err != nil || got.op != c.op || got.payload != want {
					t.Fatalf("%q is answered %d %q %v, want %q", m[0], got.op, got.payload, err, want)
				}
			}
		})
	}
}

// What an evaluation may cost is bounded, and so is what it holds others up.
func TestAZ05CostlyMessages(t *testing.T) {
	t.Parallel()
	s, iss, up := permitted(t, `
format: json
action: /type
from_client:
  - {action: list, allow: 'msg.list.all(x, x > 0) && msg.list.exists(y, msg.list.exists(z, y + z == 0))'}
  - {action: text, allow: 'msg.text.matches("(a|aa)+$")'}
  - {action: typing}
`)
	token := bearer(iss.token())
	costly, other := s.connect("/chat/x", token), s.connect("/chat/x", token)
	big := `{"type":"list","list":[` + strings.Repeat("1,", 400_000) + `1]}`
	const typing = `{"type":"typing"}`
	for range 3 {
		costly.text(big)
		began := time.Now()
		other.text(typing).receives(typing)
		if d := time.Since(began); d > 5*time.Second {
			t.Errorf("another waited %v", d)
		}
		costly.receives(deniedJSON)
	}
	text := `{"type":"text","text":"` + strings.Repeat("a", 50_000) + `b"}`
	costly.text(text).receives(deniedJSON)
	costly.text(typing).receives(typing)
	if got := up.of(costly).dataOf(); !slices.Equal(got, []string{typing}) {
		t.Errorf("the upstream received %d messages", len(got))
	}
	s.waitLog("a message is denied", "costs more than it may")

	s.file("long.yaml", "issuer: {}\nroutes: [{path: /a, upstream: 'ws://127.0.0.1:9', allow: 'true"+strings.Repeat(" && true", 120_000)+"'}]\n")
	if r := runTool(t, s.dir, "", "check", "--config", "long.yaml"); r.code != 1 || !strings.Contains(r.stderr, "has more than 8192 bytes") {
		t.Errorf("an expression of 960 KB: %d %.300s", r.code, r.stderr)
	}
}
