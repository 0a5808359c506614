package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/coder/websocket"
	"golang.org/x/term"

	"github.com/wsbouncer/wsbouncer/internal/reason"
	"github.com/wsbouncer/wsbouncer/token"
)

type connectCmd struct {
	URL           string        `arg:"" help:"ws:// or wss:// address."`
	Token         string        `xor:"who" help:"Access token; - reads it from standard input."`
	TokenFile     string        `xor:"who" type:"existingfile" placeholder:"FILE" help:"Read the access token from a file."`
	Login         string        `xor:"who" placeholder:"USER" help:"Log in with a password first, and refresh under the live connection."`
	PasswordStdin bool          `help:"With --login: read the password from standard input's first line."`
	Via           string        `enum:"header,subprotocol,query,ticket" default:"header" help:"How the token travels: header, subprotocol, query or ticket."`
	Origin        string        `help:"Send this Origin, as a page of it would."`
	Protocol      []string      `sep:"," help:"Subprotocols to offer."`
	AuthPath      string        `default:"/auth" help:"Prefix of the HTTP API."`
	Messages      int           `placeholder:"N" help:"End well after so many messages were received."`
	Timeout       time.Duration `default:"10s" help:"How long the handshake may take."`
}

// maxShown bounds a message that is received and printed.
const maxShown = 16 << 20

// Run connects, shows what comes, sends what is typed, and says how it ended.
func (c *connectCmd) Run(ctx context.Context, s *streams) error {
	u, err := url.Parse(c.URL)
	if err != nil || (u.Scheme != "ws" && u.Scheme != "wss") || u.Host == "" {
		return usageError(fmt.Sprintf("%q is not a ws:// or wss:// address", c.URL))
	}
	d := &dialogue{s: s, cmd: c, input: bufio.NewReader(s.in)}
	api := &apiClient{base: strings.Replace(u.Scheme, "ws", "http", 1) + "://" + u.Host + c.AuthPath, http: &http.Client{Timeout: c.Timeout}}
	switch {
	case c.Login != "":
		password, err := d.password()
		if err != nil {
			return err
		}
		if d.grant, err = api.login(ctx, c.Login, password); err != nil {
			return err
		}
		d.token = d.grant.AccessToken
	case c.TokenFile != "":
		f, err := os.Open(c.TokenFile)
		if err != nil {
			return err
		}
		defer f.Close()
		if d.token, err = firstLine(f); err != nil {
			return fmt.Errorf("%s: %w", c.TokenFile, err)
		}
	case c.Token == "-":
		if d.token, err = readLine(d.input); err != nil {
			return err
		}
	default:
		d.token = c.Token
	}
	d.api = api
	return d.run(ctx, u)
}

// dialogue is one connection of the terminal client.
type dialogue struct {
	s     *streams
	cmd   *connectCmd
	api   *apiClient
	input *bufio.Reader
	token string
	grant grant

	mu      sync.Mutex // guards the terminal's last line
	status  bool       // a countdown stands there
	expires time.Time
}

func (d *dialogue) password() (string, error) {
	if d.cmd.PasswordStdin {
		return readLine(d.input)
	}
	return d.s.secret("password", false)
}

func readLine(r *bufio.Reader) (string, error) {
	line, err := r.ReadString('\n')
	if line = strings.TrimRight(line, "\r\n"); line != "" {
		return line, nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = errors.New("the line is empty")
	}
	return "", fmt.Errorf("reading standard input: %w", err)
}

