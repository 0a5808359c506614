package gateway

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"slices"
	"time"

	"github.com/wsbouncer/wsbouncer"
	"github.com/wsbouncer/wsbouncer/internal/frame"
	"github.com/wsbouncer/wsbouncer/internal/jsonscan"
	"github.com/wsbouncer/wsbouncer/internal/reason"
)

// firstMessageSlack is what a first message may be longer than its token.
const firstMessageSlack = 1 << 10

// firstMessage answers 101, waits for the token, and only then dials the
// upstream. The Origin was checked before.
func (h *handshake) firstMessage(ctx context.Context, w http.ResponseWriter) {
	b := h.g.o.Bouncer
	live, err := b.Track(h.a, h.c)
	if err != nil {
		b.Refuse(w, h.r, h.rt.Demand, err)
		return
	}
	client, early, err := hijack(w)
	if err != nil {
		live.Release(reason.ClientGone)
		b.Refuse(w, h.r, h.rt.Demand, err)
		return
	}
	protocol := pick(h.rt.Protocols, h.a.Protocols)
	_ = client.SetWriteDeadline(time.Now().Add(h.limits.WriteTimeout))
	if early {
		client.Close()
		live.Release(reason.ProtocolError)
		return
	}
	if _, err := client.Write(switching(h.r, protocol, "", live.ID())); err != nil {
		client.Close()
		live.Release(reason.ClientGone)
		return
	}
	h.answered = true
	reader := frame.NewReader(client, frame.Options{FromClient: true, MaxMessage: int64(h.limits.TokenBytes + firstMessageSlack)})
	end := h.authenticate(ctx, client, reader, live, protocol)
	if end.IsZero() {
		return
	}
	live.Release(end)
	farewell(client, reader, end)
}

// authenticate is everything from the first message to the relay. A zero end
// means that the relay has the connection.
func (h *handshake) authenticate(ctx context.Context, client net.Conn, reader *frame.Reader, live *wsbouncer.Live, protocol string) wsbouncer.Reason {
	// Whatever ends the handshake, our own time-out too, ends the read.
	stop := context.AfterFunc(ctx, func() { _ = client.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	raw, end := h.readToken(reader)
	if why, ended := live.Ended(); ended {
		return why
	}
	if !end.IsZero() {
		return end
	}
	b := h.g.o.Bouncer
	if err := b.AdmitToken(ctx, h.a, raw); err != nil {
		return closing(err)
	}
	if _, err := b.Track(h.a, h.c); err != nil {
		return closing(err)
	}
	var offer []string
	if protocol != "" {
		offer = []string{protocol}
	}
	up, err := h.g.dial(ctx, h, live, offer)
	if err == nil && up.protocol != protocol {
		h.g.report.upstream(h.rt, up.server, "the upstream did not accept the handshake", answerError("it did not choose the subprotocol that the client was told"))
		up.close()
		err = reason.UpstreamRefused
	}
	if err != nil {
		return whyEnded(live, closing(err))
	}
	if err := live.Open(); err != nil {
		up.close()
		return whyEnded(live, closing(err))
	}
	if !stop() {
		up.close()
		return whyEnded(live, reason.ClientGone)
	}
	_ = client.SetWriteDeadline(time.Now().Add(h.limits.WriteTimeout))
	if _, err := client.Write(frame.Append(nil, frame.Text, says("ok", live.ExpiresAt()), false)); err != nil {
		up.close()
		return whyEnded(live, reason.ClientGone)
	}
	h.relay(live, client, reader.Buffered(), up)
	return wsbouncer.Reason{}
}

// whyEnded prefers the end that the library gave the connection meanwhile over
// the failure it caused.
func whyEnded(live *wsbouncer.Live, otherwise wsbouncer.Reason) wsbouncer.Reason {
	if why, ended := live.Ended(); ended {
		return why
	}
	return otherwise
}

// readToken waits for {"wsbouncer":"auth","token":"…"}.
func (h *handshake) readToken(reader *frame.Reader) (raw string, end wsbouncer.Reason) {
	op, message, err := reader.Next()
	var violation *frame.Error
	var closed *frame.CloseError
	switch {
	case err == nil:
	case errors.As(err, &violation):
		return "", endOf(violation)
	case errors.As(err, &closed):
		return "", wsbouncer.Reason{Code: closed.Code, Text: closed.Text}
	case errors.Is(err, os.ErrDeadlineExceeded):
		return "", reason.AuthTimeout
	default:
		return "", reason.ClientGone
	}
	var m struct {
		Kind  string `json:"wsbouncer"`
		Token string `json:"token"`
	}
	o := jsonscan.Options{MaxDepth: 2, MaxBytes: h.limits.TokenBytes + firstMessageSlack, MaxMembers: 2, FoldKeys: true}
	if op != frame.Text || jsonscan.Decode(message, o, &m) != nil || m.Kind != "auth" || m.Token == "" {
		return "", reason.AuthRequired
	}
	return m.Token, wsbouncer.Reason{}
}

// endOf is the close code for a violation of RFC 6455.
func endOf(v *frame.Error) wsbouncer.Reason {
	switch v.Code() {
	case reason.CodeTooBig:
		return reason.MessageTooBig
	case reason.CodeInvalidPayload:
		return reason.InvalidPayload
	}
	return reason.ProtocolError
}

// closing is a refusal after the 101: its close code, and its name as reason.
func closing(err error) wsbouncer.Reason {
	var ref *wsbouncer.Refusal
	if errors.As(err, &ref) && ref.CloseCode != 0 {
		return wsbouncer.Reason{Code: ref.CloseCode, Text: ref.Code}
	}
	if errors.As(err, &ref) && ref.Status == http.StatusRequestEntityTooLarge {
		return reason.MessageTooBig
	}
	return reason.Overloaded
}

// pick is the first of ours that the client offered.
func pick(ours, offered []string) string {
	for _, p := range ours {
		if slices.Contains(offered, p) {
			return p
		}
	}
	return ""
}

const (
	// farewellTime is how long a peer has to answer our close frame.
	farewellTime = time.Second
	// farewellBytes is how much of what it still sends is read meanwhile, so
	// that the close frame is not lost to a reset.
	farewellBytes = 64 << 10
)

// farewell sends a close frame and closes when the peer did, or soon.
func farewell(c net.Conn, reader *frame.Reader, end wsbouncer.Reason) {
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(farewellTime))
	code := end.Code
	if !frame.LegalCode(code) {
		code = reason.CodeProtocolError
	}
	if _, err := c.Write(frame.AppendClose(nil, code, end.Text, false)); err != nil {
		return
	}
	reader.AwaitClose(farewellBytes)
}
