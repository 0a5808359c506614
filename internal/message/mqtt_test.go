package message_test

import (
	"encoding/binary"
	"slices"
	"strings"
	"testing"
)

func mqttText(s string) []byte {
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(s))), s...)
}

func mqttPacket(first byte, parts ...[]byte) []byte {
	body := slices.Concat(parts...)
	return append(binary.AppendUvarint([]byte{first}, uint64(len(body))), body...)
}

var (
	connect311 = mqttPacket(0x10, mqttText("MQTT"), []byte{4, 2, 0, 60}, mqttText("cli"))
	connect5   = mqttPacket(0x10, mqttText("MQTT"), []byte{5, 2, 0, 60, 0}, mqttText("cli"))
)

func publish311(topic string, qos byte) []byte {
	parts := [][]byte{mqttText(topic)}
	if qos > 0 {
		parts = append(parts, []byte{0, 7})
	}
	return mqttPacket(0x30|qos<<1, append(parts, []byte("payload"))...)
}

func publish5(topic string, qos byte, properties []byte) []byte {
	parts := [][]byte{mqttText(topic)}
	if qos > 0 {
		parts = append(parts, []byte{0, 7})
	}
	return mqttPacket(0x30|qos<<1, append(parts, binary.AppendUvarint(nil, uint64(len(properties))), properties, []byte("payload"))...)
}

func alias(n uint16) []byte { return binary.BigEndian.AppendUint16([]byte{0x23}, n) }

func subscribe311(filters ...string) []byte {
	parts := [][]byte{{0, 9}}
	for _, f := range filters {
		parts = append(parts, mqttText(f), []byte{1})
	}
	return mqttPacket(0x82, parts...)
}

func TestMQTT(t *testing.T) {
	after := func(connect []byte, packet []byte, want, deny string) reading {
		if !strings.HasPrefix(want, "!") {
			want = strings.TrimSuffix("connect cli | "+want, "\n")
		}
		return reading{string(slices.Concat(connect, packet)), want, deny}
	}
	v311 := func(packet []byte, want, deny string) reading { return after(connect311, packet, want, deny) }
	v5 := func(packet []byte, want, deny string) reading { return after(connect5, packet, want, deny) }
	subscribe5 := mqttPacket(0x82, []byte{0, 9, 0}, mqttText("a/+"), []byte{0x2d}, mqttText("#"), []byte{0})
	check(t, "mqtt", false, []reading{
		{string(connect311), "connect cli", "\x20\x02\x00\x05"},
		{string(connect5), "connect cli", "\x20\x03\x00\x87\x00"},
		{string(mqttPacket(0x10, mqttText("MQTT"), []byte{4, 0xc6, 0, 60}, mqttText("c"), mqttText("w/t"), mqttText("bye"), mqttText("user"), mqttText("pass"))),
			"connect c, publish w/t", "\x20\x02\x00\x05"},
		{string(mqttPacket(0x10, mqttText("MQTT"), []byte{5, 0x06, 0, 60, 5, 0x11, 0, 0, 0, 1}, mqttText("c"), []byte{2, 0x01, 1}, mqttText("w"), mqttText(""))),
			"connect c, publish w", "\x20\x03\x00\x87\x00"},
		v311(publish311("a/b", 0), "publish a/b", ""),
		v311(publish311("a/b", 1), "publish a/b", "\x40\x02\x00\x07"),
		v311(publish311("a/b", 2), "publish a/b", "\x50\x02\x00\x07"),
		v311(mqttPacket(0x3d, mqttText("a"), []byte{0, 7}), "publish a", "\x50\x02\x00\x07"),
		v5(publish5("a/b", 1, []byte{0x01, 1, 0x26, 0, 1, 'k', 0, 1, 'v', 0x0b, 0x80, 0x01}), "publish a/b", "\x40\x03\x00\x07\x87"),
		v5(slices.Concat(publish5("a/b", 0, alias(1)), publish5("", 2, alias(1))), "publish a/b | publish a/b", "\x50\x03\x00\x07\x87"),
		v5(slices.Concat(publish5("a", 0, alias(1)), publish5("b", 0, alias(1)), publish5("", 0, alias(1))), "publish a | publish b | publish b", ""),
		v311(subscribe311("a/+", "b/#"), "subscribe a/+, subscribe b/#", "\x90\x04\x00\x09\x80\x80"),
		v311(subscribe311("$share/g/a/#", "$share/x"), "!shared", ""),
		v311(subscribe311("$share/g/a/#"), "subscribe a/#", "\x90\x03\x00\x09\x80"),
		v5(subscribe5, "subscribe a/+, subscribe #", "\x90\x05\x00\x09\x00\x87\x87"),
		v311(mqttPacket(0xa2, []byte{0, 1}, mqttText("a")), "\n", ""),
		v311([]byte{0xc0, 0}, "\n", ""), v311([]byte{0xe0, 0}, "\n", ""), v311([]byte{0x62, 2, 0, 1}, "\n", ""), v5([]byte{0xf0, 0}, "\n", ""),

		{string(publish311("a", 0)), "!before CONNECT", ""},
		v311(connect311, "!second CONNECT", ""),
		{string(mqttPacket(0x10, mqttText("MQIsdp"), []byte{3, 2, 0, 60}, mqttText("c"))), "!neither", ""},
		{string(mqttPacket(0x10, mqttText("MQTT"), []byte{6, 2, 0, 60}, mqttText("c"))), "!neither", ""},
		{string(mqttPacket(0x10, mqttText("MQTT"), []byte{4, 3, 0, 60}, mqttText("c"))), "!flags", ""},
		{string(mqttPacket(0x10, mqttText("MQTT"), []byte{4, 0x20, 0, 60}, mqttText("c"))), "!flags", ""},
		{string(mqttPacket(0x10, mqttText("MQTT"), []byte{4, 2, 0, 60}, mqttText("c"), []byte{1})), "!after its end", ""},
		{string(mqttPacket(0x10, mqttText("MQTT"), []byte{4, 6, 0, 60}, mqttText("c"), mqttText("w/#"), mqttText(""))), "!wildcard", ""},
		{string(mqttPacket(0x10, mqttText("MQTT"), []byte{4, 2, 0})), "!too early", ""},
		{string(mqttPacket(0x11, mqttText("MQTT"), []byte{4, 2, 0, 60}, mqttText("c"))), "!not due", ""},
		v311(publish311("", 0), "!empty", ""), v311(publish311("a/#", 0), "!wildcard", ""), v311(publish311("+", 0), "!wildcard", ""),
		v311(publish311("a\x00b", 0), "!NUL", ""), v311(publish311("a\xff", 0), "!UTF-8", ""),
		v311(mqttPacket(0x36, mqttText("a"), []byte{0, 1}), "!flags", ""), v311(mqttPacket(0x38, mqttText("a")), "!flags", ""),
		v311(mqttPacket(0x32, mqttText("a"), []byte{0, 0}), "!identifier 0", ""), v311(mqttPacket(0x30, []byte{0, 9, 'a'}), "!too early", ""),
		v5(publish5("", 0, nil), "!empty", ""), v5(publish5("", 0, alias(1)), "!stands for nothing", ""), v5(publish5("a", 0, alias(0)), "!alias 0", ""),
		v5(publish5("a", 0, append(alias(1), alias(2)...)), "!twice", ""), v5(publish5("a", 0, []byte{0x7f, 1}), "!not known", ""), v5(publish5("a", 0, []byte{0x23, 1}), "!too early", ""),
		v5(mqttPacket(0x30, mqttText("a"), []byte{0x80, 0x00}), "!length", ""), v5(mqttPacket(0x30, mqttText("a"), []byte{9, 1}), "!longer than", ""),
		v311(subscribe311(), "!without", ""), v311(subscribe311("a/#/b"), "!wildcard", ""), v311(subscribe311("a+"), "!wildcard", ""), v311(subscribe311(""), "!empty", ""),
		v311(mqttPacket(0x80, []byte{0, 9}, mqttText("a"), []byte{0}), "!not due", ""), v311(mqttPacket(0x82, []byte{0, 9}, mqttText("a"), []byte{3}), "!options", ""),
		v311(mqttPacket(0x82, []byte{0, 9}, mqttText("a"), []byte{4}), "!options", ""), v311(mqttPacket(0x82, []byte{0, 9}, mqttText("a")), "!too early", ""),
		v311([]byte{0x20, 2, 0, 0}, "!not due", ""), v311([]byte{0xd0, 0}, "!not due", ""), v311([]byte{0xf0, 0}, "!not due", ""), v311([]byte{0x00, 0}, "!not due", ""),
		v311([]byte{0x30, 0x80, 0x00}, "!as short", ""), v311([]byte{0x30, 0xff, 0xff, 0xff, 0xff}, "!four bytes", ""), v311([]byte{0x30, 0xff, 0xff, 0xff, 0x7f}, "!longer than", ""),
	})
	r, _ := readers(t, "mqtt")
	if _, err := r.Read(false, connect311); err == nil {
		t.Error("text is taken")
	}
}