func (d *dialogue) run(ctx context.Context, u *url.URL) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	conn, res, err := d.dial(ctx, u) //nolint:bodyclose // read where it was refused; a 101 has none
	if err != nil {
		return d.refused(res, err)
	}
	defer func() { _ = conn.CloseNow() }()
	conn.SetReadLimit(maxShown)
	cid := res.Header.Get("X-Wsbouncer-Connection")
	d.learnExpiry()
	d.say("connected", connectedText(d.token, cid, conn.Subprotocol(), d.expires))

	var background sync.WaitGroup
	defer background.Wait()
	defer cancel()
	ignoreTerminal()
	background.Go(func() { d.send(ctx, conn) })
	background.Go(func() { d.countdown(ctx) })
	if d.grant.RefreshToken != "" {
		background.Go(func() { d.refresh(ctx, cid) })
	}
	return d.receive(ctx, conn)
}

func connectedText(raw, cid, protocol string, expires time.Time) string {
	var parts []string
	if _, payload, err := token.Inspect(raw); err == nil {
		var claims struct {
			Subject string `json:"sub"`
		}
		if json.Unmarshal(payload, &claims) == nil && claims.Subject != "" {
			parts = append(parts, "as "+printable(claims.Subject))
		}
	}
	if cid != "" {
		parts = append(parts, "connection "+printable(cid))
	}
	if protocol != "" {
		parts = append(parts, "protocol "+printable(protocol))
	}
	if !expires.IsZero() {
		parts = append(parts, "token good for "+left(expires))
	}
	return strings.Join(parts, ", ")
}

func left(t time.Time) string { return time.Until(t).Round(time.Second).String() }

func (d *dialogue) dial(ctx context.Context, u *url.URL) (*websocket.Conn, *http.Response, error) {
	ctx, cancel := context.WithTimeout(ctx, d.cmd.Timeout)
	defer cancel()
	target := *u
	header := http.Header{}
	protocols := d.cmd.Protocol
	if d.cmd.Origin != "" {
		header.Set("Origin", d.cmd.Origin)
	}
	if d.token != "" {
		switch d.cmd.Via {
		case "header":
			header.Set("Authorization", "Bearer "+d.token)
		case "subprotocol":
			protocols = append([]string{"bearer", d.token}, protocols...)
		case "query":
			addQuery(&target, "token", d.token)
		case "ticket":
			ticket, err := d.api.ticket(ctx, d.token, u.EscapedPath(), d.cmd.Origin)
			if err != nil {
				return nil, nil, err
			}
			addQuery(&target, "ticket", ticket)
		}
	}
	return websocket.Dial(ctx, target.String(), &websocket.DialOptions{
		HTTPHeader: header, Subprotocols: protocols, CompressionMode: websocket.CompressionDisabled,
	})
}

func addQuery(u *url.URL, key, value string) {
	if u.RawQuery != "" {
		u.RawQuery += "&"
	}
	u.RawQuery += key + "=" + url.QueryEscape(value)
}

// refused tells why a handshake was not answered with 101.
func (d *dialogue) refused(res *http.Response, err error) error {
	var api *apiError
	if errors.As(err, &api) {
		return err
	}
	if res == nil || res.StatusCode == http.StatusSwitchingProtocols {
		return fmt.Errorf("cannot connect: %w", redactURLs(err))
	}
	return readAPIError(res)
}

