package gateway

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/wsbouncer/wsbouncer"
	"github.com/wsbouncer/wsbouncer/internal/reason"
	"github.com/wsbouncer/wsbouncer/internal/relay"
)

const (
	// maxTries is how many upstreams of a route are tried for one handshake.
	maxTries = 3
	// maxHead bounds an upstream's answer, in bytes.
	maxHead = 16 << 10
)

// dialled is an upstream connection after its 101.
type dialled struct {
	conn       relay.Stream
	server     *upstream
	protocol   string // chosen, "" for none
	extensions string
	early      []byte // what came behind the 101
}

func (d *dialled) close() {
	_ = d.conn.Close()
	d.server.active.Add(-1)
}

// answerError is an answer that is no valid 101 to our request.
type answerError string

func (e answerError) Error() string { return string(e) }

// statusError is an answer with another status than 101.
type statusError int

func (e statusError) Error() string { return fmt.Sprintf("it answered with status %d", int(e)) }

// ownError is a failure of ours, which says nothing about an upstream.
type ownError struct{ error }

// dial opens a WebSocket to one of the route's upstreams. Another is tried only
// when nothing was sent to the one before. Errors are reason.UpstreamRefused,
// UpstreamTimeout or Overloaded503; what was wrong goes to the log.
func (g *Gateway) dial(ctx context.Context, h *handshake, live *wsbouncer.Live, protocols []string) (*dialled, error) {
	var last error
	tried := make([]*upstream, 0, maxTries)
	for len(tried) < maxTries && ctx.Err() == nil {
		a := g.balance.pick(h.rt, tried, time.Now())
		if a == nil {
			break
		}
		tried = append(tried, a.u)
		more := len(tried) < min(maxTries, len(h.rt.upstreams))
		conn, err := g.connectWithin(ctx, h.rt.ConnectTimeout, more, a.u, h.socket)
		if err != nil {
			last = err
			if g.unreached(ctx, h, a, err) {
				continue
			}
			break
		}
		d, err := g.upgrade(ctx, conn, a.u, h, live, protocols)
		if err != nil {
			_ = conn.Close()
			g.unaccepted(ctx, h, a, err)
			return nil, refusal(err)
		}
		a.worked(true)
		return d, nil
	}
	if last == nil && ctx.Err() != nil {
		last = context.Cause(ctx)
	}
	if last == nil { // each is being tried by somebody else
		return nil, reason.UpstreamRefused.After(retryAside)
	}
	return nil, refusal(last)
}

// connectWithin is connect within a time of its own. While there are more
// upstreams to try it takes half of what is left at most, so that they get their
// turn.
func (g *Gateway) connectWithin(ctx context.Context, timeout time.Duration, more bool, u *upstream, beside *relay.Socket) (relay.Stream, error) {
	if g.o.Room != nil && !g.o.Room() {
		return nil, errReserve
	}
	if by, ok := ctx.Deadline(); ok && more {
		if half := time.Until(by) / 2; timeout <= 0 || half < timeout {
			timeout = half
		}
	}
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	return g.connect(ctx, u, beside)
}

// unreached takes a failure to connect, and reports whether to try another.
func (g *Gateway) unreached(ctx context.Context, h *handshake, a *attempt, err error) bool {
	if lacking := exhausted(err); lacking != nil {
		a.nothing()
		g.ranOut(a.u, lacking, err)
		return lacking == noSourcePort // which are counted for each upstream
	}
	if givenUp(ctx) {
		a.nothing()
		return false
	}
	g.report.upstream(h.rt, a.u, "the upstream cannot be reached", err)
	a.failed(true, err)
	return true
}

// unaccepted takes an answer that is no valid 101, or none.
func (g *Gateway) unaccepted(ctx context.Context, h *handshake, a *attempt, err error) {
	var status statusError
	var ours ownError
	switch {
	case errors.As(err, &ours):
		a.nothing()
	case errors.As(err, &status) && status < http.StatusInternalServerError:
		a.worked(false) // it refuses this client, or this path
	case givenUp(ctx):
		a.nothing()
		return
	default:
		a.failed(false, err)
	}
	g.report.upstream(h.rt, a.u, "the upstream did not accept the handshake", err)
}

// retryAside is the Retry-After, in seconds, of handshakes for which there is no
// upstream that may be tried.
const retryAside = 1

// givenUp reports whether somebody ended the handshake while there was time: the
// client went away, or the library ended it. That says nothing about the
// upstream. When the time is over net/http ends the request too, and may be the
// first to.
func givenUp(ctx context.Context) bool {
	by, limited := ctx.Deadline()
	return ctx.Err() != nil && (!limited || time.Until(by) > lastMoment)
}

// lastMoment is how much earlier than ours net/http's clock may have started.
const lastMoment = 500 * time.Millisecond

func refusal(err error) error {
	if exhausted(err) != nil {
		return reason.Overloaded503
	}
	if timedOut(err) {
		return reason.UpstreamTimeout
	}
	return reason.UpstreamRefused
}

func timedOut(err error) bool {
	var timeout net.Error
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) ||
		errors.As(err, &timeout) && timeout.Timeout()
}

