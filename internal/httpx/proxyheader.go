package httpx

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
)

// A ProxySource is what a PROXY header says of where a connection comes from.
type ProxySource struct {
	// Client is the address; not valid where the proxy does not tell one: it
	// does not know it, or the client came to it by something else than TCP.
	Client netip.AddrPort
	// Local: the proxy speaks for itself, such as to ask whether we live.
	Local bool
}

const (
	proxyV2Signature = "\r\n\r\n\x00\r\nQUIT\n"
	proxyV1Prefix    = "PROXY "
	proxyV1Unknown   = "PROXY UNKNOWN"
	maxProxyV1       = 107     // with CRLF, says the specification
	maxProxyV2       = 4 << 10 // behind the first 16 bytes: addresses, and what else the proxy tells
)

// Refusals of a PROXY header.
var (
	errNoProxyHeader  = errors.New("it does not begin with a PROXY header")
	errBadProxyHeader = errors.New("its PROXY header is malformed")
)

// ReadProxyHeader reads the header of the PROXY protocol, version 1 or 2, that a
// connection begins with, and not one byte more: what follows is the client's. It
// is strict, since a header that two read differently gives a client somebody
// else's address. Additional fields of version 2 (TLV) are skipped.
func ReadProxyHeader(r io.Reader) (ProxySource, error) {
	var b [maxProxyV1]byte
	const first = len(proxyV2Signature) // every header is longer
	if _, err := io.ReadFull(r, b[:first]); err != nil {
		return ProxySource{}, early(err)
	}
	switch {
	case string(b[:first]) == proxyV2Signature:
		return readProxyV2(r)
	case strings.HasPrefix(string(b[:first]), proxyV1Prefix):
		return readProxyV1(r, b[:], first)
	}
	return ProxySource{}, errNoProxyHeader
}

func early(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("its PROXY header ends early: %w", io.ErrUnexpectedEOF)
	}
	return fmt.Errorf("reading its PROXY header: %w", err)
}

// readProxyV1 reads the rest of the line of which n bytes are in b: to its
// shortest at once, then byte by byte, since nothing beyond it may be taken.
func readProxyV1(r io.Reader, b []byte, n int) (ProxySource, error) {
	least := len(proxyV1Unknown) + 2
	switch string(b[len(proxyV1Prefix) : len(proxyV1Prefix)+5]) {
	case "TCP4 ":
		least = len("PROXY TCP4 1.1.1.1 1.1.1.1 1 1\r\n")
	case "TCP6 ":
		least = len("PROXY TCP6 :: :: 1 1\r\n")
	}
	for ; b[n-1] != '\n'; least = n + 1 {
		if n == maxProxyV1 {
			return ProxySource{}, errBadProxyHeader
		}
		if _, err := io.ReadFull(r, b[n:least]); err != nil {
			return ProxySource{}, early(err)
		}
		n = least
	}
	line, ok := strings.CutSuffix(string(b[:n]), "\r\n")
	if !ok || strings.ContainsAny(line, "\r\n") {
		return ProxySource{}, errBadProxyHeader
	}
	return parseProxyV1(line)
}

func parseProxyV1(line string) (ProxySource, error) {
	if line == proxyV1Unknown || strings.HasPrefix(line, proxyV1Unknown+" ") {
		return ProxySource{}, nil // what else it says is to be ignored
	}
	f := strings.Split(line, " ")
	if len(f) != 6 {
		return ProxySource{}, errBadProxyHeader
	}
	is6 := f[1] == "TCP6"
	if !is6 && f[1] != "TCP4" {
		return ProxySource{}, errBadProxyHeader
	}
	var at [2]netip.AddrPort // the client's, and the one it connected to
	for i := range at {
		addr, err := netip.ParseAddr(f[2+i])
		port, ok := decimalPort(f[4+i])
		if err != nil || !ok || addr.Zone() != "" || addr.Is6() != is6 {
			return ProxySource{}, errBadProxyHeader
		}
		at[i] = netip.AddrPortFrom(addr.Unmap(), port)
	}
	return ProxySource{Client: at[0]}, nil
}

// decimalPort reads a port in its one spelling.
func decimalPort(s string) (port uint16, ok bool) {
	n := 0
	for _, c := range []byte(s) {
		if c < '0' || c > '9' || n > 65535 {
			return 0, false
		}
		n = n*10 + int(c-'0')
	}
	if s == "" || n > 65535 || len(s) > 1 && s[0] == '0' {
		return 0, false
	}
	return uint16(n), true
}

// Version 2: the byte with version and command, and that with family and
// protocol, of which those that are no TCP over IP tell no address.
const (
	proxyV2Local = 0x20
	proxyV2Proxy = 0x21

	proxyUnspecified = 0x00
	proxyTCP4        = 0x11
	proxyUDP4        = 0x12
	proxyTCP6        = 0x21
	proxyUDP6        = 0x22
	proxyUnix        = 0x31
	proxyUnixgram    = 0x32
)

// readProxyV2 reads what is behind the signature.
func readProxyV2(r io.Reader) (ProxySource, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return ProxySource{}, early(err)
	}
	n := int(binary.BigEndian.Uint16(head[2:]))
	local := head[0] == proxyV2Local
	if !local && head[0] != proxyV2Proxy || n > maxProxyV2 {
		return ProxySource{}, errBadProxyHeader
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return ProxySource{}, early(err)
	}
	size := 0 // of an address; two of them, then two ports
	switch head[1] {
	case proxyTCP4:
		size = 4
	case proxyTCP6:
		size = 16
	case proxyUnspecified, proxyUDP4, proxyUDP6, proxyUnix, proxyUnixgram:
	default:
		return ProxySource{}, errBadProxyHeader
	}
	switch {
	case local: // the addresses, if any, are to be ignored
		return ProxySource{Local: true}, nil
	case size == 0:
		return ProxySource{}, nil
	case n < 2*size+4:
		return ProxySource{}, errBadProxyHeader
	}
	addr, _ := netip.AddrFromSlice(b[:size])
	return ProxySource{Client: netip.AddrPortFrom(addr.Unmap(), binary.BigEndian.Uint16(b[2*size:]))}, nil
}
