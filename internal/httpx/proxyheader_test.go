package httpx_test

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/pires/go-proxyproto"

	"github.com/wsbouncer/wsbouncer/internal/httpx"
)

const sigV2 = "\r\n\r\n\x00\r\nQUIT\n"

// v2 is a header of version 2.
func v2(command, family byte, payload string) string {
	return sigV2 + string([]byte{command, family}) + string(binary.BigEndian.AppendUint16(nil, uint16(len(payload)))) + payload
}

const (
	addr4 = "\xc0\x00\x02\x01\x7f\x00\x00\x01\xdd\xd5\x01\xbb" // 192.0.2.1:56789 to 127.0.0.1:443
	addr6 = "\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01" +
		"\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\xdd\xd5\x01\xbb"
	tlvs = "\x04\x00\x03abc\xea\x00\x16\x01vpce-0123456789abcdef0"
)

var proxyHeaders = map[string]struct {
	in   string
	want string // client, "local", "unknown" or "refused"
}{
	"v1 TCP4":            {"PROXY TCP4 192.0.2.1 127.0.0.1 56789 443\r\n", "192.0.2.1:56789"},
	"v1 TCP4, shortest":  {"PROXY TCP4 1.1.1.1 1.1.1.1 1 1\r\n", "1.1.1.1:1"},
	"v1 TCP4, longest":   {"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", "255.255.255.255:65535"},
	"v1 TCP6":            {"PROXY TCP6 2001:db8::1 2001:db8::2 56789 443\r\n", "[2001:db8::1]:56789"},
	"v1 TCP6, shortest":  {"PROXY TCP6 :: :: 0 0\r\n", "[::]:0"},
	"v1 TCP6, longest":   {"PROXY TCP6 " + strings.Repeat("ffff:", 7) + "ffff " + strings.Repeat("ffff:", 7) + "ffff 65535 65535\r\n", "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535"},
	"v1 TCP6, mapped":    {"PROXY TCP6 ::ffff:192.0.2.1 ::ffff:127.0.0.1 56789 443\r\n", "192.0.2.1:56789"},
	"v1 UNKNOWN":         {"PROXY UNKNOWN\r\n", "unknown"},
	"v1 UNKNOWN, longer": {"PROXY UNKNOWN 192.0.2.1 x 0 0\r\n", "unknown"},
	"v1 UNKNOWN, 107":    {"PROXY UNKNOWN " + strings.Repeat("x", 91) + "\r\n", "unknown"},
	"v2 TCP4":            {v2(0x21, 0x11, addr4), "192.0.2.1:56789"},
	"v2 TCP4 and TLVs":   {v2(0x21, 0x11, addr4+tlvs), "192.0.2.1:56789"},
	"v2 TCP6":            {v2(0x21, 0x21, addr6), "[2001:db8::1]:56789"},
	"v2 TCP6 and 4 KiB":  {v2(0x21, 0x21, addr6+strings.Repeat("\x04", 4096-36)), "[2001:db8::1]:56789"},
	"v2 LOCAL":           {v2(0x20, 0x00, ""), "local"},
	"v2 LOCAL with TCP4": {v2(0x20, 0x11, addr4), "local"},
	"v2 LOCAL with less": {v2(0x20, 0x11, "x"), "local"},
	"v2 unspecified":     {v2(0x21, 0x00, ""), "unknown"},
	"v2 UDP":             {v2(0x21, 0x12, addr4), "unknown"},
	"v2 a unix socket":   {v2(0x21, 0x31, strings.Repeat("x", 216)), "unknown"},

	"a request":                 {"GET /chat HTTP/1.1\r\nHost: a\r\n\r\n", "refused"},
	"a TLS hello":               {"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03aaaa", "refused"},
	"nothing":                   {"", "refused"},
	"less than a header":        {"PROXY TCP4", "refused"},
	"v1 lower case":             {"proxy TCP4 192.0.2.1 127.0.0.1 56789 443\r\n", "refused"},
	"v1 protocol":               {"PROXY UDP4 192.0.2.1 127.0.0.1 56789 443\r\n", "refused"},
	"v1 without an address":     {"PROXY TCP4 127.0.0.1 56789 443 and so on\r\n", "refused"},
	"v1 one field more":         {"PROXY TCP4 192.0.2.1 127.0.0.1 56789 443 x\r\n", "refused"},
	"v1 two spaces":             {"PROXY TCP4  192.0.2.1 127.0.0.1 56789 443\r\n", "refused"},
	"v1 a tab":                  {"PROXY TCP4\t192.0.2.1 127.0.0.1 56789 443\r\n", "refused"},
	"v1 LF alone":               {"PROXY TCP4 192.0.2.1 127.0.0.1 56789 443\n", "refused"},
	"v1 CR within":              {"PROXY TCP4 192.0.2.1 127.0.0.1 56789 443\r\r\n", "refused"},
	"v1 early LF":               {"PROXY TCP4 1.2.3.4\r\nGET / HTTP/1.1\r\n\r\n", "refused"},
	"v1 without end":            {"PROXY UNKNOWN " + strings.Repeat("x", 200), "refused"},
	"v1 108 bytes":              {"PROXY UNKNOWN " + strings.Repeat("x", 92) + "\r\n", "refused"},
	"v1 UNKNOWNS":               {"PROXY UNKNOWNS\r\n", "refused"},
	"v1 IPv6 in TCP4":           {"PROXY TCP4 2001:db8::1 2001:db8::2 56789 443\r\n", "refused"},
	"v1 IPv4 in TCP6":           {"PROXY TCP6 192.0.2.1 127.0.0.1 56789 443\r\n", "refused"},
	"v1 a zone":                 {"PROXY TCP6 fe80::1%eth0 fe80::2 56789 443\r\n", "refused"},
	"v1 octal":                  {"PROXY TCP4 192.0.02.1 127.0.0.1 56789 443\r\n", "refused"},
	"v1 port above":             {"PROXY TCP4 192.0.2.1 127.0.0.1 65536 443\r\n", "refused"},
	"v1 port far above":         {"PROXY TCP4 192.0.2.1 127.0.0.1 18446744073709551617 443\r\n", "refused"},
	"v1 port with a zero":       {"PROXY TCP4 192.0.2.1 127.0.0.1 056789 443\r\n", "refused"},
	"v1 port with a sign":       {"PROXY TCP4 192.0.2.1 127.0.0.1 +56789 443\r\n", "refused"},
	"v1 a name":                 {"PROXY TCP4 localhost 127.0.0.1 56789 443\r\n", "refused"},
	"v1 bad destination":        {"PROXY TCP4 192.0.2.1 127.0.0 56789 443\r\n", "refused"},
	"v2 version 1":              {v2(0x11, 0x11, addr4), "refused"},
	"v2 version 3":              {v2(0x31, 0x11, addr4), "refused"},
	"v2 command":                {v2(0x22, 0x11, addr4), "refused"},
	"v2 family":                 {v2(0x21, 0x41, addr4), "refused"},
	"v2 protocol":               {v2(0x21, 0x13, addr4), "refused"},
	"v2 LOCAL of no family":     {v2(0x20, 0x44, ""), "refused"},
	"v2 too short for TCP4":     {v2(0x21, 0x11, addr4[:11]), "refused"},
	"v2 too short for TCP6":     {v2(0x21, 0x21, addr4), "refused"},
	"v2 too long":               {v2(0x21, 0x11, addr4+strings.Repeat("x", 4096)), "refused"},
	"v2 LOCAL, too long":        {v2(0x20, 0x00, strings.Repeat("x", 4097)), "refused"},
	"v2 cut off":                {v2(0x21, 0x11, addr4)[:20], "refused"},
	"v2 signature cut off":      {sigV2[:11], "refused"},
	"v2 signature, one byte":    {sigV2[:11] + "\r" + v2(0x21, 0x11, addr4)[12:], "refused"},
	"v2 head cut off":           {sigV2 + "\x21\x11", "refused"},
	"v1 behind v2's first line": {"\r\n\r\nPROXY TCP4 192.0.2.1 127.0.0.1 56789 443\r\n", "refused"},
}

