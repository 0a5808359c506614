package adminapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"syscall"
	"time"
)

const (
	// maxAnswer bounds what the client reads.
	maxAnswer = 16 << 20
	// callTimeout bounds one call; revoking waits for every connection it ends.
	callTimeout = 30 * time.Second
)

// Client calls a running program's admin interface. It is safe for concurrent
// use. Errors are *Error when the program refused.
type Client struct {
	http *http.Client
	base string
}

// NewClient calls over any transport; the host it sees is "admin".
func NewClient(t http.RoundTripper) *Client {
	return &Client{http: &http.Client{Transport: t, Timeout: callTimeout}, base: "http://admin"}
}

// NewUnixClient calls over the socket at path. Nothing is opened before the
// first call.
func NewUnixClient(path string) *Client {
	var d net.Dialer
	return NewClient(&http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			c, err := d.DialContext(ctx, "unix", path)
			return c, explain(path, err)
		},
		MaxIdleConns: 1, IdleConnTimeout: callTimeout,
	})
}

// explain says what to do where no server answers.
func explain(path string, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("no server answers at %s: start wsbouncer serve, or name its socket with --admin", path)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%s may be used by its owner only: run this as the user that runs the server", path)
	}
	return err
}

// Close closes idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Error is a refusal by the program.
type Error struct {
	// Status is the HTTP status, Code the stable name, Detail for people.
	Status       int
	Code, Detail string
}

func (e *Error) Error() string {
	if e.Detail == "" {
		return fmt.Sprintf("refused %d %s", e.Status, e.Code)
	}
	return e.Detail
}

func (c *Client) call(ctx context.Context, method, path string, query url.Values, in, out any) error {
	u := c.base + path
	if len(query) > 0 {
		u += "?" + query.Encode()
	}
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, u, body)
	if err != nil {
		return err
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := c.http.Do(req)
	if err != nil {
		// "Post http://admin/…" tells nobody anything.
		var where *url.Error
		if errors.As(err, &where) {
			err = where.Err
		}
		return err
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer+1))
	if err != nil {
		return fmt.Errorf("reading the answer: %w", err)
	}
	switch {
	case len(raw) > maxAnswer:
		return errors.New("the answer is larger than any that is expected; is this the admin socket?")
	case res.StatusCode >= 400:
		e := &Error{Status: res.StatusCode}
		var p struct{ Code, Detail string }
		if json.Unmarshal(raw, &p) == nil {
			e.Code, e.Detail = p.Code, p.Detail
		}
		return e
	case out == nil:
		return nil
	}
	if err := json.Unmarshal(raw, out); err != nil {
		return fmt.Errorf("the answer is not what this version expects (are server and command of the same version?): %w", err)
	}
	return nil
}

// values are query parameters, those that are empty left out.
func values(pairs ...string) url.Values {
	v := url.Values{}
	for ; len(pairs) >= 2; pairs = pairs[2:] {
		if pairs[1] != "" && pairs[1] != "0" {
			v.Set(pairs[0], pairs[1])
		}
	}
	return v
}

// Connections lists live connections.
func (c *Client) Connections(ctx context.Context, f ConnectionFilter) (p Page[Connection], err error) {
	q := values("issuer", f.Issuer, "subject", f.Subject, "session", f.Session, "route", f.Route, "after", f.After, "limit", strconv.Itoa(f.Limit))
	return p, c.call(ctx, http.MethodGet, "/v1/connections", q, nil, &p)
}

// CloseConnection ends one connection; its client may come back.
func (c *Client) CloseConnection(ctx context.Context, cid string) (out Closed, err error) {
	return out, c.call(ctx, http.MethodDelete, "/v1/connections/"+url.PathEscape(cid), nil, nil, &out)
}

// Sessions lists sessions, oldest first; of everybody where subject is empty.
func (c *Client) Sessions(ctx context.Context, subject, after string) (p Page[Session], err error) {
	return p, c.call(ctx, http.MethodGet, "/v1/sessions", values("subject", subject, "after", after), nil, &p)
}

// EndSession ends a session and its connections.
func (c *Client) EndSession(ctx context.Context, sid string) (out Closed, err error) {
	return out, c.call(ctx, http.MethodDelete, "/v1/sessions/"+url.PathEscape(sid), nil, nil, &out)
}

// Users lists accounts by name.
func (c *Client) Users(ctx context.Context, after string) (p Page[User], err error) {
	return p, c.call(ctx, http.MethodGet, "/v1/users", values("after", after), nil, &p)
}

// User is one account.
func (c *Client) User(ctx context.Context, name string) (u User, err error) {
	return u, c.call(ctx, http.MethodGet, userPath(name, ""), nil, nil, &u)
}

func userPath(name, verb string) string { return "/v1/users/" + url.PathEscape(name) + verb }

