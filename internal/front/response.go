package front

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/wsbouncer/wsbouncer/internal/relay"
)

// response is the answer to a handshake: the handler takes the socket, or what
// it writes is the last of the connection.
type response struct {
	f      *Front
	s      *relay.Socket
	header http.Header
	status int
	body   bytes.Buffer
	taken  bool
	broken bool // a panic: nothing is said
}

// Header implements http.ResponseWriter.
func (w *response) Header() http.Header { return w.header }

// WriteHeader implements http.ResponseWriter.
func (w *response) WriteHeader(status int) {
	if w.status == 0 && status >= http.StatusOK {
		w.status = status
	}
}

// Write implements http.ResponseWriter.
func (w *response) Write(b []byte) (int, error) {
	if w.taken {
		return 0, http.ErrHijacked
	}
	w.WriteHeader(http.StatusOK)
	return w.body.Write(b)
}

// Socket is the client's, for who wants to dial beside it.
func (w *response) Socket() *relay.Socket { return w.s }

// Take gives the socket away, as Hijack does. early: the client did not wait for
// the answer.
func (w *response) Take() (s *relay.Socket, early bool, err error) {
	if w.taken {
		return nil, false, http.ErrHijacked
	}
	w.taken = true
	w.s.OnGone(nil)
	w.f.o.Leave(w.s.Remote().Addr())
	return w.s, w.s.Early(), nil
}

// Hijack implements http.Hijacker.
func (w *response) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	s, early, err := w.Take()
	if err != nil {
		return nil, nil, err
	}
	c, err := s.Conn()
	if err != nil {
		return nil, nil, err
	}
	rw := bufio.NewReadWriter(bufio.NewReader(c), bufio.NewWriter(c))
	if early {
		_ = c.SetReadDeadline(time.Now().Add(w.f.o.WriteTimeout))
		if _, err := rw.Reader.Peek(1); err != nil {
			return nil, nil, errors.Join(err, c.Close())
		}
		_ = c.SetReadDeadline(time.Time{})
	}
	return c, rw, nil
}

// end writes what was not hijacked, and closes.
func (w *response) end() {
	if w.taken {
		return
	}
	from := w.s.Remote().Addr()
	w.s.OnGone(nil)
	if !w.broken {
		_ = w.s.SetDeadline(time.Now().Add(w.f.o.WriteTimeout))
		_, _ = w.s.Write(w.bytes())
	}
	_ = w.s.Close()
	w.f.o.Leave(from)
}

func (w *response) bytes() []byte {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	h := w.header
	h.Set("Connection", "close")
	h.Set("Date", time.Now().UTC().Format(http.TimeFormat))
	bodyless := w.status == http.StatusNoContent || w.status == http.StatusNotModified
	if h.Del("Content-Length"); !bodyless {
		h.Set("Content-Length", strconv.Itoa(w.body.Len()))
		if h.Get("Content-Type") == "" && w.body.Len() > 0 {
			h.Set("Content-Type", http.DetectContentType(w.body.Bytes()))
		}
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "HTTP/1.1 %d %s\r\n", w.status, http.StatusText(w.status))
	_ = h.Write(&b)
	b.WriteString("\r\n")
	if !bodyless {
		b.Write(w.body.Bytes())
	}
	return b.Bytes()
}