func proxySource(s httpx.ProxySource, err error) string {
	switch {
	case err != nil:
		return "refused"
	case s.Local:
		return "local"
	case !s.Client.IsValid():
		return "unknown"
	}
	return s.Client.String()
}

func TestProxyHeader(t *testing.T) {
	for name, c := range proxyHeaders {
		for how, r := range map[string]func(io.Reader) io.Reader{
			"at once": func(r io.Reader) io.Reader { return r }, "byte by byte": func(r io.Reader) io.Reader { return oneByte{r} },
		} {
			rest := strings.NewReader(c.in + "what the client says")
			if c.want == "refused" {
				rest = strings.NewReader(c.in)
			}
			if got := proxySource(httpx.ReadProxyHeader(r(rest))); got != c.want {
				t.Errorf("%s, %s: %s, want %s", name, how, got, c.want)
			}
			if left, _ := io.ReadAll(rest); c.want != "refused" && string(left) != "what the client says" {
				t.Errorf("%s, %s: %q is left", name, how, left)
			}
		}
	}
}

// oneByte gives one byte a read.
type oneByte struct{ io.Reader }

func (r oneByte) Read(p []byte) (int, error) { return r.Reader.Read(p[:min(1, len(p))]) }

// Another implementation reads the same client, and the same length, or nothing.
func FuzzProxyHeader(f *testing.F) {
	for _, c := range proxyHeaders {
		f.Add([]byte(c.in + "rest"))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		ours := bytes.NewReader(in)
		source, err := httpx.ReadProxyHeader(ours)
		theirs := bufio.NewReaderSize(bytes.NewReader(in), len(in)+16)
		header, theirErr := proxyproto.Read(theirs)
		if err != nil {
			if theirErr == nil && header.Command == proxyproto.PROXY { // else a line of no address, in which we look at more
				t.Fatalf("refused with %v, and by another taken for %+v", err, header)
			}
			return
		}
		if theirErr != nil {
			if !source.Local && !source.Client.IsValid() && errors.Is(theirErr, proxyproto.ErrUnsupportedAddressFamilyAndProtocol) || errors.Is(theirErr, proxyproto.ErrInvalidLength) {
				return // a client of unknown address, which the other refuses
			}
			t.Fatalf("taken for %+v, and by another refused: %v", source, theirErr)
		}
		if left, _ := io.ReadAll(theirs); len(left) != ours.Len() {
			t.Fatalf("%d bytes are left, of another %d", ours.Len(), len(left))
		}
		want := netip.AddrPort{}
		if a, ok := header.SourceAddr.(*net.TCPAddr); ok && header.Command == proxyproto.PROXY {
			want = netip.AddrPortFrom(a.AddrPort().Addr().Unmap(), a.AddrPort().Port())
		}
		if source.Client != want || source.Local && header.Command != proxyproto.LOCAL {
			t.Fatalf("%+v, of another %+v", source, header)
		}
	})
}

