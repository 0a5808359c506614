package wsbouncer

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/wsbouncer/wsbouncer/internal/httpx"
)

// headBytes bounds the response head a handler may write.
const headBytes = 16 << 10

var (
	errHeadSize = errors.New("wsbouncer: the handler's response head is above 16 KiB")
	errHead     = errors.New("wsbouncer: the handler wrote no HTTP response head")
)

// A head is a response's status line and header fields, with the empty line.
type head struct {
	bytes      []byte
	upgrade    bool // it is a 101
	compressed bool // it accepts permessage-deflate
}

// cutHead splits p after its first empty line; 0 when there is none yet.
func cutHead(p []byte) int {
	if i := bytes.Index(p, []byte("\r\n\r\n")); i >= 0 {
		return i + 4
	}
	return 0
}

// parseHead reads a response head, and adds to a 101 what we say with it.
func parseHead(p []byte, cid string, bearer bool) (head, error) {
	resp, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(p)), nil)
	if err != nil {
		return head{}, errHead
	}
	defer resp.Body.Close()
	h := head{bytes: p, upgrade: resp.StatusCode == http.StatusSwitchingProtocols}
	if !h.upgrade {
		return h, nil
	}
	for _, line := range resp.Header["Sec-Websocket-Extensions"] {
		for entry := range strings.SplitSeq(line, ",") {
			ext, _, _ := strings.Cut(entry, ";")
			if strings.EqualFold(strings.TrimSpace(ext), "permessage-deflate") {
				h.compressed = true
			}
		}
	}
	extra := "X-Wsbouncer-Connection: " + cid + "\r\n"
	if bearer && len(resp.Header["Sec-Websocket-Protocol"]) == 0 {
		extra += "Sec-WebSocket-Protocol: bearer\r\n"
	}
	h.bytes = append(append(bytes.Clone(p[:len(p)-2]), extra...), "\r\n"...)
	return h, nil
}

// headOf is the 101 that a handler announced with WriteHeader.
func headOf(h http.Header) []byte {
	var b bytes.Buffer
	b.WriteString("HTTP/1.1 101 Switching Protocols\r\n")
	_ = h.Write(&b)
	b.WriteString("\r\n")
	return b.Bytes()
}

// refusalBytes is a refusal as it stands on a connection that net/http has
// let go of.
func refusalBytes(ref *Refusal) []byte {
	w := &rawResponse{header: http.Header{"Connection": {"close"}}}
	httpx.WriteProblem(w, ref)
	return w.buf.Bytes()
}

// rawResponse is a ResponseWriter into memory.
type rawResponse struct {
	header http.Header
	buf    bytes.Buffer
}

func (w *rawResponse) Header() http.Header { return w.header }

func (w *rawResponse) WriteHeader(status int) {
	w.header.Set("Connection", "close")
	fmt.Fprintf(&w.buf, "HTTP/1.1 %d %s\r\n", status, http.StatusText(status))
	_ = w.header.Write(&w.buf)
	w.buf.WriteString("\r\n")
}

func (w *rawResponse) Write(p []byte) (int, error) { return w.buf.Write(p) }
