package frame_test

import (
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/wsbouncer/wsbouncer/internal/frame"
)

// counted counts what is read of it.
type counted struct {
	io.Reader
	n int
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n += n
	return n, err
}

func TestAwaitClose(t *testing.T) {
	text := frame.Append(nil, frame.Text, []byte(strings.Repeat("x", 3000)), true)
	bye := frame.AppendClose(nil, 1000, "bye", true)
	talk := append(append(append([]byte(nil), text...), frame.Append(nil, frame.Ping, []byte("p"), true)...), bye...)
	after := strings.Repeat("y", 5000)
	for name, c := range map[string]struct {
		held, comes string
		least, most int // bytes read
	}{
		"a close frame":                  {"", string(bye) + after, len(bye), 1024},
		"behind other frames":            {"", string(talk) + after, len(talk), len(talk) + 1024},
		"held already":                   {string(bye), after, 0, 0},
		"held behind others":             {string(talk), after, 0, 0},
		"half of it held":                {string(talk[:len(talk)-3]), string(talk[len(talk)-3:]) + after, 3, 1024},
		"in the middle of a frame":       {string(text[:2000]), string(text[2000:]) + string(bye) + after, len(text) - 2000 + len(bye), 3000},
		"the stream ends":                {"", string(text), len(text), len(text)},
		"a violation, and then anything": {"\x8f\x00" + string(bye), string(bye) + after, len(bye) + len(after), len(bye) + len(after)},
		"an endless talker":              {"", strings.Repeat(string(text), 100), 64 << 10, 64<<10 + 1024},
	} {
		for _, slowly := range []bool{false, true} {
			r := &counted{Reader: strings.NewReader(c.comes)}
			least, most := c.least, c.most
			var from io.Reader = r
			if slowly {
				from = iotest.OneByteReader(r)
				most = max(least, 64<<10)
			}
			frame.AwaitClose(from, frame.NewScanner(frame.Options{FromClient: true}), []byte(c.held), 64<<10)
			if r.n < least || r.n > most {
				t.Errorf("%s, slowly %t: %d bytes were read, want %d to %d", name, slowly, r.n, least, most)
			}
		}
	}
}