// Only trusted proxies get through, each with its header; others' connections are
// closed, and nothing runs after Close.
func TestListenBehindProxies(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	refused := make(chan string, 8)
	peers := httpx.NewPeers(prefixes("127.0.0.1/32"))
	l := httpx.ListenBehindProxies(inner, peers, func(_ net.Addr, why error) { refused <- why.Error() })
	defer l.Close()
	dial := func(from string) net.Conn {
		t.Helper()
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: 10 * time.Second}
		c, err := d.DialContext(t.Context(), "tcp", inner.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		return c
	}
	ends := func(c net.Conn, why string) {
		t.Helper()
		if n, err := c.Read(make([]byte, 1)); n > 0 || errors.Is(err, net.ErrClosed) || isTimeout(err) {
			t.Errorf("%s: %d bytes, %v", why, n, err)
		}
		if got := <-refused; !strings.Contains(got, why) {
			t.Errorf("%q, want %q", got, why)
		}
	}
	stranger := dial("127.0.0.2")
	_, _ = io.WriteString(stranger, "PROXY TCP4 192.0.2.1 127.0.0.1 56789 443\r\n")
	ends(stranger, "no trusted proxy")
	bare := dial("127.0.0.1")
	_, _ = io.WriteString(bare, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	ends(bare, "does not begin")

	silent := dial("127.0.0.1") // nobody waits for it
	good := dial("127.0.0.1")
	_, _ = io.WriteString(good, "PROXY TCP4 192.0.2.1 127.0.0.1 56789 443\r\nhello")
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if c.RemoteAddr().String() != "192.0.2.1:56789" {
		t.Errorf("from %s", c.RemoteAddr())
	}
	b := make([]byte, 5)
	if _, err := io.ReadFull(c, b); err != nil || string(b) != "hello" {
		t.Errorf("%q %v", b, err)
	}
	if p, ok := c.(*httpx.ProxiedConn); !ok || p.NetConn() != p.TCPConn {
		t.Errorf("a %T", c)
	}
	local := dial("127.0.0.1")
	_, _ = io.WriteString(local, v2(0x20, 0, ""))
	if c, err = l.Accept(); err != nil || c.RemoteAddr().String() != local.LocalAddr().String() {
		t.Errorf("the proxy for itself: %v %v", c, err)
	}
	c.Close()
	unknown := dial("127.0.0.1")
	_, _ = io.WriteString(unknown, "PROXY UNKNOWN\r\n")
	if c, err = l.Accept(); err != nil || peers.Caller(c.RemoteAddr().String()).IsValid() || c.RemoteAddr().String() == unknown.LocalAddr().String() {
		t.Errorf("of unknown address: %v %v", c, err)
	}
	c.Close()
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
	if _, err := silent.Read(b); err == nil || isTimeout(err) {
		t.Errorf("the silent one after Close: %v", err)
	}
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}