// faultOf names a failure's kind for people who look at a list of upstreams. It
// holds nothing that an upstream says but a status.
func faultOf(err error) string {
	var status statusError
	var answer answerError
	var name *net.DNSError
	var cert *tls.CertificateVerificationError
	var record tls.RecordHeaderError
	var alert tls.AlertError
	switch {
	case errors.As(err, &status):
		return fmt.Sprintf("status %d", int(status))
	case errors.As(err, &answer):
		return "bad answer"
	case timedOut(err): // a name server's too
		return "timeout"
	case errors.As(err, &name):
		return "name not found"
	case errors.As(err, &cert):
		return "certificate"
	case errors.As(err, &record), errors.As(err, &alert):
		return "TLS"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "refused"
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return "no route"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "closed"
	}
	return "other"
}

// reach connects to u: by the loop of the client's socket, if any, where that can,
// else by package net.
func (g *Gateway) reach(ctx context.Context, u *upstream, beside *relay.Socket) (relay.Stream, error) {
	secure := u.url.Scheme == "wss"
	if addr, ok := u.literal(); ok && !secure && g.o.Loops != nil {
		return g.o.Loops.Dial(ctx, addr, beside)
	}
	var d net.Dialer
	raw, err := d.DialContext(ctx, "tcp", net.JoinHostPort(u.url.Hostname(), portOf(u.url)))
	if err != nil || !secure {
		return raw, err
	}
	conf := u.tls.Clone() // nil stays nil
	if conf == nil {
		conf = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	if conf.ServerName == "" {
		conf.ServerName = u.url.Hostname()
	}
	conf.NextProtos = []string{"http/1.1"}
	c := tls.Client(raw, conf)
	if err := c.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, err
	}
	return c, nil
}

// upgrade speaks the client's side of RFC 6455 §4.1.
func (g *Gateway) upgrade(ctx context.Context, c relay.Stream, u *upstream, h *handshake, live *wsbouncer.Live, protocols []string) (*dialled, error) {
	var nonce [16]byte
	_, _ = rand.Read(nonce[:])
	key := base64.StdEncoding.EncodeToString(nonce[:])
	head, err := g.requestHead(u, h, live, key, protocols)
	if err != nil {
		return nil, ownError{err}
	}
	// The context's end, whatever ends it, ends the exchange.
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if _, err := c.Write(head); err != nil {
		return nil, err
	}
	limited := &io.LimitedReader{R: c, N: maxHead}
	br := bufio.NewReaderSize(limited, 4096)
	res, err := http.ReadResponse(br, &http.Request{Method: http.MethodGet}) //nolint:bodyclose // the connection is closed with it
	if err != nil {
		if limited.N <= 0 {
			return nil, answerError(fmt.Sprintf("its answer's head is above %d bytes", maxHead))
		}
		if ctx.Err() != nil { // half a head that came in time is only malformed to its reader
			return nil, context.Cause(ctx)
		}
		return nil, err
	}
	d := &dialled{conn: c, server: u}
	if err := d.check(res, key, protocols, offered(h)); err != nil {
		return nil, err
	}
	if !stop() {
		return nil, context.Cause(ctx)
	}
	if n := br.Buffered(); n > 0 {
		d.early = make([]byte, n)
		_, _ = io.ReadFull(br, d.early)
	}
	return d, nil
}

// offered are the extensions that were offered to the upstream.
func offered(h *handshake) []string {
	if !h.rt.Compression || h.rt.Permissions != nil || h.rt.InBandRefresh || h.rt.firstMessage() || h.rt.UTF8Check || h.a.Request.Header.Get("Sec-Websocket-Extensions") == "" {
		return nil
	}
	return h.a.Request.Header["Sec-Websocket-Extensions"]
}

// check is RFC 6455 §4.1, the client's checks of the answer.
func (d *dialled) check(res *http.Response, key string, protocols, extensions []string) error {
	switch {
	case res.StatusCode != http.StatusSwitchingProtocols:
		return statusError(res.StatusCode)
	case res.ProtoMajor != 1 || res.ProtoMinor != 1:
		return answerError("it did not answer in HTTP/1.1")
	case !single(res.Header, "Upgrade", func(v string) bool { return strings.EqualFold(v, "websocket") }):
		return answerError("its 101 is no upgrade to websocket")
	case !hasToken(res.Header["Connection"], "upgrade"):
		return answerError("its 101 lacks Connection: Upgrade")
	case !single(res.Header, "Sec-Websocket-Accept", func(v string) bool { return v == acceptKey(key) }):
		return answerError("its Sec-WebSocket-Accept does not fit our key")
	}
	if chosen := res.Header["Sec-Websocket-Protocol"]; len(chosen) > 0 {
		if len(chosen) > 1 || !slices.Contains(protocols, chosen[0]) {
			return answerError("it chose a subprotocol that was not offered")
		}
		d.protocol = chosen[0]
	}
	for _, v := range res.Header["Sec-Websocket-Extensions"] {
		name, _, _ := strings.Cut(v, ";")
		if len(extensions) == 0 || d.extensions != "" || strings.Contains(v, ",") || strings.TrimSpace(name) != "permessage-deflate" || !hasToken(extensions, "permessage-deflate") {
			return answerError("it chose an extension that was not offered")
		}
		d.extensions = v
	}
	return nil
}

func single(h http.Header, name string, ok func(string) bool) bool {
	v := h[name]
	return len(v) == 1 && ok(strings.TrimSpace(v[0]))
}

// hasToken looks for a token in a comma-separated list, parameters aside.
func hasToken(lines []string, token string) bool {
	for _, line := range lines {
		for part := range strings.SplitSeq(line, ",") {
			name, _, _ := strings.Cut(part, ";")
			if strings.EqualFold(strings.TrimSpace(name), token) {
				return true
			}
		}
	}
	return false
}