// AddUser makes an account.
func (c *Client) AddUser(ctx context.Context, in AddUserRequest) (u User, err error) {
	return u, c.call(ctx, http.MethodPost, "/v1/users", nil, in, &u)
}

// SetPassword gives an account another password and ends its sessions.
func (c *Client) SetPassword(ctx context.Context, name, password string) error {
	return c.call(ctx, http.MethodPost, userPath(name, "/password"), nil, passwordRequest{password}, nil)
}

// DisableUser keeps an account from logging in and ends its sessions.
func (c *Client) DisableUser(ctx context.Context, name string) error {
	return c.call(ctx, http.MethodPost, userPath(name, "/disable"), nil, nil, nil)
}

// EnableUser lets a disabled account log in again.
func (c *Client) EnableUser(ctx context.Context, name string) error {
	return c.call(ctx, http.MethodPost, userPath(name, "/enable"), nil, nil, nil)
}

// ResetFactors takes all second factors from an account and ends its sessions.
func (c *Client) ResetFactors(ctx context.Context, name string) error {
	return c.call(ctx, http.MethodDelete, userPath(name, "/factors"), nil, nil, nil)
}

// GrantUser changes an account's scopes.
func (c *Client) GrantUser(ctx context.Context, name string, in GrantRequest) (u User, err error) {
	return u, c.call(ctx, http.MethodPost, userPath(name, "/grant"), nil, in, &u)
}

// RemoveUser removes an account and ends its sessions.
func (c *Client) RemoveUser(ctx context.Context, name string) error {
	return c.call(ctx, http.MethodDelete, userPath(name, ""), nil, nil, nil)
}

// Revocations lists those in force.
func (c *Client) Revocations(ctx context.Context, after string) (p Page[Revocation], err error) {
	return p, c.call(ctx, http.MethodGet, "/v1/revocations", values("after", after), nil, &p)
}

// Revoke revokes. When it returns without an error the revocation is durable and
// has been applied.
func (c *Client) Revoke(ctx context.Context, in RevokeRequest) (out RevokeResult, err error) {
	return out, c.call(ctx, http.MethodPost, "/v1/revocations", nil, in, &out)
}

// Keys lists our signing keys.
func (c *Client) Keys(ctx context.Context) ([]Key, error) {
	var p Page[Key]
	err := c.call(ctx, http.MethodGet, "/v1/keys", nil, nil, &p)
	return p.Items, err
}

// RotateKey lets the next key sign; it is the answer.
func (c *Client) RotateKey(ctx context.Context) (k Key, err error) {
	return k, c.call(ctx, http.MethodPost, "/v1/keys/rotate", nil, nil, &k)
}

// RevokeKey makes a key worthless, and ends what lives by it.
func (c *Client) RevokeKey(ctx context.Context, kid, reason string) (out RevokeResult, err error) {
	return out, c.call(ctx, http.MethodDelete, "/v1/keys/"+url.PathEscape(kid), values("reason", reason), nil, &out)
}

// IssueToken issues a token without a session.
func (c *Client) IssueToken(ctx context.Context, in IssueRequest) (out IssuedToken, err error) {
	return out, c.call(ctx, http.MethodPost, "/v1/tokens", nil, in, &out)
}

// VerifyToken says what the program thinks of a token.
func (c *Client) VerifyToken(ctx context.Context, raw string) (out VerifiedToken, err error) {
	return out, c.call(ctx, http.MethodPost, "/v1/tokens/verify", nil, tokenRequest{raw}, &out)
}

// Status is the program's state.
func (c *Client) Status(ctx context.Context) (s Status, err error) {
	return s, c.call(ctx, http.MethodGet, "/v1/status", nil, nil, &s)
}

// Stats are numbers of this moment.
func (c *Client) Stats(ctx context.Context) (s Stats, err error) {
	return s, c.call(ctx, http.MethodGet, "/v1/stats", nil, nil, &s)
}

// Reload loads configuration and certificates anew.
func (c *Client) Reload(ctx context.Context) error {
	return c.call(ctx, http.MethodPost, "/v1/reload", nil, nil, nil)
}

// Audit lists events, newest first, older than before (zero: the newest).
func (c *Client) Audit(ctx context.Context, before int64, limit int) (p Page[AuditEvent], err error) {
	q := values("before", strconv.FormatInt(before, 10), "limit", strconv.Itoa(limit))
	return p, c.call(ctx, http.MethodGet, "/v1/audit", q, nil, &p)
}

// AuditSince lists events newer than after, oldest first.
func (c *Client) AuditSince(ctx context.Context, after int64, limit int) (p Page[AuditEvent], err error) {
	q := values("limit", strconv.Itoa(limit))
	q.Set("after", strconv.FormatInt(after, 10))
	return p, c.call(ctx, http.MethodGet, "/v1/audit", q, nil, &p)
}