// The upstream's packets are read as the client's CONNECT said.
func TestMQTTUpstream(t *testing.T) {
	_, early := readers(t, "mqtt")
	if _, err := early.Read(true, []byte{0x20, 2, 0, 0}); err == nil {
		t.Error("something before CONNECT is taken")
	}
	client, upstream := readers(t, "mqtt")
	if _, err := client.Read(true, connect5); err != nil {
		t.Fatal(err)
	}
	all := slices.Concat([]byte{0x20, 3, 0, 0, 0}, publish5("a", 1, alias(3)), publish5("", 0, alias(3)), []byte{0xe0, 0})
	units, err := upstream.Read(true, all)
	if err != nil || said(units) != " | publish a | publish a | " {
		t.Errorf("%v %q", err, said(units))
	}
	if reply, _ := units[1].Denial("not_allowed"); string(reply) != "\x40\x03\x00\x07\x87" {
		t.Errorf("the broker is told %q", reply)
	}
	for _, bad := range [][]byte{connect5, subscribe311("a"), {0xc0, 0}} {
		if _, err := upstream.Read(true, bad); err == nil {
			t.Errorf("%q is taken of an upstream", bad)
		}
	}
}

func TestMQTTAliasesAreBounded(t *testing.T) {
	r, _ := readers(t, "mqtt")
	if _, err := r.Read(true, connect5); err != nil {
		t.Fatal(err)
	}
	n := uint16(0)
	for ; n < 1000; n++ {
		if _, err := r.Read(true, publish5("topic", 0, alias(n+1))); err != nil {
			break
		}
	}
	if n != 64 {
		t.Errorf("%d aliases are remembered", n)
	}
	r, _ = readers(t, "mqtt")
	_, _ = r.Read(true, connect5)
	if _, err := r.Read(true, publish5(strings.Repeat("a", 9000), 0, alias(1))); err == nil {
		t.Error("a long alias is remembered")
	}
}