// redactURLs keeps the address, which may hold a token, out of an error.
func redactURLs(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

func (d *dialogue) receive(ctx context.Context, conn *websocket.Conn) error {
	for n := 1; ; n++ {
		kind, data, err := conn.Read(ctx)
		if err != nil {
			return d.ended(ctx, err)
		}
		if kind == websocket.MessageText {
			d.say("<", printable(string(data)))
		} else {
			d.say("<", fmt.Sprintf("(binary, %d bytes)", len(data)))
		}
		if n == d.cmd.Messages {
			return conn.Close(websocket.StatusNormalClosure, "")
		}
	}
}

func (d *dialogue) ended(ctx context.Context, err error) error {
	var ce websocket.CloseError
	switch {
	case errors.As(err, &ce):
		d.say("closed", closeText(ce.Code, ce.Reason))
		if ce.Code == websocket.StatusNormalClosure {
			return nil
		}
		return errQuiet
	case ctx.Err() != nil:
		d.say("closed", "by you")
		return nil //nolint:nilerr // that was asked for
	}
	d.say("closed", "the connection was cut without a close frame")
	return errQuiet
}

// closeText is a close code and reason with what it means for the client.
func closeText(status websocket.StatusCode, text string) string {
	out := fmt.Sprintf("%d %s", status, printable(text))
	code := uint16(status) //nolint:gosec // RFC 6455 section 5.5.1: two bytes on the wire
	switch e := (reason.End{Code: code, Text: text}); e.Advice() {
	case reason.Reauthenticate:
		out += ": refresh the token or log in again"
	case reason.Stop:
		out += ": coming back the same way will be refused again"
	case reason.BackOff:
		out += ": come back later"
	case reason.Reconnect:
		if status != websocket.StatusNormalClosure {
			out += ": come back when you like"
		}
	}
	return out
}

func (d *dialogue) send(ctx context.Context, conn *websocket.Conn) {
	lines := make(chan string)
	go func() { // ends with standard input, which cannot be interrupted
		defer close(lines)
		for {
			line, err := d.input.ReadString('\n')
			if line = strings.TrimRight(line, "\r\n"); line != "" || err == nil {
				select {
				case lines <- line:
				case <-ctx.Done():
					return
				}
			}
			if err != nil {
				return
			}
		}
	}()
	for {
		select {
		case <-ctx.Done():
			return
		case line, ok := <-lines:
			if !ok || conn.Write(ctx, websocket.MessageText, []byte(line)) != nil {
				return
			}
		}
	}
}

// refresh keeps the connection alive: at 80 % of each token's life.
func (d *dialogue) refresh(ctx context.Context, cid string) {
	for {
		wait := time.Until(d.deadline()) * 8 / 10
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		g, err := d.api.refresh(ctx, d.grant.RefreshToken, cid)
		if err != nil {
			if ctx.Err() == nil {
				d.say("refresh", "failed: "+err.Error())
			}
			return
		}
		d.mu.Lock()
		d.grant, d.token = g, g.AccessToken
		d.mu.Unlock()
		d.learnExpiry()
		d.say("refreshed", "same connection, token good for "+left(d.deadline()))
	}
}

func (d *dialogue) deadline() time.Time {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.expires
}

func (d *dialogue) learnExpiry() {
	d.mu.Lock()
	defer d.mu.Unlock()
	_, payload, err := token.Inspect(d.token)
	if err != nil {
		return
	}
	var claims struct {
		Expiry float64 `json:"exp"`
	}
	if json.Unmarshal(payload, &claims) == nil && claims.Expiry > 0 {
		d.expires = time.Unix(int64(claims.Expiry), 0)
	}
}

func onTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// countdown shows the token's remaining life on a terminal's last line, below
// the messages; not where those go to a file.
func (d *dialogue) countdown(ctx context.Context) {
	if !onTerminal(d.s.err) || !onTerminal(d.s.out) || d.deadline().IsZero() {
		return
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		d.mu.Lock()
		fmt.Fprintf(d.s.err, "\r\x1b[K[token: %s]", left(d.expires))
		d.status = true
		d.mu.Unlock()
		select {
		case <-ctx.Done():
			d.mu.Lock()
			fmt.Fprint(d.s.err, "\r\x1b[K")
			d.mu.Unlock()
			return
		case <-tick.C:
		}
	}
}

func (d *dialogue) say(what, text string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.status {
		fmt.Fprint(d.s.err, "\r\x1b[K")
		d.status = false
	}
	if what == "<" {
		fmt.Fprintln(d.s.out, what, text)
		return
	}
	fmt.Fprintf(d.s.out, "%-10s %s\n", what, text)
}

// printable keeps a server's control characters off the terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' || unicode.IsPrint(r) {
			return r
		}
		return '\uFFFD'
	}, s)
}
